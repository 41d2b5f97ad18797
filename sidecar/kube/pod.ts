// Puts a sidecar into a pod, and takes it out again. Plain values in and out. What was there before stands in an
// annotation: `uninjectPod` restores it by names, so that a pod that was edited meanwhile keeps its edits.

import { asSallyportError, SallyportError } from '../../cert-agent/base/errors.ts';
import { AnnotationProblem, quantityOf, readWishes, type Wishes } from './annotations.ts';
import {
  adminPort,
  annotations,
  containerName,
  inboundPort,
  injectedLabel,
  mostInboundPorts,
  outboundPort,
  volumePrefix,
} from './names.ts';
import { type AppPort, declaredPorts, takenPorts } from './ports.ts';
import { type AppProbe, numberedLifecycle, probeKinds, rewriteProbe } from './probes.ts';
import { fixedField, mounts, sidecarYaml } from './sidecar-yaml.ts';
import {
  annotationsOf,
  childOf,
  copyOf,
  isTree,
  labelsOf,
  runningContainers,
  type Tree,
  textOf,
  treeOf,
  treesOf,
} from './tree.ts';

/** What is the same for every pod of a cluster. */
export interface InjectOptions {
  readonly trustDomain: string;
  /** `https://host:port`. */
  readonly caUrl: string;
  /** The roots to trust at first, PEM. */
  readonly caBundle: string;
  readonly image: string;
  /** The audience of the service-account token that the CA expects. */
  readonly audience: string;
  /** The namespace of documents that name none. */
  readonly namespace: string;
}

/** What is known of a pod beside its own document. */
export interface PodContext {
  readonly namespace: string;
  /** The workload's name. */
  readonly owner: string;
  /** Ports that Services lead to, and what they say of their protocol. */
  readonly servicePorts: readonly AppPort[];
  /** `upstreams` of sidecar.yaml. */
  readonly upstreams: Tree;
  /** For its author. */
  readonly notes: readonly string[];
}

/** A pod that must not be injected: why. */
export class PodProblem extends Error {}

interface Restore {
  [kind: string]: unknown;
}

/** The annotation `status`. */
interface Status {
  readonly version: 1;
  /** The sidecar's port by the app's. */
  readonly ports: Readonly<Record<string, number>>;
  /** Mappings and lists that did not exist. */
  readonly made: readonly string[];
  readonly labels: readonly string[];
  /** Volumes of annotations. */
  readonly volumes: readonly string[];
  /** Of each container, what was changed. */
  readonly restore: Readonly<Record<string, Restore>>;
}

export function isInjected(pod: Tree): boolean {
  return annotations.status in annotationsOf(pod);
}

/** The ports that the sidecar of an injected pod takes over: ours by the app's. */
export function portsOf(pod: Tree): Readonly<Record<string, number>> {
  return readStatus(pod)?.ports ?? {};
}

/**
 * Changes `pod` into one with a sidecar, and returns notes for its author. It has none yet.
 * @throws PodProblem if that cannot be what its author wants.
 */
export function injectPod(pod: Tree, options: InjectOptions, context: PodContext): readonly string[] {
  const wishes = wishesOf(pod);
  const notes = [...context.notes, ...wishes.notes];
  const spec = treeOf(pod['spec']);
  const running = runningContainers(spec);
  refuseTooMany(spec);
  refuseTaken(spec, running, wishes);
  const ports = portsToTake(running, wishes, context, notes);
  const made = madeIn(pod);
  const serviceAccount = textOf(spec['serviceAccountName']) ?? textOf(spec['serviceAccount']) ?? 'default';
  // Without a prototype: the key is a container's name, which is not checked yet.
  const restore: Record<string, Restore> = Object.create(null);
  const probes = wishes.rewriteProbes ? moveProbes(running, wishes, restore, notes) : {};
  const names = moveNames(running, ports, restore, notes);
  const labels = addLabels(pod, context);
  const yaml = yamlOf({
    ...{ trustDomain: options.trustDomain, caUrl: options.caUrl, namespace: context.namespace },
    ...{ serviceAccount, labels: labelsOf(pod), ports, probes, upstreams: context.upstreams, wishes },
  });
  const status: Status = {
    ...{ version: 1, made, labels, restore },
    volumes: wishes.volumes.map(({ name }) => String(name)),
    ports: Object.fromEntries(ports.map(({ port }, index) => [port, inboundPort(index)])),
  };
  Object.assign(childOf(childOf(pod, 'metadata'), 'annotations'), {
    [annotations.config]: yaml,
    [annotations.bundle]: options.caBundle,
    [annotations.status]: JSON.stringify(status),
  });
  const container = containerOf(options, wishes, names);
  if (wishes.native) spec['initContainers'] = [container, ...listOf(spec['initContainers'])];
  else {
    spec['containers'] = [...listOf(spec['containers']), container];
    notes.push('sidecar.istio.io/nativeSidecar: false: a Job does not end while its sidecar runs');
  }
  spec['volumes'] = [...listOf(spec['volumes']), ...volumesOf(options, wishes)];
  noteOpenDoors(spec, ports, notes);
  const isService = spec['restartPolicy'] === undefined || spec['restartPolicy'] === 'Always';
  if (isService && ports.length === 0)
    notes.push('no container names a port, so nothing that it listens on is protected: add `ports` to it');
  return notes;
}

/** Changes an injected pod into what it was; leaves another as it is. True if it was injected. */
export function uninjectPod(pod: Tree): boolean {
  const status = readStatus(pod);
  if (status === undefined) return false;
  const metadata = treeOf(pod['metadata']);
  const spec = treeOf(pod['spec']);
  for (const key of ['initContainers', 'containers'])
    if (Array.isArray(spec[key])) spec[key] = spec[key].filter((one) => treeOf(one)['name'] !== containerName);
  const added = new Set(listOf(status.volumes));
  if (Array.isArray(spec['volumes']))
    spec['volumes'] = spec['volumes'].filter((one) => {
      const name = textOf(treeOf(one)['name']) ?? '';
      return !ownVolumes.has(name) && !added.has(name);
    });
  for (const container of runningContainers(spec))
    putBack(container, treeOf(treeOf(status.restore)[textOf(container['name']) ?? '']));
  for (const key of [annotations.config, annotations.bundle, annotations.status])
    delete treeOf(metadata['annotations'])[key];
  for (const label of listOf(status.labels)) delete treeOf(metadata['labels'])[String(label)];
  // From the inside out, and only what is still empty.
  for (const path of listOf(status.made).map(String).toReversed()) dropEmpty(pod, path.split('.'));
  return true;
}

function wishesOf(pod: Tree): Wishes {
  try {
    const wishes = readWishes(annotationsOf(pod));
    const field = fixedField(wishes.settings);
    if (field !== undefined) throw new AnnotationProblem(`annotation ${annotations.settings} cannot set '${field}'`);
    return wishes;
  } catch (error) {
    if (error instanceof AnnotationProblem) throw new PodProblem(error.message);
    throw error;
  }
}

function yamlOf(parts: Parameters<typeof sidecarYaml>[0]): string {
  try {
    return sidecarYaml(parts);
  } catch (error) {
    if (!(error instanceof SallyportError)) throw error;
    throw new PodProblem(
      `annotation ${annotations.settings}: ${asSallyportError(error, 'config_invalid', '').message.replace(/^sidecar\.yaml:\d+:\d+: /, '')}`,
    );
  }
}

/** More than any pod has; the work for one that cannot be real would delay the others. */
const mostItems = 1000;

function refuseTooMany(spec: Tree): void {
  const containers = [...listOf(spec['containers']), ...listOf(spec['initContainers'])];
  const ports = containers.reduce<number>((sum, one) => sum + listOf(treeOf(one)['ports']).length, 0);
  for (const [what, count] of [
    ['containers', containers.length],
    ['ports', ports],
    ['volumes', listOf(spec['volumes']).length],
  ] as const)
    if (count > mostItems) throw new PodProblem(`it has ${count} ${what}: at most ${mostItems} are read`);
}

/** Its name, its ports and its volumes are ours. */
function refuseTaken(spec: Tree, running: readonly Tree[], { healthPort, volumes }: Wishes): void {
  const all = [...treesOf(spec['containers']), ...treesOf(spec['initContainers'])];
  if (all.some(({ name }) => name === containerName)) throw new PodProblem(`a container is called ${containerName}`);
  const names = [...treesOf(spec['volumes']), ...volumes].map(({ name }) => textOf(name) ?? '');
  const twice = names.find((name, index) => ownVolumes.has(name) || names.indexOf(name) < index);
  if (twice !== undefined) throw new PodProblem(`a volume is called ${twice} already`);
  const ours = [adminPort, outboundPort, healthPort];
  const taken = declaredPorts(running).find(({ port }) => ours.includes(port));
  if (taken === undefined) return;
  const hint = taken.port === healthPort ? '; set status.sidecar.istio.io/port to another' : '';
  throw new PodProblem(`the app has port ${taken.port}, which the sidecar needs${hint}`);
}

function portsToTake(
  running: readonly Tree[],
  { includePorts, excludePorts, healthPort, protocols }: Wishes,
  { servicePorts }: PodContext,
  notes: string[],
): readonly AppPort[] {
  const taken = takenPorts(running, servicePorts, includePorts, excludePorts);
  if (taken.length > mostInboundPorts) throw new PodProblem(`it has more than ${mostInboundPorts} ports`);
  const stray = [...protocols.keys()].find((port) => taken.every((one) => one.port !== port));
  if (stray !== undefined)
    throw new PodProblem(
      `annotation ${annotations.protocols}: the sidecar takes over no port ${stray}; name it in the container's 'ports'`,
    );
  const ours = new Set(taken.map((_, index) => inboundPort(index)));
  if (ours.has(healthPort) || healthPort === adminPort || healthPort === outboundPort)
    throw new PodProblem(`annotation status.sidecar.istio.io/port: the sidecar needs ${healthPort} for something else`);
  const clash = declaredPorts(running).find(({ port }) => ours.has(port));
  if (clash !== undefined) throw new PodProblem(`the app has port ${clash.port}, which the sidecar needs`);
  for (const { containerPort, protocol } of running.flatMap(({ ports }) => treesOf(ports)))
    if (protocol === 'UDP' || protocol === 'SCTP')
      notes.push(`port ${containerPort}/${protocol} is not taken over: only TCP is`);
  return taken;
}

/** Paths of what does not exist yet, from the outside in. */
function madeIn(pod: Tree): string[] {
  const metadata = treeOf(pod['metadata']);
  const spec = treeOf(pod['spec']);
  return [
    ...(isTree(pod['metadata']) ? [] : ['metadata']),
    ...(isTree(metadata['labels']) ? [] : ['metadata.labels']),
    ...(isTree(metadata['annotations']) ? [] : ['metadata.annotations']),
    ...(Array.isArray(spec['initContainers']) ? [] : ['spec.initContainers']),
    ...(Array.isArray(spec['volumes']) ? [] : ['spec.volumes']),
  ];
}

function moveProbes(
  running: readonly Tree[],
  { healthPort }: Wishes,
  restore: Record<string, Restore>,
  notes: string[],
): Record<string, AppProbe> {
  const checks: Record<string, AppProbe> = {};
  for (const container of running) {
    for (const kind of probeKinds) {
      const found = rewriteProbe(kind, container, healthPort);
      if (found === undefined) continue;
      if ('stays' in found) {
        notes.push(found.stays);
        continue;
      }
      changesOf(restore, container)[kind] = container[kind];
      container[kind] = found.probe;
      checks[found.page] = found.check;
    }
  }
  return checks;
}

/**
 * The names of ports go to the sidecar: a Service whose `targetPort` is a name then leads to it, also one that is not in
 * the input. Probes that stay, and lifecycle handlers, get the number in place of the name.
 * @returns the names by the app's port.
 */
function moveNames(
  running: readonly Tree[],
  ports: readonly AppPort[],
  restore: Record<string, Restore>,
  notes: string[],
): readonly { readonly name: string | undefined; readonly port: number }[] {
  const taken = new Set(ports.map(({ port }) => port));
  const used = new Set<string>();
  for (const container of running) {
    const moved = new Set<string>();
    for (const { name, containerPort, protocol = 'TCP' } of treesOf(container['ports']))
      if (typeof name === 'string' && taken.has(containerPort as number) && protocol === 'TCP') moved.add(name);
    if (moved.size === 0) continue;
    const lifecycle = numberedLifecycle(container, moved);
    if (lifecycle !== undefined) {
      changesOf(restore, container)['lifecycle'] = container['lifecycle'];
      container['lifecycle'] = lifecycle;
    }
    for (const kind of probeKinds) numberProbe(container, kind, moved, restore);
    changesOf(restore, container)['ports'] = Object.fromEntries(
      treesOf(container['ports']).flatMap((one) =>
        moved.has(one['name'] as string) ? [[one['containerPort'], one['name']]] : [],
      ),
    );
    container['ports'] = listOf(container['ports']).map((one) => {
      if (!isTree(one) || !moved.has(one['name'] as string)) return one;
      const { name: _, ...rest } = one;
      return rest;
    });
  }
  return ports.map(({ name }, index) => {
    const isFirst = name !== undefined && !used.has(name);
    if (name !== undefined && !isFirst) notes.push(`two ports are called ${name}: the name goes to the first`);
    if (isFirst) used.add(name);
    return { name: isFirst ? name : undefined, port: inboundPort(index) };
  });
}

function numberProbe(
  container: Tree,
  kind: string,
  moved: ReadonlySet<string>,
  restore: Record<string, Restore>,
): void {
  const probe = container[kind];
  if (!isTree(probe)) return;
  for (const handler of ['httpGet', 'tcpSocket']) {
    const port = treeOf(probe[handler])['port'];
    if (typeof port !== 'string' || !moved.has(port)) continue;
    const number = treesOf(container['ports']).find(({ name }) => name === port)?.['containerPort'];
    changesOf(restore, container)[kind] = probe;
    container[kind] = { ...probe, [handler]: { ...treeOf(probe[handler]), port: number } };
  }
}

function changesOf(restore: Record<string, Restore>, container: Tree): Restore {
  const name = textOf(container['name']) ?? '';
  restore[name] ??= {};
  return restore[name];
}

function putBack(container: Tree, { ports, ...rest }: Tree): void {
  for (const [key, value] of Object.entries(rest)) {
    // One that was edited since is the author's.
    if (key === 'lifecycle' || (probeKinds as readonly string[]).includes(key)) container[key] = value;
  }
  const names = treeOf(ports);
  if (!Array.isArray(container['ports'])) return;
  container['ports'] = container['ports'].map((one) => {
    if (!isTree(one) || one['name'] !== undefined) return one;
    if (one['protocol'] !== undefined && one['protocol'] !== 'TCP') return one;
    const name = names[String(one['containerPort'])];
    return name === undefined ? one : { name, ...one };
  });
}

function addLabels(pod: Tree, { owner }: PodContext): string[] {
  const labels = childOf(childOf(pod, 'metadata'), 'labels');
  const name = [labels['app.kubernetes.io/name'], labels['app'], owner].find(isLabelValue);
  const revision = [labels['app.kubernetes.io/version'], labels['version'], 'latest'].find(isLabelValue);
  // Not security.istio.io/tlsMode: it would make Istio's proxies speak Istio's protocol with us.
  const wanted: Record<string, unknown> = {
    [injectedLabel]: 'true',
    'service.istio.io/canonical-name': name,
    'service.istio.io/canonical-revision': revision,
  };
  const added = Object.keys(wanted).filter((key) => wanted[key] !== undefined && !Object.hasOwn(labels, key));
  for (const key of added) labels[key] = wanted[key];
  return added;
}

function isLabelValue(value: unknown): value is string {
  return typeof value === 'string' && /^[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$/.test(value);
}

/** Istio's defaults. */
const defaults = { cpu: '100m', memory: '128Mi', cpuLimit: '2', memoryLimit: '1Gi' };

function resourcesOf({ resources }: Wishes): Tree {
  const one = (name: 'cpu' | 'memory'): readonly [string, string] => {
    const limit = resources[`${name}Limit`] ?? defaults[`${name}Limit`];
    const request = resources[name] ?? smaller(defaults[name], limit);
    if (quantityOf(request)! <= quantityOf(limit)!) return [request, limit];
    const annotation = name === 'cpu' ? 'CPU' : 'Memory';
    // A request above the default limit raises it.
    if (resources[`${name}Limit`] === undefined) return [request, request];
    throw new PodProblem(`annotations: proxy${annotation} is more than proxy${annotation}Limit`);
  };
  const [cpu, memory] = [one('cpu'), one('memory')];
  return { requests: { cpu: cpu[0], memory: memory[0] }, limits: { cpu: cpu[1], memory: memory[1] } };
}

function smaller(a: string, b: string): string {
  return quantityOf(a)! <= quantityOf(b)! ? a : b;
}

/** The `restricted` level of Pod Security Standards, and a read-only root. */
const restricted = {
  allowPrivilegeEscalation: false,
  capabilities: { drop: ['ALL'] },
  privileged: false,
  readOnlyRootFilesystem: true,
  runAsGroup: 1337,
  runAsNonRoot: true,
  runAsUser: 1337,
  seccompProfile: { type: 'RuntimeDefault' },
};

function containerOf(
  options: InjectOptions,
  wishes: Wishes,
  ports: readonly { readonly name: string | undefined; readonly port: number }[],
): Tree {
  const { healthPort, workers, logLevel, readiness, native, volumeMounts } = wishes;
  const ready = { httpGet: { path: '/healthz/ready', port: healthPort }, timeoutSeconds: 3 };
  const mount = (name: string, mountPath: string, readOnly = true): Tree => ({
    ...{ name: `${volumePrefix}${name}`, mountPath },
    ...(readOnly && { readOnly }),
  });
  return {
    name: containerName,
    image: wishes.image ?? options.image,
    args: [
      ...['sidecar', '--config', `${mounts.config}/sidecar.yaml`],
      ...(workers === undefined ? [] : ['--workers', String(workers)]),
    ],
    ...(native && { restartPolicy: 'Always' }),
    ...(logLevel !== undefined && { env: [{ name: 'SALLYPORT_LOG_LEVEL', value: logLevel }] }),
    ports: [
      ...ports.map(({ name, port }) => ({ ...(name !== undefined && { name }), containerPort: port, protocol: 'TCP' })),
      { name: 'sallyport-ready', containerPort: healthPort, protocol: 'TCP' },
    ],
    // Istio's: containers after it start once it is ready.
    startupProbe: { ...ready, periodSeconds: 1, failureThreshold: 600 },
    readinessProbe: { ...ready, periodSeconds: 15, failureThreshold: 4, ...readiness },
    resources: resourcesOf(wishes),
    securityContext: copyOf(restricted),
    volumeMounts: [
      mount('config', mounts.config),
      mount('policies', mounts.policies),
      mount('token', mounts.token),
      mount('identity', mounts.identity, false),
      ...copyOf(volumeMounts),
    ],
  };
}

const ownVolumes: ReadonlySet<string> = new Set(
  ['config', 'policies', 'token', 'identity'].map((name) => `${volumePrefix}${name}`),
);

/** The ConfigMap that a namespace has for all its pods. */
export const defaultPolicies = 'sallyport-policies';

function volumesOf({ audience }: InjectOptions, { policies, volumes }: Wishes): Tree[] {
  const annotation = (key: string, path: string): Tree => ({
    path,
    fieldRef: { fieldPath: `metadata.annotations['${key}']` },
  });
  return [
    {
      name: `${volumePrefix}config`,
      downwardAPI: {
        items: [annotation(annotations.config, 'sidecar.yaml'), annotation(annotations.bundle, 'bundle.pem')],
      },
    },
    // Without it no policy allows anything.
    {
      name: `${volumePrefix}policies`,
      configMap: { name: policies ?? defaultPolicies, optional: policies === undefined },
    },
    {
      name: `${volumePrefix}token`,
      projected: {
        sources: [{ serviceAccountToken: { audience, expirationSeconds: 3600, path: 'sallyport-token' } }],
      },
    },
    // The key never touches a disk.
    { name: `${volumePrefix}identity`, emptyDir: { medium: 'Memory', sizeLimit: '16Mi' } },
    ...copyOf([...volumes]),
  ];
}

/** Ways to the app past the sidecar that are in the pod itself. */
function noteOpenDoors(spec: Tree, ports: readonly AppPort[], notes: string[]): void {
  const taken = new Set(ports.map(({ port }) => port));
  for (const { containerPort, hostPort } of runningContainers(spec).flatMap(({ ports: all }) => treesOf(all)))
    if (typeof hostPort === 'number' && taken.has(containerPort as number))
      notes.push(`hostPort ${hostPort} leads to the app's port ${containerPort} past the sidecar`);
}

function readStatus(pod: Tree): Status | undefined {
  const text = annotationsOf(pod)[annotations.status];
  if (text === undefined) return undefined;
  try {
    const value: unknown = JSON.parse(text);
    if (isTree(value) && value['version'] === 1) return value as unknown as Status;
  } catch {
    // Reported below.
  }
  throw new PodProblem(
    `annotation ${annotations.status} was edited, so that nothing can be restored: remove the sidecar by hand`,
  );
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

function dropEmpty(pod: Tree, path: readonly string[]): void {
  const last = path.at(-1)!;
  const parent = path.slice(0, -1).reduce<Tree>((one, step) => treeOf(one[step]), pod);
  const value = parent[last];
  const isEmpty = Array.isArray(value) ? value.length === 0 : isTree(value) && Object.keys(value).length === 0;
  if (isEmpty) delete parent[last];
}
