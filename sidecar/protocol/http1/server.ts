// The server side of HTTP/1.1: reads requests from a socket, one exchange at a time (pipelined requests wait, and are
// answered in order), and writes responses. It owns the socket until it hands it over for a WebSocket, and closes it.

import type { Socket } from 'node:net';
import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { type Connection, coarseNow, type Holder, type Speaker } from '../../connection.ts';
import { endByClient } from '../../exchange/decision.ts';
import type { Downstream } from '../../exchange/ends.ts';
import { Exchange } from '../../exchange/exchange.ts';
import { hold } from '../../exchange/held-bytes.ts';
import type { Limits } from '../../exchange/limits.ts';
import { emptyFields, type Fields, type Framing, printable, type Reply, role } from '../../exchange/message.ts';
import type { SpliceEnd } from '../../exchange/upstream.ts';
import { ExchangeBacklog, stalled, stallMsFor } from '../backlog.ts';
import { bodyTooLarge, isOverBodyLimit } from '../body-limit.ts';
import { Gatherer } from '../gather.ts';
import { isGrpc } from '../grpc.ts';
import { keepLent, LentReads } from '../lent-reads.ts';
import { bodyTooSlow, owesBody, Pace, replyTooSlow } from '../pace.ts';
import { resetSocket } from '../reset.ts';
import { Tunnel } from '../tunnel.ts';
import { acceptName, acceptOf, keyName } from '../websocket.ts';
import { type BodyReader, type BodySink, createBodyReader } from './body.ts';
import { checkHead, connectionOptions, endOfLine, parseContentLength, readFields, readRequestLine } from './head.ts';
import {
  type ConnectionOption,
  corkForTurn,
  printLastChunk,
  printReply,
  type ReplyFraming,
  writeBody,
  writeHead,
  writeTogether,
} from './print.ts';

/** What the codec needs from the path. */
export interface ServerPath {
  /** Serves an exchange whose head is complete. Never throws. */
  serve(exchange: Exchange): void;
  /** Answers a request that could not be read. */
  refuse(exchange: Exchange, error: SallyportError): void;
  /** Why an exchange that was allowed may not continue; undefined if it may. */
  refusalOf(exchange: Exchange): SallyportError | undefined;
  /** The exchange is over, however it ended: writes its record. */
  finish(exchange: Exchange): void;
  readonly draining: () => boolean;
}

const endOfHead = Buffer.from('\r\n\r\n');

// Closing while the body still arrives causes a reset, which loses the refusal. So the response is followed by a
// half-close, and later bytes are read and dropped: at most this many, and not longer than this.
const lingerBytes = 1024 * 1024;
const lingerMs = 2000;
/** A client that has been idle for so long is unlikely to send a request at just this moment. */
const retireIdleMs = 4000;

/** The speaker of one connection, until a tunnel takes its place. */
export class Http1Server implements Downstream, Speaker, BodySink {
  readonly kind = 'http';
  readonly #connection: Connection;
  readonly #socket: Socket;
  readonly #path: ServerPath;
  readonly #reads: LentReads;
  /** What is consumed now is lent. */
  #isLent = false;
  /** Bytes that wait: a part of a head, or requests behind the one in flight. */
  #held: Buffer | undefined = undefined;
  readonly #gathered = new Gatherer();
  /** How many bytes of the arriving head have been checked, so that none is checked again with each later piece. */
  #headChecked = 0;
  #exchange: Exchange | undefined = undefined;
  #body: BodyReader | undefined = undefined;
  #requestDone = true;
  #consuming = false;
  #chunkedReply = false;
  #closeAfterReply = false;
  /** When the arriving head began; a connection's first head begins with the connection. */
  #headSince: number | undefined = coarseNow();
  #lingerUntil: number | undefined = undefined;
  #lingered = 0;
  #draining = false;
  /** The paces of the arriving body and of what waits to be read; present only while needed. */
  #requestPace: Pace | undefined = undefined;
  #replyPace: Pace | undefined = undefined;
  /** Present while something waits for the client or the upstream. */
  #backlog: ExchangeBacklog | undefined = undefined;
  /** We have paused the client since the last tick. */
  #wasPaused = false;

  constructor(connection: Connection, path: ServerPath) {
    this.#connection = connection;
    this.#socket = connection.socket;
    this.#path = path;
    this.#reads = new LentReads(this.#socket, this.#onData);
    this.#socket.on('drain', this.#onDrain);
    this.#socket.on('end', this.#onEnd);
    this.#socket.on('error', ignore);
    this.#socket.on('close', this.#onClose);
  }

  // -- what arrives ------------------------------------------------------------------------------------------------

  #onData = (chunk: Buffer, isLent: boolean): void => {
    this.#connection.lastActive = coarseNow();
    if (this.#lingerUntil !== undefined) return this.#discard(chunk);
    this.#isLent = isLent && this.#held === undefined;
    const buffer = this.#gathered.append(this.#held, chunk);
    this.#keep(undefined);
    this.#consume(buffer);
  };

  #keep(held: Buffer | undefined): void {
    hold((held?.length ?? 0) - (this.#held?.length ?? 0));
    this.#held = held;
  }

  /** These bytes, to be kept for longer than this call. */
  #own(bytes: Buffer): Buffer {
    return this.#isLent ? keepLent(bytes) : bytes;
  }

  #consume(buffer: Buffer): void {
    this.#consuming = true;
    try {
      let at = 0;
      while (at < buffer.length && this.#lingerUntil === undefined) {
        if (this.#body !== undefined) {
          at = this.#body.read(buffer, at, this);
        } else if (this.#exchange !== undefined || this.#socket.writableNeedDrain) {
          // The next request waits for this response, and for a client that does not read to take what was sent:
          // reading on would only fill memory.
          this.#keep(this.#own(buffer.subarray(at)));
          this.#socket.pause();
          return;
        } else {
          const next = this.#readHead(buffer, at);
          if (next === -1) return;
          at = next;
        }
      }
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#consuming = false;
    }
  }

  /** Consumes one head, and its body if complete. -1 if the head is not complete: it is then held. */
  #readHead(buffer: Buffer, from: number): number {
    // RFC 9112 section 2.2: an empty line before a request line is skipped.
    const at = buffer[from] === 13 && buffer[from + 1] === 10 ? from + 2 : from;
    const { limits } = this.#connection.port.rules.current();
    const checked = Math.max(at, from + this.#headChecked);
    const end = buffer.indexOf(endOfHead, Math.max(at, checked - endOfHead.length + 1));
    if ((end === -1 ? buffer.length : end) - at > limits.headBytes) {
      throw new SallyportError(
        'head_too_large',
        `the request head is larger than ${limits.headBytes} bytes (limit headBytes)`,
      );
    }
    if (end === -1) {
      // Refused now and not at the time limit: otherwise we would wait for the rest after a bare LF.
      const last = buffer[buffer.length - 1] === 13 ? buffer.length - 1 : buffer.length;
      checkHead(buffer, checked, last);
      this.#headChecked = Math.max(this.#headChecked, last - from);
      this.#headSince ??= coarseNow();
      // From its very start: whether an empty line came first must not depend on where the packets were cut.
      this.#keep(this.#own(buffer.subarray(from)));
      return -1;
    }
    checkHead(buffer, at, end);
    this.#headChecked = 0;
    return this.#begin(buffer, at, end);
  }

  #begin(buffer: Buffer, from: number, end: number): number {
    const exchange = this.#open();
    const lineEnd = endOfLine(buffer, from, end);
    readRequestLine(buffer.toString('latin1', from, lineEnd), exchange);
    exchange.keepAlive = exchange.minor === 1;
    exchange.fields = readFields(buffer, lineEnd + 2, end, exchange.rules.limits.headFields);
    readRoles(exchange);
    const { framing } = exchange;
    const at = end + endOfHead.length;
    let next = at;
    if (typeof framing === 'number' && buffer.length - at >= framing) {
      next = at + framing;
      if (framing > 0) exchange.wholeBody = this.#own(buffer.subarray(at, next));
      exchange.bytesReceived = framing;
      this.#requestDone = true;
    } else {
      this.#body = createBodyReader(framing);
      this.#requestDone = false;
    }
    this.#path.serve(exchange);
    return next;
  }

  /** The exchange begins with its first byte, so that a request that cannot be read has a record too. */
  #open(): Exchange {
    const exchange = new Exchange(this.#connection, this, this.#connection.port.rules.current(), emptyFields);
    this.#exchange = exchange;
    this.#headSince = undefined;
    this.#closeAfterReply = false;
    return exchange;
  }

  /** For the body's reader only. @throws SallyportError for a body beyond its limit. */
  bodyData(chunk: Buffer): void {
    const exchange = this.#exchange;
    if (exchange === undefined) return;
    exchange.bytesReceived += chunk.length;
    if (isOverBodyLimit(exchange)) throw bodyTooLarge(exchange);
    if (exchange.carrier?.requestData(this.#own(chunk)) === false) this.pause();
  }

  /** For the body's reader only. */
  bodyEnd(trailers: Fields): void {
    this.#body = undefined;
    this.#requestDone = true;
    this.#exchange?.carrier?.requestEnd(trailers);
  }

  #fail(error: unknown): void {
    const known =
      error instanceof SallyportError
        ? error
        : new SallyportError('internal', 'the request could not be served', { cause: error });
    this.#body = undefined;
    const exchange = this.#exchange ?? this.#open();
    // The framing is in doubt from here on: nothing on this connection may be read as a request again.
    exchange.keepAlive = false;
    this.#requestDone = false;
    const { carrier } = exchange;
    exchange.carrier = undefined;
    carrier?.downstreamGone();
    if (exchange.responded) this.abort();
    else this.#path.refuse(exchange, known);
  }

  // -- what is answered --------------------------------------------------------------------------------------------

  /** Writes a 1xx response. Nothing for HTTP/1.0, which has none. */
  informational(reply: Reply): void {
    // RFC 9110 section 15.2: HTTP/1.0 has no 1xx.
    if (this.#exchange?.minor !== 1) return;
    writeHead(this.#socket, printReply(reply, 'none', undefined));
  }

  /** The head decides whether the connection stays open. Does nothing once the exchange is over. */
  respond(reply: Reply, whole: Buffer | undefined): void {
    const exchange = this.#exchange;
    if (exchange === undefined) return;
    exchange.responded = true;
    this.#connection.lastActive = coarseNow();
    const framing = framingOf(exchange, reply, whole);
    const connection = this.#connectionAfter(exchange, reply, framing);
    const head = printReply(reply.status === 101 ? withAccept(reply, exchange) : reply, framing, connection);
    if (whole === undefined) {
      this.#chunkedReply = framing === 'chunked';
      if (reply.framing !== 0) corkForTurn(this.#socket);
      writeHead(this.#socket, head);
      return;
    }
    exchange.bytesSent += whole.length;
    writeTogether(this.#socket, head, whole);
    this.#replyEnded(exchange);
  }

  /** Whether the connection stays open after this response, and how the client learns it. */
  #connectionAfter(exchange: Exchange, reply: Reply, framing: ReplyFraming): ConnectionOption {
    if (reply.status === 101) return 'upgrade';
    if (opensTunnel(exchange, reply)) return undefined;
    this.#closeAfterReply =
      !exchange.keepAlive || !this.#requestDone || framing === 'close' || this.#draining || this.#path.draining();
    if (this.#closeAfterReply) return 'close';
    return exchange.minor === 0 ? 'keep-alive' : undefined;
  }

  /** Adds chunk framing where the response has it. True once the exchange is over: what is left is dropped. */
  write(chunk: Buffer): boolean {
    if (this.#exchange === undefined) return true;
    this.#exchange.bytesSent += chunk.length;
    this.#connection.lastActive = coarseNow();
    return writeBody(this.#socket, chunk, this.#chunkedReply);
  }

  /** Trailers go with a chunked response only. The next request of the connection is read then. */
  end(trailers: Fields): void {
    const exchange = this.#exchange;
    if (exchange === undefined) return;
    if (this.#chunkedReply) writeHead(this.#socket, printLastChunk(trailers));
    this.#chunkedReply = false;
    this.#replyEnded(exchange);
  }

  /** Resets the connection, which ends all that is pipelined on it. */
  abort(): void {
    const exchange = this.#exchange;
    this.#exchange = undefined;
    // If no framing is left that could show the cut (RFC 9112 section 8), the reset shows it.
    resetSocket(this.#socket);
    if (exchange !== undefined) this.#path.finish(exchange);
  }

  /** Stops reading the socket, the request's body and all that follows. */
  pause(): void {
    this.#wasPaused = true;
    this.#socket.pause();
  }

  /** Reads on, unless a pipelined request waits for this exchange to end. */
  resume(): void {
    if (this.#held === undefined || this.#body !== undefined) this.#socket.resume();
  }

  /** Takes the socket out of HTTP: what was read too far goes first. */
  tunnel(upstream: SpliceEnd): void {
    const exchange = this.#exchange!;
    const rest = this.#held;
    this.#keep(undefined);
    this.#exchange = undefined;
    this.#reads.stop();
    this.#socket.off('drain', this.#onDrain).off('end', this.#onEnd).off('close', this.#onClose);
    const tunnel = new Tunnel(exchange, { socket: this.#socket, rest }, upstream, this.#path.refusalOf);
    this.#connection.speaker = tunnel;
    void tunnel.closed.then(() => this.#path.finish(exchange));
  }

  #replyEnded(exchange: Exchange): void {
    this.#exchange = undefined;
    this.#path.finish(exchange);
    if (this.#closeAfterReply || !this.#requestDone) return this.#linger();
    this.#next();
  }

  /** Continues with the bytes that waited behind the last exchange. */
  #next(): void {
    if (this.#consuming || this.#exchange !== undefined || this.#lingerUntil !== undefined) return;
    if (this.#socket.writableNeedDrain) return;
    const held = this.#held;
    this.#keep(undefined);
    this.#isLent = false;
    if (held !== undefined) this.#consume(held);
    if (this.#held === undefined || this.#headSince !== undefined) this.#socket.resume();
  }

  // -- how it ends -------------------------------------------------------------------------------------------------

  /** At most one limit acts at each tick. */
  tick(now: number): void {
    const { limits } = this.#connection.port.rules.current();
    if (limits.slowBytesPerSecond > 0 && this.#isTooSlow(now, limits.slowBytesPerSecond)) return;
    if (this.#isStalled(now, limits.streamStallMs)) return;
    if (this.#lingerUntil !== undefined) {
      if (now > this.#lingerUntil) this.#socket.destroy();
    } else if (this.#exchange !== undefined) {
      if (now - this.#connection.lastActive > limits.streamIdleMs) this.#exchange.carrier?.idle();
      else if (Date.now() > this.#exchange.validUntil) this.judge();
    } else if (this.#headSince !== undefined) {
      if (now - this.#headSince > limits.headMs) this.#giveUpOnHead(limits);
    } else if (now - this.#connection.lastActive > limits.clientIdleMs) {
      this.#linger();
    }
  }

  /** Ends an exchange whose client sends, or takes, more slowly than that. True if it did. */
  #isTooSlow(now: number, perSecond: number): boolean {
    const socket = this.#socket;
    const { writableLength: outstanding, bytesWritten } = socket;
    if (outstanding === 0) this.#replyPace = undefined;
    else {
      this.#replyPace ??= new Pace(now, bytesWritten - outstanding);
      if (this.#replyPace.isTakenSlowly(now, bytesWritten, outstanding, perSecond)) {
        this.#giveUpOnReader(replyTooSlow(perSecond));
        return true;
      }
    }
    const exchange = this.#exchange;
    const waited = !this.#wasPaused;
    this.#wasPaused = socket.isPaused();
    if (exchange === undefined || this.#body === undefined || !owesBody(exchange)) {
      this.#requestPace = undefined;
      return false;
    }
    const { bytesReceived } = exchange;
    this.#requestPace ??= new Pace(now, bytesReceived);
    if (!this.#requestPace.isSlow(now, bytesReceived, waited && !this.#wasPaused, perSecond)) return false;
    this.#fail(bodyTooSlow(perSecond));
    return true;
  }

  #giveUpOnReader(error: SallyportError): void {
    const exchange = this.#exchange;
    // A response for a client that does not read would only wait behind the rest.
    if (exchange?.responded === true) this.cut(error);
    else resetSocket(this.#socket);
  }

  /** Ends an exchange whose waiting bytes the client, or the upstream, does not take. True if it did. */
  #isStalled(now: number, limitMs: number): boolean {
    const { writableLength: ofReply, bytesWritten } = this.#socket;
    const { bytesReceived = 0, carrier, upstreamPeer } = this.#exchange ?? {};
    const ofRequest = carrier?.waitingBytes ?? 0;
    if (ofReply + ofRequest === 0) {
      this.#backlog = undefined;
      return false;
    }
    this.#backlog ??= new ExchangeBacklog();
    const clientMs = stallMsFor(this.#connection.peer, limitMs);
    const upstreamMs = carrier?.gathers === true ? Number.POSITIVE_INFINITY : stallMsFor(upstreamPeer, limitMs);
    const reader = this.#backlog.look(
      now,
      clientMs,
      upstreamMs,
      ofReply,
      bytesWritten - ofReply,
      ofRequest,
      bytesReceived,
    );
    if (reader === 'client') this.#giveUpOnReader(stalled(reader, limitMs));
    else if (reader === 'upstream') this.cut(stalled(reader, limitMs));
    return reader !== undefined;
  }

  /** What the client has not taken of the response, and the upstream not of the request. */
  findHolders(now: number, found: Holder[]): void {
    const { writableLength: ofReply, bytesWritten } = this.#socket;
    const { bytesReceived = 0, carrier } = this.#exchange ?? {};
    const ofRequest = carrier?.waitingBytes ?? 0;
    const waitMs = this.#backlog?.waitMs(now, ofReply, bytesWritten - ofReply, ofRequest, bytesReceived);
    if (waitMs === undefined) return;
    const drop = (error: SallyportError): void => (ofReply > 0 ? this.#giveUpOnReader(error) : this.cut(error));
    found.push({ bytes: ofReply + ofRequest, waitMs, drop });
  }

  /** A response whose head is not sent yet says `Connection: close`. */
  drain(): void {
    this.#draining = true;
    if (this.#exchange === undefined && this.#held === undefined) this.#linger();
  }

  /** Closes with the next response, or once idle: closing at once could cross a request that is on its way. */
  retire(): void {
    this.#draining = true;
    const idleMs = coarseNow() - this.#connection.lastActive;
    if (this.#exchange === undefined && this.#held === undefined && idleMs >= retireIdleMs) this.#linger();
  }

  /** 1 at most. */
  get inFlight(): number {
    return this.#exchange === undefined ? 0 : 1;
  }

  /** Between two exchanges there is nothing to judge. */
  judge(): number {
    const refusal = this.#exchange === undefined ? undefined : this.#path.refusalOf(this.#exchange);
    if (refusal === undefined) return 0;
    this.cut(refusal);
    return 1;
  }

  /** A response that has begun is cut off without its end; otherwise the refusal is the response. */
  cut(error: SallyportError): void {
    const exchange = this.#exchange;
    if (exchange === undefined) {
      this.#linger();
      return;
    }
    exchange.keepAlive = false;
    const { carrier } = exchange;
    exchange.carrier = undefined;
    carrier?.downstreamGone();
    this.#path.refuse(exchange, error);
  }

  #giveUpOnHead(limits: Limits): void {
    if (this.#held === undefined || this.#held.length <= 2) {
      // No request has begun (an old client's empty line is none), so there is nothing to answer.
      this.#socket.destroy();
      return;
    }
    this.#fail(
      new SallyportError('head_timeout', `the request head did not arrive within ${limits.headMs} ms (limit head)`),
    );
  }

  #linger(): void {
    if (this.#lingerUntil !== undefined) return;
    // The time runs from when the response has left: a slow reader of a long one is not cut after two seconds.
    this.#lingerUntil = performance.now() + this.#connection.port.rules.current().limits.streamIdleMs;
    this.#socket.once('finish', () => {
      this.#lingerUntil = performance.now() + lingerMs;
    });
    this.#keep(undefined);
    this.#body = undefined;
    this.#socket.end();
    this.#socket.resume();
  }

  #discard(chunk: Buffer): void {
    this.#lingered += chunk.length;
    // Past the limit nothing more is read; the client, stopped by the full window, still finds our response.
    if (this.#lingered > lingerBytes) this.#socket.pause();
  }

  #onDrain = (): void => {
    if (this.#exchange === undefined) this.#next();
    else this.#exchange.carrier?.downstreamDrained();
  };

  #onEnd = (): void => {
    if (this.#lingerUntil !== undefined) {
      this.#socket.destroy();
    } else if (this.#exchange === undefined) {
      // Between requests, or in the middle of a head that will never be complete.
      this.#socket.end();
    } else {
      // A client that closes before its response has given up, as Envoy, nginx and Node treat it: the app is told,
      // since its work would be wasted.
      this.#socket.destroy();
    }
  };

  #onClose = (): void => {
    this.#keep(undefined);
    const exchange = this.#exchange;
    if (exchange === undefined) return;
    this.#exchange = undefined;
    endByClient(exchange, 'downstream_remote_disconnect');
    exchange.carrier?.downstreamGone();
    this.#path.finish(exchange);
  };
}

/** How the end of this response is signalled to this client. */
function framingOf(exchange: Exchange, reply: Reply, whole: Buffer | undefined): ReplyFraming {
  if (reply.status === 101 || opensTunnel(exchange, reply)) return 'none';
  if (reply.status === 204) return 'none';
  if (exchange.method === 'HEAD' || reply.status === 304) return reply.declaredLength ?? 'none';
  // The length of what is sent: a body that is printed in one piece has no chunks.
  if (whole !== undefined) return whole.length;
  if (typeof reply.framing === 'number') return reply.framing;
  // HTTP/1.0 has no chunks: the end of the connection is the end of the body.
  return exchange.minor === 1 ? 'chunked' : 'close';
}

/** RFC 9110 section 9.3.6: what follows is the tunnel. */
function opensTunnel(exchange: Exchange, reply: Reply): boolean {
  return exchange.method === 'CONNECT' && reply.status < 300;
}

/** An upstream in HTTP/2 has no handshake key; a client in HTTP/1.1 waits for the answer to its own. */
function withAccept(reply: Reply, exchange: Exchange): Reply {
  const key = exchange.fields.values[exchange.fields.names.findIndex(({ lower }) => lower === keyName.lower)];
  if (key === undefined || reply.fields.names.some(({ lower }) => lower === acceptName.lower)) return reply;
  const { names, values } = reply.fields;
  return { ...reply, fields: { names: [...names, acceptName], values: [...values, acceptOf(key)] } };
}

function ignore(): void {
  // 'close' follows and is enough; without a listener a reset would end the process.
}

/** One pass over the fields for everything that frames the message or belongs to this hop. */
function readRoles(exchange: Exchange): void {
  const { names, values } = exchange.fields;
  let length: string | undefined;
  let coding: string | undefined;
  let host: string | undefined;
  let upgrade: string | undefined;
  for (let i = 0; i < names.length; i++) {
    const which = names[i]!.role;
    if (which === role.plain) continue;
    const value = values[i]!;
    if (which === role.host) {
      if (host !== undefined) throw new SallyportError('host_invalid', 'the request has two Host fields');
      host = value;
    } else if (which === role.contentLength) {
      if (length !== undefined)
        throw new SallyportError('length_ambiguous', 'the request has two Content-Length fields');
      length = value;
    } else if (which === role.transferEncoding) {
      if (coding !== undefined)
        throw new SallyportError('transfer_encoding_ambiguous', 'the request has two Transfer-Encoding fields');
      coding = value;
    } else if (which === role.connection) readConnection(exchange, value);
    else if (which === role.upgrade) upgrade = value;
    else if (which === role.expect) readExpect(exchange, value);
    else if (which === role.requestId && exchange.requestId === '') exchange.requestId = value;
    else if (which === role.userAgent) exchange.userAgent = value;
    else if (which === role.traceParent) exchange.traceParent = exchange.traceParent === undefined ? value : '';
    // A gRPC refusal is a 200, which would look to the client of a CONNECT as if the tunnel were open.
    else if (which === role.contentType) exchange.grpc = exchange.method !== 'CONNECT' && isGrpc(value);
    else if (which === role.forwardedFor) exchange.forwardedFor = value;
  }
  exchange.authority = host ?? '';
  // RFC 9112 section 3.2: HTTP/1.1 without Host is 400.
  if (host === undefined && exchange.minor === 1)
    throw new SallyportError('host_missing', 'an HTTP/1.1 request has no Host field');
  exchange.framing = requestFraming(length, coding, exchange.minor);
  // WebSocket is the only protocol that a connection may switch to: with h2c and others we could not see the requests.
  exchange.webSocket =
    upgrade?.toLowerCase() === 'websocket' &&
    exchange.hopFields?.includes('upgrade') === true &&
    exchange.method === 'GET' &&
    exchange.minor === 1 &&
    exchange.framing === 0;
}

function readConnection(exchange: Exchange, value: string): void {
  // The usual two, without building a list.
  if (value === 'keep-alive' || value === 'Keep-Alive') {
    exchange.keepAlive = true;
    return;
  }
  const options = connectionOptions(value);
  if (options.includes('close')) exchange.keepAlive = false;
  else if (options.includes('keep-alive') && exchange.minor === 0) exchange.keepAlive = true;
  exchange.hopFields = exchange.hopFields === undefined ? options : [...exchange.hopFields, ...options];
}

function readExpect(exchange: Exchange, value: string): void {
  // RFC 9110 section 10.1.1: an unknown expectation is 417; HTTP/1.0 has none.
  if (value.toLowerCase() !== '100-continue')
    throw new SallyportError('expectation_failed', `the expectation '${printable(value)}' is not supported`);
  exchange.expectContinue = exchange.minor === 1;
}

/**
 * RFC 9112 section 6.3, without its tolerances: both lengths, or a coding that is not exactly chunked, are refused. If
 * chunked is not the last coding, or does not occur exactly once, the end of the body is unknown: 400.
 */
function requestFraming(length: string | undefined, coding: string | undefined, minor: number): Framing {
  if (coding === undefined) return length === undefined ? 0 : parseContentLength(length);
  if (length !== undefined)
    throw new SallyportError('length_ambiguous', 'the request has both Content-Length and Transfer-Encoding');
  if (minor === 0) throw new SallyportError('length_ambiguous', 'an HTTP/1.0 request has a Transfer-Encoding');
  if (coding.toLowerCase() !== 'chunked') {
    const codings = coding.split(',').map((one) => one.trim().toLowerCase());
    if (codings.at(-1) !== 'chunked' || codings.indexOf('chunked') !== codings.length - 1)
      throw new SallyportError(
        'transfer_encoding_ambiguous',
        `the transfer codings '${printable(coding)}' do not end with a single chunked`,
      );
    throw new SallyportError(
      'transfer_encoding_invalid',
      `the transfer coding '${printable(coding)}' is not supported; only chunked is`,
    );
  }
  return 'chunked';
}
