// When to renew and when to retry: pure functions on times, without timer or state.

import type { Clock } from '../base/clock.ts';

/** Milliseconds since 1970. */
export interface Life {
  readonly notBefore: number;
  readonly notAfter: number;
}

/** A number in [0, 1). */
export type Random = () => number;

/** With an SVID there is time, but a longer pause would only notice the recovery of a CA later. */
const maxBackoffMs = 150_000;

/** Without one nothing works, so a CA that starts must be noticed soon. */
const maxWaitMs = 10_000;

const firstBackoffMs = 1000;
const leastDelayMs = 100;

/**
 * The time of the next renewal: uniformly random in 45-60 % of the remaining life of a certificate received at `since`.
 * Certificates are back-dated. That part is large for short lives, so it does not count.
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
 * The delay after the `failures`th failure in a row: exponential with full jitter, so that a thousand agents do not
 * retry at the same time. Past 90 % of the life it is 10 s, or less if the whole life is only minutes.
 */
export function retryDelay(failures: number, held: Life | undefined, now: number, random: Random): number {
  const valid = held !== undefined && now <= held.notAfter;
  if (valid && now >= lateFrom(held)) {
    return Math.max(1000, Math.min(10_000, (held.notAfter - held.notBefore) * 0.02));
  }
  const ceiling = Math.min(valid ? maxBackoffMs : maxWaitMs, firstBackoffMs * 2 ** Math.min(failures, 20));
  const delay = Math.max(leastDelayMs, Math.floor(random() * ceiling));
  // The back-off ends at the time from which every attempt counts.
  return valid ? Math.min(delay, Math.max(leastDelayMs, lateFrom(held) - now)) : delay;
}

/** The delay until the next bundle request: the CA's hint within 1-10 s, with 20 % jitter; longer after failures. */
export function refreshDelay(hintS: number, failures: number, random: Random): number {
  const base = Math.min(Math.max(hintS, 1), 10) * 1000;
  const spread = base * (0.8 + 0.4 * random());
  return Math.floor(failures === 0 ? spread : Math.min(15_000, spread * 2 ** Math.min(failures - 1, 4)));
}

/** How far the wall clock moved beyond the time that really passed since the last call; 0 at the first call. */
export function watchJumps(clock: Clock): () => number {
  let offset = clock.now() - clock.monotonic();
  return function jumpedBy() {
    const before = offset;
    offset = clock.now() - clock.monotonic();
    return offset - before;
  };
}
