// Documents of Kubernetes as plain values: reading them without trusting their types, and where a workload has its pod.

/** A mapping of a document. What is in it may have any type. */
export type Tree = Record<string, unknown>;

export function isTree(value: unknown): value is Tree {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** `value` if it is a mapping, else an empty one. */
export function treeOf(value: unknown): Tree {
  return isTree(value) ? value : {};
}

/** The mappings in a list; empty for everything that is no list. */
export function treesOf(value: unknown): readonly Tree[] {
  return Array.isArray(value) ? value.filter(isTree) : [];
}

export function textOf(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}

/** A deep copy of plain data, in a fifth of structuredClone's time. */
export function copyOf<T>(value: T): T {
  if (Array.isArray(value)) return value.map(copyOf) as T;
  if (!isTree(value)) return value;
  const copy: Tree = {};
  for (const key of Object.keys(value)) {
    if (key === '__proto__') Object.defineProperty(copy, key, { value: copyOf(value[key]), ...ordinary });
    else copy[key] = copyOf(value[key]);
  }
  return copy as T;
}

const ordinary = { configurable: true, enumerable: true, writable: true };

/** The mapping at `key`, made if it is missing. */
export function childOf(tree: Tree, key: string): Tree {
  const known = tree[key];
  if (isTree(known)) return known;
  const made: Tree = {};
  tree[key] = made;
  return made;
}

/** What a document is, for reports. */
export interface DocumentName {
  readonly kind: string;
  readonly name: string;
  readonly namespace: string;
}

/** Pods of controllers have `generateName` until they are stored. */
export function nameOf(document: unknown, namespace: string): DocumentName {
  const { kind, metadata } = treeOf(document);
  const { name, generateName, namespace: own } = treeOf(metadata);
  return {
    kind: textOf(kind) ?? '',
    name: textOf(name) ?? textOf(generateName) ?? '',
    namespace: textOf(own) ?? namespace,
  };
}

/**
 * The pod of a workload, a mapping with `metadata` and `spec`; undefined for what is none. Every kind with
 * `spec.template.spec.containers` counts, so that an Argo Rollout or an OpenKruise CloneSet is one without a list here.
 */
export function podOf(document: unknown): Tree | undefined {
  const { apiVersion, kind, spec, template } = treeOf(document);
  const group = /^(.*)\//.exec(textOf(apiVersion) ?? '')?.[1] ?? '';
  // Knative sets ports and probes of its pods itself, and has a proxy of its own in them.
  if (group === 'serving.knative.dev') return undefined;
  if (group === '' && kind === 'Pod') return hasContainers(document);
  if (group === '' && kind === 'PodTemplate') return hasContainers(template);
  if (group === 'batch' && kind === 'CronJob')
    return hasContainers(treeOf(treeOf(treeOf(spec)['jobTemplate'])['spec'])['template']);
  return hasContainers(treeOf(spec)['template']);
}

function hasContainers(pod: unknown): Tree | undefined {
  return isTree(pod) && Array.isArray(treeOf(pod['spec'])['containers']) ? pod : undefined;
}

/** Labels as text, without what is none. */
export function labelsOf(pod: Tree): Record<string, string> {
  return textsOf(treeOf(pod['metadata'])['labels']);
}

export function annotationsOf(object: Tree): Record<string, string> {
  return textsOf(treeOf(object['metadata'])['annotations']);
}

function textsOf(value: unknown): Record<string, string> {
  return Object.fromEntries(
    Object.entries(treeOf(value)).filter((one): one is [string, string] => typeof one[1] === 'string'),
  );
}

/** The containers that run beside each other: the regular ones, and init containers that stay. */
export function runningContainers(spec: Tree): readonly Tree[] {
  const staying = treesOf(spec['initContainers']).filter(({ restartPolicy }) => restartPolicy === 'Always');
  return [...treesOf(spec['containers']), ...staying];
}

/** The port that `port` names or is, among the ports of one container. */
export function portNumber(port: unknown, container: Tree): number | undefined {
  if (typeof port === 'number') return port;
  if (typeof port !== 'string') return undefined;
  if (/^\d{1,5}$/.test(port)) return Number(port);
  const found = treesOf(container['ports']).find(({ name }) => name === port)?.['containerPort'];
  return typeof found === 'number' ? found : undefined;
}
