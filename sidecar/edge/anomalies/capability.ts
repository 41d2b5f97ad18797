// Reports unusual behaviour for a route and a caller. It refuses nothing.

import { every } from '../../../cert-agent/base/background.ts';
import type { Service } from '../capability.ts';
import { Detection } from './detection.ts';
import type { AnomalyPlan } from './schema.ts';

const passMs = 1000;

export const anomalies: Service<AnomalyPlan, Detection | undefined> = {
  name: 'anomalies',
  guards: false,
  perPolicy: true,
  inboundOnly: true,
  fields: [
    {
      ...{ kind: 'sallyport.dev/AnomalyDetection', name: 'AnomalyDetection' },
      schema: async () => (await import('./schema.ts')).anomalyDetection,
    },
    {
      ...{ kind: 'sidecar.yaml', name: 'anomalyDetection' },
      schema: async () => (await import('./schema.ts')).anomalyDetection,
    },
  ],
  async share({ registry, log, workers, onClose }) {
    const { registerAnomalyMetrics } = await import('./metrics.ts');
    const { first } = workers;
    const clocks = { now: () => performance.now(), date: Date.now };
    const detection = new Detection({ log, count: registerAnomalyMetrics(registry), first, ...clocks });
    if (first === undefined) workers.serve({ answer: (_, report) => detection.take(report) });
    onClose(every('anomalies', passMs, () => detection.pass()));
    return detection;
  },
  shareDry: () => undefined,
  pages: (detection) =>
    detection === undefined
      ? []
      : [
          {
            method: 'GET',
            path: '/anomalies',
            sentence: 'recent anomalies, and the size of the learned model',
            answer: () => ({ body: detection.state }),
          },
        ],
  compile([planned], { policy, shared }) {
    if (planned === undefined || shared === undefined) return undefined;
    const of = policy === '' ? planned.of : policy;
    shared.watch(of, planned.plan);
    return {
      finished: (exchange) => shared.see(of, exchange),
      dropped: () => shared.drop(of),
    };
  },
};
