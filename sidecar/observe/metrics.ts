// Istio's standard metrics. On the path they are plain fields of one object per (peer, outcome); prom-client reads them
// at scrape. Labels with attacker-controlled values (the Host header) are left out: they would grow without bound.

import { Counter, Gauge, type Metric, type Registry } from 'prom-client';
import { namespaceOf, parseSpiffeId, serviceAccountOf } from '../../cert-agent/identity/spiffe-id.ts';
import type { Exchange, PortRules } from '../exchange/exchange.ts';
import type { TlsFacts } from '../exchange/upstream.ts';
import type { Workload } from '../policy/policy.ts';

/** Envoy's buckets: milliseconds for durations, bytes for sizes. */
const buckets = [
  0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000, 600_000, 1_800_000,
  3_600_000,
];

class Distribution {
  readonly counts = new Float64Array(buckets.length + 1);
  sum = 0;

  observe(value: number): void {
    let i = 0;
    while (i < buckets.length && value > buckets[i]!) i++;
    this.counts[i]!++;
    this.sum += value;
  }
}

class Outcome {
  requests = 0;
  readonly duration = new Distribution();
  readonly requestBytes = new Distribution();
  readonly replyBytes = new Distribution();
  requestMessages = 0;
  replyMessages = 0;
  readonly status: number;
  readonly flag: string;
  /** Undefined for what is not gRPC; -1 for gRPC that ended without a status. */
  readonly grpcStatus: number | undefined;

  constructor(status: number, flag: string, grpcStatus: number | undefined) {
    this.status = status;
    this.flag = flag;
    this.grpcStatus = grpcStatus;
  }
}

/** Everything counted for one peer in one direction. Looked up once per connection, then only added to. */
export class PeerStats {
  readonly direction: PortRules['direction'];
  /** The peer's SPIFFE ID; undefined for requests without one or without an upstream. */
  readonly principal: string | undefined;
  /** At a gateway, Envoy's name of the backend: many backends have no identity, and differ by their Service. */
  readonly cluster: string | undefined;
  readonly outcomes = new Map<string | number, Outcome>();
  tcpOpened = 0;
  tcpClosed = 0;
  tcpSent = 0;
  tcpReceived = 0;

  constructor(direction: PortRules['direction'], principal: string | undefined, cluster: string | undefined) {
    this.direction = direction;
    this.principal = principal;
    this.cluster = cluster;
  }

  outcome(status: number, flag: string, grpcStatus: number | undefined): Outcome {
    const key = flag === '-' && grpcStatus === undefined ? status : `${status}${flag} ${grpcStatus ?? ''}`;
    let known = this.outcomes.get(key);
    if (known === undefined) {
      known = new Outcome(status, flag, grpcStatus);
      this.outcomes.set(key, known);
    }
    return known;
  }
}

/** The state of an issuer's keys. */
export interface KeyFacts {
  readonly issuer: string;
  readonly keys: number;
  /** Since the last successful fetch; null before it. */
  readonly ageMs: number | null;
  readonly failed: number;
}

/** Authenticated peers are few; beyond this, the others are counted together under `unknown`. */
const maxPeers = 10_000;

/** Counts the traffic of one sidecar for a registry. */
export class TrafficMetrics {
  readonly #stats = new Map<string, PeerStats>();
  readonly #workload: Workload;
  readonly #self: string;
  /** Why connections were refused before any request, by code. */
  readonly refusedConnections = new Map<string, number>();
  logDropped = 0;
  /** Set by the owner of the count. */
  heldBytes: () => number = () => 0;
  jwks: () => readonly KeyFacts[] = () => [];
  shadow: () => ReadonlyMap<string, number> = () => new Map();
  readonly #handshakes = new Map<string, { readonly labels: Labels; count: number }>();
  readonly #tokens = new Map<string, { readonly issuer: string; readonly outcome: string; count: number }>();
  readonly #cut = new Map<string, { readonly code: string; readonly kind: string; count: number }>();

  constructor(registry: Registry, trustDomain: string, workload: Workload, version: string) {
    this.#workload = workload;
    this.#self = `spiffe://${trustDomain}/ns/${workload.namespace}/sa/${workload.serviceAccount}`;
    this.#register(registry, version);
  }

  statsOf(direction: PortRules['direction'], principal: string | undefined, cluster?: string): PeerStats {
    const key = `${direction} ${principal ?? ''} ${cluster ?? ''}`;
    const known = this.#stats.get(key);
    if (known !== undefined) return known;
    const isNamed = principal !== undefined || cluster !== undefined;
    if (this.#stats.size >= maxPeers && isNamed) return this.statsOf(direction, undefined);
    const made = new PeerStats(direction, principal, cluster);
    this.#stats.set(key, made);
    return made;
  }

  /** Adds one finished request. `durationMs` from its first byte to the last of its response. */
  countRequest(stats: PeerStats, exchange: Exchange, durationMs: number): void {
    const outcome = stats.outcome(exchange.status, exchange.flag, exchange.grpc ? exchange.grpcStatus : undefined);
    outcome.requests++;
    outcome.requestMessages += exchange.requestMessages;
    outcome.replyMessages += exchange.replyMessages;
    outcome.duration.observe(durationMs);
    outcome.requestBytes.observe(exchange.bytesReceived);
    outcome.replyBytes.observe(exchange.bytesSent);
  }

  /** Counts a completed handshake. */
  countHandshake(side: 'accepted' | 'dialed', { version, cipher, group = 'unknown' }: TlsFacts): void {
    const key = `${side} ${version} ${cipher} ${group}`;
    const known = this.#handshakes.get(key);
    if (known === undefined) this.#handshakes.set(key, { labels: { side, version, cipher, group }, count: 1 });
    else known.count++;
  }

  /** Counts exchanges that were allowed and had to end because their permission is gone. */
  countCut(code: string, kind: string, count: number): void {
    const key = `${code} ${kind}`;
    const known = this.#cut.get(key);
    if (known === undefined) this.#cut.set(key, { code, kind, count });
    else known.count += count;
  }

  /** Counts a token that was verified or refused, except for cached results. */
  countToken(issuer: string, outcome: string): void {
    const key = `${outcome} ${issuer}`;
    const known = this.#tokens.get(key);
    if (known === undefined) this.#tokens.set(key, { issuer, outcome, count: 1 });
    else known.count++;
  }

  countRefusedConnection(code: string): void {
    this.refusedConnections.set(code, (this.refusedConnections.get(code) ?? 0) + 1);
  }

  #register(registry: Registry, version: string): void {
    const all = (): PeerStats[] => [...this.#stats.values()];
    const labelled = (name: string, help: string, rows: () => Iterable<[Labels, number]>): void => {
      registry.registerMetric(
        new Counter({
          name,
          help,
          labelNames: labelNames,
          registers: [],
          collect() {
            this.reset();
            for (const [labels, value] of rows()) this.inc(labels, value);
          },
        }),
      );
    };
    const outcomes = (): [Labels, Outcome][] =>
      all().flatMap((one) =>
        [...one.outcomes.values()].map((outcome): [Labels, Outcome] => [this.#httpLabels(one, outcome), outcome]),
      );
    labelled('istio_requests_total', 'Requests that ended, by peer and outcome.', () =>
      outcomes().map(([labels, one]) => [labels, one.requests]),
    );
    registry.registerMetric(
      histogram('istio_request_duration_milliseconds', 'Duration of requests.', () =>
        outcomes().map(([labels, one]) => [labels, one.duration]),
      ),
    );
    registry.registerMetric(
      histogram('istio_request_bytes', 'Sizes of request bodies.', () =>
        outcomes().map(([labels, one]) => [labels, one.requestBytes]),
      ),
    );
    registry.registerMetric(
      histogram('istio_response_bytes', 'Sizes of response bodies.', () =>
        outcomes().map(([labels, one]) => [labels, one.replyBytes]),
      ),
    );
    const messages = (name: string, help: string, field: 'requestMessages' | 'replyMessages'): void =>
      labelled(name, help, () =>
        outcomes()
          .filter(([, { grpcStatus }]) => grpcStatus !== undefined)
          .map(([labels, one]) => [labels, one[field]]),
      );
    messages('istio_request_messages_total', 'gRPC messages from the caller.', 'requestMessages');
    messages('istio_response_messages_total', 'gRPC messages to the caller.', 'replyMessages');
    const tcp = (name: string, help: string, field: 'tcpOpened' | 'tcpClosed' | 'tcpSent' | 'tcpReceived'): void =>
      labelled(name, help, () =>
        all()
          .filter((one) => one.tcpOpened > 0)
          .map((one) => [this.#tcpLabels(one), one[field]]),
      );
    tcp('istio_tcp_connections_opened_total', 'TCP connections opened.', 'tcpOpened');
    tcp('istio_tcp_connections_closed_total', 'TCP connections closed.', 'tcpClosed');
    tcp('istio_tcp_sent_bytes_total', 'Bytes sent to the downstream of TCP connections.', 'tcpSent');
    tcp('istio_tcp_received_bytes_total', 'Bytes received from the downstream of TCP connections.', 'tcpReceived');
    new Gauge({
      name: 'istio_build',
      // All workers together are one proxy.
      aggregator: 'first',
      help: 'The version of this proxy.',
      labelNames: ['component', 'tag'],
      registers: [registry],
    }).set({ component: 'proxy', tag: version }, 1);
    const owner = this;
    new Counter({
      name: 'sallyport_connections_refused_total',
      help: 'Connections refused before any request, by code.',
      labelNames: ['code'],
      registers: [registry],
      collect() {
        this.reset();
        for (const [code, count] of owner.refusedConnections) this.inc({ code }, count);
      },
    });
    new Counter({
      name: 'sallyport_tls_handshakes_total',
      help: 'Completed TLS handshakes by version, cipher and group (accepted ones: the group only if a single one is configured).',
      labelNames: ['side', 'version', 'cipher', 'group'],
      registers: [registry],
      collect() {
        this.reset();
        for (const { labels, count } of owner.#handshakes.values()) this.inc(labels, count);
      },
    });
    new Counter({
      name: 'sallyport_exchanges_cut_total',
      help: 'Requests, WebSockets and TCP streams in flight that were ended because their permission is gone.',
      labelNames: ['code', 'kind'],
      registers: [registry],
      collect() {
        this.reset();
        for (const { code, kind, count } of owner.#cut.values()) this.inc({ code, kind }, count);
      },
    });
    new Counter({
      name: 'sallyport_jwt_verifications_total',
      help: 'Tokens verified or refused, by the issuer of the rule and outcome; a cached result does not count.',
      labelNames: ['issuer', 'outcome'],
      registers: [registry],
      collect() {
        this.reset();
        for (const { issuer, outcome, count } of owner.#tokens.values()) this.inc({ issuer, outcome }, count);
      },
    });
    new Counter({
      name: 'sallyport_shadow_decisions_total',
      help: 'Requests evaluated with dry-run policies, by the decision and by the decision with those policies in force.',
      labelNames: ['decision', 'shadow_decision'],
      registers: [registry],
      collect() {
        this.reset();
        for (const [pair, count] of owner.shadow()) {
          const [decision = '', shadow = ''] = pair.split(' ');
          this.inc({ decision, shadow_decision: shadow }, count);
        }
      },
    });
    const jwks = (name: string, help: string, read: (facts: KeyFacts) => number | null): void => {
      new Gauge({
        name,
        help,
        labelNames: ['issuer'],
        registers: [registry],
        collect() {
          this.reset();
          for (const facts of owner.jwks()) {
            const value = read(facts);
            if (value !== null) this.set({ issuer: facts.issuer }, value);
          }
        },
      });
    };
    jwks(
      'sallyport_jwks_age_seconds',
      'Time since the keys of an issuer were last fetched; they stay valid for a day.',
      (facts) => (facts.ageMs === null ? null : facts.ageMs / 1000),
    );
    jwks('sallyport_jwks_keys', 'Known keys of an issuer.', ({ keys }) => keys);
    jwks('sallyport_jwks_fetch_failures', 'Failed fetches of the keys of an issuer.', ({ failed }) => failed);
    new Gauge({
      name: 'sallyport_held_bytes',
      help: 'Bytes that wait in memory for slow readers.',
      registers: [registry],
      collect() {
        this.set(owner.heldBytes());
      },
    });
    new Counter({
      name: 'sallyport_access_log_dropped_total',
      help: 'Access-log lines of allowed requests dropped because the log destination was too slow.',
      registers: [registry],
      collect() {
        this.reset();
        this.inc(owner.logDropped);
      },
    });
  }

  #httpLabels(stats: PeerStats, outcome: Outcome): Labels {
    return {
      ...this.#labels(stats),
      ...(outcome.grpcStatus === undefined
        ? { request_protocol: 'http' }
        : {
            request_protocol: 'grpc',
            grpc_response_status: outcome.grpcStatus < 0 ? 'unknown' : String(outcome.grpcStatus),
          }),
      response_code: String(outcome.status),
      response_flags: outcome.flag,
    };
  }

  #tcpLabels(stats: PeerStats): Labels {
    return { ...this.#labels(stats), request_protocol: 'tcp', response_flags: '-' };
  }

  /** Istio's labels, in its order; unknown values are `unknown`. */
  #labels(stats: PeerStats): Labels {
    const self = describe(this.#self, this.#workload);
    const peer = describe(stats.principal, undefined);
    const service = stats.cluster === undefined ? undefined : serviceOf(stats.cluster);
    const [source, destination] = stats.direction === 'inbound' ? [peer, self] : [self, peer];
    return {
      reporter: stats.direction === 'inbound' ? 'destination' : 'source',
      source_workload: source.workload,
      source_canonical_service: source.service,
      source_canonical_revision: source.revision,
      source_workload_namespace: source.namespace,
      source_principal: source.principal,
      source_app: source.app,
      source_version: source.version,
      source_cluster: 'unknown',
      destination_workload: destination.workload,
      destination_workload_namespace: destination.namespace,
      destination_principal: destination.principal,
      destination_app: destination.app,
      destination_version: destination.version,
      destination_service: service?.host ?? destination.service,
      destination_canonical_service: destination.service,
      destination_canonical_revision: destination.revision,
      destination_service_name: service?.name ?? destination.service,
      destination_service_namespace: service?.namespace ?? destination.namespace,
      destination_cluster: 'unknown',
      connection_security_policy:
        stats.direction !== 'inbound' ? 'unknown' : stats.principal === undefined ? 'none' : 'mutual_tls',
    };
  }
}

type Labels = Record<string, string>;

const labelNames = [
  'reporter',
  'source_workload',
  'source_canonical_service',
  'source_canonical_revision',
  'source_workload_namespace',
  'source_principal',
  'source_app',
  'source_version',
  'source_cluster',
  'destination_workload',
  'destination_workload_namespace',
  'destination_principal',
  'destination_app',
  'destination_version',
  'destination_service',
  'destination_canonical_service',
  'destination_canonical_revision',
  'destination_service_name',
  'destination_service_namespace',
  'destination_cluster',
  'request_protocol',
  'response_code',
  'grpc_response_status',
  'response_flags',
  'connection_security_policy',
];

interface Party {
  readonly principal: string;
  readonly namespace: string;
  readonly workload: string;
  readonly service: string;
  readonly revision: string;
  readonly app: string;
  readonly version: string;
}

/** Namespace and workload come from the SPIFFE ID first: it is proved, other sources are not. */
function describe(principal: string | undefined, workload: Workload | undefined): Party {
  const id = principal === undefined ? undefined : parseSpiffeId(principal);
  const labels = workload?.labels ?? {};
  const account = id === undefined ? undefined : serviceAccountOf(id);
  return {
    principal: principal ?? 'unknown',
    namespace: (id === undefined ? undefined : namespaceOf(id)) ?? 'unknown',
    workload: account ?? 'unknown',
    service:
      labels['service.istio.io/canonical-name'] ??
      labels['app.kubernetes.io/name'] ??
      labels['app'] ??
      account ??
      'unknown',
    revision: labels['service.istio.io/canonical-revision'] ?? labels['version'] ?? 'latest',
    app: labels['app'] ?? 'unknown',
    version: labels['version'] ?? 'unknown',
  };
}

/** The Service in Envoy's name of a backend, `outbound|80||name.namespace.svc.cluster.local`. */
function serviceOf(cluster: string): { readonly host: string; readonly name: string; readonly namespace: string } {
  const host = cluster.slice(cluster.lastIndexOf('|') + 1);
  const [name = '', namespace = ''] = host.split('.', 2);
  return { host, name, namespace };
}

/** A histogram that reads its counts from plain fields; prom-client's own takes only one observation at a time. */
function histogram(name: string, help: string, rows: () => Iterable<[Labels, Distribution]>): Metric<string> {
  const read = (): object[] => {
    const values: object[] = [];
    for (const [labels, distribution] of rows()) {
      let total = 0;
      for (const [i, count] of distribution.counts.entries()) {
        total += count;
        values.push({ metricName: `${name}_bucket`, labels: { ...labels, le: buckets[i] ?? '+Inf' }, value: total });
      }
      values.push(
        { metricName: `${name}_sum`, labels, value: distribution.sum },
        { metricName: `${name}_count`, labels, value: total },
      );
    }
    return values;
  };
  const metric = {
    name,
    help,
    type: 'histogram',
    aggregator: 'sum',
    reset() {},
    get: async () => ({ name, help, type: 'histogram', aggregator: 'sum', values: read() }),
  };
  return metric as unknown as Metric<string>;
}
