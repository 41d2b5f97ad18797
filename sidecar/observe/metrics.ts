// The traffic metrics of one process: Istio's standard metrics, and our own. What is counted lies in plain fields, one
// object per (peer, outcome); the table below says how each metric is read from them.

import type { Registry } from 'prom-client';
import type { Exchange, PortRules } from '../exchange/exchange.ts';
import type { TlsFacts } from '../exchange/upstream.ts';
import type { Workload } from '../policy/policy.ts';
import { IstioLabels, istioLabelNames } from './istio-labels.ts';
import {
  type HistogramRow,
  type Labels,
  type MetricRow,
  registerRows,
  type Sample,
  type ValueRow,
} from './metric-rows.ts';
import {
  classOf,
  countedGrpcStatus,
  countedStatus,
  type Distribution,
  type Outcome,
  PeerStats,
  type StatusClass,
} from './peer-stats.ts';

/** The state of an issuer's keys. */
export interface KeyFacts {
  readonly issuer: string;
  readonly keys: number;
  /** Since the last successful fetch; null before it. */
  readonly ageMs: number | null;
  readonly failed: number;
}

/** Peers with a name: callers, upstreams, backends. Further ones are counted together under `unknown`. */
export const maxPeers = 300;

/**
 * Combinations of a status, a flag and a gRPC status that one peer may have. Further ones count under their class, under
 * the same peer: what one peer provokes takes nothing from the others.
 */
export const shareOfPeer = 30;

/** Such combinations of all peers with a name together: each is some 67 lines with 25 labels, 60 kB. */
export const maxDetailed = 400;

/** Classes of all peers with a name together. Beyond this, they count under the classes of the peer `unknown`. */
export const maxClasses = 400;

/** Counts by a few labels, for what is rarer than requests. */
class Tally {
  readonly #rows = new Map<string, { readonly labels: Labels; count: number }>();

  /** `labels` is called for a new key only. */
  add(key: string, count: number, labels: () => Labels): void {
    const known = this.#rows.get(key);
    if (known === undefined) this.#rows.set(key, { labels: labels(), count });
    else known.count += count;
  }

  samples(): Sample[] {
    return [...this.#rows.values()].map(({ labels, count }) => [labels, count]);
  }
}

/** Counts the traffic of one sidecar for a registry. */
export class TrafficMetrics {
  readonly #stats: PeerStats[] = [];
  /** By direction, principal and cluster. */
  readonly #index = new Map<string, Map<string | undefined, Map<string | undefined, PeerStats>>>();
  readonly #refusedConnections = new Tally();
  readonly #handshakes = new Tally();
  readonly #tokens = new Tally();
  readonly #cut = new Tally();
  logDropped = 0;
  #detailed = 0;
  #classes = 0;
  readonly #told = new Set<string>();
  /** Requests that are counted under a class because there are too many combinations. */
  foldedRequests = 0;
  /** Told once for each peer and each bound that is reached. */
  onFolded: (message: string) => void = () => {};
  /** Set by the owner of the count. */
  heldBytes: () => number = () => 0;
  jwks: () => readonly KeyFacts[] = () => [];
  /** By `decision shadow_decision`. */
  shadow: () => ReadonlyMap<string, number> = () => new Map();

  constructor(registry: Registry, trustDomain: string, workload: Workload, version: string) {
    registerRows(registry, rows, {
      ...{ version, labels: new IstioLabels(trustDomain, workload), metrics: this },
      peers: () => [...this.#stats],
      refusedConnections: () => this.#refusedConnections.samples(),
      handshakes: () => this.#handshakes.samples(),
      tokens: () => this.#tokens.samples(),
      cut: () => this.#cut.samples(),
    });
  }

  /** The counts of one peer, made at its first connection. */
  statsOf(direction: PortRules['direction'], principal: string | undefined, cluster?: string): PeerStats {
    // A key that is put together would be made, and hashed, for each request.
    const known = this.#index.get(direction)?.get(principal)?.get(cluster);
    if (known !== undefined) return known;
    const isNamed = principal !== undefined || cluster !== undefined;
    if (this.#stats.length >= maxPeers && isNamed) {
      this.#tellOnce('peers', `more than ${maxPeers} peers: the metrics count further ones under the peer unknown`);
      return this.statsOf(direction, undefined);
    }
    const made = new PeerStats(direction, principal, cluster);
    this.#stats.push(made);
    const ofDirection = this.#index.get(direction) ?? new Map();
    const ofPrincipal = ofDirection.get(principal) ?? new Map();
    this.#index.set(direction, ofDirection.set(principal, ofPrincipal.set(cluster, made)));
    return made;
  }

  /** Adds one finished request. `durationMs` from its first byte to the last of its response. */
  countRequest(stats: PeerStats, exchange: Exchange, durationMs: number): void {
    const outcome = this.#outcomeOf(stats, exchange);
    outcome.requests++;
    outcome.requestMessages += exchange.requestMessages;
    outcome.replyMessages += exchange.replyMessages;
    outcome.duration.observe(durationMs);
    outcome.requestBytes.observe(exchange.bytesReceived);
    outcome.replyBytes.observe(exchange.bytesSent);
  }

  #outcomeOf(stats: PeerStats, exchange: Exchange): Outcome {
    const status = countedStatus(exchange.status);
    const { flag } = exchange;
    const grpcStatus = exchange.grpc ? countedGrpcStatus(exchange.grpcStatus) : undefined;
    const known = stats.known(status, flag, grpcStatus);
    if (known !== undefined) return known;
    const isNamed = isNamedPeer(stats);
    if (stats.detailed >= shareOfPeer || (isNamed && this.#detailed >= maxDetailed))
      return this.#fold(stats, classOf(status), grpcStatus === undefined ? undefined : -1);
    stats.detailed++;
    if (isNamed) this.#detailed++;
    return stats.outcome(status, flag, grpcStatus);
  }

  /** The class of an outcome that is one too many: without its flag, so that each peer has twelve at most. */
  #fold(stats: PeerStats, status: StatusClass, grpcStatus: number | undefined): Outcome {
    this.foldedRequests++;
    const isNamed = isNamedPeer(stats);
    const known = stats.known(status, '-', grpcStatus);
    if (known !== undefined) return known;
    const peer = stats.cluster ?? stats.principal ?? 'unknown';
    if (!isNamed || this.#classes < maxClasses) {
      this.#tellOnce(peer, `the metrics count requests of '${peer}' by classes of statuses: too many combinations`);
      if (isNamed) this.#classes++;
      return stats.outcome(status, '-', grpcStatus);
    }
    this.#tellOnce('all', 'the metrics count requests under the peer unknown: too many combinations of all peers');
    return this.statsOf(stats.direction, undefined).outcome(status, '-', grpcStatus);
  }

  #tellOnce(of: string, message: string): void {
    if (this.#told.has(of)) return;
    this.#told.add(of);
    this.onFolded(message);
  }

  /** Counts a completed handshake. */
  countHandshake(side: 'accepted' | 'dialed', { version, cipher, group = 'unknown' }: TlsFacts): void {
    this.#handshakes.add(`${side} ${version} ${cipher} ${group}`, 1, () => ({ side, version, cipher, group }));
  }

  /** Counts exchanges that were allowed and had to end because their permission is gone. */
  countCut(code: string, kind: string, count: number): void {
    this.#cut.add(`${code} ${kind}`, count, () => ({ code, kind }));
  }

  /** Counts a token that was verified or refused, except for cached results. */
  countToken(issuer: string, outcome: string): void {
    this.#tokens.add(`${outcome} ${issuer}`, 1, () => ({ issuer, outcome }));
  }

  /** Counts a connection that was refused before any request. */
  countRefusedConnection(code: string): void {
    this.#refusedConnections.add(code, 1, () => ({ code }));
  }
}

function isNamedPeer({ principal, cluster }: PeerStats): boolean {
  return principal !== undefined || cluster !== undefined;
}

/** What the rows read. */
interface Source {
  readonly version: string;
  readonly labels: IstioLabels;
  readonly metrics: Pick<TrafficMetrics, 'logDropped' | 'foldedRequests' | 'heldBytes' | 'jwks' | 'shadow'>;
  peers(): readonly PeerStats[];
  refusedConnections(): readonly Sample[];
  handshakes(): readonly Sample[];
  tokens(): readonly Sample[];
  cut(): readonly Sample[];
}

/** One sample per peer and outcome, made when it is asked for. */
function* perOutcome<T>(
  { labels, peers }: Source,
  read: (outcome: Outcome) => T,
  isMeant: (outcome: Outcome) => boolean = () => true,
): Generator<Sample<T>> {
  for (const peer of peers())
    for (const outcome of peer.outcomes.values())
      if (isMeant(outcome)) yield [labels.http(peer, outcome), read(outcome)];
}

function distribution(name: string, help: string, read: (outcome: Outcome) => Distribution): HistogramRow<Source> {
  return { type: 'histogram', name, help, labels: istioLabelNames, read: (source) => perOutcome(source, read) };
}

/** Counted for gRPC only: other protocols have no messages. */
function messages(name: string, help: string, read: (outcome: Outcome) => number): ValueRow<Source> {
  const isGrpc = ({ grpcStatus }: Outcome): boolean => grpcStatus !== undefined;
  return {
    ...{ type: 'counter', name, help, labels: istioLabelNames },
    read: (source) => perOutcome(source, read, isGrpc),
  };
}

function tcp(name: string, help: string, read: (peer: PeerStats) => number): ValueRow<Source> {
  return {
    ...{ type: 'counter', name, help, labels: istioLabelNames },
    read: ({ labels, peers }) =>
      peers()
        .filter(({ tcpOpened }) => tcpOpened > 0)
        .map((peer) => [labels.tcp(peer), read(peer)]),
  };
}

function keys(name: string, help: string, read: (facts: KeyFacts) => number | null): ValueRow<Source> {
  return {
    ...{ type: 'gauge', name, help, labels: ['issuer'] },
    read: ({ metrics }) =>
      metrics.jwks().flatMap((facts): Sample[] => {
        const value = read(facts);
        return value === null ? [] : [[{ issuer: facts.issuer }, value]];
      }),
  };
}

const rows: readonly MetricRow<Source>[] = [
  {
    type: 'counter',
    name: 'istio_requests_total',
    help: 'Requests that ended, by peer and outcome.',
    labels: istioLabelNames,
    read: (source) => perOutcome(source, ({ requests }) => requests),
  },
  distribution(
    'istio_request_duration_milliseconds',
    'Time from the first byte of a request to the last of its response.',
    ({ duration }) => duration,
  ),
  distribution('istio_request_bytes', 'Sizes of request bodies.', ({ requestBytes }) => requestBytes),
  distribution('istio_response_bytes', 'Sizes of response bodies.', ({ replyBytes }) => replyBytes),
  messages('istio_request_messages_total', 'gRPC messages from the caller.', (one) => one.requestMessages),
  messages('istio_response_messages_total', 'gRPC messages to the caller.', (one) => one.replyMessages),
  tcp(
    'istio_tcp_connections_opened_total',
    'TCP connections that were allowed and reached an upstream.',
    ({ tcpOpened }) => tcpOpened,
  ),
  tcp('istio_tcp_connections_closed_total', 'Those of them that have ended.', ({ tcpClosed }) => tcpClosed),
  tcp(
    'istio_tcp_sent_bytes_total',
    'Bytes sent to the downstream of TCP connections, counted when they end.',
    ({ tcpSent }) => tcpSent,
  ),
  tcp(
    'istio_tcp_received_bytes_total',
    'Bytes received from the downstream of TCP connections, counted when they end.',
    ({ tcpReceived }) => tcpReceived,
  ),
  {
    type: 'gauge',
    name: 'istio_build',
    help: 'The version of this proxy.',
    labels: ['component', 'tag'],
    // All workers together are one proxy.
    merge: 'first',
    read: ({ version }) => [[{ component: 'proxy', tag: version }, 1]],
  },
  {
    type: 'counter',
    name: 'sallyport_connections_refused_total',
    help: 'Connections refused before any request, by code.',
    labels: ['code'],
    read: (source) => source.refusedConnections(),
  },
  {
    type: 'counter',
    name: 'sallyport_tls_handshakes_total',
    help: 'Completed TLS handshakes by version, cipher and group (accepted ones: the group only if a single one is configured).',
    labels: ['side', 'version', 'cipher', 'group'],
    read: (source) => source.handshakes(),
  },
  {
    type: 'counter',
    name: 'sallyport_exchanges_cut_total',
    help: 'Requests, WebSockets and TCP streams in flight that were ended because their permission is gone.',
    labels: ['code', 'kind'],
    read: (source) => source.cut(),
  },
  {
    type: 'counter',
    name: 'sallyport_jwt_verifications_total',
    help: 'Tokens verified or refused, by the issuer of the rule and outcome; a cached result does not count.',
    labels: ['issuer', 'outcome'],
    read: (source) => source.tokens(),
  },
  {
    type: 'counter',
    name: 'sallyport_shadow_decisions_total',
    help: 'Requests evaluated with dry-run policies, by the decision and by the decision with those policies in force.',
    labels: ['decision', 'shadow_decision'],
    read: ({ metrics }) =>
      [...metrics.shadow()].map(([pair, count]) => {
        const [decision = '', shadow = ''] = pair.split(' ');
        return [{ decision, shadow_decision: shadow }, count];
      }),
  },
  keys(
    'sallyport_jwks_age_seconds',
    'Time since the keys of an issuer were last fetched; they stay valid for a day.',
    ({ ageMs }) => (ageMs === null ? null : ageMs / 1000),
  ),
  keys('sallyport_jwks_keys', 'Known keys of an issuer.', (facts) => facts.keys),
  keys(
    'sallyport_jwks_fetch_failures',
    'Failed fetches of the keys of an issuer, since it was configured or the process started.',
    ({ failed }) => failed,
  ),
  {
    type: 'gauge',
    name: 'sallyport_held_bytes',
    help: 'Bytes that wait in memory for slow readers.',
    labels: [],
    read: ({ metrics }) => [[{}, metrics.heldBytes()]],
  },
  {
    type: 'counter',
    name: 'sallyport_metrics_folded_requests_total',
    help: 'Requests counted under the class of their status (as `5xx`), because a peer or all peers have too many combinations.',
    labels: [],
    read: ({ metrics }) => [[{}, metrics.foldedRequests]],
  },
  {
    type: 'counter',
    name: 'sallyport_access_log_dropped_total',
    help: 'Access-log lines that are lost: of allowed requests while the log destination is too slow, of all requests if its reader is gone, or if the process ends first.',
    labels: [],
    read: ({ metrics }) => [[{}, metrics.logDropped]],
  },
];
