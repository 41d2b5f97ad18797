// Counts the reported anomalies.

import { Counter, type Registry } from '../../../cert-agent/base/prometheus.ts';
import type { AnomalyKind } from './schema.ts';

/** Registers the counter; the result counts one anomaly. */
export function registerAnomalyMetrics(registry: Registry): (policy: string, kind: AnomalyKind) => void {
  const anomalies = new Counter({
    name: 'sallyport_anomalies_total',
    help: 'Anomalies, by policy and kind. None of them refuses a request.',
    labelNames: ['policy', 'kind'],
    registers: [registry],
  });
  return (policy, kind) => anomalies.inc({ policy, kind });
}
