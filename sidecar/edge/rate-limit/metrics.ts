// What only a gateway counts: limits, Redis, and when its certificates end.

import { Counter, Gauge, type Registry } from 'prom-client';

/** Read at scrape. */
export interface GatewayCounts {
  /** Decisions of rate limits made here. */
  readonly limits: { readonly allowed: number; readonly limited: number; readonly buckets: number };
  /** Those that Redis made or should have made; null where limits are local. */
  readonly redis: {
    readonly ready: boolean;
    readonly allowed: number;
    readonly limited: number;
    readonly fallback: number;
  } | null;
  /** When the certificate of each listener ends, seconds since 1970. */
  readonly certificates: readonly { readonly listener: string; readonly notAfter: number }[];
}

/** Lets `registry` read the counts when it is asked. */
export function registerGatewayMetrics(registry: Registry, counts: () => GatewayCounts): void {
  new Counter({
    name: 'sallyport_rate_limit_decisions_total',
    help: 'Decisions of rate limits; fallback: Redis was to decide and could not be asked.',
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
    help: 'Clients, or whatever rules tell apart, that have used some of a limit.',
    registers: [registry],
    collect() {
      this.set(counts().limits.buckets);
    },
  });
  new Gauge({
    name: 'sallyport_redis_up',
    help: 'Whether Redis answered when it was last asked; absent where no limit is shared.',
    registers: [registry],
    collect() {
      const { redis } = counts();
      this.reset();
      if (redis !== null) this.set(redis.ready ? 1 : 0);
    },
  });
  new Gauge({
    name: 'sallyport_listener_certificate_expiration_timestamp_seconds',
    help: 'When the certificate ends that a listener shows.',
    labelNames: ['listener'],
    registers: [registry],
    collect() {
      this.reset();
      for (const { listener, notAfter } of counts().certificates) this.set({ listener }, notAfter);
    },
  });
}
