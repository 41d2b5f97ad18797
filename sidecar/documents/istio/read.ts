// Reads Istio documents from plain files, as strict as Istio's own validation, and stricter where ignoring a field
// would widen a policy: a field that this build does not support is an error with its position, never ignored.

import { didYouMean } from '../../../cert-agent/base/did-you-mean.ts';
import type { Problem } from '../../../cert-agent/base/errors.ts';
import { configError, parseYaml, type YamlDocument } from '../../../cert-agent/base/yaml.ts';
import { ownGroup } from '../../edge/policy.ts';
import type { PeerAuthentication } from '../../policy/mtls.ts';
import type { AuthorizationPolicy } from '../../policy/policy.ts';
import type { RequestAuthentication } from '../../policy/request-authentication.ts';
import type { DestinationRule } from '../../upstream/destination-rule.ts';
import { isExistingKind, openApiHint } from '../gateway-api/kinds.ts';
import { readAuthorizationPolicy } from './authorization-policy.ts';
import { readDestinationRule } from './destination-rule.ts';
import type { IstioDocuments } from './documents.ts';
import type { Purpose } from './patterns.ts';
import { readPeerAuthentication } from './peer-authentication.ts';
import { readRequestAuthentication } from './request-authentication.ts';

/** One file with any number of documents. Without `modifiedAt`, documents that state no time have no age. */
export interface PolicyFile {
  readonly file: string;
  readonly text: string;
  /** Milliseconds since 1970. */
  readonly modifiedAt?: number | undefined;
}

/** A document before it is parsed, and its source. */
export interface PlacedDocument {
  readonly file: string;
  /** When its file was last written, milliseconds since 1970. */
  readonly modifiedAt?: number | undefined;
  readonly document: YamlDocument;
}

const kinds = ['AuthorizationPolicy', 'PeerAuthentication', 'RequestAuthentication', 'DestinationRule'];

const groups = ['security.istio.io/', 'networking.istio.io/'];

/** True for a document of a kind that is read here, of a group of Istio; the version is checked by its reader. */
export function isIstio({ value }: YamlDocument): boolean {
  if (typeof value !== 'object' || value === null) return false;
  const { kind, apiVersion } = value as { readonly kind?: unknown; readonly apiVersion?: unknown };
  const group = kind === 'DestinationRule' ? groups[1]! : groups[0]!;
  return (
    typeof kind === 'string' && kinds.includes(kind) && typeof apiVersion === 'string' && apiVersion.startsWith(group)
  );
}

/**
 * All documents of `files`, frozen.
 * @throws SallyportError `config_invalid` with all problems of all files.
 */
export function parseIstio(files: readonly PolicyFile[], purpose: Purpose = 'run'): IstioDocuments {
  const { placed, problems } = placeDocuments(files);
  const read = readIstio(placed, purpose);
  problems.push(...read.problems);
  if (problems.length > 0) throw configError(problems);
  return read.documents;
}

/**
 * All documents of the texts, and the YAML problems. A file without a character is one: a full disk, or a command that
 * failed behind `>`, leaves it where a policy was, and to go without the policy could open what it closed.
 */
export function placeDocuments(files: readonly PolicyFile[]): { placed: PlacedDocument[]; problems: Problem[] } {
  const placed: PlacedDocument[] = [];
  const problems: Problem[] = [];
  for (const { file, text, modifiedAt } of files) {
    const parsed = parseYaml(text, file);
    problems.push(...parsed.problems);
    if (text.trim() === '') problems.push({ file, line: 1, column: 1, message: emptyFile });
    for (const document of parsed.documents) placed.push({ file, document, modifiedAt });
  }
  return { placed, problems };
}

const emptyFile = 'the file is empty: remove it, or write a comment into it if nothing is meant';

/** The values of the documents, and all problems. Never throws. */
export function readIstio(
  placed: readonly PlacedDocument[],
  purpose: Purpose,
): { readonly documents: IstioDocuments; readonly problems: readonly Problem[] } {
  const problems: Problem[] = [];
  const authorizationPolicies: AuthorizationPolicy[] = [];
  const peerAuthentications: PeerAuthentication[] = [];
  const requestAuthentications: RequestAuthentication[] = [];
  const destinationRules: DestinationRule[] = [];
  const places = new Map<string, string>();
  for (const { file, document } of placed.flatMap(itemsOf)) {
    const read = readOne(document, file, purpose);
    if ('problems' in read) {
      problems.push(...read.problems);
      continue;
    }
    const { kind, value } = read;
    const key = `${kind} ${value.namespace}/${value.name}`;
    const taken = places.get(key);
    const what = `${kind === 'AuthorizationPolicy' ? 'policy' : kind} ${value.namespace}/${value.name}`;
    if (taken !== undefined)
      problems.push(document.problemAt(['metadata', 'name'], `the ${what} is already defined in ${taken}`));
    places.set(key, `${file}:${value.line}`);
    if (kind === 'AuthorizationPolicy') authorizationPolicies.push(value);
    else if (kind === 'PeerAuthentication') peerAuthentications.push(value);
    else if (kind === 'RequestAuthentication') requestAuthentications.push(value);
    else destinationRules.push(value);
  }
  return {
    documents: Object.freeze({
      authorizationPolicies: Object.freeze(authorizationPolicies),
      peerAuthentications: Object.freeze(peerAuthentications),
      requestAuthentications: Object.freeze(requestAuthentications),
      destinationRules: Object.freeze(destinationRules),
    }),
    problems,
  };
}

type One =
  | { readonly kind: 'AuthorizationPolicy'; readonly value: AuthorizationPolicy }
  | { readonly kind: 'PeerAuthentication'; readonly value: PeerAuthentication }
  | { readonly kind: 'RequestAuthentication'; readonly value: RequestAuthentication }
  | { readonly kind: 'DestinationRule'; readonly value: DestinationRule };

function readOne(document: YamlDocument, file: string, purpose: Purpose): One | { problems: Problem[] } {
  const kind = kindOf(document.value);
  if (kind === 'AuthorizationPolicy') return withKind(kind, readAuthorizationPolicy(document, file, purpose));
  if (kind === 'PeerAuthentication') return withKind(kind, readPeerAuthentication(document, file));
  if (kind === 'RequestAuthentication') return withKind(kind, readRequestAuthentication(document, file, purpose));
  if (kind === 'DestinationRule') return withKind(kind, readDestinationRule(document, file));
  const message =
    kind === undefined
      ? "this is not an Istio document: it has no 'kind'"
      : `kind ${kind} is not supported by this build`;
  const hint =
    hintForOwn(document.value) ?? (kind === undefined || isExistingKind(kind) ? undefined : didYouMean(kind, kinds));
  return { problems: [document.problemAt(['kind'], message, hint === undefined ? {} : { hint })] };
}

/**
 * Our own kinds that are written as a field of sidecar.yaml. A list of its own, compared with the table of capabilities
 * in a test: the table would load all of the edge where a mesh sidecar's documents are read.
 */
export const fieldsOfSidecars: ReadonlyMap<string, string> = new Map([
  ['AnomalyDetection', 'anomalyDetection'],
  ['MCPAuthorization', 'mcpAuthorization'],
  ['RequestScreening', 'requestScreening'],
  ['RequestValidation', 'requestValidation'],
]);

function hintForOwn(value: unknown): string | undefined {
  const { kind, apiVersion, openapi, swagger } = (value ?? {}) as Readonly<Record<string, unknown>>;
  if (kind === undefined && (openapi ?? swagger) !== undefined) return openApiHint;
  if (!String(apiVersion).startsWith(`${ownGroup}/`)) return undefined;
  const field = fieldsOfSidecars.get(String(kind));
  return field === undefined
    ? 'it works at a gateway only'
    : `at a sidecar, write its spec without targetRefs as '${field}' of sidecar.yaml`;
}

/**
 * `kubectl get -o yaml` prints several objects as a List, whose items are the documents; the API itself sends a list of
 * a kind, such as GatewayList.
 */
export function itemsOf(one: PlacedDocument): PlacedDocument[] {
  const { value, problemAt } = one.document;
  const { items } = (value ?? {}) as { readonly items?: unknown };
  if (!(kindOf(value) ?? '').endsWith('List') || !Array.isArray(items)) return [one];
  return (items as unknown[]).map((item, index) => ({
    file: one.file,
    modifiedAt: one.modifiedAt,
    document: {
      value: item,
      problemAt: (path, message, options) => problemAt(['items', index, ...path], message, options),
    },
  }));
}

function withKind<K, V>(
  kind: K,
  read: { value: V } | { problems: Problem[] },
): { kind: K; value: V } | { problems: Problem[] } {
  return 'problems' in read ? read : { kind, value: read.value };
}

function kindOf(value: unknown): string | undefined {
  if (typeof value !== 'object' || value === null || !('kind' in value)) return undefined;
  return typeof value.kind === 'string' ? value.kind : undefined;
}
