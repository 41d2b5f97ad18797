// Sidecars for documents of Kubernetes: a pure function on plain values, which `sallyport inject` and the webhook call.
// Each document is changed, left alone for a reason, or refused because it asks for what it cannot get.

import { annotations, containerName, injectLabel, targetPortsAnnotation } from './names.ts';
import { misplacedOwnKey, wrongOwnKey } from './own-keys.ts';
import { diff, isEqual, type Operation } from './patch.ts';
import { type InjectOptions, injectPod, isInjected, type PodContext, PodProblem, portsOf, uninjectPod } from './pod.ts';
import { readServices, type ServiceRead } from './services.ts';
import {
  annotationsOf,
  copyOf,
  type DocumentName,
  isTree,
  labelsOf,
  nameOf,
  podOf,
  type Tree,
  textOf,
  treeOf,
  treesOf,
} from './tree.ts';

export type { InjectOptions } from './pod.ts';

/** Why a document was left alone. The codes are an interface; the texts are not. */
export type LeftAlone =
  | 'not_a_workload'
  | 'host_network'
  | 'system_namespace'
  | 'label_false'
  | 'windows'
  | 'other_mesh'
  | 'mirror_pod'
  | 'already_injected'
  | 'not_injected'
  | 'service_unchanged';

export type Outcome =
  | { readonly outcome: 'changed'; readonly notes: readonly string[] }
  | { readonly outcome: 'left_alone'; readonly code: LeftAlone; readonly reason: string }
  | { readonly outcome: 'refused'; readonly reason: string };

/** One document, as it became. */
export type Result = Outcome & { readonly name: DocumentName; readonly value: unknown };

/** Where clusters keep their own parts. Istio leaves the first four alone. */
const systemNamespaces = new Set([
  'kube-system',
  'kube-public',
  'kube-node-lease',
  'local-path-storage',
  'sallyport-system',
]);

/** Containers of other meshes: two proxies in a pod would each want its traffic. */
const otherProxies = new Set(['istio-proxy', 'linkerd-proxy', 'consul-dataplane']);

/**
 * Puts sidecars into the workloads among `documents`, and leads the Services among them to those. The input stays as it
 * is. A pod that has a sidecar gets a new one, so that doing it twice is doing it once.
 */
export function inject(documents: readonly unknown[], options: InjectOptions): readonly Result[] {
  // What was injected before is first undone, for workloads and Services alike.
  const clean = documents.map((one) => uninjected(one));
  const services = readServices(
    clean.map(({ value }) => value),
    options,
    (pod, namespace) => 'code' in reasonToLeave(pod, namespace) || undefined,
  );
  return documents.map((document, index): Result => {
    const name = nameOf(document, options.namespace);
    const { value: before, problem } = clean[index]!;
    if (problem !== undefined) return { name, value: document, outcome: 'refused', reason: problem };
    const value = copyOf(before);
    const service = services.of(index);
    if (service !== undefined) return resultOfService(name, document, value, service);
    const outcome = injectWorkload(value, name, options, services.contextOf(index));
    return { ...outcome, name, value: outcome.outcome === 'changed' ? value : document };
  });
}

/** Takes the sidecars out again. */
export function uninject(documents: readonly unknown[], options: Pick<InjectOptions, 'namespace'>): readonly Result[] {
  return documents.map((document): Result => {
    const name = nameOf(document, options.namespace);
    const { value, changed, problem } = uninjected(document);
    if (problem !== undefined) return { name, value: document, outcome: 'refused', reason: problem };
    if (changed) return { name, value, outcome: 'changed', notes: [] };
    const reason = podOf(document) === undefined ? 'it is no workload' : 'it has no sidecar of ours';
    return { name, value: document, outcome: 'left_alone', code: 'not_injected', reason };
  });
}

/**
 * The answer of the webhook for one pod: the operations that inject it. One that has a sidecar keeps it: `inject` knew
 * its Services.
 */
export function injectPodPatch(
  pod: unknown,
  options: InjectOptions,
):
  | (Outcome & { readonly outcome: 'left_alone' | 'refused' })
  | { outcome: 'changed'; notes: readonly string[]; patch: Operation[] } {
  if (isTree(pod) && isInjected(pod)) {
    if (sidecarOf(pod) !== undefined)
      return { outcome: 'left_alone', code: 'already_injected', reason: 'it has a sidecar already' };
    // A copied annotation must not be a quiet way to run without one.
    const reason = `it has the annotation ${annotations.status}, and no sidecar: remove the annotation`;
    return { outcome: 'refused', reason };
  }
  // The API server has decided on the namespace; what the object says is older, or nothing.
  const { namespace } = options;
  const isPlaced = isTree(pod) && isTree(pod['metadata']);
  const placed = isPlaced ? { ...pod, metadata: { ...treeOf(pod['metadata']), namespace } } : pod;
  const [result] = inject([placed], options);
  if (result?.outcome !== 'changed') return result!;
  return { outcome: 'changed', notes: result.notes, patch: diff(placed, result.value) };
}

/**
 * Says whether the pod is to be left alone, and refuses a label that is neither true nor false, and names of ours that do
 * not exist.
 */
function reasonToLeave(
  pod: Tree,
  namespace: string,
): { readonly code: LeftAlone; readonly reason: string } | { readonly problem?: string } {
  const spec = treeOf(pod['spec']);
  // Its traffic is the node's, and so would be the sidecar's ports.
  if (spec['hostNetwork'] === true) return { code: 'host_network', reason: 'it uses the network of its node' };
  if (systemNamespaces.has(namespace))
    return { code: 'system_namespace', reason: `${namespace} is a namespace of the cluster itself` };
  if (annotationsOf(pod)['kubernetes.io/config.mirror'] !== undefined)
    return { code: 'mirror_pod', reason: 'a kubelet runs it from a file' };
  const os = treeOf(spec['os'])['name'] ?? treeOf(spec['nodeSelector'])['kubernetes.io/os'];
  if (os === 'windows') return { code: 'windows', reason: 'it is for Windows' };
  const all = [...treesOf(spec['containers']), ...treesOf(spec['initContainers'])];
  const other = all.find(({ name }) => otherProxies.has(textOf(name) ?? ''));
  if (other !== undefined) return { code: 'other_mesh', reason: `it has a proxy of another mesh, ${other['name']}` };
  const asked = labelled(pod);
  if ('code' in asked || asked.problem !== undefined) return asked;
  const problem = wrongOwnKey(pod);
  return problem === undefined ? {} : { problem };
}

/** Our label counts before Istio's, and a label before the annotation of the same name. */
function labelled(pod: Tree): { readonly code: LeftAlone; readonly reason: string } | { readonly problem?: string } {
  const istio = 'sidecar.istio.io/inject';
  const [labels, notes] = [labelsOf(pod), annotationsOf(pod)];
  for (const [what, value] of [
    [`label ${injectLabel}`, labels[injectLabel]],
    [`label ${istio}`, labels[istio]],
    [`annotation ${istio}`, notes[istio]],
  ] as const) {
    if (value === undefined || value === '') continue;
    if (value === 'true') return {};
    if (value === 'false') return { code: 'label_false', reason: `${what} is 'false'` };
    // Istio reads it as false: a typing error would leave a pod without its sidecar, silently.
    return { problem: `${what}: '${value.slice(0, 60)}' is not 'true' or 'false'` };
  }
  return {};
}

function injectWorkload(
  value: unknown,
  { namespace, name }: DocumentName,
  options: InjectOptions,
  known: Pick<PodContext, 'servicePorts' | 'upstreams' | 'notes'>,
): Outcome {
  const pod = podOf(value);
  if (pod === undefined) return { outcome: 'left_alone', code: 'not_a_workload', reason: 'it is no workload' };
  const reason = reasonToLeave(pod, namespace);
  if ('code' in reason) return { outcome: 'left_alone', ...reason };
  const problem = reason.problem ?? misplacedOwnKey(treeOf(value), pod);
  if (problem !== undefined) return { outcome: 'refused', reason: problem };
  try {
    const notes = injectPod(pod, options, { namespace, owner: name, ...known });
    return { outcome: 'changed', notes };
  } catch (error) {
    if (error instanceof PodProblem) return { outcome: 'refused', reason: error.message };
    throw error;
  }
}

function resultOfService(name: DocumentName, document: unknown, value: unknown, read: ServiceRead): Result {
  if (read.targets === undefined)
    return { name, value: document, outcome: 'left_alone', code: 'service_unchanged', reason: read.reason };
  const service = value as Tree;
  const before: (readonly [string, unknown])[] = [];
  for (const port of treesOf(treeOf(service['spec'])['ports'])) {
    const key = `${port['port']}/${port['protocol'] ?? 'TCP'}`;
    const target = read.targets.get(key);
    if (target === undefined) continue;
    before.push([key, port['targetPort'] ?? null]);
    port['targetPort'] = target;
  }
  const metadata = treeOf(service['metadata']);
  const hadAnnotations = isTree(metadata['annotations']);
  const note = JSON.stringify({ ports: Object.fromEntries(before), ...(!hadAnnotations && { made: true }) });
  metadata['annotations'] = { ...treeOf(metadata['annotations']), [targetPortsAnnotation]: note };
  const changed = !isEqual(document, service);
  return { name, value: changed ? service : document, outcome: 'changed', notes: read.notes };
}

/** A copy without what injection added; the document itself where nothing was. */
function uninjected(document: unknown): { value: unknown; changed: boolean; problem?: string } {
  const pod = podOf(document);
  if (pod !== undefined && isInjected(pod)) {
    const value = copyOf(document);
    try {
      uninjectPod(podOf(value)!);
      return { value, changed: true };
    } catch (error) {
      if (!(error instanceof PodProblem)) throw error;
      return { value: document, changed: false, problem: error.message };
    }
  }
  if (!isTree(document) || annotationsOf(document)[targetPortsAnnotation] === undefined)
    return { value: document, changed: false };
  return restoredService(copyOf(document));
}

function restoredService(service: Tree): { value: unknown; changed: boolean; problem?: string } {
  const metadata = treeOf(service['metadata']);
  const all = treeOf(metadata['annotations']);
  let note: unknown;
  try {
    note = JSON.parse(String(all[targetPortsAnnotation]));
  } catch {
    return {
      value: service,
      changed: false,
      problem: `annotation ${targetPortsAnnotation} was edited: restore targetPort by hand`,
    };
  }
  const { ports, made } = treeOf(note);
  for (const port of treesOf(treeOf(service['spec'])['ports'])) {
    const key = `${port['port']}/${port['protocol'] ?? 'TCP'}`;
    if (!Object.hasOwn(treeOf(ports), key)) continue;
    const before = treeOf(ports)[key];
    if (before === null) delete port['targetPort'];
    else port['targetPort'] = before;
  }
  delete all[targetPortsAnnotation];
  if (made === true && Object.keys(all).length === 0) delete metadata['annotations'];
  return { value: service, changed: true };
}

/** For checks: the sidecar of an injected pod. */
export function sidecarOf(pod: Tree): Tree | undefined {
  const spec = treeOf(pod['spec']);
  return [...treesOf(spec['initContainers']), ...treesOf(spec['containers'])].find(
    ({ name }) => name === containerName,
  );
}

/** The sidecar's ports by the app's, and its sidecar.yaml. */
export function settingsOf(pod: Tree): { readonly ports: Readonly<Record<string, number>>; readonly yaml: string } {
  return { ports: portsOf(pod), yaml: annotationsOf(pod)[annotations.config] ?? '' };
}
