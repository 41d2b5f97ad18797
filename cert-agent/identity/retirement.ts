// When a connection ends politely: some time before the certificates behind it do. Both sides have new ones by then (renewed at
// 45 to 60 % of their life), but what was agreed on with the old ones ends with them.

/** The share of the time that is left which is given back: spread, so that not all connections of a peer end at once. */
const leastShare = 0.1;
const mostShare = 0.25;
/** What is in flight needs time to finish. */
const graceMs = 5000;

/**
 * When a connection that is made at `now` takes nothing new any more, milliseconds since 1970. Never later than `validUntil`, the
 * first end of the certificates that it rests on; Infinity where nothing ends.
 */
export function retirementOf(validUntil: number, now: number, random: () => number = Math.random): number {
  if (validUntil === Number.POSITIVE_INFINITY) return validUntil;
  const left = Math.max(0, validUntil - now);
  const share = leastShare + (mostShare - leastShare) * random();
  // Near its end a certificate gives its connections half of what is left: else each would serve one request.
  return validUntil - Math.max(left * share, Math.min(graceMs, left / 2));
}
