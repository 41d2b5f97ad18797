// Reads the objects of an API server once, as a gateway that follows it would: for `gateway --check`.

import { setTimeout as wait } from 'node:timers/promises';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import { ClusterStore, type Snapshot } from '../cluster/store.ts';
import { readGateway } from '../config/read-gateway.ts';
import { readText } from '../config/sources.ts';

/** What a gateway would have, and the kinds whose objects are passed over; or why it would not be ready. */
export type ClusterReading =
  | { readonly objects: Snapshot; readonly unread: readonly SallyportError[] }
  | { readonly problems: readonly SallyportError[] };

/** Until each kind was listed, or was refused. */
const patienceMs = 30_000;
const lookMs = 20;

/** What is wrong is in the result. */
const silent = { debug() {}, info() {}, warn() {}, error() {} } as unknown as Log;

/** Lists all kinds. @throws SallyportError `config_invalid`, `config_unreadable`. */
export async function readCluster(file: string): Promise<ClusterReading> {
  const { settings, watched = [] } = await readGateway(file, readText(file));
  const { server, namespaces } = settings.gateway!.kubernetes!;
  const times = { answerMs: 10_000, firstWaitMs: 250 };
  const store = new ClusterStore({ server, namespaces, kinds: watched, log: silent, times });
  try {
    const until = performance.now() + patienceMs;
    while (performance.now() < until) {
      const objects = store.snapshot();
      if (objects !== undefined) return { objects, unread: store.unread() };
      const facts = store.facts();
      const problems = facts.flatMap(({ error }) => error ?? []);
      if (problems.length > 0 && facts.every(({ isComplete, error }) => isComplete || error)) return { problems };
      await wait(lookMs);
    }
    const waitingFor = store.waitingFor() ?? 'the API server';
    return { problems: [new SallyportError('kubernetes_unavailable', `${waitingFor} takes more than 30 s`)] };
  } finally {
    await store.close();
  }
}
