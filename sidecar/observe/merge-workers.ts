// Merges the facts of several workers: counters and sizes are added up, lists are combined. Pure.

import type { DenialLine } from './denial-lines.ts';
import type { ShadowChange, ShadowFacts } from './dry-run.ts';
import type { Edge } from './learned.ts';
import type { PlaintextPeer, PortSecurity } from './plaintext-report.ts';

/** An upstream's pool as the admin page shows it. */
export interface UpstreamFacts {
  readonly name: string;
  readonly connections: number;
  readonly idle: number;
  /** Requests that wait for a connection. */
  readonly pending: number;
  readonly waitingFor: string | null;
  readonly endpoints: readonly EndpointFacts[];
  /** How often one of its endpoints was ejected. */
  readonly ejections: number;
  /** Refused requests, by the exceeded limit; and retries that were not made. */
  readonly overflows: Readonly<Record<string, number>>;
}

/** One address of an upstream. */
export interface EndpointFacts {
  readonly address: string;
  readonly connections: number;
  readonly inFlight: number;
  /** RFC 3339; null while it is in use. */
  readonly ejectedUntil: string | null;
  /** The result of its health checks; null if there are none, or none yet. */
  readonly healthy: boolean | null;
  /** Why the last dial failed; null after a success. */
  readonly lastProblem: string | null;
}

/** What a worker knows and the others do not; plain data. */
export interface Facts {
  /** See `packMetrics`. */
  readonly metrics: string;
  readonly connections: readonly object[];
  readonly upstreams: readonly UpstreamFacts[];
  readonly strictReport: readonly PortSecurity[];
  readonly learned: readonly Edge[];
  readonly shadow: ShadowFacts;
  readonly denials: readonly DenialLine[];
}

/** By upstream; one that any worker waits for is waited for. */
export function sumUpstreams(all: readonly Facts[]): UpstreamFacts[] {
  const upstreams = all.flatMap((one) => one.upstreams);
  return sumBy(
    upstreams,
    ({ name }) => name,
    (known, one) => ({
      name: one.name,
      connections: known.connections + one.connections,
      idle: known.idle + one.idle,
      pending: known.pending + one.pending,
      waitingFor: known.waitingFor ?? one.waitingFor,
      endpoints: sumEndpoints([...known.endpoints, ...one.endpoints]),
      ejections: known.ejections + one.ejections,
      overflows: Object.fromEntries(
        Object.entries(known.overflows).map(([of, count]) => [of, count + (one.overflows[of] ?? 0)]),
      ),
    }),
  );
}

/** By address; shown as ejected or unhealthy if any worker says so. */
function sumEndpoints(all: readonly EndpointFacts[]): EndpointFacts[] {
  return sumBy(
    all,
    ({ address }) => address,
    (known, one) => ({
      address: one.address,
      connections: known.connections + one.connections,
      inFlight: known.inFlight + one.inFlight,
      ejectedUntil:
        known.ejectedUntil === null || one.ejectedUntil === null
          ? (known.ejectedUntil ?? one.ejectedUntil)
          : later(known.ejectedUntil, one.ejectedUntil),
      healthy:
        known.healthy === null || one.healthy === null ? (known.healthy ?? one.healthy) : known.healthy && one.healthy,
      lastProblem: known.lastProblem ?? one.lastProblem,
    }),
  );
}

/** By port; a peer of several workers counts once. */
export function sumSecurity(all: readonly Facts[]): PortSecurity[] {
  const ports = all.flatMap(({ strictReport }) => strictReport);
  return sumBy(
    ports,
    ({ port }) => port,
    (known, one) => ({
      ...one,
      mtlsConnections: known.mtlsConnections + one.mtlsConnections,
      plaintextConnections: known.plaintextConnections + one.plaintextConnections,
      plaintextPeers: sumPeers([...known.plaintextPeers, ...one.plaintextPeers]),
      strictPossibleSince: later(known.strictPossibleSince, one.strictPossibleSince),
    }),
  );
}

function sumPeers(peers: readonly PlaintextPeer[]): PlaintextPeer[] {
  const sums = sumBy(
    peers,
    ({ address }) => address,
    (known, one) => ({ address: one.address, connections: known.connections + one.connections, ...span(known, one) }),
  );
  return sums.toSorted((a, b) => b.connections - a.connections);
}

/** By caller and call. */
export function sumLearned(all: readonly Facts[]): Edge[] {
  const sums = sumBy(
    all.flatMap(({ learned }) => learned),
    ({ from, protocol, method, path, port }) => JSON.stringify([from, protocol, method, path, port]),
    (known, one) => ({
      ...one,
      ...span(known, one),
      allowed: known.allowed + one.allowed,
      denied: known.denied + one.denied,
    }),
  );
  return sums.toSorted((a, b) => (a.from < b.from ? -1 : a.from > b.from ? 1 : 0));
}

/** The dry runs of all workers as one: counts added up, times spanned, the most frequent changes first. */
export function sumShadow(all: readonly Facts[]): ShadowFacts {
  const counts: Record<string, number> = {};
  let since: string | null = null;
  for (const { shadow } of all) {
    if (shadow.since !== null) since = since === null ? shadow.since : earlier(since, shadow.since);
    for (const [pair, count] of Object.entries(shadow.counts)) counts[pair] = (counts[pair] ?? 0) + count;
  }
  const changes = sumBy(
    all.flatMap(({ shadow }): readonly ShadowChange[] => shadow.changes),
    ({ from, request, policy, shadowPolicy }) => JSON.stringify([from, request, policy, shadowPolicy]),
    (known, one) => ({ ...one, ...span(known, one), count: known.count + one.count }),
  );
  const notKept = all.reduce((sum, { shadow }) => sum + shadow.notKept, 0);
  return { since, counts, changes: changes.toSorted((a, b) => b.count - a.count), notKept };
}

/** The newest first. */
export function sumDenials(all: readonly Facts[]): DenialLine[] {
  return all.flatMap(({ denials }) => denials).toSorted((a, b) => (a.time < b.time ? 1 : -1));
}

/** One for each key, in the order of their first occurrence. */
function sumBy<T>(all: readonly T[], keyOf: (one: T) => string, add: (known: T, one: T) => T): T[] {
  const sums = new Map<string, T>();
  for (const one of all) {
    const key = keyOf(one);
    const known = sums.get(key);
    sums.set(key, known === undefined ? one : add(known, one));
  }
  return [...sums.values()];
}

interface Span {
  readonly firstSeen: string;
  readonly lastSeen: string;
}

function span(a: Span, b: Span): Span {
  return { firstSeen: earlier(a.firstSeen, b.firstSeen), lastSeen: later(a.lastSeen, b.lastSeen) };
}

function earlier(a: string, b: string): string {
  return a < b ? a : b;
}

/** RFC 3339 in UTC sorts as text. */
function later(a: string, b: string): string {
  return [a, b].toSorted()[1]!;
}
