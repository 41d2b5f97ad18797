// The path of a request, one step a line. This is the table of contents of the product: each step is a file of its own,
// says no with a code of the error table, and fills in the record that is written at the end, whatever happened.
//
//   listener.ts -> connection.ts -> peer.ts -> [ head.ts -> route.ts -> authorize.ts -> forward.ts -> respond.ts ] -> access-log.ts

import { asSallyportError, SallyportError } from '../cert-agent/base/errors.ts';
import { type Recorder, record } from './access-log.ts';
import { authorize, authorizeStream } from './authorize.ts';
import type { Connection } from './connection.ts';
import type { Exchange } from './exchange.ts';
import { forward } from './forward.ts';
import { readMeaning } from './head.ts';
import type { PeerCheck } from './peer.ts';
import { isPermit } from './policy/policy.ts';
import { Http1Server, type ServerPath } from './protocol/http1-server.ts';
import { Http2Server } from './protocol/http2-server.ts';
import { FirstBytes } from './protocol/sniff.ts';
import { carryStream, openStream, refuseStream } from './protocol/tcp.ts';
import { refuse } from './respond.ts';
import { findRoute } from './route.ts';

/** What the path uses and does not own. */
export interface ProxyTools extends Recorder {
  readonly checkPeer: PeerCheck;
  readonly draining: () => boolean;
}

/** Serves HTTP on a connection until it closes. The peer is known; each request is judged for itself. */
export function serveHttp(connection: Connection, tools: ProxyTools): void {
  const path: ServerPath = {
    serve(exchange) {
      try {
        readMeaning(exchange);
        findRoute(exchange);
        const permit = authorize(exchange, connection, tools.checkPeer);
        forward(exchange, permit, connection.clientCert);
      } catch (error) {
        refuseOnRecord(exchange, error);
      }
    },
    refuse: refuseOnRecord,
    finish: (exchange) => record(exchange, connection, tools),
    draining: tools.draining,
  };
  const speak = (http2: boolean): void => {
    connection.speaker = http2 ? new Http2Server(connection, path) : new Http1Server(connection, path);
  };
  // Where TLS has not agreed on one, the client's first bytes say which.
  if (connection.alpn !== undefined) speak(connection.alpn === 'h2');
  else connection.speaker = new FirstBytes(connection, (said) => speak(said === 'http2'));

  /** A refusal is never dropped from the log: where the log has no room, the answer waits for it. */
  function refuseOnRecord(exchange: Exchange, error: unknown): void {
    tools.log.whenRoom(() => refuse(exchange, error));
  }
}

/** Carries a TCP connection: the same road, judged once here and again whenever what decided has changed. */
export async function serveTcp(connection: Connection, tools: ProxyTools): Promise<void> {
  const exchange = openStream(connection);
  try {
    findRoute(exchange);
    authorizeTcp(exchange, connection, tools);
    const upstream = await exchange.route!.destination.dialSocket();
    const { tcpIdleMs } = exchange.rules.limits;
    const stats = tools.metrics.statsOf(exchange.rules.direction, exchange.route?.principal ?? connection.peer?.id.uri);
    stats.tcpOpened++;
    const tunnel = await carryStream(connection, exchange, upstream);
    stats.tcpClosed++;
    stats.tcpReceived += exchange.bytesReceived;
    stats.tcpSent += exchange.bytesSent;
    if (tunnel.cutBecause === 'idle') exchange.details = `tcp_idle_timeout after ${tcpIdleMs} ms (limit tcpIdle)`;
    else if (tunnel.cutBecause !== undefined) exchange.details = tunnel.cutBecause;
  } catch (error) {
    refuseStream(connection, exchange, asSallyportError(error, 'internal', 'the connection could not be served'));
  } finally {
    record(exchange, connection, tools);
  }
}

/**
 * Asks again whether an open connection may stay, after a change of identity, bundle, deny-list or policy.
 * What is refused now is closed: a peer that no longer holds, a TCP stream that policy no longer admits.
 * Returns why it was closed, or undefined when it stays.
 */
export function judgeAgain(connection: Connection, tools: ProxyTools): SallyportError | undefined {
  const rules = connection.port.rules.current();
  if (rules.direction !== 'inbound' || connection.peer === undefined) return undefined;
  try {
    tools.checkPeer(connection);
    if (rules.protocol === 'tcp') {
      const decision = authorizeStream(connection, rules, tools.checkPeer);
      if (!isPermit(decision)) throw new SallyportError('policy_denied', `policy ${decision.policy} decided`);
    }
    return undefined;
  } catch (error) {
    const refusal = asSallyportError(error, 'internal', 'the peer could not be judged');
    connection.cut(refusal.code);
    return refusal;
  }
}

function authorizeTcp(exchange: Exchange, connection: Connection, tools: ProxyTools): void {
  const { rules, route } = exchange;
  if (rules.direction === 'outbound') {
    if (route?.permit === undefined) throw new SallyportError('no_route', 'this port has no upstream');
    exchange.policy = route.permit.policy;
  } else {
    const decision = authorizeStream(connection, rules, tools.checkPeer);
    exchange.policy = decision.policy;
    if (!isPermit(decision)) {
      exchange.decision = 'deny';
      exchange.details = decision.details;
      throw new SallyportError(
        'policy_denied',
        `a TCP connection from ${connection.peer?.id.uri ?? 'nobody'}: policy ${decision.policy} decided`,
      );
    }
  }
  exchange.decision = 'allow';
}
