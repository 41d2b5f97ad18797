// Step: the record. Each exchange is written once, whatever its outcome, as one JSON line with Istio's keys, then ours.

import { performance } from 'node:perf_hooks';
import type { PeerIdentity } from '../cert-agent/identity/verify.ts';
import type { Connection } from './connection.ts';
import { decisionPrefix, type Exchange } from './exchange/exchange.ts';
import { pathWithoutQuery } from './exchange/facts.ts';
import { withoutSecrets } from './exchange/message.ts';
import type { TlsFacts } from './exchange/upstream.ts';
import type { Shadow } from './observe/dry-run.ts';
import type { Learned } from './observe/learned.ts';
import type { LogFile } from './observe/log-file.ts';
import { LogLine } from './observe/log-line.ts';
import type { TrafficMetrics } from './observe/metrics.ts';
import { SeenParts } from './observe/seen-parts.ts';
import { inferTemplate } from './policy/infer.ts';
import type { Ip } from './policy/ip.ts';
import { isPermit } from './policy/policy.ts';
import { withoutParam } from './policy/request-authentication.ts';

/** Where a finished exchange is recorded. One for each process. */
export interface Recorder {
  readonly metrics: TrafficMetrics;
  readonly log: LogFile;
  /** In learn mode. */
  readonly learned: Learned | undefined;
  readonly shadow: Shadow;
}

/** The line in the making: one at a time, since nothing waits between its beginning and its end. */
const line = new LogLine();

/** Counts the exchange and writes its line; a second call does nothing. */
export function record(exchange: Exchange, connection: Connection, recorder: Recorder): void {
  if (exchange.finished) return;
  exchange.finished = true;
  if (exchange.phases !== undefined) for (const giveBack of exchange.phases.finished) giveBack(exchange);
  const duration = performance.now() - exchange.started;
  const { direction } = exchange.rules;
  let stats = connection.stats;
  // Istio counts the gateway's side of a request as its source: the gateway's own request to the upstream.
  if (direction === 'gateway')
    stats = recorder.metrics.statsOf(direction, upstreamOf(exchange), exchange.route?.cluster);
  else if (direction === 'outbound') stats = recorder.metrics.statsOf(direction, upstreamOf(exchange));
  else if (stats === undefined) {
    stats = recorder.metrics.statsOf('inbound', connection.peer?.id.uri);
    // Until the peer is known the statistics are not cached, and are looked up again.
    if (connection.peer !== undefined) connection.stats = stats;
  }
  if (exchange.rules.protocol === 'http') recorder.metrics.countRequest(stats!, exchange, duration);
  if (exchange.decision !== '-' && direction === 'inbound') noteDecision(exchange, connection, recorder);
  writeRecord(line.clear(), exchange, connection, duration);
  recorder.log.add(line, exchange.decision === 'allow');
}

/** The upstream's identity, or the expected one if none was reached. */
function upstreamOf({ upstreamPeer, route }: Exchange): string | undefined {
  return upstreamPeer?.identity.id.uri ?? route?.principal;
}

/** For learn mode, and for dry-run policies. */
function noteDecision(exchange: Exchange, connection: Connection, { learned, shadow }: Recorder): void {
  if (learned === undefined && exchange.shadow === undefined) return;
  const { protocol, policyPort: port } = exchange.rules;
  const from = connection.peer?.id.uri ?? '';
  const path = pathWithoutQuery(exchange.path);
  const allowed = exchange.decision === 'allow';
  learned?.note({ from, protocol, method: exchange.method, path, port }, allowed, exchange.startedAt);
  if (exchange.shadow === undefined) return;
  shadow.note(
    {
      from,
      request: protocol === 'tcp' ? `TCP :${port}` : `${exchange.method.slice(0, 32)} ${inferTemplate(path)}`,
      decision: allowed ? 'allow' : 'deny',
      policy: exchange.policy,
      shadowDecision: isPermit(exchange.shadow) ? 'allow' : 'deny',
      shadowPolicy: exchange.shadow.policy,
    },
    exchange.startedAt,
  );
}

/**
 * The path as requested, without credentials in its query: those that any policy of the port takes from there, however
 * this request ended, and, on every port, the parameter that RFC 6750 section 2.3 defines for tokens.
 */
function pathOf(exchange: Exchange): string {
  const { path, target, rules } = exchange;
  // Refused before its meaning was known: what of it is a credential is not known either.
  if (path === '') return withoutSecrets(target);
  const at = path.indexOf('?');
  if (at === -1) return path;
  if (exchange.noted?.some(({ hidesQuery }) => hidesQuery)) return path.slice(0, at);
  const { edge, authentication } = rules;
  const secrets = (edge ?? rules.traits)?.secrets;
  if (secrets?.paths.has(path.slice(0, at)) === true) return path.slice(0, at);
  let shown = withoutParam(path, 'access_token');
  if (secrets !== undefined) for (const name of secrets.params) shown = withoutParam(shown, name);
  if (authentication !== undefined) for (const name of authentication.secretParams) shown = withoutParam(shown, name);
  return shown;
}

// Literals: a string that was put together is written three times as slowly.
const protocols = [
  ',"protocol":"HTTP/1.0","response_code":',
  ',"protocol":"HTTP/1.1","response_code":',
  ',"protocol":"HTTP/2","response_code":',
];
const noProtocol = ',"protocol":null,"response_code":';

/** Writes the line, with its newline. Empty values are null, as in Envoy's typed JSON. */
export function writeRecord(line: LogLine, exchange: Exchange, connection: Connection, durationMs: number): void {
  const { failure, route, shadow, rules } = exchange;
  const tcp = rules.protocol === 'tcp';
  writeStart(line, exchange.startedAt);
  line.raw(starts.of(exchange.edge?.name ?? route?.name, exchange.method)).text(pathOf(exchange));
  line.raw(tcp ? noProtocol : protocols[exchange.minor]!).count(exchange.status);
  line.raw(outcomes.of(exchange.flag, exchange.details, tcp ? 'tcp' : undefined)).count(exchange.bytesReceived);
  line.raw(',"bytes_sent":').count(exchange.bytesSent);
  line.raw(',"duration":').count(Math.round(durationMs)).raw(',"upstream_service_time":');
  if (exchange.upstreamServiceMs < 0) line.raw('null');
  else line.count(Math.round(exchange.upstreamServiceMs));
  line.raw(',"x_forwarded_for":').text(exchange.forwardedFor).raw(agents.of(exchange.userAgent));
  line.text(exchange.requestId).raw(',"trace_id":').own(traceIdOf(exchange.traceParent));
  line.raw(ways.of(exchange.authority, exchange.upstreamAddress, route?.cluster)).own(exchange.upstreamLocalAddress);
  const same = sameOf(connection, rules.generation);
  if (exchange.decision === 'allow' && failure === undefined) line.raw(same.allowed);
  else {
    line.raw(same.downstream).raw(',"upstream_transport_failure_reason":');
    line.text(/^U[FC]\b/.test(exchange.flag) ? failure?.message : undefined);
    line.raw(',"decision":"').raw(exchange.decision).raw(same.decisionId);
  }
  line.count(exchange.number);
  const dryRun = shadow === undefined ? undefined : isPermit(shadow) ? '"allow"' : '"deny"';
  line.raw(policies.of(exchange.policy, dryRun, shadow?.policy)).own(exchange.auditPolicy);
  line.raw(',"request_auth_principal":').text(exchange.auth?.principal);
  line.raw(',"upstream_request_attempt_count":').count(exchange.upstreamAttempts);
  line.raw(peerOf(exchange, connection));
  if (rules.direction === 'gateway') writeClient(line, exchange, connection.remoteIp);
  if (exchange.noted !== undefined) for (const { name, text } of exchange.noted) line.raw(`,"${name}":`).text(text);
  if (failure !== undefined) line.raw(`,"code":"${failure.code}","reason":`).text(failure.message);
  line.raw('}\n');
}

/**
 * W3C Trace Context section 3.2: version, trace ID, parent ID and flags, in lower case; IDs of zeros are invalid. Later
 * versions may have more after a dash.
 */
const traceParent = /^(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$/;

/** The trace ID of a valid `traceparent`. */
export function traceIdOf(field: string | undefined): string | undefined {
  if (field === undefined) return undefined;
  const [, version, id, more] = traceParent.exec(field) ?? [];
  return version === '00' && more !== undefined ? undefined : id;
}

/** What lines of one connection share while one generation of the configuration is in force. */
interface Same {
  readonly generation: number;
  readonly downstream: string;
  /** The decision ID up to the request's number. */
  readonly decisionId: string;
  /** From the downstream's addresses to the request's number, for a request that was allowed and did not fail. */
  readonly allowed: string;
}

const sames = new WeakMap<Connection, Same>();
const part = new LogLine();

/** From the time to the path, which is not in it. */
const starts = new SeenParts((route, method) =>
  part.clear().raw('Z","route_name":').own(route).raw(',"method":').own(method).raw(',"path":').toString(),
);

/** From the status to the received bytes, neither of which is in it. `tcp` says that it is no request. */
const outcomes = new SeenParts((flag = '-', details, tcp) => {
  part.clear().raw(',"response_flags":"').raw(flag).raw('","response_code_details":');
  part.text(tcp === undefined ? details : undefined).raw(',"connection_termination_details":');
  return part
    .text(tcp === undefined ? undefined : details)
    .raw(',"bytes_received":')
    .toString();
});

/** The client's software, up to the request ID, which is not in it. */
const agents = new SeenParts((agent) =>
  part.clear().raw(',"user_agent":').text(agent).raw(',"request_id":').toString(),
);

/** From the authority to the upstream's own address, which is not in it. */
const ways = new SeenParts((authority, upstream, cluster) => {
  part.clear().raw(',"authority":').text(authority).raw(',"upstream_host":').text(upstream);
  return part.raw(',"upstream_cluster":').own(cluster).raw(',"upstream_local_address":').toString();
});

/** From the policy that decided to the AUDIT rule, which is not in it. */
const policies = new SeenParts((policy, dryRun, dryRunPolicy) => {
  part.clear().raw('","policy":').text(policy).raw(',"shadow_policy":').text(dryRunPolicy);
  return part
    .raw(',"shadow_decision":')
    .raw(dryRun ?? 'null')
    .raw(',"audit_policy":')
    .toString();
});

function sameOf(connection: Connection, generation: number): Same {
  const known = sames.get(connection);
  if (known?.generation === generation) return known;
  const { localAddress, remoteAddress, serverName } = connection;
  part.clear().raw(',"downstream_local_address":').own(localAddress);
  part.raw(',"downstream_remote_address":').own(remoteAddress).raw(',"requested_server_name":').text(serverName);
  const downstream = part.toString();
  const decisionId = part
    .clear()
    .raw(`","decision_id":"${decisionPrefix(generation, connection.id)}`)
    .toString();
  part.clear().raw(downstream).raw(',"upstream_transport_failure_reason":null,"decision":"allow').raw(decisionId);
  const same = { generation, downstream, decisionId, allowed: part.toString() };
  sames.set(connection, same);
  return same;
}

/** The peer and the parameters of a handshake, by those parameters. */
const handshakes = new WeakMap<TlsFacts, string>();

/**
 * The peer of the hop that mutual TLS protects: the client, or outbound the upstream. At a gateway it is the client's.
 */
function peerOf(exchange: Exchange, connection: Connection): string {
  const { direction } = exchange.rules;
  if (direction === 'inbound') return describePeer(connection.peer, connection.tls);
  if (direction === 'gateway') return describeClient(connection);
  const { upstreamPeer } = exchange;
  return describePeer(upstreamPeer?.identity, upstreamPeer?.tls);
}

/** A gateway's client, as far as it is known. A token's subject is in `request_auth_principal`. */
function writeClient(
  line: LogLine,
  { clientIp, clientId, authMethod, rules }: Exchange,
  remoteIp: Ip | undefined,
): void {
  // Behind proxies the connecting address is not the client's, and an unreadable one names none.
  const ip = clientIp ?? (rules.numTrustedProxies ? undefined : remoteIp);
  line.raw(',"client_ip":').own(ip?.text).raw(',"client_id":').text(clientId).raw(',"auth_method":').own(authMethod);
}

/** The client's certificate, if one was requested and presented, and the parameters of its handshake. */
function describeClient({ client, tls }: Connection): string {
  const known = tls === undefined ? undefined : handshakes.get(tls);
  if (known !== undefined) return known;
  part.clear().raw(',"peer_id":').text(client?.name);
  const made = describeHandshake(client?.serial, tls);
  if (tls !== undefined) handshakes.set(tls, made);
  return made;
}

function describePeer(peer: PeerIdentity | undefined, tls: TlsFacts | undefined): string {
  // Each connection has its own `tls`, and one peer.
  const known = tls === undefined || peer === undefined ? undefined : handshakes.get(tls);
  if (known !== undefined) return known;
  part.clear().raw(',"peer_id":').own(peer?.id.uri);
  const made = describeHandshake(peer?.serial, tls);
  if (tls !== undefined && peer !== undefined) handshakes.set(tls, made);
  return made;
}

function describeHandshake(serial: string | undefined, tls: TlsFacts | undefined): string {
  part.raw(',"peer_serial":').own(serial).raw(',"tls_group":').own(tls?.group);
  part.raw(',"tls_version":').own(tls?.version).raw(',"tls_cipher":').own(tls?.cipher);
  return part
    .raw(',"tls_resumed":')
    .raw(tls === undefined ? 'null' : 'false')
    .toString();
}

let lastSecond = 0;
let lastSecondText = '';

/** The time in RFC 3339 with milliseconds, up to its `Z`; the date part is made once a second. */
function writeStart(line: LogLine, ms: number): void {
  const second = Math.floor(ms / 1000);
  if (second !== lastSecond) {
    lastSecond = second;
    lastSecondText = part
      .clear()
      .raw(`{"start_time":"${new Date(second * 1000).toISOString().slice(0, 20)}`)
      .toString();
  }
  const rest = ms - second * 1000;
  line
    .raw(lastSecondText)
    .raw(rest < 10 ? '00' : rest < 100 ? '0' : '')
    .count(rest);
}
