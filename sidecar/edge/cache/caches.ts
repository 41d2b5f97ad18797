// The caches of one process, by policy. A cache outlives generations that do not change its policy. A changed policy
// begins with an empty one: responses stored under the old one may not be shareable any more.

import type { Onward } from '../../exchange/onward.ts';
import type { RedisLink } from '../redis-link.ts';
import { Cache } from './cache.ts';
import type { CacheFacts } from './metrics.ts';
import { PurgeStream } from './purge-stream.ts';
import { RedisStore } from './redis-store.ts';
import type { CachePlan } from './schema.ts';
import { type CacheCounts, outcomes } from './status.ts';
import type { Purge } from './store.ts';

/** A cache, how many compiled policies use it, and its part of Redis. */
interface Kept {
  readonly cache: Cache;
  readonly redis: RedisStore | undefined;
  uses: number;
}

/** How long invalidations are gathered, milliseconds: clients can cause any number of them. */
const gatherMs = 50;

/** The caches of one process. */
export class Caches implements CacheFacts {
  readonly counts = Object.fromEntries(outcomes.map((one) => [one, 0])) as CacheCounts;
  readonly #onward: Onward;
  readonly #workers: number;
  /** A cache ends with the last policy that uses it. */
  readonly #byPlan = new Map<string, Kept>();
  /** Policies that have had a cache: an earlier one's entries in Redis may have missed invalidations. */
  readonly #before = new Set<string>();
  readonly #tell: (purge: Purge) => void;

  readonly #redis: RedisLink | undefined;
  /** Purges by operators, and invalidations by requests: the latter cannot displace the former. */
  readonly #purges: PurgeStream | undefined;
  readonly #invalidations: PurgeStream | undefined;
  #gathered = new Set<string>();
  #gathering: NodeJS.Timeout | undefined = undefined;

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
    const apply = (purge: Purge): void => void this.purgeHere(purge);
    this.#purges = new PurgeStream(redis, 'purges', apply, () => {
      for (const { cache } of this.#byPlan.values()) cache.clear();
    });
    // A policy without Redis does not rely on other gateways' invalidations.
    this.#invalidations = new PurgeStream(redis, 'invalidations', apply, () => {
      for (const { cache } of this.#withRedis()) cache.clear();
    });
  }

  /** Whether gateway.yaml has `redis`: a policy with its storage there cannot be compiled without. */
  get hasRedis(): boolean {
    return this.#redis !== undefined;
  }

  /** Reads other gateways' purges, after sending those of its own that Redis has missed. Runs every second. */
  async listen(): Promise<void> {
    const stores = this.#withRedis();
    if (stores.length === 0) return;
    const done = await Promise.all(stores.map(({ redis }) => redis!.catchUp()));
    for (const stream of [this.#purges, this.#invalidations]) {
      // Otherwise the caches would read back the responses that they have just removed.
      if (done.every(Boolean)) await stream?.tellOwed();
      await stream?.look();
    }
  }

  /** The cache of a policy, `namespace/name`, with this plan. It ends with the last `release`. */
  take(policy: string, plan: CachePlan): { readonly cache: Cache; readonly release: () => void } {
    const key = `${policy} ${JSON.stringify(plan)}`;
    const kept = this.#byPlan.get(key) ?? this.#make(policy, key, plan);
    this.#byPlan.set(key, kept);
    kept.uses++;
    const release = (): void => {
      kept.uses--;
      if (kept.uses > 0) return;
      this.#byPlan.delete(key);
      kept.cache.clear();
    };
    return { cache: kept.cache, release };
  }

  #make(policy: string, key: string, plan: CachePlan): Kept {
    const redis =
      plan.store === 'Redis' && this.#redis !== undefined
        ? new RedisStore(this.#redis, key, plan.heuristicFreshness)
        : undefined;
    if (this.#before.has(policy)) void redis?.purge({ prefix: '' });
    this.#before.add(policy);
    const cache = new Cache(plan, this.memoryOf(plan), this.#onward, this.counts, {
      redis,
      invalidated: (url) => this.#invalidate(url, redis),
    });
    return { cache, redis, uses: 0 };
  }

  /** The memory of a policy in this process, bytes. */
  memoryOf({ memory }: CachePlan): number {
    return Math.floor(memory / this.#workers);
  }

  /** Purges in this process; returns how many responses were removed. */
  purgeHere(purge: Purge): number {
    let removed = 0;
    for (const { cache } of this.#byPlan.values()) removed += cache.purge(purge);
    return removed;
  }

  /** Purges in all processes; returns how many responses were removed in this one. */
  purge(purge: Purge): number {
    this.#tell(purge);
    const stores = this.#withRedis();
    // Redis is purged before the message is sent: gateways that read it must not find the response again.
    const done = Promise.all(stores.map(({ redis }) => redis!.purge(purge)));
    if (stores.length > 0) void this.#purges?.tell([purge], done);
    return this.purgeHere(purge);
  }

  /** A request has invalidated a URL: tells Redis, the other processes and the other gateways. */
  #invalidate(url: string, redis: RedisStore | undefined): void {
    this.#tell({ url });
    if (redis === undefined) return;
    this.#gathered.add(url);
    this.#gathering ??= setTimeout(() => this.#spreadGathered(), gatherMs).unref();
    for (const one of this.#withRedis()) void one.redis!.purge({ url });
  }

  #spreadGathered(): void {
    const urls = [...this.#gathered];
    this.#gathered = new Set();
    this.#gathering = undefined;
    const isBehind = this.#withRedis().some(({ redis }) => redis!.isBehind);
    void this.#invalidations?.tell(
      urls.map((url) => ({ url })),
      Promise.resolve([!isBehind]),
    );
  }

  /** For metrics: all caches together. `evictions` is since the start. */
  held(): { readonly entries: number; readonly bytes: number; readonly evictions: number } {
    let [entries, bytes, evictions] = [0, 0, 0];
    for (const {
      cache: { store },
    } of this.#byPlan.values()) {
      entries += store.size;
      bytes += store.bytes;
      evictions += store.evictions;
    }
    return { entries, bytes, evictions };
  }

  #withRedis(): readonly Kept[] {
    return [...this.#byPlan.values()].filter(({ redis }) => redis !== undefined);
  }
}
