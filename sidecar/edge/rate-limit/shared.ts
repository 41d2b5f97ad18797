// Buckets that several gateways share, in Redis. One script runs for all rules of a request in one round trip, so that
// no two gateways spend the same token, and by Redis's own clock, so that theirs need not agree. Redis sees only hashes
// of what a bucket is for. A query gets an answer in `timeoutMs` or none, and then the decision is made without Redis.

import type { RedisLink } from '../redis-link.ts';
import { runScript, type SharedAnswer, type SharedBucket } from './script.ts';

/** Limits in Redis. */
export interface SharedLimits {
  /** True if Redis worked at its last answer. */
  readonly ready: boolean;
  /**
   * Takes tokens. No promise while Redis is away, and undefined without an answer: decide without it. Never rejects.
   */
  take(buckets: readonly SharedBucket[]): Promise<SharedAnswer | undefined> | undefined;
  facts(): SharedLimitFacts;
}

/** For metrics and pages: plain numbers. */
export interface SharedLimitFacts {
  /** Host and port. */
  readonly redis: string;
  readonly ready: boolean;
  /** Decisions that Redis made, and how many of them refused. */
  readonly shared: number;
  readonly allowed: number;
  readonly limited: number;
  /** Decisions that it should have made but did not. */
  readonly fallback: number;
  readonly outages: number;
  readonly lastProblem: string | null;
}

/** Limits over a connection that a gateway uses for other things, too. Its owner closes it. */
export function limitsIn(link: RedisLink): SharedLimits {
  const limits = new LimitsInRedis(link);
  link.unanswered = () => limits.facts().fallback;
  return limits;
}

class LimitsInRedis implements SharedLimits {
  readonly #link: RedisLink;
  #shared = 0;
  #limited = 0;
  #fallback = 0;

  constructor(link: RedisLink) {
    this.#link = link;
  }

  get ready(): boolean {
    return this.#link.ready;
  }

  take(buckets: readonly SharedBucket[]): Promise<SharedAnswer | undefined> | undefined {
    const asked = this.#link.ask((client) => runScript(client, buckets), this.#note);
    if (asked === undefined) this.#fallback++;
    return asked;
  }

  readonly #note = (answer: SharedAnswer | undefined): void => {
    if (answer === undefined) this.#fallback++;
    else {
      this.#shared++;
      if (!answer.allowed) this.#limited++;
    }
  };

  facts(): SharedLimitFacts {
    const { place, ready, outages, lastProblem } = this.#link;
    return {
      ...{ redis: place, ready, outages, lastProblem: lastProblem ?? null },
      ...{ shared: this.#shared, allowed: this.#shared - this.#limited, limited: this.#limited },
      fallback: this.#fallback,
    };
  }
}
