// Counts of decisions and buckets, and the state of Redis.

import { Counter, Gauge, type Registry } from '../../../cert-agent/base/prometheus.ts';

/** Read at scrape. */
export interface RateLimitCounts {
  /** Decisions of rate limits made here. */
  readonly limits: { readonly allowed: number; readonly limited: number; readonly buckets: number };
  /** Decisions that Redis made or should have made; null if limits are local. */
  readonly redis: {
    readonly ready: boolean;
    readonly allowed: number;
    readonly limited: number;
    readonly fallback: number;
  } | null;
}

/** Lets `registry` read the counts at scrape. */
export function registerRateLimitMetrics(registry: Registry, counts: () => RateLimitCounts): void {
  new Counter({
    name: 'sallyport_rate_limit_decisions_total',
    help: 'Rate-limit decisions by outcome, allowed or limited; fallback counts again those that Redis should have made and did not.',
    labelNames: ['outcome'],
    registers: [registry],
    collect() {
      this.reset();
      const { limits, redis } = counts();
      this.inc({ outcome: 'allowed' }, limits.allowed);
      this.inc({ outcome: 'limited' }, limits.limited);
      if (redis !== null) this.inc({ outcome: 'fallback' }, redis.fallback);
    },
  });
  new Gauge({
    name: 'sallyport_rate_limit_buckets',
    help: 'Rate-limit buckets in use.',
    registers: [registry],
    collect() {
      this.set(counts().limits.buckets);
    },
  });
  new Gauge({
    name: 'sallyport_redis_up',
    help: 'Whether Redis answered when it was last asked: 0 if it did not answer one worker; absent without Redis.',
    // Of all workers the worst.
    aggregator: 'min',
    registers: [registry],
    collect() {
      const { redis } = counts();
      this.reset();
      if (redis !== null) this.set(redis.ready ? 1 : 0);
    },
  });
}
