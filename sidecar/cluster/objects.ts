// Objects as the API server sends them: checked for being what was asked for, and kept as short text. The store of ten
// thousand of them is strings, not trees.

import { SallyportError } from '../../cert-agent/base/errors.ts';
import { maxLineBytes } from './client.ts';
import { type CutEvent, fieldsOf } from './cut-event.ts';
import type { WatchedKind } from './kinds.ts';

/** An object of the store. */
export interface KeptObject {
  readonly kind: string;
  /** Undefined for a kind without namespaces. */
  readonly namespace: string | undefined;
  readonly name: string;
  /** JSON without what no reader uses: status, version, and who managed which field. May be secret. */
  readonly text: string;
  readonly resourceVersion: string;
  /** JSON of its status; undefined without one. */
  readonly status: string | undefined;
  /** Bytes, of a budget. */
  readonly weight: number;
  /** It is being deleted. */
  readonly isEnding?: true;
  /** Its text is not kept: there is too much of its namespace. */
  readonly isOver?: true;
  /** Of these, one that is too much by itself, and why: `more than ...`. */
  readonly tooMuch?: string;
}

/** All objects of one moment. */
export type Snapshot = readonly KeptObject[];

/** Says which SPIFFE IDs the endpoints of a Service may prove, separated by commas. */
export const identityAnnotation = 'sallyport.dev/identity';

/** What was asked for. */
export interface Asked {
  readonly kind: WatchedKind;
  readonly version: string;
  /** Undefined: all. */
  readonly namespace: string | undefined;
}

type Tree = Readonly<Record<string, unknown>>;

export function treeOf(value: unknown): Tree {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Tree) : {};
}

/** @throws SallyportError `kubernetes_invalid` for anything that is not of this kind and place. */
export function keep(value: unknown, asked: Asked): KeptObject {
  const { kind, version } = asked;
  const apiVersion = kind.group === '' ? version : `${kind.group}/${version}`;
  const tree = treeOf(value);
  // Items of a list of built-in kinds do not say what they are.
  const { kind: said = kind.kind, apiVersion: saidVersion = apiVersion, metadata, status, ...rest } = tree;
  if (said !== kind.kind || saidVersion !== apiVersion) throw invalid(asked, 'an object of another kind is among them');
  const { managedFields: _, resourceVersion, selfLink: __, annotations, ...meta } = treeOf(metadata);
  const { name, namespace } = meta;
  const isPlaced = kind.isClusterWide === true ? namespace === undefined : isName(namespace);
  if (!isName(name) || !isPlaced || !isName(resourceVersion)) throw invalid(asked, 'an object has no name or version');
  if (asked.namespace !== undefined && namespace !== asked.namespace)
    throw invalid(asked, 'an object of another namespace is among them');
  if (isDeeper(tree, mostLevels)) {
    const place = { kind: kind.kind, name, namespace: namespace as string | undefined, resourceVersion };
    return { ...place, text: '', status: undefined, weight: 0, tooMuch: `more than ${mostLevels} levels` };
  }
  const { 'kubectl.kubernetes.io/last-applied-configuration': ___, ...noted } = treeOf(annotations);
  const trim = trims[kind.kind];
  const object = {
    ...{ apiVersion, kind: kind.kind },
    ...(trim === undefined || kind.isBuiltIn !== true
      ? { metadata: { ...meta, ...(Object.keys(noted).length === 0 ? {} : { annotations: noted }) }, ...rest }
      : { metadata: { name, namespace, creationTimestamp: meta['creationTimestamp'] }, ...trim(tree) }),
  };
  const text = JSON.stringify(object);
  const kept = status === undefined || !hasStatus(kind) ? undefined : JSON.stringify(status);
  return {
    ...{ kind: kind.kind, name, resourceVersion, text, weight: weightOf(text, kept, valuesIn(object)) },
    namespace: namespace as string | undefined,
    status: kept,
    ...(meta['deletionTimestamp'] === undefined ? {} : { isEnding: true }),
  };
}

/** The object of an event that was cut. @throws SallyportError `kubernetes_invalid` if it is not known. */
export function keepCut(event: CutEvent, asked: Asked): { readonly type: string; readonly object: KeptObject } {
  const { type, kind = asked.kind.kind, name, namespace, resourceVersion } = fieldsOf(event);
  const apiVersion = asked.kind.group === '' ? asked.version : `${asked.kind.group}/${asked.version}`;
  if (type === undefined || name === undefined || resourceVersion === undefined)
    throw invalid(asked, `an event has more than ${maxLineBytes} bytes, and does not say of which object`);
  const metadata = { name, resourceVersion, ...(namespace === undefined ? {} : { namespace }) };
  return { type, object: { ...keep({ kind, apiVersion, metadata }, asked), tooMuch: tooLarge } };
}

/** Why an object is not kept. */
export const tooLarge = `more than ${maxLineBytes} bytes as an event`;

/** A schema within a document of ours has some 20. Reading thousands takes more stack than there is. */
const mostLevels = 128;

function isDeeper(value: unknown, levels: number): boolean {
  if (typeof value !== 'object' || value === null) return false;
  return levels === 0 || Object.values(value).some((inner) => isDeeper(inner, levels - 1));
}

/** Ordinary documents have a value for each 14 bytes of text, or more. */
const usualBytes = 12;
/** An empty object takes so much of a heap, and its reader has several (measured). In text it takes three. */
const valueBytes = 64;

/** What an object costs: its text, and the values that make a tree of it many times larger. */
export function weightOf(text: string, status: string | undefined, values: number): number {
  // Text of other scripts than Latin takes two bytes for each unit; so counted, nothing is underestimated by much.
  const bytes = Buffer.byteLength(text);
  return bytes + Buffer.byteLength(status ?? '') + valueBytes * Math.max(0, values - Math.floor(bytes / usualBytes));
}

/** Every value, at whatever depth. */
function valuesIn(value: unknown): number {
  if (typeof value !== 'object' || value === null) return 1;
  return Object.values(value).reduce<number>((sum, inner) => sum + valuesIn(inner), 1);
}

/** How many bytes an object of a list has in an event: Go escapes some characters that are signs of HTML. */
export function eventBytes(object: unknown): number {
  const text = JSON.stringify(object);
  const escaped = text.match(/[<>&\u2028\u2029]/g)?.length ?? 0;
  return Buffer.byteLength(text) + 5 * escaped;
}

/** What is used of the kinds that every tenant has many of: the rest could be most of the memory. */
const trims: Readonly<Record<string, (tree: Tree) => Tree>> = {
  ConfigMap: ({ data }) => ({ data: only(treeOf(data), ['ca.crt', 'ca.crl']) }),
  Namespace: ({ metadata }) => {
    // The last of these closes it: without it in the text, that it is being deleted would be no change.
    const { name, creationTimestamp, labels, deletionTimestamp } = treeOf(metadata);
    return { metadata: { name, creationTimestamp, labels, deletionTimestamp } };
  },
  Secret: ({ type, data }) => ({ type, data }),
  Service: ({ metadata, spec }) => {
    const { name, namespace, creationTimestamp, annotations } = treeOf(metadata);
    const { ports } = treeOf(spec);
    const portsOf = (list: readonly unknown[]): Tree[] =>
      list.map((one) => only(treeOf(one), ['name', 'port', 'protocol', 'appProtocol']));
    return {
      metadata: { name, namespace, creationTimestamp, annotations: only(treeOf(annotations), [identityAnnotation]) },
      spec: { ...only(treeOf(spec), ['type', 'ipFamilies']), ports: Array.isArray(ports) ? portsOf(ports) : ports },
    };
  },
  EndpointSlice: ({ metadata, addressType, endpoints, ports }) => {
    const { name, namespace, creationTimestamp, labels } = treeOf(metadata);
    const service = only(treeOf(labels), ['kubernetes.io/service-name']);
    return {
      metadata: { name, namespace, creationTimestamp, labels: service },
      addressType,
      endpoints: listOf(endpoints).map((one) => only(treeOf(one), ['addresses', 'conditions'])),
      ports: listOf(ports).map((one) => only(treeOf(one), ['name', 'port'])),
    };
  },
};

function only(tree: Tree, names: readonly string[]): Tree {
  return Object.fromEntries(names.flatMap((name) => (Object.hasOwn(tree, name) ? [[name, tree[name]]] : [])));
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

/** Of a Service's status nothing is read. */
function hasStatus({ isBuiltIn }: WatchedKind): boolean {
  return isBuiltIn !== true;
}

function isName(value: unknown): value is string {
  return typeof value === 'string' && value !== '' && value.length <= 253;
}

/** `kubernetes_invalid`: names the kind, and nothing of what was sent. */
export function invalid({ kind, namespace }: Asked, why: string): SallyportError {
  const where = namespace === undefined ? '' : ` of namespace ${namespace}`;
  return new SallyportError(
    'kubernetes_invalid',
    `the API server's answer about ${kind.plural}${where} is not valid: ${why}`,
  );
}

/** The key of an object among those of its kind. */
export function keyOfObject({ namespace, name }: Pick<KeptObject, 'namespace' | 'name'>): string {
  return namespace === undefined ? name : `${namespace}/${name}`;
}
