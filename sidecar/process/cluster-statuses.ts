// The statuses of a gateway's documents, written where the documents come from, by the gateway that has the lease.

import { every } from '../../cert-agent/base/background.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import { Lease, type LeaseTimes } from '../cluster/lease.ts';
import type { ClusterStore } from '../cluster/store.ts';
import { StatusWriter } from '../cluster/write-statuses.ts';
import { withGateways } from '../routing/ancestors.ts';
import { controllerName } from '../routing/names.ts';
import type { StatusList } from '../routing/status.ts';

export interface StatusOptions {
  readonly store: ClusterStore;
  readonly lease: { readonly namespace: string; readonly name: string };
  readonly log: Log;
  readonly times?: LeaseTimes;
  /** The generation in force. */
  generation(): number;
  /** The statuses now; undefined while no documents are in force. */
  statuses(): StatusList | undefined;
}

const lookMs = 1000;
/** Statuses are compared at each generation, and after this: another may have overwritten them. */
const repairMs = 30_000;

/** Starts to write. Returns what gives the lease up and stops. */
export function writeStatuses({ store, lease, log, times, generation, statuses }: StatusOptions): () => Promise<void> {
  const held = new Lease({ client: store.client, ...lease, log, times });
  const isThere = (kind: string, namespace: string, name: string): boolean =>
    store.find(kind, namespace, name) !== undefined;
  const writer = new StatusWriter(store, controllerName, log);
  let written: number | undefined;
  let repairAt = 0;
  const stop = every('statuses', lookMs, async () => {
    const now = generation();
    if (!held.isHeld()) written = undefined;
    else if (now !== written || performance.now() > repairAt) {
      const list = statuses();
      if (list === undefined) return;
      const isDone = await writer.write(withGateways(list, isThere), () => held.isHeld());
      written = isDone ? now : undefined;
      repairAt = performance.now() + repairMs;
    }
  });
  return async () => {
    stop();
    await held.close();
  };
}
