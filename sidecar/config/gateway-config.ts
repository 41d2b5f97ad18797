// One reading of everything that a gateway serves by: its documents, their policies, and the files that gateway.yaml
// names. Plain data.

import type { Problem } from '../../cert-agent/base/errors.ts';
import { configError, type YamlDocument } from '../../cert-agent/base/yaml.ts';
import type { CrlSettings } from '../../cert-agent/identity/crl-check.ts';
import type { BackendTrafficPolicy } from '../documents/envoy-gateway/backend-traffic-policy.ts';
import { isBackendTrafficPolicy, readBackendTrafficPolicy } from '../documents/envoy-gateway/backend-traffic-policy.ts';
import { isClientTrafficPolicy, readClientTrafficPolicy } from '../documents/envoy-gateway/client-traffic-policy.ts';
import { joinSecurity, joinTraffic, layer, type Written } from '../documents/envoy-gateway/layers.ts';
import { inheritanceOf } from '../documents/envoy-gateway/merge.ts';
import { readSecurityPolicy } from '../documents/envoy-gateway/security-policy.ts';
import { headOf, readGatewayDocuments } from '../documents/gateway-api/read.ts';
import type { IstioDocuments } from '../documents/istio/documents.ts';
import { itemsOf, type PlacedDocument, placeDocuments, readIstio } from '../documents/istio/read.ts';
import { isOwnPolicy, loadOwnKinds, type OwnKinds, ownTraitsIn, readOwnPolicy } from '../documents/sallyport.ts';
import { asStored } from '../documents/stored.ts';
import type { AnyCapability } from '../edge/capability.ts';
import type { OwnPolicy, SecurityPolicy } from '../edge/policy.ts';
import { ownHeadersOf, secretParamsOf } from '../edge/policy-parts.ts';
import type { ClientPolicy, GatewayDocuments } from '../routing/documents.ts';
import type { PemPair } from '../routing/references.ts';
import type { PolicyTarget } from '../schema/gateway-patterns.ts';
import { ownCrlWarnings, policyCrlWarnings } from './crl-warnings.ts';
import type { Settings } from './settings.ts';
import { crlFilesOf, type Source } from './sources.ts';

/** A policy that is invalid, or of a kind that is not evaluated here: its targets answer 500. */
export interface BrokenPolicy {
  readonly kind: string;
  /** Present for a kind of our own, and for one that is not read here. */
  readonly apiVersion?: string;
  readonly namespace: string;
  readonly name: string;
  readonly targets: readonly PolicyTarget[];
  /** Milliseconds since 1970. */
  readonly createdAt?: number;
  readonly file: string;
  readonly line: number;
  readonly problems: readonly Problem[];
  /** Headers that clients may not set, and secret parameters, as far as they can be read. */
  readonly ownHeaders: readonly string[];
  readonly secretParams: readonly string[];
  /** True if it had to be inherited: it stays closed under more specific policies. */
  readonly required: boolean;
}

/** The documents, policies and files of a gateway. */
export interface GatewayConfig {
  readonly documents: GatewayDocuments;
  readonly securityPolicies: readonly SecurityPolicy[];
  readonly trafficPolicies: readonly BackendTrafficPolicy[];
  /** Of our own kinds. */
  readonly ownPolicies: readonly OwnPolicy[];
  readonly broken: readonly BrokenPolicy[];
  /** By the `namespace/name` of the Secret that a pair of files replaces. */
  readonly certificates: Readonly<Record<string, PemPair>>;
  /** The keys of sessions, one a line, as in their file. */
  readonly sessionKeys: string | undefined;
  /** By file name: `404.html`. */
  readonly errorPages: Readonly<Record<string, string>>;
  /** The CRLs of gateway.yaml. */
  readonly clientCrls?: CrlSettings | undefined;
}

/**
 * Reads documents of files, and `more` of an API server. `table` has the capabilities; default those of this build.
 * @throws SallyportError `config_invalid` with every problem that leaves a document's targets unknown.
 */
export async function readGatewayConfig(
  settings: Settings,
  documents: readonly Source[],
  files: ReadonlyMap<string, string>,
  table?: readonly AnyCapability[],
  more: readonly PlacedDocument[] = [],
): Promise<{ readonly gateway: GatewayConfig; readonly istio: IstioDocuments }> {
  const { placed: written, problems } = placeDocuments(documents);
  const placed = [...written, ...more];
  const read = readPlaced(placed, await loadOwnKindsIn(placed, table));
  if (problems.length + read.problems.length > 0) throw configError([...problems, ...read.problems]);
  const { gateway: own } = settings;
  const pages = [...files].filter(([file]) => own?.errorPages !== undefined && file.startsWith(`${own.errorPages}/`));
  const { warnings } = read.gateway.documents;
  const noPages: Problem[] =
    own?.errorPages === undefined || pages.length > 0
      ? []
      : [{ file: settings.file, line: 1, column: 1, message: `errorPages: ${own.errorPages} contains no page` }];
  const clientCrls: CrlSettings | undefined = own?.clientCrls && {
    sources: crlFilesOf(settings).map((file) => ({ source: file, text: files.get(file) ?? '' })),
    onlyLeaf: own.clientCrls.onlyLeaf,
  };
  const { clientPolicies = [] } = read.gateway.documents;
  const now = Date.now();
  const badCrls = [
    ...(clientCrls === undefined ? [] : ownCrlWarnings(clientCrls, own!.clientCrls!.path, settings.file, now)),
    ...policyCrlWarnings(clientPolicies, read.gateway.documents, now),
  ];
  return {
    istio: read.istio,
    gateway: {
      ...read.gateway,
      documents: { ...read.gateway.documents, warnings: [...warnings, ...noPages, ...badCrls] },
      certificates: Object.fromEntries(
        Object.entries(own?.certificates ?? {}).map(([key, { certificate, key: secret }]) => [
          key,
          { certificate: files.get(certificate) ?? '', key: files.get(secret) ?? '' },
        ]),
      ),
      sessionKeys: own?.sessionKeys === undefined ? undefined : files.get(own.sessionKeys),
      errorPages: Object.fromEntries(pages.map(([file, text]) => [file.slice(file.lastIndexOf('/') + 1), text])),
      clientCrls,
    },
  };
}

/** Our own kinds, with the schemas that these documents need. */
export function loadOwnKindsIn(placed: readonly PlacedDocument[], table?: readonly AnyCapability[]): Promise<OwnKinds> {
  return loadOwnKinds(table, new Set(placed.flatMap(itemsOf).map(({ document }) => headOf(document.value).kind)));
}

type OfDocuments = Omit<GatewayConfig, 'certificates' | 'sessionKeys' | 'errorPages' | 'clientCrls'>;

/** Reads a set of documents for a gateway. `own` are our own kinds. Throws nothing. */
export function readPlaced(
  placed: readonly PlacedDocument[],
  own: OwnKinds,
): {
  readonly gateway: OfDocuments;
  readonly istio: IstioDocuments;
  readonly problems: readonly Problem[];
} {
  const securityPolicies: Written<SecurityPolicy>[] = [];
  const trafficPolicies: Written<BackendTrafficPolicy>[] = [];
  const ownPolicies: OwnPolicy[] = [];
  const clientPolicies: ClientPolicy[] = [];
  const broken: BrokenPolicy[] = [];
  const problems: Problem[] = [];
  const warnings: Problem[] = [];
  const taken = new Map<string, string>();
  const istio: PlacedDocument[] = [];
  const others: PlacedDocument[] = [];
  for (const one of placed.flatMap(itemsOf)) {
    const { file } = one;
    const document = asStored(one.document);
    const { kind, apiVersion } = headOf(document.value);
    const stored = { ...one, document };
    if (isDestinationRule(kind, apiVersion)) istio.push(stored);
    if (isClientTrafficPolicy(kind, apiVersion)) {
      const read = readClientTrafficPolicy(document, file);
      if ('value' in read) clientPolicies.push(aged(read.value, one));
      // Without readable targets it stops the reading, as other kinds that may protect.
      else if (read.targets === undefined) others.push(stored);
      else
        broken.push({
          ...{ kind, apiVersion, ...namedIn(document.value), targets: read.targets, problems: read.problems },
          ...{ file, line: document.problemAt(['metadata', 'name'], '').line },
          ...{ ownHeaders: [], secretParams: [], required: true },
          ...aged({}, one),
          ...datedIn(document.value),
        });
      continue;
    }
    const policy = isSecurityPolicy(kind, apiVersion)
      ? ('SecurityPolicy' as const)
      : isBackendTrafficPolicy(kind, apiVersion)
        ? ('BackendTrafficPolicy' as const)
        : isOwnPolicy(kind, apiVersion, own)
          ? kind
          : undefined;
    if (policy === undefined) {
      if (!isDestinationRule(kind, apiVersion)) others.push(stored);
      continue;
    }
    warnings.push(...saidNothing(one.document, policy));
    const { namespace, name } = namedIn(document.value);
    const key = `${policy} ${namespace}/${name}`;
    const { line } = document.problemAt(['metadata', 'name'], '');
    const before = taken.get(key);
    if (before !== undefined)
      problems.push(document.problemAt(['metadata', 'name'], `${key} is already defined in ${before}`));
    taken.set(key, `${file}:${line}`);
    const read =
      policy === 'SecurityPolicy'
        ? readSecurityPolicy(document, file)
        : policy === 'BackendTrafficPolicy'
          ? readBackendTrafficPolicy(document, file)
          : readOwnPolicy(document, file, own, one.document);
    if ('problems' in read) {
      // Its targets are unknown: nothing is served by this set of documents.
      if (read.targets === undefined) problems.push(...read.problems);
      else
        broken.push({
          ...{ kind: policy, namespace, name, targets: read.targets, file, line, problems: read.problems },
          ...(own.has(policy) ? { apiVersion, ...ownTraitsIn(document.value, own) } : toldBy(policy, document.value)),
          required: inheritanceOf(document).required,
          ...aged({}, one),
          ...datedIn(document.value),
        });
    } else if (policy === 'SecurityPolicy')
      securityPolicies.push({ policy: aged(read.value as SecurityPolicy, one), document });
    else if ('kind' in read.value) ownPolicies.push(aged(read.value, one));
    else trafficPolicies.push({ policy: aged(read.value as BackendTrafficPolicy, one), document });
    if ('warnings' in read) warnings.push(...read.warnings);
  }
  const ofIstio = readIstio(istio, 'run');
  const ofGateway = readGatewayDocuments(others, own);
  for (const { problem, ...one } of ofGateway.closing)
    broken.push({
      ...{ kind: one.kind, apiVersion: one.apiVersion, namespace: one.namespace, name: one.name },
      ...{ targets: one.targets, file: one.file, line: one.line, problems: [problem] },
      ...(one.createdAt === undefined ? {} : { createdAt: one.createdAt }),
      ...{ ownHeaders: [], secretParams: [], required: true },
    });
  const { documents } = ofGateway;
  return {
    gateway: {
      documents: { ...documents, clientPolicies, warnings: [...documents.warnings, ...warnings] },
      securityPolicies: layer(securityPolicies, documents.routes, readSecurityPolicy, joinSecurity),
      trafficPolicies: layer(trafficPolicies, documents.routes, readBackendTrafficPolicy, joinTraffic),
      ownPolicies,
      broken,
    },
    istio: ofIstio.documents,
    problems: [...problems, ...ofIstio.problems, ...ofGateway.problems],
  };
}

/** Adds the time of its file if it has none of its own. */
function aged<P extends { readonly createdAt?: number }>(policy: P, { modifiedAt }: PlacedDocument): P {
  return policy.createdAt || modifiedAt === undefined ? policy : { ...policy, createdAt: modifiedAt };
}

/** Parts of a policy that are null: absent, as in a cluster, but possibly a template's empty value for a real part. */
function saidNothing({ value, problemAt }: YamlDocument, kind: string): Problem[] {
  const { spec } = value as { readonly spec?: unknown };
  if (typeof spec !== 'object' || spec === null) return [];
  const parts = Object.entries(spec).filter(([, part]) => part === null);
  return parts.map(([part]) => problemAt(['spec', part], `'${part}' of this ${kind} is null and counts as absent`));
}

/** True for a policy of Envoy Gateway, or of our own kinds, that is read here. */
export function isGatewayPolicy({ value }: YamlDocument, own: OwnKinds): boolean {
  const { kind, apiVersion } = headOf(value);
  return (
    isSecurityPolicy(kind, apiVersion) ||
    isBackendTrafficPolicy(kind, apiVersion) ||
    isClientTrafficPolicy(kind, apiVersion) ||
    isOwnPolicy(kind, apiVersion, own)
  );
}

/** Reads such a policy, or gives all its problems. */
export function readGatewayPolicy(
  document: YamlDocument,
  file: string,
  own: OwnKinds,
): ReturnType<
  typeof readSecurityPolicy | typeof readBackendTrafficPolicy | typeof readClientTrafficPolicy | typeof readOwnPolicy
> {
  const { kind, apiVersion } = headOf(document.value);
  if (isClientTrafficPolicy(kind, apiVersion)) return readClientTrafficPolicy(document, file);
  if (isOwnPolicy(kind, apiVersion, own)) return readOwnPolicy(document, file, own);
  return kind === 'SecurityPolicy' ? readSecurityPolicy(document, file) : readBackendTrafficPolicy(document, file);
}

/** What an invalid policy says about credentials all the same. */
function toldBy(kind: string, value: unknown): Pick<BrokenPolicy, 'ownHeaders' | 'secretParams'> {
  const { spec } = value as { readonly spec?: unknown };
  const said = kind === 'SecurityPolicy' && typeof spec === 'object' && spec !== null ? spec : {};
  return { ownHeaders: [...ownHeadersOf(said)], secretParams: secretParamsOf(said) };
}

/** Its creation time, if it has one: of two policies for one target the older wins, valid or not. */
function datedIn(value: unknown): { readonly createdAt?: number } {
  const { metadata } = value as { readonly metadata?: { readonly creationTimestamp?: unknown } | null };
  const at = Date.parse(String(metadata?.creationTimestamp));
  return Number.isNaN(at) ? {} : { createdAt: at };
}

/** Its name, even if the rest is invalid. */
function namedIn(value: unknown): { readonly namespace: string; readonly name: string } {
  const { metadata } = value as {
    readonly metadata?: { readonly namespace?: unknown; readonly name?: unknown } | null;
  };
  const namespace = typeof metadata?.namespace === 'string' ? metadata.namespace : 'default';
  return { namespace, name: String(metadata?.name) };
}

function isSecurityPolicy(kind: string, apiVersion: string): boolean {
  return kind === 'SecurityPolicy' && apiVersion.startsWith('gateway.envoyproxy.io/');
}

function isDestinationRule(kind: string, apiVersion: string): boolean {
  return kind === 'DestinationRule' && apiVersion.startsWith('networking.istio.io/');
}
