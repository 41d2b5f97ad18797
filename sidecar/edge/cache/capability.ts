// Stores responses and serves them to later requests, as a shared cache.

import { every } from '../../../cert-agent/base/background.ts';
import type { DryProcess, Service } from '../capability.ts';
import { Caches } from './caches.ts';
import { purgePages } from './pages.ts';
import type { CachePlan } from './schema.ts';
import type { Purge } from './store.ts';

/** How often other gateways' purges are read. */
const purgeMs = 1000;

/** A process that serves nothing knows only whether there is a Redis. */
type Shared = Caches | Pick<DryProcess, 'hasRedis'>;

export const cache: Service<CachePlan, Shared> = {
  name: 'cache',
  guards: false,
  perPolicy: true,
  fields: [
    { kind: 'sallyport.dev/HTTPCache', name: 'HTTPCache', schema: async () => (await import('./schema.ts')).httpCache },
  ],
  async share({ registry, workers, onward, redis, onClose }) {
    // The first worker relays the purges of every worker.
    const { first } = workers;
    const tell = (purge: Purge): void => (first === undefined ? workers.tellAll(purge) : first.tell(purge));
    const caches = new Caches(onward, workers.count, tell, redis);
    first?.onTold((purge) => caches.purgeHere(purge as Purge));
    if (first === undefined)
      workers.serve({
        answer(_, purge) {
          workers.tellAll(purge);
          caches.purgeHere(purge as Purge);
        },
      });
    if (redis !== undefined) onClose(every('cache_purges', purgeMs, () => caches.listen()));
    const { registerCacheMetrics } = await import('./metrics.ts');
    registerCacheMetrics(registry, caches);
    return caches;
  },
  shareDry: ({ hasRedis }) => ({ hasRedis }),
  pages: (caches) => (caches instanceof Caches ? purgePages(caches) : []),
  compile([planned], { shared, policy, warn }) {
    if (planned === undefined) return undefined;
    if (planned.plan.store === 'Redis' && !shared.hasRedis)
      warn("'store: Redis' needs 'redis' in gateway.yaml; responses are kept in memory only");
    const serves = shared instanceof Caches;
    const memory = serves ? shared.memoryOf(planned.plan) : planned.plan.memory;
    if (planned.plan.maxEntry > memory / 2)
      warn(
        `'maxEntry' is more than half of the memory of one worker (${memory} bytes); larger responses are ` +
          'not stored',
      );
    if (!serves) return undefined;
    const { cache: own, release } = shared.take(policy, planned.plan);
    return {
      serve: (exchange, connection) => own.serve(exchange, connection),
      watch: (exchange, reply) => own.watch(exchange, reply),
      received: (exchange, reply) => own.received(exchange, reply),
      finished: (exchange) => own.finished(exchange),
      dropped: release,
    };
  },
};
