// Every metric, by registering each part as its process does. Nothing is scraped: what the parts read is not there.

import type { Registry } from 'prom-client';
import { registerMetrics as registerAgent } from '../../cert-agent/agent/pages.ts';
import { createRegistry } from '../../cert-agent/base/metrics.ts';
import { registerAnomalyMetrics } from '../edge/anomalies/metrics.ts';
import { registerCacheMetrics } from '../edge/cache/metrics.ts';
import { registerMcpMetrics } from '../edge/mcp/metrics.ts';
import { registerMirrorMetrics } from '../edge/mirror/metrics.ts';
import { registerRateLimitMetrics } from '../edge/rate-limit/metrics.ts';
import { registerScreeningMetrics } from '../edge/screening/metrics.ts';
import { registerValidationMetrics } from '../edge/validation/metrics.ts';
import { registerExposure } from '../observe/exposure.ts';
import { TrafficMetrics } from '../observe/metrics.ts';
import { registerClusterMetrics } from '../process/cluster-metrics.ts';
import { registerGatewayMetrics } from '../process/gateway-metrics.ts';
import { TransactionTokenCounts } from '../tokens/metrics.ts';
import type { Entry } from './entry.ts';

/** Never read: registering only keeps it. */
const unread = undefined as never;
const never = (): never => unread;

const parts: Readonly<Record<string, (registry: Registry) => unknown>> = {
  'every process': () => undefined,
  'sidecar and gateway': (registry) => {
    new TrafficMetrics(registry, 'a.test', { namespace: 'a', serviceAccount: 'a', labels: {} }, '');
    new TransactionTokenCounts().register(registry);
    registerExposure(registry);
  },
  'where the capability is configured': (registry) => {
    registerAnomalyMetrics(registry);
    registerMcpMetrics(registry);
    registerScreeningMetrics(registry);
    registerValidationMetrics(registry);
  },
  gateway: (registry) => {
    registerGatewayMetrics(registry, never);
    registerClusterMetrics(registry, unread);
    registerCacheMetrics(registry, { counts: unread, held: never });
    registerMirrorMetrics(registry, unread);
    registerRateLimitMetrics(registry, never);
  },
  agent: (registry) => registerAgent(registry, never),
};

/** The metrics of a registry as entries. */
function entriesOf(registry: Registry, where: string): Entry[] {
  return registry.getMetricsAsArray().map((metric) => {
    const {
      name,
      help,
      type,
      labelNames = [],
    } = metric as unknown as {
      readonly name: string;
      readonly help: string;
      readonly type: string;
      readonly labelNames?: readonly string[];
    };
    return {
      name,
      description: help,
      facts: [
        ['type', type],
        ...(labelNames.length === 0 ? [] : [['labels', labelNames.join(', ')] as const]),
        ['where', where],
      ],
    };
  });
}

/** Every metric of every process, once. */
export async function metricEntries(): Promise<readonly Entry[]> {
  const { createCaMetrics } = await import('../../cert-agent/ca/metrics.ts');
  const ca = createCaMetrics();
  ca.watch(unread, unread, unread);
  ca.watchRunning({ agents: unread, ledger: unread, store: unread });
  const all = [
    ...Object.entries(parts).flatMap(([where, register]) => {
      const registry = createRegistry();
      register(registry);
      return entriesOf(registry, where);
    }),
    ...entriesOf(ca.registry, 'CA'),
  ];
  return all.filter(({ name }, index) => all.findIndex((one) => one.name === name) === index);
}
