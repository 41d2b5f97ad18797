// When a connection drains: some time before its certificates expire. Both sides have new certificates by then (renewed
// at 45 to 60 % of their life), but a connection that rests on the old ones ends with them.

/** The share of the remaining time that is given up; random, so that not all connections of a peer end at once. */
const leastShare = 0.1;
const mostShare = 0.25;
/** Requests in flight need time to finish. */
const graceMs = 5000;

/**
 * When a connection opened at `now` stops taking new requests, milliseconds since 1970. Never later than `validUntil`,
 * the earliest expiry of its certificates; Infinity if nothing expires.
 */
export function retirementOf(validUntil: number, now: number, random: () => number = Math.random): number {
  if (validUntil === Number.POSITIVE_INFINITY) return validUntil;
  const left = Math.max(0, validUntil - now);
  const share = leastShare + (mostShare - leastShare) * random();
  // Near its expiry, a certificate gives its connections half of the rest: otherwise each would serve one request.
  return validUntil - Math.max(left * share, Math.min(graceMs, left / 2));
}
