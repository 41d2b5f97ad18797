// What has to be remembered of logins beside their cookies, and is one for all processes that know the same sessions: states that
// were spent, refreshes, of which each refresh token allows one, and sessions that somebody has ended. In this process alone
// here; over several workers see shared-state.ts, over several gateways redis-sessions.ts.

import { Expiring } from '../expiring.ts';

/** What becomes of a refresh: we do it, another does it, or it is done and this is the sealed answer. */
export type Claim = 'mine' | 'busy' | { readonly answer: string };

/**
 * The contract of whoever remembers. Keys hold the policy that they are of; it may outlive a configuration. What cannot be
 * asked rejects with `oidc_provider_unavailable` or `redis_unavailable`: whoever asked must not go on.
 */
export interface SessionMemory {
  /** Spends a state; false where somebody has before. Remembered until `until` (wall clock, milliseconds). */
  spend(key: string, until: number): boolean | Promise<boolean>;
  /** Asks for the right to refresh, which ends after `leaseMs`. The same `owner` may ask again. */
  claim(key: string, owner: string, leaseMs: number): Claim | Promise<Claim>;
  /** What came of it, for all who ask within `keepMs`; without an answer whoever asks next has the right. */
  settle(key: string, owner: string, answer: string | undefined, keepMs: number): void | Promise<void>;
  /** Ends a session for all processes. Known here at once; never rejects. `until`: when it would have ended. */
  end(id: string, until: number): void | Promise<void>;
  /** Whether this process knows that a session has ended. Asked of every request. */
  isEnded(id: string): boolean;
}

const maxRemembered = 10_000;
/** One that is forgotten early lives again: there is room for a hundred thousand logouts in the life of a session. */
const maxEnded = 100_000;

/** In this process. */
export class LocalSessions implements SessionMemory {
  readonly #now: () => number;
  readonly #spent: Expiring<true>;
  readonly #ended: Expiring<true>;
  readonly #claims: Expiring<{ readonly owner: string; readonly answer?: string }>;

  readonly #onEnd: (id: string, until: number) => void;

  /** `onEnd` hears of each session that is ended. */
  constructor(now: () => number = Date.now, onEnd: (id: string, until: number) => void = () => {}) {
    this.#now = now;
    this.#onEnd = onEnd;
    this.#spent = new Expiring(maxRemembered, now);
    this.#ended = new Expiring(maxEnded, now);
    this.#claims = new Expiring(maxRemembered, now);
  }

  spend(key: string, until: number): boolean {
    if (this.#spent.get(key) !== undefined) return false;
    this.#spent.set(key, true, until);
    return true;
  }

  claim(key: string, owner: string, leaseMs: number): Claim {
    const known = this.#claims.get(key);
    if (known?.answer !== undefined) return { answer: known.answer };
    if (known !== undefined && known.owner !== owner) return 'busy';
    this.#claims.set(key, { owner }, this.#now() + leaseMs);
    return 'mine';
  }

  settle(key: string, owner: string, answer: string | undefined, keepMs: number): void {
    const known = this.#claims.get(key);
    if (known !== undefined && known.owner !== owner) return;
    if (answer === undefined) this.#claims.delete(key);
    else this.#claims.set(key, { owner, answer }, this.#now() + keepMs);
  }

  /** Whoever had a right that begins so is gone: it is free again. */
  release(ownerPrefix: string): void {
    for (const [key, { owner, answer }] of this.#claims.entries())
      if (answer === undefined && owner.startsWith(ownerPrefix)) this.#claims.delete(key);
  }

  end(id: string, until: number): void {
    this.#ended.set(id, true, until);
    this.#onEnd(id, until);
  }

  isEnded(id: string): boolean {
    return this.#ended.get(id) !== undefined;
  }

  /** All that have ended and would not have by themselves, with the time at which they would. */
  ended(): (readonly [id: string, until: number])[] {
    return [...this.#ended.entries()].map(([id, , until]) => [id, until] as const);
  }
}
