// How current the objects are that a gateway follows at an API server.

import type { Registry } from 'prom-client';
import type { ClusterStore } from '../cluster/store.ts';
import { registerRows } from '../observe/metric-rows.ts';

/** Lets `registry` read the store when it is asked. */
export function registerClusterMetrics(registry: Registry, store: ClusterStore): void {
  const each = (value: (one: ReturnType<ClusterStore['facts']>[number]) => number) =>
    store.facts().map((one) => [{ kind: one.kind, namespace: one.namespace ?? '' }, value(one)] as const);
  const labels = ['kind', 'namespace'];
  registerRows(
    registry,
    [
      {
        ...{ type: 'gauge', name: 'sallyport_kubernetes_objects', labels },
        help: 'Objects that are kept of each kind.',
        read: () => each(({ objects }) => objects),
      },
      {
        ...{ type: 'gauge', name: 'sallyport_kubernetes_age_seconds', labels },
        help: 'For how long the objects of each kind have not been followed; 0 while they are.',
        read: () => each(({ ageMs }) => ageMs / 1000),
      },
      {
        ...{ type: 'gauge', name: 'sallyport_kubernetes_waiting_seconds', labels: [] },
        help: 'For how long the oldest change of documents has not been in force; 0 if there is none.',
        read: () => [[{}, store.waitsMs / 1000]],
      },
    ],
    store,
  );
}
