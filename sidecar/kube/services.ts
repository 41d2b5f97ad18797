// What the Services in the input say: which ports of a workload are used, by which protocol, and which upstreams others
// have in them. A Service that leads to injected workloads only is led to their sidecars.

import { AnnotationProblem, readWishes } from './annotations.ts';
import { annotations, inboundPort } from './names.ts';
import type { InjectOptions, PodContext } from './pod.ts';
import { type AppPort, type Protocol, protocolOfApp, protocolOfName, takenPorts } from './ports.ts';
import {
  annotationsOf,
  isTree,
  labelsOf,
  nameOf,
  podOf,
  portNumber,
  runningContainers,
  type Tree,
  textOf,
  treeOf,
  treesOf,
} from './tree.ts';

/** A Service's new target ports by `port/protocol`, or why it has none. */
export type ServiceRead =
  | { readonly targets: ReadonlyMap<string, number>; readonly notes: readonly string[] }
  | { readonly targets: undefined; readonly reason: string };

interface Workload {
  readonly namespace: string;
  readonly pod: Tree;
  readonly labels: Readonly<Record<string, string>>;
  readonly account: string;
  readonly isLeft: boolean;
  readonly containers: readonly Tree[];
  servicePorts: AppPort[];
  readonly upstreams: Tree;
  readonly notes: string[];
}

interface ServicePort {
  readonly key: string;
  readonly port: number;
  readonly name: string | undefined;
  readonly target: unknown;
  readonly protocol: Protocol | undefined;
}

interface Service {
  readonly name: string;
  readonly namespace: string;
  readonly isHeadless: boolean;
  readonly ports: readonly ServicePort[];
  readonly workloads: readonly Workload[];
}

const nothing = { servicePorts: [], upstreams: {}, notes: [] } as const;

/**
 * Reads the Services among `documents`. `isLeft` says which pods will have no sidecar.
 * @returns by index: what becomes of a Service, and what is known of a workload.
 */
export function readServices(
  documents: readonly unknown[],
  options: InjectOptions,
  isLeft: (pod: Tree, namespace: string) => true | undefined,
): {
  of(index: number): ServiceRead | undefined;
  contextOf(index: number): Pick<PodContext, 'servicePorts' | 'upstreams' | 'notes'>;
} {
  const workloads = new Map<number, Workload>();
  const isService = (one: unknown): one is Tree =>
    isTree(one) && one['kind'] === 'Service' && one['apiVersion'] === 'v1';
  for (const [index, document] of documents.entries()) {
    const pod = podOf(document);
    if (pod === undefined) continue;
    const { namespace } = nameOf(document, options.namespace);
    const spec = treeOf(pod['spec']);
    workloads.set(index, {
      ...{ namespace, pod, labels: labelsOf(pod), isLeft: isLeft(pod, namespace) === true, servicePorts: [] },
      account: textOf(spec['serviceAccountName']) ?? textOf(spec['serviceAccount']) ?? 'default',
      ...{ containers: runningContainers(spec), upstreams: {}, notes: [] },
    });
  }
  const byLabel = indexLabels(workloads.values());
  const services = new Map<number, Service | string>();
  for (const [index, document] of documents.entries())
    if (isService(document)) services.set(index, readService(document, options, byLabel));
  for (const service of services.values()) if (typeof service !== 'string') giveProtocols(service);
  const reads = new Map<number, ServiceRead>();
  for (const [index, service] of services)
    reads.set(index, typeof service === 'string' ? { targets: undefined, reason: service } : targetsOf(service));
  giveUpstreams(
    [...services.values()].filter((one) => typeof one !== 'string'),
    [...workloads.values()],
    options,
  );
  return {
    of: (index) => reads.get(index),
    contextOf: (index) => workloads.get(index) ?? nothing,
  };
}

/** Workloads by each `key=value` of their labels and their namespace: a thousand Services do not ask a thousand pods each. */
function indexLabels(workloads: Iterable<Workload>): ReadonlyMap<string, readonly Workload[]> {
  const found = new Map<string, Workload[]>();
  for (const workload of workloads)
    for (const [key, value] of Object.entries(workload.labels)) {
      const at = `${workload.namespace} ${key}=${value}`;
      const known = found.get(at);
      if (known === undefined) found.set(at, [workload]);
      else known.push(workload);
    }
  return found;
}

function readService(
  document: Tree,
  options: InjectOptions,
  byLabel: ReadonlyMap<string, readonly Workload[]>,
): Service | string {
  const { name, namespace } = nameOf(document, options.namespace);
  const spec = treeOf(document['spec']);
  if (spec['type'] === 'ExternalName') return 'it is a name for another host';
  const selector = Object.entries(treeOf(spec['selector']));
  const [first] = selector;
  if (first === undefined) return 'it selects no pods';
  const candidates = byLabel.get(`${namespace} ${first[0]}=${first[1]}`) ?? [];
  const workloads = candidates.filter(({ labels }) => selector.every(([key, value]) => labels[key] === value));
  if (workloads.length === 0) return 'none of the workloads here is selected by it';
  const ports = treesOf(spec['ports']).flatMap((one): ServicePort[] => {
    const { port, protocol = 'TCP', targetPort } = one;
    if (typeof port !== 'number' || protocol !== 'TCP') return [];
    const portName = textOf(one['name']);
    return [
      {
        ...{ key: `${port}/TCP`, port, name: portName, target: targetPort ?? port },
        // Istio: appProtocol counts before the name.
        protocol: protocolOfApp(one['appProtocol']) ?? protocolOfName(portName),
      },
    ];
  });
  return { name, namespace, isHeadless: spec['clusterIP'] === 'None', ports, workloads };
}

/** The app's port behind a Service's port in one workload. */
function appPortOf({ target }: ServicePort, { containers }: Workload): number | undefined {
  for (const container of containers) {
    const found = portNumber(target, container);
    if (found !== undefined) return found;
  }
  return typeof target === 'number' ? target : undefined;
}

function giveProtocols({ ports, workloads }: Service): void {
  for (const workload of workloads)
    for (const one of ports) {
      const port = appPortOf(one, workload);
      if (port === undefined) continue;
      const known = workload.servicePorts.find((other) => other.port === port);
      if (known === undefined) workload.servicePorts.push({ port, name: undefined, protocol: one.protocol });
      else if (known.protocol === undefined)
        workload.servicePorts = workload.servicePorts.map((other) =>
          other === known ? { ...other, protocol: one.protocol } : other,
        );
    }
}

/** The ports in the order in which injectPod takes them. */
function takenBy(workload: Workload): readonly number[] {
  try {
    const { includePorts, excludePorts } = readWishes(annotationsOf(workload.pod));
    return takenPorts(workload.containers, workload.servicePorts, includePorts, excludePorts).map(({ port }) => port);
  } catch (error) {
    if (error instanceof AnnotationProblem) return [];
    throw error;
  }
}

/** The sidecar's port behind a Service's port; undefined where it leads to the app itself. */
function sidecarPortOf(port: ServicePort, workload: Workload): number | undefined {
  const app = appPortOf(port, workload);
  const index = app === undefined || workload.isLeft ? -1 : takenBy(workload).indexOf(app);
  return index === -1 ? undefined : inboundPort(index);
}

function targetsOf(service: Service): ServiceRead {
  const targets = new Map<string, number>();
  const notes: string[] = [];
  let why = '';
  for (const port of service.ports) {
    // The name has gone to the sidecar.
    if (typeof port.target === 'string' && !/^\d+$/.test(port.target)) {
      why ||= 'its target ports are names, which lead to the sidecars';
      continue;
    }
    const found = new Set(service.workloads.map((one) => sidecarPortOf(port, one)));
    const [target] = found;
    if (found.size === 1 && target !== undefined) targets.set(port.key, target);
    else if (found.size === 1) why ||= `port ${port.port} leads to the app itself: no sidecar takes it over`;
    else
      notes.push(`port ${port.port} leads to workloads with different ports, or without a sidecar: it stays as it is`);
  }
  if (targets.size > 0) return { targets, notes };
  return { targets: undefined, reason: notes[0] ?? (why || 'it has no TCP port') };
}

/** Every other Service of the input is an upstream of each workload, by the names that Kubernetes gives it. */
function giveUpstreams(services: readonly Service[], workloads: readonly Workload[], options: InjectOptions): void {
  const made = services.flatMap((service) => {
    const serving = service.workloads.filter(({ isLeft }) => !isLeft);
    const identity = [
      ...new Set(serving.map(({ account }) => `spiffe://${options.trustDomain}/ns/${service.namespace}/sa/${account}`)),
    ];
    return service.ports.flatMap((port) => {
      const targets = new Set(serving.map((one) => sidecarPortOf(port, one)));
      const [target] = targets;
      // A port that leads past a sidecar would be refused at the handshake.
      if (targets.size !== 1 || target === undefined) return [];
      // Clients of a headless Service connect to the pods themselves.
      return [{ service, port, identity, endpoint: service.isHeadless ? target : port.port }];
    });
  });
  // With many Services each workload would list all of them: then they are for its author to choose.
  if (made.length > mostUpstreams) {
    workloads[0]?.notes.push(
      `no upstreams are derived of ${made.length} ports of Services: name those that a workload calls in ${annotations.settings}`,
    );
    return;
  }
  for (const workload of workloads) {
    for (const { service, port, identity, endpoint } of made) {
      if (service.workloads.includes(workload)) continue;
      const isNear = service.namespace === workload.namespace;
      const base = isNear ? service.name : `${service.name}.${service.namespace}`;
      const name = service.ports[0] === port ? base : `${base}-${port.port}`;
      const long = `${service.name}.${service.namespace}`;
      const hosts = [...(isNear ? [service.name] : []), long, `${long}.svc`, `${long}.svc.cluster.local`];
      workload.upstreams[name] = {
        endpoints: [`${long}.svc:${endpoint}`],
        identity: identity.length === 1 ? identity[0] : identity,
        hosts: (service.ports[0] === port ? hosts : hosts.map((host) => `${host}:${port.port}`)).filter(
          (host) => host !== name,
        ),
      };
    }
  }
}

const mostUpstreams = 100;
