// Whether callers who are in still hold when their rule changes: each guard compares what it knows them by with what it
// knew before.

import type { Exchange, Phases } from './exchange.ts';

type Guards = Phases['guards'];

/** Whether these guards are those of the same policies as before: then nothing is asked again. */
export function areSame(now: Guards, before: Guards = []): boolean {
  return now.length === before.length && now.every(({ name, of }) => of !== '' && guardOf(before, name)?.of === of);
}

/**
 * Whether a caller who was let in under the guards `before` is let in by all that there are now. Fails closed: a guard
 * that is new has nothing to compare with.
 */
export function stillHolds(exchange: Exchange, now: Guards, before: Guards = []): boolean {
  return now.every((guard) => guard.stillHolds(exchange, guardOf(before, guard.name)?.known));
}

function guardOf(guards: Guards, wanted: string): Guards[number] | undefined {
  return guards.find(({ name }) => name === wanted);
}
