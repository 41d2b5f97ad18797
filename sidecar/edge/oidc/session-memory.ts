// The state of logins outside their cookies, which all processes with the same sessions share: spent states, refreshes
// (each refresh token allows one), and ended sessions. This file keeps it in one process; first.ts shares it between
// workers, and redis-sessions.ts between gateways.

import { Expiring } from '../expiring.ts';

/** The state of a refresh: this owner does it, another one does it, or it is done with this sealed result. */
export type Claim = 'mine' | 'busy' | { readonly answer: string };

/**
 * The contract of the shared state. Keys include their policy. A memory may outlive a configuration. An unavailable
 * memory rejects with `oidc_provider_unavailable` or `redis_unavailable`, and the caller must not continue.
 */
export interface SessionMemory {
  /** Spends a state; false if it was spent before. Remembered until `until` (wall clock, milliseconds). */
  spend(key: string, until: number): boolean | Promise<boolean>;
  /** Claims the right to refresh, which ends after `leaseMs`. The same `owner` may claim it again. */
  claim(key: string, owner: string, leaseMs: number): Claim | Promise<Claim>;
  /** Stores the result for all claims within `keepMs`. Without a result the next claim gets the right. */
  settle(key: string, owner: string, answer: string | undefined, keepMs: number): void | Promise<void>;
  /** Ends a session for all processes, in this one at once. Never rejects. `until`: when it would have expired. */
  end(id: string, until: number): void | Promise<void>;
  /** True if this process knows that the session was ended. Called for every request. */
  isEnded(id: string): boolean;
}

const maxRemembered = 10_000;
/**
 * A logout that is forgotten early revives its session, so there is room for 100,000 logouts in the life of a session.
 */
const maxEnded = 100_000;

/** Keeps the state in this process. */
export class LocalSessions implements SessionMemory {
  readonly #now: () => number;
  readonly #spent: Expiring<true>;
  readonly #ended: Expiring<true>;
  readonly #claims: Expiring<{ readonly owner: string; readonly answer?: string }>;

  readonly #onEnd: (id: string, until: number) => void;

  /** `onEnd` is called for each session that is ended. */
  constructor(now: () => number = Date.now, onEnd: (id: string, until: number) => void = () => {}) {
    this.#now = now;
    this.#onEnd = onEnd;
    this.#spent = new Expiring(maxRemembered, now);
    this.#ended = new Expiring(maxEnded, now);
    this.#claims = new Expiring(maxRemembered, now);
  }

  /** True once for each key, until `until` (milliseconds since 1970). */
  spend(key: string, until: number): boolean {
    if (this.#spent.get(key) !== undefined) return false;
    this.#spent.set(key, true, until);
    return true;
  }

  /** A lease ends by itself after `leaseMs`. The owner may claim again. */
  claim(key: string, owner: string, leaseMs: number): Claim {
    const known = this.#claims.get(key);
    if (known?.answer !== undefined) return { answer: known.answer };
    if (known !== undefined && known.owner !== owner) return 'busy';
    this.#claims.set(key, { owner }, this.#now() + leaseMs);
    return 'mine';
  }

  /** Only the owner's counts. `undefined` gives the claim up; an answer is kept for `keepMs`. */
  settle(key: string, owner: string, answer: string | undefined, keepMs: number): void {
    const known = this.#claims.get(key);
    if (known !== undefined && known.owner !== owner) return;
    if (answer === undefined) this.#claims.delete(key);
    else this.#claims.set(key, { owner, answer }, this.#now() + keepMs);
  }

  /** Frees the claims of owners with this prefix, which are gone. */
  release(ownerPrefix: string): void {
    for (const [key, { owner, answer }] of this.#claims.entries())
      if (answer === undefined && owner.startsWith(ownerPrefix)) this.#claims.delete(key);
  }

  /** Remembered until `until` (milliseconds since 1970), when its cookies have expired anyway. */
  end(id: string, until: number): void {
    this.#ended.set(id, true, until);
    this.#onEnd(id, until);
  }

  /** Asked for each request with a session. */
  isEnded(id: string): boolean {
    return this.#ended.get(id) !== undefined;
  }

  /** The ended sessions that would not have expired yet, with the time at which they would. */
  ended(): (readonly [id: string, until: number])[] {
    return [...this.#ended.entries()].map(([id, , until]) => [id, until] as const);
  }
}
