// What became of copies of requests: nobody whose request was copied feels it, so it is seen here or nowhere.

import { Counter, type Registry } from 'prom-client';

const outcomes = {
  /** The backend has answered, whatever. */
  answered: 0,
  /** It could not be reached, or broke off. */
  failed: 0,
  /** It was too slow, or there were too many in flight. */
  dropped: 0,
};

export type MirrorOutcome = keyof typeof outcomes;

/** One copy that is over. */
export function countMirrored(outcome: MirrorOutcome): void {
  outcomes[outcome]++;
}

/** Lets `registry` read the counts of this process when it is asked. */
export function registerMirrored(registry: Registry): void {
  new Counter({
    name: 'sallyport_mirrored_requests_total',
    help: 'Copies of requests that were sent to a mirror, by what became of them.',
    labelNames: ['outcome'],
    registers: [registry],
    collect() {
      this.reset();
      for (const [outcome, count] of Object.entries(outcomes)) this.inc({ outcome }, count);
    },
  });
}
