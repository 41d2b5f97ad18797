// What the admin and health pages of a process show. With several workers, the first merges the facts of all.

import type { Registry } from 'prom-client';
import { metricsText, shareText } from '../../cert-agent/base/metrics-text.ts';
import type { ClusterStore } from '../cluster/store.ts';
import { withoutKeys, withoutSecrets } from '../config/shown.ts';
import type { ConfigurationWatch } from '../config/watch.ts';
import type { ConnectionTable, DrainReport } from '../connection.ts';
import { packMetrics, sumMetrics } from '../observe/merge-metrics.ts';
import { type Facts, sumDenials, sumLearned, sumSecurity, sumShadow, sumUpstreams } from '../observe/merge-workers.ts';
import type { PageSources, Readiness } from '../observe/pages.ts';
import type { ProxyTools } from '../proxy.ts';
import type { Jwks } from '../tokens/jwks.ts';
import type { Pools } from '../upstream/pools.ts';
import type { AppHealth } from '../upstream/probe.ts';
import type { RunningGateway } from './gateway.ts';
import type { IdentitySource } from './identity.ts';
import type { Ports } from './ports.ts';
import type { Workers } from './workers.ts';

/** What holds the facts of one process. */
export interface FactParts {
  readonly registry: Registry;
  readonly tools: ProxyTools;
  readonly table: ConnectionTable;
  readonly pools: Pools;
  readonly ports: Ports;
}

/** What the pages read. */
export interface PageParts extends FactParts {
  readonly configFile: string;
  readonly version: string;
  /** How many processes share the ports. */
  readonly workerCount: number;
  readonly watch: ConfigurationWatch;
  readonly source: IdentitySource;
  readonly jwks: Jwks;
  readonly appHealth: AppHealth;
  /** Undefined in a sidecar. */
  readonly gateway: RunningGateway | undefined;
  /** Undefined where this process is the only one. */
  readonly workers: Workers | undefined;
  readiness(): Readiness;
  /** The number of the generation in force. */
  inForce(): number;
  /** Drains as at SIGTERM; the process and its pages stay. */
  leave(): Promise<DrainReport>;
  readonly quit: (() => void) | undefined;
}

/** The facts of this process alone. */
export async function ownFacts({ registry, tools, table, pools, ports }: FactParts): Promise<Facts> {
  return {
    learned: tools.learned?.list() ?? [],
    shadow: tools.shadow.facts(),
    denials: tools.denials.list(),
    metrics: await packMetrics(registry),
    connections: [...table].map((one) => one.describe()),
    upstreams: pools.entries().map(([name, pool]) => ({ name, ...pool.describe() })),
    strictReport: ports.rules().flatMap(([key, rules]) => tools.security.describe(key, rules) ?? []),
  };
}

/** The sources of the pages. Nothing is read before a page is requested. */
export function createPageSources(parts: PageParts): PageSources {
  const { registry, tools, table, ports, watch, source, jwks, gateway, workers } = parts;
  const { configuration } = watch;
  const settings = (): ReturnType<typeof configuration.current>['settings'] => configuration.current().settings;
  const documents = (): ReturnType<typeof configuration.current>['documents'] => configuration.current().documents;
  /** The facts of every worker, the first one's first. */
  const all = async (): Promise<Facts[]> => {
    const [own, others] = await Promise.all([ownFacts(parts), workers?.facts() ?? []]);
    return [own, ...others];
  };
  return {
    metrics: shareText(async () => (workers === undefined ? metricsText(registry) : sumMetrics(await all(), registry))),
    metricsType: registry.contentType,
    trustDomain: settings().trustDomain,
    readiness: () => parts.readiness(),
    worries: () => (watch.store === undefined ? [] : worriesOf(watch.store)),
    identity: () => source.identity.current(),
    lastProblem: () => watch.lastProblem() ?? source.lastProblem(),
    settings: () => withoutSecrets(settings()),
    policies: () => [...documents().authorizationPolicies],
    peerAuthentications: () =>
      documents().peerAuthentications.map(({ portLevel, ...rest }) => ({
        ...rest,
        portLevelMtls: Object.fromEntries(portLevel),
      })),
    requestAuthentications: () => ({
      documents: documents().requestAuthentications.map(withoutKeys),
      keys: jwks.facts(),
    }),
    why: async (decision) => tools.denials.why(decision) ?? workers?.why(decision),
    denials: async () => sumDenials(await all()),
    learned: async () => ({
      learning: tools.learned !== undefined,
      workload: settings().workload,
      edges: sumLearned(await all()),
    }),
    shadow: async () => ({
      onTrial: documents()
        .authorizationPolicies.filter(({ dryRun }) => dryRun)
        .map(({ namespace, name }) => `${namespace}/${name}`),
      ...sumShadow(await all()),
    }),
    gatewayStatus: () => gateway?.status(Date.now()),
    drain: () => parts.leave(),
    quit: parts.quit,
    strictReport: async () => sumSecurity(await all()),
    state: () => ({
      configFile: parts.configFile,
      version: parts.version,
      generation: parts.inForce(),
      configurationFailures: watch.failures(),
      identityFailures: source.failures(),
      agent: source.status(),
      connections: table.size,
      workers: parts.workerCount,
      workerRestarts: workers?.restarts ?? 0,
      ports: ports.describe(),
      ...(watch.store === undefined
        ? {}
        : {
            kubernetes: {
              stale: watch.store.stale(),
              closedNamespaces: Object.fromEntries(watch.store.closed()),
              worries: worriesOf(watch.store),
            },
          }),
    }),
    connections: async () =>
      (await all()).flatMap(({ connections }, worker) =>
        parts.workerCount > 1 ? connections.map((one) => ({ worker: worker + 1, ...one })) : connections,
      ),
    upstreams: async () => sumUpstreams(await all()),
    appHealth: (page) => parts.appHealth.ask(page),
  };
}

/** A document that is older than it seems, or that is not there, is not seen at the requests. */
function worriesOf(store: ClusterStore): string[] {
  return [
    ...store
      .stale()
      .map(
        ({ kind, namespace, since, message, holdsUp }) =>
          `${kind}${namespace === null ? '' : ` of namespace ${namespace}`} is not followed since ${since}, so ${holdsUp} stay as they are: ${message}`,
      ),
    ...(store.worry === undefined ? [] : [store.worry]),
    ...Array.from(store.closed(), ([namespace, why]) => `no document of namespace ${namespace} is in force: ${why}`),
  ];
}
