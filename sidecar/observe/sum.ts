// What several workers say of themselves, as one: counters and sizes are added up, lists are put together. Pure.

import { AggregatorRegistry, type MetricObjectWithValues, type MetricValue } from 'prom-client';
import type { DenialLine } from './denials.ts';
import type { Edge } from './learned.ts';
import type { PlaintextPeer, PortSecurity } from './security.ts';
import type { ShadowChange, ShadowFacts } from './shadow.ts';

/** An upstream's pool as the admin page shows it. */
export interface UpstreamFacts {
  readonly name: string;
  readonly connections: number;
  readonly idle: number;
  /** Requests that wait for a connection. */
  readonly pending: number;
  readonly waitingFor: string | null;
  readonly endpoints: readonly EndpointFacts[];
  /** How often one of them was left out for what it answered. */
  readonly ejections: number;
  /** Requests that were refused, by what there was too much of; and retries that were not made. */
  readonly overflows: Readonly<Record<string, number>>;
}

/** One address of an upstream. */
export interface EndpointFacts {
  readonly address: string;
  readonly connections: number;
  readonly inFlight: number;
  /** RFC 3339; null while it is in use. */
  readonly ejectedUntil: string | null;
  /** What its health checks say; null where there are none, or none yet. */
  readonly healthy: boolean | null;
}

/** What one worker knows and the others do not; plain data. */
export interface Facts {
  readonly metrics: readonly MetricObjectWithValues<MetricValue<string>>[];
  readonly connections: readonly object[];
  readonly upstreams: readonly UpstreamFacts[];
  readonly strictReport: readonly PortSecurity[];
  readonly learned: readonly Edge[];
  readonly shadow: ShadowFacts;
  readonly denials: readonly DenialLine[];
}

/** In the text format, summed as each metric says. */
export function sumMetrics(all: readonly Facts[]): Promise<string> {
  // prom-client takes one list for each worker.
  return AggregatorRegistry.aggregate(all.map(({ metrics }) => [...metrics])).metrics();
}

/** By upstream; one that any worker waits for is waited for. */
export function sumUpstreams(all: readonly Facts[]): UpstreamFacts[] {
  const sums = new Map<string, UpstreamFacts>();
  for (const one of all.flatMap(({ upstreams }) => upstreams)) {
    const known = sums.get(one.name);
    if (known === undefined) sums.set(one.name, one);
    else
      sums.set(one.name, {
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
      });
  }
  return [...sums.values()];
}

/** By address; one that any worker has left out or found unwell is shown so. */
function sumEndpoints(all: readonly EndpointFacts[]): EndpointFacts[] {
  const sums = new Map<string, EndpointFacts>();
  for (const one of all) {
    const known = sums.get(one.address);
    if (known === undefined) sums.set(one.address, one);
    else
      sums.set(one.address, {
        address: one.address,
        connections: known.connections + one.connections,
        inFlight: known.inFlight + one.inFlight,
        ejectedUntil:
          known.ejectedUntil === null || one.ejectedUntil === null
            ? (known.ejectedUntil ?? one.ejectedUntil)
            : later(known.ejectedUntil, one.ejectedUntil),
        healthy:
          known.healthy === null || one.healthy === null
            ? (known.healthy ?? one.healthy)
            : known.healthy && one.healthy,
      });
  }
  return [...sums.values()];
}

/** By port; a peer that came to several workers is one peer. */
export function sumSecurity(all: readonly Facts[]): PortSecurity[] {
  const sums = new Map<string, PortSecurity>();
  for (const one of all.flatMap(({ strictReport }) => strictReport)) {
    const known = sums.get(one.port);
    if (known === undefined) sums.set(one.port, one);
    else
      sums.set(one.port, {
        ...one,
        mtlsConnections: known.mtlsConnections + one.mtlsConnections,
        plaintextConnections: known.plaintextConnections + one.plaintextConnections,
        plaintextPeers: sumPeers([...known.plaintextPeers, ...one.plaintextPeers]),
        strictPossibleSince: later(known.strictPossibleSince, one.strictPossibleSince),
      });
  }
  return [...sums.values()];
}

function sumPeers(peers: readonly PlaintextPeer[]): PlaintextPeer[] {
  const sums = new Map<string, PlaintextPeer>();
  for (const one of peers) {
    const known = sums.get(one.address);
    if (known === undefined) sums.set(one.address, one);
    else
      sums.set(one.address, {
        address: one.address,
        connections: known.connections + one.connections,
        firstSeen: [known.firstSeen, one.firstSeen].toSorted()[0]!,
        lastSeen: later(known.lastSeen, one.lastSeen),
      });
  }
  return [...sums.values()].toSorted((a, b) => b.connections - a.connections);
}

/** By caller and call. */
export function sumLearned(all: readonly Facts[]): Edge[] {
  const sums = new Map<string, Edge>();
  for (const one of all.flatMap(({ learned }) => learned)) {
    const key = JSON.stringify([one.from, one.protocol, one.method, one.path, one.port]);
    const known = sums.get(key);
    sums.set(
      key,
      known === undefined
        ? one
        : { ...one, ...span(known, one), allowed: known.allowed + one.allowed, denied: known.denied + one.denied },
    );
  }
  return [...sums.values()].toSorted((a, b) => (a.from < b.from ? -1 : a.from > b.from ? 1 : 0));
}

export function sumShadow(all: readonly Facts[]): ShadowFacts {
  const changes = new Map<string, ShadowChange>();
  const counts: Record<string, number> = {};
  let since: string | null = null;
  for (const { shadow } of all) {
    if (shadow.since !== null) since = since === null ? shadow.since : earlier(since, shadow.since);
    for (const [pair, count] of Object.entries(shadow.counts)) counts[pair] = (counts[pair] ?? 0) + count;
    for (const one of shadow.changes) {
      const key = JSON.stringify([one.from, one.request, one.policy, one.shadowPolicy]);
      const known = changes.get(key);
      changes.set(key, known === undefined ? one : { ...one, ...span(known, one), count: known.count + one.count });
    }
  }
  const notKept = all.reduce((sum, { shadow }) => sum + shadow.notKept, 0);
  return { since, counts, changes: [...changes.values()].toSorted((a, b) => b.count - a.count), notKept };
}

/** The newest first. */
export function sumDenials(all: readonly Facts[]): DenialLine[] {
  return all.flatMap(({ denials }) => denials).toSorted((a, b) => (a.time < b.time ? 1 : -1));
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
