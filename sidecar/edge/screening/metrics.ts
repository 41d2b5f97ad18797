// Counts screened requests and findings.

import { Counter, type Registry } from '../../../cert-agent/base/prometheus.ts';
import type { DetectorName } from './finding.ts';
import type { ScreeningPlan } from './schema.ts';

/** `unscreened`: a part of the request could not be read, or the budget ended before it. */
export type Outcome = 'clean' | 'attack' | 'unscreened';

/** `request` is called once for each request, and `detected` for each detector that took part in an attack. */
export interface ScreeningCounts {
  request(mode: ScreeningPlan['mode'], outcome: Outcome): void;
  detected(mode: ScreeningPlan['mode'], detector: DetectorName): void;
}

/** Registers the counters. */
export function registerScreeningMetrics(registry: Registry): ScreeningCounts {
  const requests = new Counter({
    name: 'sallyport_screenings_total',
    help: 'Requests screened for attacks, by mode and outcome; unscreened: a part could not be read, or the budget ended.',
    labelNames: ['mode', 'outcome'],
    registers: [registry],
  });
  const detections = new Counter({
    name: 'sallyport_screening_detections_total',
    help: 'Attacks, by mode and by each detector that took part in the finding.',
    labelNames: ['mode', 'detector'],
    registers: [registry],
  });
  return {
    request: (mode, outcome) => requests.inc({ mode, outcome }),
    detected: (mode, detector) => detections.inc({ mode, detector }),
  };
}
