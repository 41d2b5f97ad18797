// A prom-client registry with the metrics of the process itself. Counters on the data path are plain fields, which the
// owner's `collect` reads at scrape: prom-client hashes the label set at every `inc`.

import { createRequire } from 'node:module';
import { Counter, type Metric, Registry } from './prometheus.ts';

/**
 * prom-client's default metrics without the histogram of garbage collections. Its observer runs at each collection, a
 * thousand times a second under load, and cost 7 % of a request's CPU time (measured).
 */
const parts = [
  ...['processStartTime', 'osMemoryHeap', 'processOpenFileDescriptors', 'processMaxFileDescriptors'],
  ...['eventLoopLag', 'processResources', 'heapSizeAndUsed', 'heapSpacesSizeAndUsed', 'version'],
];

type Collect = (registry: Registry, options: object) => Metric | undefined;

/** A new registry with the process's own metrics (CPU, memory, event-loop lag, descriptors). */
export function createRegistry(): Registry {
  const registry = new Registry();
  registerCpuTimes(registry);
  const load = createRequire(import.meta.url);
  // The lag is sampled only ten times a second, so that an idle sidecar sleeps.
  for (const part of parts)
    (load(`prom-client/lib/metrics/${part}`) as Collect)(registry, { eventLoopMonitoringPrecision: 100 });
  return registry;
}

/** As prom-client's own, whose file loads the API of OpenTelemetry. */
function registerCpuTimes(registry: Registry): void {
  let last = process.cpuUsage();
  const registers = [registry];
  new Counter({
    ...{ name: 'process_cpu_user_seconds_total', help: 'Total user CPU time spent in seconds.', registers },
    // A registry reads its metrics in order, so that this one sets all three.
    collect() {
      const now = process.cpuUsage();
      const [user, kernel] = [(now.user - last.user) / 1e6, (now.system - last.system) / 1e6];
      last = now;
      this.inc(user);
      system.inc(kernel);
      both.inc(user + kernel);
    },
  });
  const system = new Counter({
    ...{ name: 'process_cpu_system_seconds_total', help: 'Total system CPU time spent in seconds.', registers },
  });
  const both = new Counter({
    ...{ name: 'process_cpu_seconds_total', help: 'Total user and system CPU time spent in seconds.', registers },
  });
}
