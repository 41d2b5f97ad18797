// A registry of prom-client with what every process says about itself. Counters on the data path are plain fields that
// their owner's `collect` reads at scrape: prom-client hashes the label set at every `inc`.

import { collectDefaultMetrics, Registry } from 'prom-client';

/** A new registry with the process's own metrics (CPU, memory, event-loop lag, descriptors). */
export function createRegistry(): Registry {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  return registry;
}
