// The path of a request, one step a line. This is the table of contents of the product: each step is a file of its own,
// refuses with a code of the error table, and fills in the record that is always written at the end.
//
//   listener.ts -> connection.ts -> peer.ts -> [ head.ts -> route.ts -> authenticate.ts -> ask-authorizer.ts ->
// authorize.ts
//     -> forward.ts -> respond.ts ] -> access-log.ts
//
// At a gateway front-door.ts comes first. Then sanitize.ts and the hooks of the rule take the place of authenticate and
// ask-authorizer, and its rewrite hooks run before forward.

import { asSallyportError, SallyportError } from '../cert-agent/base/errors.ts';
import type { Say } from '../cert-agent/base/sparse-log.ts';
import { type Recorder, record } from './access-log.ts';
import { askAuthorizers } from './ask-authorizer.ts';
import { type AuthenticateTools, authenticate } from './authenticate.ts';
import { authorize, authorizeAgain } from './authorize.ts';
import type { Connection, Kind } from './connection.ts';
import type { Holding } from './exchange/ends.ts';
import type { Exchange, PortRules, Step } from './exchange/exchange.ts';
import { factsOf, receivedOf } from './exchange/facts.ts';
import { addFields } from './exchange/fields.ts';
import { heldBytes } from './exchange/held-bytes.ts';
import { emptyFields } from './exchange/message.ts';
import { noteUpstream, openTunnel } from './forward.ts';
import { readMeaning } from './head.ts';
import { HeldBody } from './hold-body.ts';
import type { Denials } from './observe/denials.ts';
import type { SecurityReport } from './observe/plaintext-report.ts';
import { passOn } from './onward.ts';
import { type Permit, TunnelPermit } from './policy/policy.ts';
import { Http1Server, type ServerPath } from './protocol/http1/server.ts';
import { Http2Server } from './protocol/http2/server.ts';
import { FirstBytes, foreignProtocol } from './protocol/sniff.ts';
import { carryStream, openStream, refuseStream } from './protocol/tcp.ts';
import { refuse } from './respond.ts';
import { findRoute } from './route.ts';
import { enter } from './sanitize.ts';
import type { SignTransactionToken } from './tokens/sign.ts';
import { hashKeyOf } from './upstream/hash-key.ts';

/** What the path uses and does not own. */
export interface ProxyTools extends Recorder, AuthenticateTools {
  readonly security: SecurityReport;
  readonly denials: Denials;
  /** Logs what clients do, at most so often. */
  readonly say: Say;
  /** Signs transaction tokens: the gateway's assertion about the user, for the next hop. */
  readonly sign: SignTransactionToken;
  /** True if connections of such ports are to end. */
  readonly draining: (direction: PortRules['direction']) => boolean;
  /** Cuts slow readers until no more than so many bytes wait; false if there is none to cut. */
  readonly makeRoom: (bytes: number) => boolean;
}

/** Serves HTTP on a connection until it closes. The peer is known; each request is evaluated for itself. */
export function serveHttp(connection: Connection, tools: ProxyTools): void {
  const path: ServerPath = {
    serve(exchange) {
      try {
        refuseWhenFull(exchange, tools);
        readMeaning(exchange);
        findRoute(exchange, connection);
        if (exchange.rules.decisionHeader) nameDecision(exchange);
        const waits = take(exchange, connection, exchange.rules.edge === undefined ? meshSteps : edgeSteps);
        if (waits === undefined) pass(exchange);
        else after(exchange, waits, pass);
      } catch (error) {
        refuseOnRecord(exchange, error);
      }
    },
    refuse: refuseOnRecord,
    refusalOf: (exchange) => refusalOf(exchange, connection, tools),
    finish: (exchange) => record(exchange, connection, tools),
    draining: () => tools.draining(connection.port.rules.current().direction),
  };
  /** Between two services: authentication of the caller, then the external authorizers. */
  const meshSteps: readonly Step[] = [
    (exchange) => authenticate(exchange, connection, tools),
    (exchange) => askAuthorizers(exchange, connection),
    (exchange) => beginPhases(exchange, connection),
  ];
  /** From outside: what clients may not set is removed, then the phases of the rule run up to authorization. */
  const edgeSteps: readonly Step[] = [
    (exchange) => enter(exchange, connection),
    (exchange) => take(exchange, connection, exchange.phases?.before ?? []),
  ];
  const speak = (http2: boolean): void => {
    connection.speaker = http2 ? new Http2Server(connection, path) : new Http1Server(connection, path);
  };
  // Without ALPN, the client's first bytes tell the protocol.
  if (connection.alpn !== undefined) speak(connection.alpn === 'h2');
  else
    connection.speaker = new FirstBytes(connection, (said, bytes) => {
      if (said === 'other') tellForeign(connection, bytes, tools);
      speak(said === 'http2');
    });

  /** Continues once a step has finished. The body that arrives meanwhile is held, or gathered by the step itself. */
  function after(exchange: Exchange, step: Promise<void>, next: (exchange: Exchange) => void): void {
    const held = (exchange.carrier as Holding | undefined) ?? new HeldBody(exchange);
    exchange.carrier = held;
    step
      .then(() => {
        next(exchange);
        held.release();
      })
      .catch((error: unknown) => refuseOnRecord(exchange, error))
      .finally(() => {
        // A later step that waits may hold the same body on.
        if (exchange.carrier !== held) held.drop();
      });
  }

  function pass(exchange: Exchange): void {
    // While the step waited, the client may have gone, or may have got a timeout.
    if (exchange.finished || exchange.responded) return;
    const permit = authorize(exchange, connection, tools.checkPeer);
    const changed = changedMeanwhile(exchange, connection, tools);
    if (changed !== undefined) throw changed;
    if (permit instanceof TunnelPermit) return openTunnel(exchange, permit);
    const waits = exchange.phases === undefined ? undefined : take(exchange, connection, exchange.phases.serve);
    if (waits === undefined) goOn(exchange, permit);
    else after(exchange, waits, goOnWith(permit));
  }

  /** Made only for a request that waits: a function that refers to another's variables has an object for them made. */
  function goOnWith(permit: Permit): (exchange: Exchange) => void {
    return (exchange) => goOn(exchange, permit);
  }

  function goOn(exchange: Exchange, permit: Permit): void {
    if (exchange.finished || exchange.responded) return;
    passOn(exchange, permit, connection.clientCert, tools.sign);
  }

  /** A refusal is never dropped from the log: if the log has no room, the response waits for it. */
  function refuseOnRecord(exchange: Exchange, error: unknown): void {
    noteDenial(exchange, connection, error, tools);
    tools.log.whenRoom(() => refuse(exchange, error));
  }
}

/**
 * Runs one step after the other, in the same turn until one waits. An exchange that has its response goes no further.
 */
function take(exchange: Exchange, connection: Connection, steps: readonly Step[], from = 0): undefined | Promise<void> {
  for (let i = from; i < steps.length; i++) {
    const waits = steps[i]!(exchange, connection);
    if (waits instanceof Promise)
      return waits.then(() =>
        exchange.responded || exchange.finished ? undefined : take(exchange, connection, steps, i + 1),
      );
    if (exchange.responded || exchange.finished) return undefined;
  }
  return undefined;
}

/** What fields of sidecar.yaml ask of the requests of all ports; most sidecars have none. */
function beginPhases(exchange: Exchange, connection: Connection): undefined | Promise<void> {
  if (exchange.phases === undefined) return undefined;
  exchange.received ??= receivedOf(exchange);
  return take(exchange, connection, exchange.phases.before);
}

/** Where the admin allows it, the client gets the name of the decision, and nothing more. */
function nameDecision(exchange: Exchange): void {
  exchange.replyFields = addFields(emptyFields, [['x-sallyport-decision', exchange.decisionId]]);
}

/** While a step waited, policy may have changed; what is not allowed yet is not re-evaluated by the change itself. */
function changedMeanwhile(exchange: Exchange, connection: Connection, tools: ProxyTools): SallyportError | undefined {
  return exchange.rules === connection.port.rules.current() ? undefined : refusalOf(exchange, connection, tools);
}

/** A client of a database on an HTTP port gets a 400 that it cannot read: the log says what to change. */
function tellForeign({ port, remoteAddress, localAddress }: Connection, bytes: Buffer, { say }: ProxyTools): void {
  const protocol = foreignProtocol(bytes);
  if (protocol === undefined) return;
  const { direction } = port.rules.current();
  const where = direction === 'gateway' ? 'serve it by a TCPRoute' : `set 'protocol: tcp' on this ${direction} port`;
  say('protocol_mismatch', `${remoteAddress} speaks ${protocol} on ${localAddress}, which is an HTTP port: ${where}`);
}

/** Keeps the facts for an explanation, for the admin port. */
function noteDenial(exchange: Exchange, connection: Connection, error: unknown, { denials }: ProxyTools): void {
  const { policiesFrom, client, remoteAddress } = connection;
  if (!(error instanceof SallyportError)) return;
  const { rules, clientId, clientIp, auth } = exchange;
  if (rules.direction === 'outbound') {
    const { method, authority } = exchange;
    return denials.outbound.note({ code: error.code, reason: error.message, from: '', what: `${method} ${authority}` });
  }
  if (rules.direction === 'gateway') {
    const from = clientId ?? auth?.principal ?? client?.name ?? clientIp?.text ?? remoteAddress;
    return denials.noteAtGateway(exchange, error, factsOf(exchange, connection, rules.policyPort), from);
  }
  if (policiesFrom !== undefined)
    denials.note(exchange, error, factsOf(exchange, connection, rules.policyPort), policiesFrom);
}

/** Slow readers have filled the memory limit: the slowest is cut to make room, else the request is refused. */
function refuseWhenFull({ rules }: Exchange, { makeRoom }: ProxyTools): void {
  const { limits } = rules;
  if (heldBytes() > limits.heldBytes && !makeRoom(limits.heldBytes))
    throw new SallyportError('memory_full', `${heldBytes()} bytes wait for slow readers (limit heldBytes)`);
}

/** Carries a TCP connection: the same path, evaluated here, and again whenever what decided has changed. */
export async function serveTcp(connection: Connection, tools: ProxyTools): Promise<void> {
  const exchange = openStream(connection);
  try {
    findRoute(exchange, connection);
    await authenticate(exchange, connection, tools);
    await askAuthorizers(exchange, connection);
    authorize(exchange, connection, tools.checkPeer);
    const { destination } = exchange.route!;
    const hash = destination.hashBy === undefined ? undefined : hashKeyOf(exchange, destination.hashBy);
    exchange.upstreamAttempts++;
    const upstream = await destination.dialSocket({ hash, avoid: [], over: false });
    noteUpstream(exchange, upstream);
    // During the dial there was no stream that a change could have closed.
    const refusal = refusalOf(exchange, connection, tools);
    if (refusal !== undefined) {
      upstream.socket.destroy();
      throw refusal;
    }
    const { rules, route } = exchange;
    const cluster = rules.direction === 'gateway' ? route?.cluster : undefined;
    const stats = tools.metrics.statsOf(rules.direction, route?.principal ?? connection.peer?.id.uri, cluster);
    stats.tcpOpened++;
    await carryStream(connection, exchange, upstream.socket, (one) => refusalOf(one, connection, tools));
    stats.tcpClosed++;
    stats.tcpReceived += exchange.bytesReceived;
    stats.tcpSent += exchange.bytesSent;
  } catch (error) {
    noteDenial(exchange, connection, error, tools);
    refuseStream(connection, exchange, asSallyportError(error, 'internal', 'the connection could not be served'));
  } finally {
    record(exchange, connection, tools);
  }
}

/**
 * Re-evaluates an open connection and everything in flight on it, after a change of identity, bundle, deny list or
 * policy, or when a certificate or token expires. What is refused now is closed as its protocol demands: a peer that is
 * no longer valid with all its exchanges, else each exchange for itself. Returns why the peer was refused, if it was.
 */
export function judgeAgain(connection: Connection, tools: ProxyTools): SallyportError | undefined {
  const { speaker } = connection;
  if (connection.refused) return undefined;
  try {
    if (connection.port.rules.current().direction === 'inbound') tools.checkPeer(connection);
    if (Date.now() > connection.ownValidUntil)
      throw new SallyportError('svid_expired', 'our own certificate of this connection has expired');
    speaker?.judge();
    return undefined;
  } catch (error) {
    const refusal = asSallyportError(error, 'internal', 'the peer could not be evaluated');
    tools.metrics.countCut(refusal.code, speaker?.kind ?? 'tcp', speaker?.inFlight ?? 0);
    connection.cut(refusal);
    return refusal;
  }
}

/** Why an allowed exchange must end under the current rules; undefined if it may go on. */
function refusalOf(exchange: Exchange, connection: Connection, tools: ProxyTools): SallyportError | undefined {
  if (exchange.decision !== 'allow') return undefined;
  try {
    authorizeAgain(exchange, connection, tools.checkPeer);
    return undefined;
  } catch (error) {
    const refusal = asSallyportError(error, 'internal', 'the exchange could not be evaluated');
    tools.metrics.countCut(refusal.code, kindOf(exchange), 1);
    return refusal;
  }
}

function kindOf(exchange: Exchange): Kind {
  if (exchange.webSocket) return 'websocket';
  return exchange.rules.protocol === 'tcp' || exchange.method === 'CONNECT' ? 'tcp' : 'http';
}
