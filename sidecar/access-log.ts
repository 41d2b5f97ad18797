// Step: the record. Each exchange is written once, whatever happened to it, as one JSON line with Istio's keys, then
// ours. The line is put together by hand: this runs for every request.

import { randomBytes } from 'node:crypto';
import type { Connection } from './connection.ts';
import type { Exchange } from './exchange.ts';
import type { LogFile } from './observe/log-file.ts';
import type { TrafficMetrics } from './observe/metrics.ts';

export interface Recorder {
  readonly metrics: TrafficMetrics;
  readonly log: LogFile;
}

/** Counts the exchange and writes its line; a second call does nothing. */
export function record(exchange: Exchange, connection: Connection, recorder: Recorder): void {
  if (exchange.finished) return;
  exchange.finished = true;
  const duration = performance.now() - exchange.started;
  const { direction } = exchange.rules;
  let stats = connection.stats;
  if (direction === 'outbound') stats = recorder.metrics.statsOf('outbound', exchange.route?.principal);
  else if (stats === undefined) {
    stats = recorder.metrics.statsOf('inbound', connection.peer?.id.uri);
    // Until the peer is known the connection counts for nobody, and is asked again.
    if (connection.peer !== undefined) connection.stats = stats;
  }
  if (exchange.rules.protocol === 'http') recorder.metrics.countRequest(stats!, exchange, duration);
  recorder.log.add(formatRecord(exchange, connection, duration), exchange.decision === 'allow');
}

const protocols = ['"HTTP/1.0"', '"HTTP/1.1"', '"HTTP/2"'];

/** The line, with its newline. Empty values are null, as in Envoy's typed JSON. */
export function formatRecord(exchange: Exchange, connection: Connection, durationMs: number): string {
  const { failure } = exchange;
  const tcp = exchange.rules.protocol === 'tcp';
  // Of the hop that mutual TLS protects: whoever asked, or on the way out whom we ask.
  const outbound = exchange.rules.direction === 'outbound';
  const peer = outbound ? exchange.upstreamPeer?.identity : connection.peer;
  const tls = outbound ? exchange.upstreamPeer?.tls : connection.tls;
  return (
    `{"start_time":"${time(exchange.startedAt)}","route_name":${text(exchange.route?.name)}` +
    `,"method":${text(exchange.method)},"path":${text(exchange.path === '' ? exchange.target : exchange.path)}` +
    `,"protocol":${tcp ? 'null' : protocols[exchange.minor]}` +
    `,"response_code":${exchange.status},"response_flags":"${exchange.flag}"` +
    `,"response_code_details":${tcp ? 'null' : text(exchange.details)}` +
    `,"connection_termination_details":${tcp && exchange.details !== '-' ? text(exchange.details) : 'null'}` +
    `,"bytes_received":${exchange.bytesReceived},"bytes_sent":${exchange.bytesSent}` +
    `,"duration":${Math.round(durationMs)},"upstream_service_time":${exchange.upstreamServiceMs < 0 ? 'null' : Math.round(exchange.upstreamServiceMs)}` +
    `,"x_forwarded_for":${text(exchange.forwardedFor)},"user_agent":${text(exchange.userAgent)}` +
    `,"request_id":${text(exchange.requestId)},"authority":${text(exchange.authority)}` +
    `,"upstream_host":${text(exchange.upstreamAddress)},"upstream_cluster":${text(exchange.route?.cluster)}` +
    `,"upstream_local_address":${text(exchange.upstreamLocalAddress)}` +
    `,"downstream_local_address":${text(connection.localAddress)},"downstream_remote_address":${text(connection.remoteAddress)}` +
    `,"requested_server_name":${text(connection.serverName)}` +
    `,"upstream_transport_failure_reason":${exchange.flag === 'UF' || exchange.flag === 'UC' ? text(failure?.message) : 'null'}` +
    `,"decision":"${exchange.decision}","decision_id":"${decisionOf(exchange, connection)}","policy":${text(exchange.policy)},"shadow_policy":null` +
    `,"peer_id":${text(peer?.id.uri)},"peer_serial":${text(peer?.serial)}` +
    `,"tls_group":${text(tls?.group)},"tls_version":${text(tls?.version)},"tls_cipher":${text(tls?.cipher)}` +
    `,"tls_resumed":${tls === undefined ? 'null' : 'false'}` +
    `${failure === undefined ? '' : `,"code":"${failure.code}","reason":${text(failure.message)}`}}\n`
  );
}

/** Tells this process's runs apart: connections are counted from 1 in each. */
const runId = randomBytes(4).toString('hex');

/** Which decision it was: the run of the process, the generation that decided, the connection, and the how many-th on it. */
function decisionOf({ rules }: Exchange, { id, requests }: Connection): string {
  return `${runId}-${rules.generation}-${id}-${requests}`;
}

const needsEscape = /[^ !#-[\]-~]/;

/** A JSON string in ASCII, or null for nothing. Most values hold nothing to escape, and a test costs less than JSON.stringify. */
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
