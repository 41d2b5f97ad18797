// What `--check` warns of: a configuration that is valid, and that would not serve as its author expects. Each has its
// place in the file. It reads files and looks names up; it connects to nothing.

import { existsSync, readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { decodeJwt } from 'jose';
import { formatTime } from '../../cert-agent/base/clock.ts';
import { type Problem, reasonOf } from '../../cert-agent/base/errors.ts';
import { nameOf, parseYaml } from '../../cert-agent/base/yaml.ts';
import { proveChainShown } from '../../cert-agent/identity/own-handshake.ts';
import { readIdentityTexts } from '../../cert-agent/identity/read.ts';
import { parseSvid } from '../../cert-agent/identity/svid.ts';
import { trafficOf } from '../compile/sidecar-ports.ts';
import { ofUnknownProviders } from '../compile/unknown-providers.ts';
import type { Settings } from '../config/settings.ts';
import type { IstioDocuments } from '../documents/istio/documents.ts';
import { isAttached } from '../policy/policy.ts';
import { checkCertificate, dialled, identityPaths, lookUp } from './doctor.ts';

/** A configuration that was read. */
export interface Configured {
  readonly settings: Settings;
  /** Its own text. */
  readonly text: string;
  readonly documents: IstioDocuments;
}

type Path = readonly (string | number)[];
type At = (path: Path, message: string, hint: string) => Problem;

/** All warnings, in the order of the file's fields. `now` is in milliseconds since 1970. Never throws. */
export async function configurationWarnings(configured: Configured, now: number): Promise<readonly Problem[]> {
  const { settings, text, documents } = configured;
  const [document] = parseYaml(text, settings.file).documents;
  const at: At = (path, message, hint) =>
    document?.problemAt(path, message, { hint }) ?? { file: settings.file, line: 1, column: 1, message, hint };
  const ofMesh = settings.gateway === undefined ? [...ofPolicies(settings, documents, at)] : [];
  return [
    ...ofFiles(settings, at),
    ...ofCertificate(settings, now, at),
    ...ofToken(settings, now, at),
    ...(await ofNode(settings, at)),
    ...(await ofNames(settings, documents, at)),
    ...ofMesh,
  ];
}

/** Files that the configuration names and that do not exist. Those of the identity are reported as one certificate. */
function ofFiles({ identity, federatedBundles, gateway }: Settings, at: At): Problem[] {
  const named: [Path, string | undefined][] = [
    [['identity', 'files', 'denied'], identity.files?.denied],
    ...(['svid', 'key', 'bundle'] as const).map((key): [Path, string | undefined] => [
      ['identity', 'files', key],
      identity.files?.[key],
    ]),
    [['identity', 'ca', 'bundle'], identity.ca?.bundle],
    ...Object.entries(federatedBundles).map(([name, file]): [Path, string] => [['federatedBundles', name], file]),
    ...Object.entries(gateway?.certificates ?? {}).flatMap(([name, { certificate, key }]): [Path, string][] => [
      [['certificates', name, 'certificate'], certificate],
      [['certificates', name, 'key'], key],
    ]),
    [['sessionKeys'], gateway?.sessionKeys],
    [['errorPages'], gateway?.errorPages],
    [['clientCrls', 'path'], gateway?.clientCrls?.path],
  ];
  return named.flatMap(([path, file]) =>
    file === undefined || existsSync(file)
      ? []
      : [at(path, `${nameOf(path)}: ${file} does not exist`, 'correct the path, or start what writes it first')],
  );
}

function ofCertificate(settings: Settings, now: number, at: At): Problem[] {
  const paths = identityPaths(settings);
  if (paths === undefined) return [];
  const isOfFiles = settings.identity.files !== undefined;
  const path = isOfFiles ? ['identity', 'files', 'svid'] : ['identity', 'ca'];
  try {
    // A missing file is reported above.
    if (isOfFiles && 'missing' in readIdentityTexts(paths)) return [];
    return checkCertificate({ settings, now }).flatMap(({ level, message, fix = '' }) =>
      level === 'ok' || level === 'skipped' ? [] : [at(path, `${nameOf(path)}: ${message}`, fix)],
    );
  } catch (error) {
    return [at(path, `${nameOf(path)}: ${reasonOf(error)}`, "'sallyport inspect' shows what is in the file")];
  }
}

/** A service-account token says when it ends; a join token is known to the CA alone. */
function ofToken({ identity }: Settings, now: number, at: At): Problem[] {
  const file = identity.ca?.kubernetesTokenFile;
  if (file === undefined || !existsSync(file)) return [];
  const path = ['identity', 'ca', 'kubernetesTokenFile'];
  try {
    const { exp = Number.POSITIVE_INFINITY } = decodeJwt(readFileSync(file, 'utf8').trim());
    if (exp * 1000 > now) return [];
    const message = `the token in ${file} expired at ${formatTime(exp * 1000)}`;
    return [at(path, `${nameOf(path)}: ${message}`, 'mount a projected token, which the kubelet renews')];
  } catch (error) {
    return [at(path, `${nameOf(path)}: ${file} is no token: ${reasonOf(error)}`, 'mount a serviceAccountToken there')];
  }
}

/** A Node that does not show the chain of a peer could verify none. */
async function ofNode(settings: Settings, at: At): Promise<Problem[]> {
  const paths = identityPaths(settings);
  try {
    const read = paths === undefined ? undefined : readIdentityTexts(paths);
    if (read === undefined || 'missing' in read) return [];
    const { svid, key } = read.texts;
    await proveChainShown(parseSvid(svid, key, { chain: paths!.svid, key: paths!.key }));
    return [];
  } catch (error) {
    // A certificate that cannot be read has a warning of its own.
    const { code, hint = '' } = error as { readonly code?: unknown; readonly hint?: string };
    return code === 'node_unsuitable' ? [at(['identity'], reasonOf(error), hint)] : [];
  }
}

async function ofNames(settings: Settings, { requestAuthentications }: IstioDocuments, at: At): Promise<Problem[]> {
  const places = new Map<
    string,
    { readonly what: string; readonly place: (message: string, hint: string) => Problem }
  >();
  for (const { what, path, address } of dialled(settings))
    if ('host' in address && isIP(address.host) === 0 && !places.has(address.host))
      places.set(address.host, { what, place: (message, hint) => at(path, `${nameOf(path)}: ${message}`, hint) });
  for (const { namespace, name, file, line, jwtRules, ...rest } of requestAuthentications)
    if (isAttached({ namespace, ...rest }, settings))
      for (const { jwksUri } of jwtRules) {
        const host = jwksUri === undefined ? undefined : URL.parse(jwksUri)?.hostname.replace(/^\[|\]$/g, '');
        if (host === undefined || isIP(host) !== 0 || places.has(host)) continue;
        const place = (message: string, hint: string): Problem => ({ file, line, column: 1, message, hint });
        places.set(host, { what: `jwksUri of ${namespace}/${name}`, place });
      }
  const found = await Promise.all(
    [...places].map(async ([host, { what, place }]) => {
      const result = await lookUp(host, what);
      return result === undefined ? [] : [place(result.message, result.fix ?? '')];
    }),
  );
  return found.flat();
}

function* ofPolicies(settings: Settings, documents: IstioDocuments, at: At): Generator<Problem> {
  const { authorizationPolicies: policies, destinationRules } = documents;
  if (nothingCanPass(settings, documents))
    yield at(
      settings.policies === undefined ? ['inbound'] : ['policies'],
      'nothing can pass: no ALLOW policy applies to this workload',
      settings.policies === undefined
        ? "name a directory as 'policies', and put a policy there"
        : `put a policy into ${settings.policies}`,
    );
  for (const { namespace, name, provider, file, line } of ofUnknownProviders(policies, settings)) {
    const message = `there is no extension provider '${provider}': ${namespace}/${name} refuses every request it matches`;
    yield { file, line, column: 1, message, hint: "name it under 'extensionProviders'" };
  }
  for (const { rule, why } of trafficOf(settings, destinationRules).unused)
    yield {
      ...{ file: rule.file, line: rule.line, column: 1 },
      message: `DestinationRule ${rule.namespace}/${rule.name} changes nothing here: ${why}`,
    };
}

/** True if every request is refused for want of an ALLOW policy. */
export function nothingCanPass(settings: Settings, { authorizationPolicies }: IstioDocuments): boolean {
  if (settings.gateway !== undefined || settings.inbound.length === 0 || settings.defaultAction === 'allow')
    return false;
  return !authorizationPolicies.some(
    (policy) => policy.action === 'ALLOW' && !policy.dryRun && policy.rules.length > 0 && isAttached(policy, settings),
  );
}

/** A policy for this workload, to copy and to narrow. */
export function firstPolicy({ workload, trustDomain }: Settings): string {
  const { namespace, serviceAccount, labels } = workload;
  const [label] = Object.entries(labels);
  const selector =
    label === undefined ? '' : `\n  selector: { matchLabels: { ${label[0]}: ${JSON.stringify(label[1])} } }`;
  return `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: ${/^[a-z0-9][a-z0-9-]{0,50}$/.test(serviceAccount) ? serviceAccount : 'app'}-callers, namespace: ${namespace} }
spec:${selector}
  action: ALLOW
  rules:
    # The account of the caller: replace 'caller'.
    - from: [{ source: { principals: [${trustDomain}/ns/${namespace}/sa/caller] } }]
      to: [{ operation: { methods: [GET] } }]
`;
}
