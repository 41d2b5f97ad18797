// What a pod's annotations ask of its sidecar: Istio's names where Istio has one, ours for the rest. A value that is
// wrong refuses the pod: one that asks for a sidecar must not run with another than it asked for. What asks for a
// redirect of traffic has no effect here, and says so.

import { parseDuration } from '../../cert-agent/base/clock.ts';
import { parseYaml } from '../../cert-agent/base/yaml.ts';
import { defaultHealthPort, annotations as own } from './names.ts';
import { type Protocol, wordOf } from './ports.ts';
import { isTree, type Tree } from './tree.ts';

/** Ports by number, or all. */
export type PortSet = 'all' | ReadonlySet<number>;

export interface Wishes {
  readonly image: string | undefined;
  readonly resources: Readonly<Record<'cpu' | 'memory' | 'cpuLimit' | 'memoryLimit', string | undefined>>;
  /** pino's name of a level. */
  readonly logLevel: string | undefined;
  /** False: a regular container, for clusters without native sidecars. */
  readonly native: boolean;
  readonly rewriteProbes: boolean;
  readonly volumes: readonly Tree[];
  readonly volumeMounts: readonly Tree[];
  readonly includePorts: PortSet;
  readonly excludePorts: ReadonlySet<number>;
  readonly healthPort: number;
  readonly readiness: Readonly<Record<string, number>>;
  readonly workers: number | undefined;
  /** A duration. */
  readonly drain: string | undefined;
  readonly protocols: ReadonlyMap<number, Protocol>;
  readonly policies: string | undefined;
  /** Fields of sidecar.yaml. */
  readonly settings: Tree;
  /** What has no effect, and why. */
  readonly notes: readonly string[];
}

/** What is wrong with an annotation. */
export class AnnotationProblem extends Error {}

/** Without redirect rules in the pod, nothing is intercepted. */
const ofRedirect = [
  'traffic.sidecar.istio.io/includeOutboundPorts',
  'traffic.sidecar.istio.io/excludeOutboundPorts',
  'traffic.sidecar.istio.io/includeOutboundIPRanges',
  'traffic.sidecar.istio.io/excludeOutboundIPRanges',
  'traffic.sidecar.istio.io/excludeInterfaces',
];

/** Characters of an annotation that is YAML. A parser may take seconds for more, while other pods wait. */
const longestYaml = 16_384;

const levels: Readonly<Record<string, string>> = {
  trace: 'trace',
  debug: 'debug',
  info: 'info',
  warning: 'warn',
  warn: 'warn',
  error: 'error',
  critical: 'fatal',
  off: 'silent',
};

/** @throws AnnotationProblem for the first value that is wrong. */
export function readWishes(annotations: Readonly<Record<string, string>>): Wishes {
  const notes: string[] = [];
  const get = (name: string): string | undefined => {
    const value = annotations[name]?.trim();
    return value === '' ? undefined : value;
  };
  const fail = (name: string, expected: string): never => {
    throw new AnnotationProblem(`annotation ${name}: '${shorten(annotations[name] ?? '')}' is not ${expected}`);
  };
  const flag = (name: string, missing: boolean): boolean => {
    const value = get(name);
    if (value === undefined) return missing;
    return value === 'true' || (value === 'false' ? false : fail(name, "'true' or 'false'"));
  };
  const integer = (name: string, least: number, most: number): number | undefined => {
    const value = get(name);
    if (value === undefined) return undefined;
    const number = /^\d{1,6}$/.test(value) ? Number(value) : Number.NaN;
    return number >= least && number <= most ? number : fail(name, `a number from ${least} to ${most}`);
  };
  const ports = (name: string): ReadonlySet<number> | undefined => {
    // An empty list is a value: no port.
    const value = annotations[name]?.trim();
    if (value === undefined) return undefined;
    const parts = value === '' ? [] : value.split(',').map((one) => one.trim());
    if (!parts.every(isPort)) return fail(name, 'a list of ports: 8080,9090');
    return new Set(parts.map(Number));
  };
  const amount = (name: string): string | undefined => {
    const value = get(name);
    return value === undefined || quantityOf(value) !== undefined ? value : fail(name, 'a quantity: 100m, 0.5, 128Mi');
  };
  const parsed = (name: string): unknown => {
    const value = annotations[name];
    if (value === undefined) return undefined;
    if (value.length > longestYaml) return fail(name, `YAML of at most ${longestYaml} characters`);
    const { documents, problems } = parseYaml(value, name);
    const [problem] = problems;
    if (problem !== undefined) return fail(name, `YAML: ${problem.message}`);
    return documents.length > 1 ? fail(name, 'one document') : documents[0]?.value;
  };
  const named = (name: string): readonly Tree[] => {
    const value = parsed(name) ?? [];
    // Istio takes a list; its template also a mapping by name.
    const list = Array.isArray(value)
      ? value
      : isTree(value)
        ? Object.entries(value).map(([key, one]) => ({ name: key, ...(isTree(one) ? one : {}) }))
        : undefined;
    if (list?.every((one) => isTree(one) && typeof one['name'] === 'string') !== true)
      return fail(name, 'a list of mappings with a name');
    return list as readonly Tree[];
  };

  const mode = get('sidecar.istio.io/interceptionMode');
  if (mode !== undefined && !['REDIRECT', 'TPROXY', 'NONE'].includes(mode))
    fail('sidecar.istio.io/interceptionMode', 'REDIRECT, TPROXY or NONE');
  if (mode === 'REDIRECT' || mode === 'TPROXY')
    notes.push(`sidecar.istio.io/interceptionMode: ${mode} has no effect: the sidecar has ports of its own`);
  for (const name of ofRedirect)
    if (get(name) !== undefined) notes.push(`${name} has no effect: outbound traffic is not redirected`);
  if (get('sidecar.istio.io/statsHistogramBuckets') !== undefined)
    notes.push('sidecar.istio.io/statsHistogramBuckets has no effect');
  const level = get('sidecar.istio.io/logLevel');
  if (level !== undefined && !Object.hasOwn(levels, level)) {
    if (/^[a-z0-9_]+:[a-z]+(?:,[a-z0-9_]+:[a-z]+)*$/.test(level))
      notes.push('sidecar.istio.io/logLevel has no effect: levels of Envoy’s components mean nothing here');
    else fail('sidecar.istio.io/logLevel', Object.keys(levels).join(', '));
  }
  const include = get('traffic.sidecar.istio.io/includeInboundPorts');
  const image = get('sidecar.istio.io/proxyImage');
  if (image !== undefined && !/^[\w.-]+(?::\d+)?(?:\/[\w.-]+)*(?::[\w.-]+)?(?:@sha256:[0-9a-f]{64})?$/.test(image))
    fail('sidecar.istio.io/proxyImage', 'the name of an image');
  const policies = get(own.policies);
  if (policies !== undefined && !/^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?$/.test(policies))
    fail(own.policies, 'the name of a ConfigMap');
  const resources = {
    cpu: amount('sidecar.istio.io/proxyCPU'),
    memory: amount('sidecar.istio.io/proxyMemory'),
    cpuLimit: amount('sidecar.istio.io/proxyCPULimit'),
    memoryLimit: amount('sidecar.istio.io/proxyMemoryLimit'),
  };
  const readinessNames = ['initialDelaySeconds', 'periodSeconds', 'failureThreshold'] as const;
  const readiness = Object.fromEntries(
    readinessNames.flatMap((name) => {
      const value = integer(
        `readiness.status.sidecar.istio.io/${name}`,
        name === 'initialDelaySeconds' ? 0 : 1,
        86_400,
      );
      return value === undefined ? [] : [[name, value] as const];
    }),
  );
  const proxy = parsed('proxy.istio.io/config') ?? {};
  if (!isTree(proxy)) fail('proxy.istio.io/config', 'a mapping');
  const settings = parsed(own.settings) ?? {};
  if (!isTree(settings)) fail(own.settings, 'a mapping: fields of sidecar.yaml');
  return {
    image,
    resources,
    logLevel: level === undefined ? undefined : levels[level],
    native: flag('sidecar.istio.io/nativeSidecar', true),
    rewriteProbes: flag('sidecar.istio.io/rewriteAppHTTPProbers', true),
    volumes: named('sidecar.istio.io/userVolume'),
    volumeMounts: named('sidecar.istio.io/userVolumeMount'),
    includePorts: include === '*' ? 'all' : (ports('traffic.sidecar.istio.io/includeInboundPorts') ?? ('all' as const)),
    excludePorts: ports('traffic.sidecar.istio.io/excludeInboundPorts') ?? new Set(),
    healthPort: integer('status.sidecar.istio.io/port', 1, 65_535) ?? defaultHealthPort,
    readiness,
    ...readProxyConfig(proxy as Tree, notes),
    protocols: readProtocols(get(own.protocols), fail),
    policies,
    settings: settings as Tree,
    notes,
  };
}

/** What of Istio's ProxyConfig has a counterpart here. */
function readProxyConfig(config: Tree, notes: string[]): Pick<Wishes, 'workers' | 'drain'> {
  let workers: number | undefined;
  let drain: string | undefined;
  for (const [key, value] of Object.entries(config)) {
    if (key === 'concurrency') {
      if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > 64)
        throw new AnnotationProblem(`annotation proxy.istio.io/config: concurrency is not a number from 0 to 64`);
      // 0 is 'as many as there are processors', which a pod's limit seldom means.
      workers = value === 0 ? undefined : value;
    } else if (key === 'terminationDrainDuration') {
      if (typeof value !== 'string' || parseDuration(value) === undefined)
        throw new AnnotationProblem('annotation proxy.istio.io/config: terminationDrainDuration is not a duration: 5s');
      drain = value;
    } else if (key !== 'holdApplicationUntilProxyStarts') {
      // The app waits for a native sidecar anyway.
      notes.push(`proxy.istio.io/config: ${shorten(key)} has no effect`);
    }
  }
  return { workers, drain };
}

function readProtocols(
  value: string | undefined,
  fail: (name: string, expected: string) => never,
): ReadonlyMap<number, Protocol> {
  const found = new Map<number, Protocol>();
  for (const part of value?.split(',') ?? []) {
    const [, port = '', word = ''] = /^\s*(\d{1,5})\s*=\s*([a-z0-9]+)\s*$/.exec(part) ?? [];
    const protocol = ['http', 'http2', 'grpc', 'tcp'].includes(word) ? wordOf(word) : undefined;
    if (!isPort(port) || protocol === undefined)
      return fail(own.protocols, 'ports with http, http2, grpc or tcp: 8080=grpc');
    found.set(Number(port), protocol);
  }
  return found;
}

function isPort(text: string): boolean {
  return /^[1-9]\d{0,4}$/.test(text) && Number(text) <= 65_535;
}

const suffixes: Readonly<Record<string, number>> = {
  ...{ n: 1e-9, u: 1e-6, m: 1e-3, '': 1, k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15, E: 1e18 },
  ...{ Ki: 2 ** 10, Mi: 2 ** 20, Gi: 2 ** 30, Ti: 2 ** 40, Pi: 2 ** 50, Ei: 2 ** 60 },
};

/** A quantity of Kubernetes as a number; undefined if it is none, or not above zero. */
export function quantityOf(text: string): number | undefined {
  const [, digits, suffix = '', exponent = '0'] =
    /^\+?(\d{1,18}(?:\.\d{0,9})?|\.\d{1,9})(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?\d{1,2}))?$/.exec(text) ?? [];
  if (digits === undefined) return undefined;
  const value = Number(digits) * suffixes[suffix]! * 10 ** Number(exponent);
  return value > 0 ? value : undefined;
}

function shorten(text: string): string {
  return text.length > 60 ? `${text.slice(0, 60)}...` : text;
}
