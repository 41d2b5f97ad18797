// Step: the record. Each exchange is written once, whatever its outcome, as one JSON line with Istio's keys, then ours.
// The line is built by hand, since this runs for every request.

import type { PeerIdentity } from '../cert-agent/identity/verify.ts';
import type { Connection } from './connection.ts';
import type { Exchange } from './exchange/exchange.ts';
import { pathWithoutQuery } from './exchange/facts.ts';
import type { TlsFacts } from './exchange/upstream.ts';
import type { Shadow } from './observe/dry-run.ts';
import type { Learned } from './observe/learned.ts';
import type { LogFile } from './observe/log-file.ts';
import type { TrafficMetrics } from './observe/metrics.ts';
import { inferTemplate } from './policy/infer.ts';
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
  recorder.log.add(formatRecord(exchange, connection, duration), exchange.decision === 'allow');
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
  const { path: meant, target, rules } = exchange;
  const path = meant === '' ? target : meant;
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

const protocols = ['"HTTP/1.0"', '"HTTP/1.1"', '"HTTP/2"'];

/** The line, with its newline. Empty values are null, as in Envoy's typed JSON. */
export function formatRecord(exchange: Exchange, connection: Connection, durationMs: number): string {
  const { failure, route } = exchange;
  const tcp = exchange.rules.protocol === 'tcp';
  return (
    `{"start_time":"${time(exchange.startedAt)}","route_name":${own(exchange.edge?.name ?? route?.name)}` +
    `,"method":${own(exchange.method)},"path":${text(pathOf(exchange))}` +
    `,"protocol":${tcp ? 'null' : protocols[exchange.minor]}` +
    `,"response_code":${exchange.status},"response_flags":"${exchange.flag}"` +
    `,"response_code_details":${tcp ? 'null' : text(exchange.details)}` +
    `,"connection_termination_details":${tcp && exchange.details !== '-' ? text(exchange.details) : 'null'}` +
    `,"bytes_received":${exchange.bytesReceived},"bytes_sent":${exchange.bytesSent}` +
    `,"duration":${Math.round(durationMs)},"upstream_service_time":${exchange.upstreamServiceMs < 0 ? 'null' : Math.round(exchange.upstreamServiceMs)}` +
    `,"x_forwarded_for":${text(exchange.forwardedFor)},"user_agent":${text(exchange.userAgent)}` +
    `,"request_id":${text(exchange.requestId)},"trace_id":${own(traceIdOf(exchange.traceParent))},"authority":${text(exchange.authority)}` +
    `,"upstream_host":${text(exchange.upstreamAddress)},"upstream_cluster":${own(route?.cluster)}` +
    `,"upstream_local_address":${own(exchange.upstreamLocalAddress)}` +
    downstreamOf(connection) +
    `,"upstream_transport_failure_reason":${/^U[FC]\b/.test(exchange.flag) ? text(failure?.message) : 'null'}` +
    `,"decision":"${exchange.decision}","decision_id":"${exchange.decisionId}","policy":${text(exchange.policy)},"shadow_policy":${text(exchange.shadow?.policy)}` +
    `,"shadow_decision":${exchange.shadow === undefined ? 'null' : isPermit(exchange.shadow) ? '"allow"' : '"deny"'}` +
    `,"audit_policy":${own(exchange.auditPolicy)},"request_auth_principal":${text(exchange.auth?.principal)}` +
    `,"upstream_request_attempt_count":${exchange.upstreamAttempts}` +
    peerOf(exchange, connection) +
    (exchange.rules.direction === 'gateway' ? clientOf(exchange, connection) : '') +
    (exchange.noted === undefined ? '' : exchange.noted.map((one) => `,"${one.name}":${text(one.text)}`).join('')) +
    `${failure === undefined ? '' : `,"code":"${failure.code}","reason":${text(failure.message)}`}}\n`
  );
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

/** Parts that are the same for every exchange of a connection, by the object that they describe. */
const sameParts = new WeakMap<object, string>();

function downstreamOf(connection: Connection): string {
  const known = sameParts.get(connection);
  if (known !== undefined) return known;
  const { localAddress, remoteAddress, serverName } = connection;
  const made =
    `,"downstream_local_address":${own(localAddress)},"downstream_remote_address":${own(remoteAddress)}` +
    `,"requested_server_name":${text(serverName)}`;
  sameParts.set(connection, made);
  return made;
}

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
function clientOf({ clientIp, clientId, authMethod, rules }: Exchange, { remoteIp }: Connection): string {
  // Behind proxies the connecting address is not the client's, and an unreadable one names none.
  const ip = clientIp ?? (rules.numTrustedProxies ? undefined : remoteIp);
  return `,"client_ip":${own(ip?.text)},"client_id":${text(clientId)},"auth_method":${own(authMethod)}`;
}

/** The client's certificate, if one was requested and presented, and the parameters of its handshake. */
function describeClient({ client, tls }: Connection): string {
  const known = tls === undefined ? undefined : sameParts.get(tls);
  if (known !== undefined) return known;
  const made = `,"peer_id":${text(client?.name)},"peer_serial":${own(client?.serial)}${describeTls(tls)}`;
  if (tls !== undefined) sameParts.set(tls, made);
  return made;
}

function describePeer(peer: PeerIdentity | undefined, tls: TlsFacts | undefined): string {
  // Each connection has its own `tls`, and one peer.
  const known = tls === undefined || peer === undefined ? undefined : sameParts.get(tls);
  if (known !== undefined) return known;
  const made = `,"peer_id":${own(peer?.id.uri)},"peer_serial":${own(peer?.serial)}${describeTls(tls)}`;
  if (tls !== undefined && peer !== undefined) sameParts.set(tls, made);
  return made;
}

function describeTls(tls: TlsFacts | undefined): string {
  return (
    `,"tls_group":${own(tls?.group)},"tls_version":${own(tls?.version)},"tls_cipher":${own(tls?.cipher)}` +
    `,"tls_resumed":${tls === undefined ? 'null' : 'false'}`
  );
}

const needsEscape = /[^ !#-[\]-~]/;

/** A string of our own, or in a checked form, which needs no escaping. */
function own(value: string | undefined): string {
  return value === undefined || value === '' || value === '-' ? 'null' : `"${value}"`;
}

/**
 * A JSON string in ASCII, or null for nothing. Most values need no escaping, and a test is cheaper than JSON.stringify.
 */
function text(value: string | undefined): string {
  if (value === undefined || value === '' || value === '-') return 'null';
  return needsEscape.test(value) ? escaped(value) : `"${value}"`;
}

function escaped(value: string): string {
  return JSON.stringify(value).replace(
    /[\x7f-\uffff]/g,
    (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

let lastSecond = 0;
let lastSecondText = '';

/** RFC 3339 with milliseconds; the date part is made once a second. */
function time(ms: number): string {
  const second = Math.floor(ms / 1000);
  if (second !== lastSecond) {
    lastSecond = second;
    lastSecondText = new Date(second * 1000).toISOString().slice(0, 20);
  }
  const rest = ms - second * 1000;
  return `${lastSecondText}${rest < 10 ? '00' : rest < 100 ? '0' : ''}${rest}Z`;
}
