// When to renew and when to try again, as pure functions on times: no timer, no state.

import type { Clock } from '../base/clock.ts';

export interface Life {
  readonly notBefore: number;
  readonly notAfter: number;
}

/** A number from 0 up to, not including, 1. */
export type Random = () => number;

/** While we hold an SVID there is time; a longer pause would only make the recovery of a CA slower to notice. */
const maxBackoffMs = 150_000;

/** Without one nothing works, so whoever starts the CA should not wait for us. */
const maxWaitMs = 10_000;

const firstBackoffMs = 1000;
const leastDelayMs = 100;

/**
 * The moment of the next renewal: uniformly random in 45-60 % of the life that is left of a certificate received at
 * `since`. Certificates are back-dated, and of a short life the back-dated part is large, so it does not count.
 */
export function renewalTime(life: Life, since: number, random: Random): number {
  const start = Math.min(Math.max(life.notBefore, since), life.notAfter);
  return Math.floor(start + (life.notAfter - start) * (0.45 + 0.15 * random()));
}

/** From here on a renewal is overdue: 90 % of the life are over. */
export function lateFrom(life: Life): number {
  return Math.floor(life.notBefore + (life.notAfter - life.notBefore) * 0.9);
}

/**
 * How long to wait after the `failures`th failure in a row: exponential with full jitter, so that a thousand agents do
 * not come back in one moment; past 90 % of life every 10 s, or more often where the whole life is a matter of minutes.
 */
export function retryDelay(failures: number, held: Life | undefined, now: number, random: Random): number {
  const valid = held !== undefined && now <= held.notAfter;
  if (valid && now >= lateFrom(held)) {
    return Math.max(1000, Math.min(10_000, (held.notAfter - held.notBefore) * 0.02));
  }
  const ceiling = Math.min(valid ? maxBackoffMs : maxWaitMs, firstBackoffMs * 2 ** Math.min(failures, 20));
  const delay = Math.max(leastDelayMs, Math.floor(random() * ceiling));
  // No back-off reaches past the moment from which every try counts.
  return valid ? Math.min(delay, Math.max(leastDelayMs, lateFrom(held) - now)) : delay;
}

/** How long until the bundle is asked for again: as the CA says, within 1-10 s, spread by a fifth; slower after failures. */
export function refreshDelay(hintS: number, failures: number, random: Random): number {
  const base = Math.min(Math.max(hintS, 1), 10) * 1000;
  const spread = base * (0.8 + 0.4 * random());
  return Math.floor(failures === 0 ? spread : Math.min(15_000, spread * 2 ** Math.min(failures - 1, 4)));
}

/** How far the wall clock moved beyond the time that passed since the last question; 0 at the first. */
export function watchJumps(clock: Clock): () => number {
  let offset = clock.now() - clock.monotonic();
  return function jumpedBy() {
    const before = offset;
    offset = clock.now() - clock.monotonic();
    return offset - before;
  };
}
