// Places whose last response could not be shared. Requests for them do not wait for each other for a while: each would
// wait and then fetch for itself anyway.

import { hash } from 'node:crypto';
import { type Clock, systemClock } from '../../../cert-agent/base/clock.ts';
import type { Place } from './store.ts';

const unsharedMs = 10_000;
const maxPlaces = 10_000;

/** Of one cache, for its process only. Bounded in time and number. */
export class Unshared {
  /** Expiry by digest, since clients choose the length of URLs. In the order of time. */
  readonly #until = new Map<string, number>();
  readonly #clock: Clock;

  constructor(clock: Clock = systemClock) {
    this.#clock = clock;
  }

  /** How many places are remembered. */
  get size(): number {
    return this.#until.size;
  }

  /** True for 10 s after `note`, unless `forget` was called in between. */
  has(place: Place): boolean {
    if (this.#until.size === 0) return false;
    const until = this.#until.get(digestOf(place));
    return until !== undefined && until > this.#clock.monotonic();
  }

  /** A response for this place could not be shared. Beyond 10,000 places the oldest are forgotten. */
  note(place: Place): void {
    const now = this.#clock.monotonic();
    const digest = digestOf(place);
    this.#until.delete(digest);
    for (const [oldest, until] of this.#until) {
      if (until > now && this.#until.size < maxPlaces) break;
      this.#until.delete(oldest);
    }
    this.#until.set(digest, now + unsharedMs);
  }

  /** A response for this place is shared. */
  forget(place: Place): void {
    if (this.#until.size > 0) this.#until.delete(digestOf(place));
  }
}

function digestOf({ url, partition }: Place): string {
  return hash('sha256', `${partition} ${url}`, 'base64');
}
