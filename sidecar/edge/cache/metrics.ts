// What the caches of one process have done, and what they hold.

import { Counter, Gauge, type Registry } from '../../../cert-agent/base/prometheus.ts';
import { type CacheCounts, outcomes } from './status.ts';

/** Read at each scrape. */
export interface CacheFacts {
  readonly counts: Readonly<CacheCounts>;
  held(): { readonly entries: number; readonly bytes: number; readonly evictions: number };
}

/** Lets `registry` read the facts at scrape. */
export function registerCacheMetrics(registry: Registry, facts: CacheFacts): void {
  new Counter({
    name: 'sallyport_cache_requests_total',
    help: 'Requests of rules with an HTTPCache, by cache outcome.',
    labelNames: ['outcome'],
    registers: [registry],
    collect() {
      this.reset();
      for (const outcome of outcomes) this.inc({ outcome }, facts.counts[outcome]);
    },
  });
  const gauge = (name: string, help: string, key: 'entries' | 'bytes'): Gauge =>
    new Gauge({
      ...{ name, help },
      registers: [registry],
      collect() {
        this.set(facts.held()[key]);
      },
    });
  gauge('sallyport_cache_entries', 'Stored responses.', 'entries');
  gauge('sallyport_cache_bytes', 'Bytes of stored responses, heads included.', 'bytes');
  new Counter({
    name: 'sallyport_cache_evictions_total',
    help: 'Stored responses that were removed to make room.',
    registers: [registry],
    collect() {
      this.reset();
      this.inc(facts.held().evictions);
    },
  });
}
