// A registry of prom-client with what every process says about itself. Counters on the data path are plain fields that
// their owner's `collect` reads at scrape: prom-client hashes the label set at every `inc`.

import { createRequire } from 'node:module';
import { type Metric, Registry } from 'prom-client';

/**
 * prom-client's own, but for its histogram of collections: an observer that is called at each of them, which is a thousand
 * times a second under load, cost 7 % of a request's CPU time (measured).
 */
const parts = [
  ...['processCpuTotal', 'processStartTime', 'osMemoryHeap', 'processOpenFileDescriptors', 'processMaxFileDescriptors'],
  ...['eventLoopLag', 'processResources', 'heapSizeAndUsed', 'heapSpacesSizeAndUsed', 'version'],
];

type Collect = (registry: Registry, options: object) => Metric | undefined;

/** A new registry with the process's own metrics (CPU, memory, event-loop lag, descriptors). */
export function createRegistry(): Registry {
  const registry = new Registry();
  const load = createRequire(import.meta.url);
  // The lag is sampled ten times a second, so that an idle sidecar sleeps.
  for (const part of parts)
    (load(`prom-client/lib/metrics/${part}`) as Collect)(registry, { eventLoopMonitoringPrecision: 100 });
  return registry;
}
