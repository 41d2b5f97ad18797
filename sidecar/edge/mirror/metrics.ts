// Counts copies by outcome. Clients cannot notice failures of a mirror, so they show here only.

import { Counter, type Registry } from '../../../cert-agent/base/prometheus.ts';

/** `answered`: by any response. `failed`: not reached, or cut off. `dropped`: too slow, or too many in flight. */
export type MirrorOutcomes = { answered: number; failed: number; dropped: number };
/** The outcome of one copy. */
export type MirrorOutcome = keyof MirrorOutcomes;

/** Lets `registry` read the counts at scrape. */
export function registerMirrorMetrics(registry: Registry, outcomes: Readonly<MirrorOutcomes>): void {
  new Counter({
    name: 'sallyport_mirrored_requests_total',
    help: 'Copies of requests for a mirror, by outcome; dropped: it was too slow, or too many were in flight.',
    labelNames: ['outcome'],
    registers: [registry],
    collect() {
      this.reset();
      for (const [outcome, count] of Object.entries(outcomes)) this.inc({ outcome }, count);
    },
  });
}
