// Local limits for all workers of one gateway: the first has the buckets, and lends tokens to the others (leases.ts).

import type { EdgeWorkers, FirstWorker } from '../capability.ts';
import { type GivenBack, type Lease, type LeaseAsk, LimitLeases, lend, takeBack } from './leases.ts';
import type { LocalLimits } from './local.ts';

type Question =
  | { readonly op: 'lend'; readonly asks: readonly LeaseAsk[] }
  | { readonly op: 'giveBack'; readonly all: readonly GivenBack[] };

/** In the first worker: answers the others. */
export function serveLeases(workers: EdgeWorkers, limits: LocalLimits): void {
  workers.serve({
    answer(_worker, question) {
      const ask = question as Question;
      if (ask.op === 'lend') return lend(limits, ask.asks, workers.count);
      takeBack(limits, ask.all);
      return true;
    },
  });
}

/** In another worker. */
export function leasesFrom(first: FirstWorker): LimitLeases {
  const leases = new LimitLeases(
    (asks) => first.ask<readonly Lease[]>({ op: 'lend', asks } satisfies Question),
    (all) => first.tell({ op: 'giveBack', all } satisfies Question),
  );
  leases.start();
  return leases;
}
