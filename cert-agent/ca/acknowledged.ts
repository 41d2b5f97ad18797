// Waits until agents have acknowledged something, and says by name which have not: connected ones that are late, and
// those with a valid certificate that are not connected. A certificate tells an agent by its family, so that a replica
// without an agent is not taken for another one of the same ID.

import type { Clock } from '../base/clock.ts';
import { type DenyList, deniedBy } from '../identity/denied.ts';
import { caIdOf, parseSpiffeId } from '../identity/spiffe-id.ts';
import type { Acknowledgement, Agents, ConnectedAgent } from './agents.ts';
import type { LiveFamily, Store } from './store/store.ts';

/** What came of the wait, in agents. Those that are denied are not counted. */
export interface Acknowledged extends Readiness {
  /** From the change to the last acknowledgement, or to the end of the wait. */
  readonly ms: number;
}

/**
 * How many agents hold what is asked about: `by` of `of`, those without a stream included. Complete when the two are
 * equal.
 */
export interface Readiness {
  readonly by: number;
  readonly of: number;
  /** One for each ID, those with connected agents first. */
  readonly stragglers: readonly Straggler[];
  /** How many IDs were left out of `stragglers`: see `shown`. Absent if none was. */
  readonly more?: number;
}

/** An ID with agents that have not acknowledged it. */
export interface Straggler {
  readonly id: string;
  /** All of its agents: those with a stream, and those with a valid certificate and no stream. */
  readonly agents: number;
  /** Those whose sidecars have not confirmed it. */
  readonly late: number;
  readonly notConnected: number;
  /** When the last certificate of those expires, milliseconds since 1970. */
  readonly until?: number;
}

/** What it is found out from. `denied` is the list of now: denied agents are not waited for. */
export interface AcknowledgedParts {
  readonly agents: Agents;
  readonly store: Pick<Store, 'listLiveFamilies'>;
  /** How long after its expiry an SVID may renew, milliseconds; default 0. Such a workload can still be locked out. */
  readonly graceMs?: number;
  readonly denied: DenyList;
  readonly clock: Clock;
}

const mostShown = 100;

/** For an answer to an operator. Decisions need all. */
export function shown<R extends Readiness>(all: R): R {
  const more = all.stragglers.length - mostShown;
  return more <= 0 ? all : { ...all, stragglers: all.stragglers.slice(0, mostShown), more };
}

/**
 * Waits up to `waitMs` for the connected agents, and for those that are between two streams, as after each renewal.
 * `began` is the monotonic time of the change.
 */
export async function whenAcknowledged(
  parts: AcknowledgedParts,
  holds: (use: Acknowledgement) => boolean,
  waitMs: number,
  began: number,
): Promise<Acknowledged> {
  const { agents, clock } = parts;
  const isReturning = (): boolean => agents.departed().some((one) => !isDenied(parts, one));
  await agents.until(() => late(counted(parts), holds).length === 0 && !isReturning(), waitMs);
  const ms = clock.monotonic() - began;
  return { ...(await stateOf(parts, holds)), ms };
}

/** Who has acknowledged it now. */
export async function stateOf(parts: AcknowledgedParts, holds: (use: Acknowledgement) => boolean): Promise<Readiness> {
  const absent = (await familiesOf(parts)).filter(({ named }) => !named);
  // After the wait for the store, so that it is as of now.
  const all = counted(parts);
  return readinessOf(all, late(all, holds), absent);
}

/**
 * The families of all agents but denied ones and the CA itself. `named`: it has a stream. With `graceMs`, also those that
 * have expired and may still renew, of workloads that have no valid certificate: `until` is then the end of that time.
 */
export async function familiesOf(parts: AcknowledgedParts): Promise<readonly LiveFamily[]> {
  const { agents, store, denied, clock, graceMs = 0 } = parts;
  const now = clock.now();
  const serials = agents.connected().map(({ serial }) => serial);
  const families = await store.listLiveFamilies(now - graceMs, serials);
  const valid = new Set(families.filter(({ until }) => until > now).map(({ id }) => id));
  return families
    .filter(({ id }) => !denied.ids.has(id) && id !== caIdOf(parseSpiffeId(id).trustDomain).uri)
    .filter(({ id, until }) => until > now || !valid.has(id))
    .map((one) => (one.until > now ? one : { ...one, until: one.until + graceMs }));
}

/** `all` are with a stream, `absent` without one. */
export function readinessOf(
  all: readonly { readonly id: string }[],
  tardy: readonly { readonly id: string }[],
  absent: readonly Pick<LiveFamily, 'id' | 'until'>[],
): Readiness {
  const agentsOf = countIds([...all, ...absent]);
  const lateOf = countIds(tardy);
  const absentOf = countIds(absent);
  const untilOf = new Map<string, number>();
  for (const { id, until } of absent) untilOf.set(id, Math.max(until, untilOf.get(id) ?? 0));
  const stragglers = [...new Set([...lateOf.keys(), ...absentOf.keys()])].map((id) => ({
    ...{ id, agents: agentsOf.get(id)!, late: lateOf.get(id) ?? 0, notConnected: absentOf.get(id) ?? 0 },
    ...(untilOf.has(id) ? { until: untilOf.get(id)! } : {}),
  }));
  return { by: all.length - tardy.length, of: all.length + absent.length, stragglers };
}

function countIds(all: readonly { readonly id: string }[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { id } of all) counts.set(id, (counts.get(id) ?? 0) + 1);
  return counts;
}

/** A denied agent has nothing left to protect. */
function counted(parts: AcknowledgedParts): readonly ConnectedAgent[] {
  return parts.agents.connected().filter((one) => !isDenied(parts, one));
}

function isDenied({ denied }: AcknowledgedParts, { id, serial }: Pick<ConnectedAgent, 'id' | 'serial'>): boolean {
  return deniedBy(denied, { serial, id: { uri: id } }) !== undefined;
}

function late(all: readonly ConnectedAgent[], holds: (use: Acknowledgement) => boolean): readonly ConnectedAgent[] {
  return all.filter(({ acknowledged }) => acknowledged === undefined || !holds(acknowledged));
}
