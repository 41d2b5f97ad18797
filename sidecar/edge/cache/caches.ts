// The caches of one process, by policy. A cache outlives generations that do not change its policy. A changed policy
// begins with an empty one: what was stored under it may not be shared any more.

import type { Onward } from '../../exchange/onward.ts';
import type { RedisLink } from '../redis-link.ts';
import { Cache } from './cache.ts';
import type { CacheFacts } from './metrics.ts';
import { PurgeStream, RedisStore } from './redis-store.ts';
import type { CachePlan } from './schema.ts';
import { type CacheCounts, outcomes } from './status.ts';
import type { Purge } from './store.ts';

/** The caches of one process. */
export class Caches implements CacheFacts {
  readonly counts = Object.fromEntries(outcomes.map((one) => [one, 0])) as CacheCounts;
  readonly #onward: Onward;
  readonly #workers: number;
  /** Weak: a cache ends with the last rules that use it. */
  readonly #byPlan = new Map<string, WeakRef<Cache>>();
  readonly #tell: (purge: Purge) => void;

  readonly #redis: RedisLink | undefined;
  readonly #stream: PurgeStream | undefined;
  #usesRedis = false;

  /**
   * @param workers the number of processes among which the memory of a policy is divided
   * @param tell passes a purge to the other processes
   */
  constructor(onward: Onward, workers: number, tell: (purge: Purge) => void, redis?: RedisLink) {
    this.#onward = onward;
    this.#workers = workers;
    this.#tell = tell;
    this.#redis = redis;
    if (redis === undefined) return;
    const clear = (): void => {
      for (const cache of this.#all()) cache.clear();
    };
    this.#stream = new PurgeStream(redis, (purge) => void this.purgeHere(purge), clear);
  }

  get hasRedis(): boolean {
    return this.#redis !== undefined;
  }

  /** Hears of other gateways' purges. Runs every second. */
  async listen(): Promise<void> {
    if (this.#usesRedis) await this.#stream?.look();
  }

  /** The cache of a policy, `namespace/name`, with this plan. */
  of(policy: string, plan: CachePlan): Cache {
    const key = `${policy} ${JSON.stringify(plan)}`;
    const known = this.#byPlan.get(key)?.deref();
    if (known !== undefined) return known;
    const redis =
      plan.store === 'Redis' && this.#redis !== undefined
        ? new RedisStore(this.#redis, key, plan.heuristicFreshness)
        : undefined;
    if (redis !== undefined) this.#usesRedis = true;
    const made = new Cache(plan, this.memoryOf(plan), this.#onward, this.counts, {
      redis,
      invalidated: (url) => this.#spread({ url }),
    });
    this.#byPlan.set(key, new WeakRef(made));
    return made;
  }

  /** The memory of a policy in this process, bytes. */
  memoryOf({ memory }: CachePlan): number {
    return Math.floor(memory / this.#workers);
  }

  /** Purges in this process; returns how many responses were removed. */
  purgeHere(purge: Purge): number {
    let removed = 0;
    for (const cache of this.#all()) removed += cache.purge(purge);
    return removed;
  }

  /** Purges in all processes; returns how many responses were removed in this one. */
  purge(purge: Purge): number {
    this.#spread(purge);
    return this.purgeHere(purge);
  }

  /** To Redis, and to the other processes and gateways. */
  #spread(purge: Purge): void {
    this.#tell(purge);
    if (!this.#usesRedis) return;
    for (const cache of this.#all()) cache.purgeRedis(purge);
    this.#stream?.tell(purge);
  }

  held(): { readonly entries: number; readonly bytes: number; readonly evictions: number } {
    let [entries, bytes, evictions] = [0, 0, 0];
    for (const { store } of this.#all()) {
      entries += store.size;
      bytes += store.bytes;
      evictions += store.evictions;
    }
    return { entries, bytes, evictions };
  }

  *#all(): Iterable<Cache> {
    for (const [key, weak] of this.#byPlan) {
      const cache = weak.deref();
      if (cache === undefined) this.#byPlan.delete(key);
      else yield cache;
    }
  }
}
