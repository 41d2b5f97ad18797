// Stores responses and serves them to later requests, as a shared cache.

import type { Service } from '../capability.ts';
import type { Purge } from './cache.ts';
import { Caches } from './caches.ts';
import { purgePages } from './pages.ts';
import type { CachePlan } from './schema.ts';

export const cache: Service<CachePlan, Caches | undefined> = {
  name: 'cache',
  guards: false,
  perPolicy: true,
  fields: [
    { kind: 'sallyport.dev/HTTPCache', name: 'HTTPCache', schema: async () => (await import('./schema.ts')).httpCache },
  ],
  async share({ registry, workers, onward }) {
    const caches = new Caches(onward, workers.count, (purge) => workers.tellAll(purge));
    workers.first?.onTold((purge) => caches.purgeHere(purge as Purge));
    const { registerCacheMetrics } = await import('./metrics.ts');
    registerCacheMetrics(registry, caches);
    return caches;
  },
  shareDry: () => undefined,
  pages: (caches) => (caches === undefined ? [] : purgePages(caches)),
  compile([planned], { shared, policy }) {
    if (planned === undefined || shared === undefined) return undefined;
    const own = shared.of(policy, planned.plan);
    return {
      serve: (exchange, connection) => own.serve(exchange, connection),
      received: (exchange, reply) => own.received(exchange, reply),
    };
  },
};
