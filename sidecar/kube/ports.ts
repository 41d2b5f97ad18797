// Which ports of an app its sidecar takes over, and the protocol of each. The pod's own `ports` say it, and what
// Services in the input and annotations add.

import { type Tree, textOf, treesOf } from './tree.ts';

export type Protocol = 'http' | 'http2' | 'grpc' | 'tcp';

/** One port of the app. */
export interface AppPort {
  readonly port: number;
  readonly name: string | undefined;
  /** Undefined if nothing says it. */
  readonly protocol: Protocol | undefined;
}

/** Ports whose protocol is known and is not HTTP: Istio knows the first four, the others are as unmistakable. */
const tcpPorts = new Set([25, 53, 3306, 27017, 465, 587, 1433, 1521, 4222, 5432, 5672, 6379, 9042, 9092, 11211]);

/** Istio's names of protocols, which a port's name begins with, and those of `appProtocol`. */
const byWord: Readonly<Record<string, Protocol>> = {
  http: 'http',
  http2: 'http2',
  h2c: 'http2',
  grpc: 'grpc',
  'grpc-web': 'http',
  ws: 'http',
  // The app's own TLS passes unread.
  https: 'tcp',
  tls: 'tcp',
  wss: 'tcp',
  tcp: 'tcp',
  mongo: 'tcp',
  mysql: 'tcp',
  redis: 'tcp',
  postgres: 'tcp',
  postgresql: 'tcp',
};

/** Istio's `<protocol>[-<suffix>]`. */
export function protocolOfName(name: string | undefined): Protocol | undefined {
  if (name === undefined) return undefined;
  if (name === 'grpc-web' || name.startsWith('grpc-web-')) return 'http';
  return wordOf(/^[^-]*/.exec(name)![0]);
}

/** Kubernetes' `appProtocol`: `kubernetes.io/h2c`, or a name of IANA. */
export function protocolOfApp(appProtocol: unknown): Protocol | undefined {
  return wordOf((textOf(appProtocol) ?? '').replace(/^kubernetes\.io\//, ''));
}

export function wordOf(word: string): Protocol | undefined {
  const lower = word.toLowerCase();
  return Object.hasOwn(byWord, lower) ? byWord[lower] : undefined;
}

/** What nothing names: a wrong guess refuses requests, and opens nothing. */
export function guessProtocol(port: number): Protocol {
  return tcpPorts.has(port) ? 'tcp' : 'http';
}

/**
 * The ports that a sidecar takes over, in their order: what containers declare, what Services lead to, and what the
 * annotation adds, without what annotations exclude.
 */
export function takenPorts(
  running: readonly Tree[],
  servicePorts: readonly AppPort[],
  included: 'all' | ReadonlySet<number>,
  excluded: ReadonlySet<number>,
): readonly AppPort[] {
  const found = new Map<number, AppPort>();
  for (const one of [...declaredPorts(running), ...servicePorts]) {
    const known = found.get(one.port);
    // Services say the protocol more precisely than a container.
    found.set(one.port, known === undefined ? one : { ...known, protocol: one.protocol ?? known.protocol });
  }
  for (const port of included === 'all' ? [] : included)
    if (!found.has(port)) found.set(port, { port, name: undefined, protocol: undefined });
  return [...found.values()].filter(({ port }) => (included === 'all' || included.has(port)) && !excluded.has(port));
}

/** The TCP ports that containers declare, in their order, each number once. */
export function declaredPorts(containers: readonly Tree[]): readonly AppPort[] {
  const found = new Map<number, AppPort>();
  for (const one of containers.flatMap(({ ports }) => treesOf(ports))) {
    const { containerPort: port, protocol = 'TCP' } = one;
    if (typeof port !== 'number' || protocol !== 'TCP' || found.has(port)) continue;
    const name = textOf(one['name']);
    found.set(port, { port, name, protocol: protocolOfName(name) });
  }
  return [...found.values()];
}
