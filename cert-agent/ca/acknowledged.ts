// Waits until agents have acknowledged something, and says by name which have not: connected ones that are late, and
// workloads with a valid certificate whose agents are not connected.

import type { Clock } from '../base/clock.ts';
import { type DenyList, deniedBy } from '../identity/denied.ts';
import { caIdOf, parseSpiffeId } from '../identity/spiffe-id.ts';
import type { Acknowledgement, Agents, ConnectedAgent } from './agents.ts';
import type { NameStore } from './store/store.ts';

/** What came of the wait. Workloads that are denied are not counted. */
export interface Acknowledged {
  readonly by: number;
  readonly of: number;
  /** From the change to the last acknowledgement, or to the end of the wait. */
  readonly ms: number;
  /** At most 100, connected ones first. */
  readonly stragglers: readonly Straggler[];
}

export interface Straggler {
  readonly id: string;
  readonly connected: boolean;
}

export interface AcknowledgedParts {
  readonly agents: Agents;
  readonly store: NameStore;
  readonly denied: DenyList;
  readonly clock: Clock;
}

const mostStragglers = 100;

/** Waits up to `waitMs` for the connected agents. `began` is the monotonic time of the change. */
export async function whenAcknowledged(
  parts: AcknowledgedParts,
  holds: (use: Acknowledgement) => boolean,
  waitMs: number,
  began: number,
): Promise<Acknowledged> {
  const { agents, clock } = parts;
  await agents.until(() => late(counted(parts), holds).length === 0, waitMs);
  const ms = clock.monotonic() - began;
  return { ...(await stateOf(parts, holds)), ms };
}

/** Who has acknowledged it now. */
export async function stateOf(
  parts: AcknowledgedParts,
  holds: (use: Acknowledgement) => boolean,
): Promise<Omit<Acknowledged, 'ms'>> {
  const { store, denied, clock } = parts;
  const all = counted(parts);
  const connected = new Set(all.map(({ id }) => id));
  const absent = (await store.listLiveIds(clock.now())).filter(
    (id) => !connected.has(id) && !denied.ids.has(id) && id !== caIdOf(parseSpiffeId(id).trustDomain).uri,
  );
  const tardy = late(all, holds);
  const stragglers = [
    ...tardy.map(({ id }) => ({ id, connected: true })),
    ...absent.map((id) => ({ id, connected: false })),
  ];
  return {
    by: all.length - tardy.length,
    of: all.length + absent.length,
    stragglers: stragglers.slice(0, mostStragglers),
  };
}

/** A denied agent has nothing left to protect. */
function counted({ agents, denied }: AcknowledgedParts): readonly ConnectedAgent[] {
  return agents.connected().filter(({ id, serial }) => deniedBy(denied, { serial, id: { uri: id } }) === undefined);
}

function late(all: readonly ConnectedAgent[], holds: (use: Acknowledgement) => boolean): readonly ConnectedAgent[] {
  return all.filter(({ acknowledged }) => acknowledged === undefined || !holds(acknowledged));
}
