// The server side of HTTP/2: each stream is an exchange of its own, many at once on one connection.

import { asSallyportError, SallyportError } from '../../../cert-agent/base/errors.ts';
import { type Connection, coarseNow, type Holder, type Speaker } from '../../connection.ts';
import { endByClient, fail } from '../../exchange/decision.ts';
import type { Downstream } from '../../exchange/ends.ts';
import { Exchange } from '../../exchange/exchange.ts';
import { hold } from '../../exchange/held-bytes.ts';
import type { Limits } from '../../exchange/limits.ts';
import { emptyFields, type Fields, type Reply } from '../../exchange/message.ts';
import type { SpliceEnd } from '../../exchange/upstream.ts';
import { Backlog, ExchangeBacklog, stalled, stallMsFor } from '../backlog.ts';
import { bodyTooLarge, isOverBodyLimit } from '../body-limit.ts';
import type { ServerPath } from '../http1/server.ts';
import { owned } from '../lent-reads.ts';
import { bodyTooSlow, owesBody, Pace, replyTooSlow } from '../pace.ts';
import { resetSocket } from '../reset.ts';
import { StreamEnd } from '../stream-end.ts';
import { Tunnel } from '../tunnel.ts';
import { Http2Connection, type Http2Owner, sendTrailers } from './connection.ts';
import { errorCode } from './frames.ts';
import { readRequest, readTrailers, writeReply } from './head.ts';
import type { Block } from './hpack-decode.ts';
import type { Ending, Http2Stream, StreamEvents } from './stream.ts';

/**
 * A peer carries the requests of many clients on one connection, and an app those for many upstreams; all are lost if
 * it ends. So only a flood that no such connection has counts against it. Strangers have their own connections, and are
 * limited there.
 */
const resetsOfOursPerSecond = 400;

/**
 * A request cancelled only after this long is limited by the number of streams, like one that waits for its response.
 */
const rapidMs = 100;

/** Longer than any round trip. */
const retireNoticeMs = 1000;

/** The speaker of one connection. */
export class Http2Server implements Speaker, Http2Owner {
  readonly kind = 'http';
  readonly connection: Connection;
  readonly path: ServerPath;
  readonly http2: Http2Connection;
  readonly #tunnels = new Set<Tunnel>();
  #draining = false;
  /** performance.now() at which the client got the notice that this connection is about to end. */
  #retiring: number | undefined = undefined;
  /** The pace of what all streams together have waiting in the socket. */
  #pace: Pace | undefined = undefined;
  #backlog: Backlog | undefined = undefined;

  constructor(connection: Connection, path: ServerPath) {
    this.connection = connection;
    this.path = path;
    const { headBytes, headFields, streams } = connection.port.rules.current().limits;
    const isOurs = connection.peer !== undefined || connection.port.rules.current().direction === 'outbound';
    const resetsPerSecond = isOurs ? resetsOfOursPerSecond : undefined;
    this.http2 = new Http2Connection(
      connection.socket,
      { side: 'server', headBytes, headFields, streams, ...(resetsPerSecond && { resetsPerSecond }) },
      this,
    );
  }

  /** The exchange begins with the head that follows. */
  opened(stream: Http2Stream): void {
    stream.events = new ServerStream(this, stream);
  }

  /** While draining, the last stream closes the connection. */
  ended(): void {
    if (this.#draining && this.http2.size === 0) this.http2.close();
  }

  /** After the client's GOAWAY: streams in flight go on. */
  goingAway(): void {
    if (this.http2.size === 0) this.http2.close();
  }

  /** Nothing: each stream has ended its own exchange. */
  closed(): void {}

  /** Limits of the connection, and of each exchange and tunnel on it. */
  tick(now: number): void {
    const { limits } = this.connection.port.rules.current();
    const { http2 } = this;
    http2.tick(now);
    if (this.#retiring !== undefined && now - this.#retiring > retireNoticeMs) this.#endRetired();
    if (http2.headSince !== undefined && now - http2.headSince > limits.headMs) this.connection.socket.destroy();
    else if (http2.size === 0) {
      if (now - this.connection.lastActive > limits.clientIdleMs) http2.close();
    } else for (const one of this.#inFlight()) one.tick(now, limits);
    if (limits.slowBytesPerSecond > 0) this.#checkPace(now, limits.slowBytesPerSecond);
    this.#checkStall(now, limits.streamStallMs);
  }

  /** The same for a client that takes nothing at all. */
  #checkStall(now: number, limitMs: number): void {
    const { socket } = this.connection;
    const { writableLength: waiting } = socket;
    const moved = socket.bytesWritten - waiting;
    if (waiting === 0) this.#backlog = undefined;
    else {
      this.#backlog ??= new Backlog(now, moved);
      if (this.#backlog.isStalled(now, moved, stallMsFor(this.connection.peer, limitMs)))
        this.#giveUp(stalled('client', limitMs));
    }
  }

  /** A response for a client that does not read would only wait behind the rest. */
  #giveUp(error: SallyportError): void {
    for (const one of this.#inFlight()) one.cut(error);
    resetSocket(this.connection.socket);
  }

  /** Each exchange for itself, and what the client's socket has not taken for all of them. */
  findHolders(now: number, found: Holder[]): void {
    for (const one of this.#inFlight()) one.findHolders(now, found);
    const { socket } = this.connection;
    const { writableLength: bytes } = socket;
    if (bytes === 0 || this.#backlog === undefined) return;
    const waitMs = this.#backlog.waitMs(now, bytes, socket.bytesWritten - bytes);
    found.push({ bytes, waitMs, drop: (error) => this.#giveUp(error) });
  }

  /** Checks for a client that does not read its socket, even if its windows are open. */
  #checkPace(now: number, perSecond: number): void {
    const { socket } = this.connection;
    const { writableLength: outstanding, bytesWritten } = socket;
    if (outstanding === 0) this.#pace = undefined;
    else {
      this.#pace ??= new Pace(now, bytesWritten - outstanding);
      if (this.#pace.isTakenSlowly(now, bytesWritten, outstanding, perSecond)) resetSocket(socket);
    }
  }

  /** Sends GOAWAY at once: a client may retry later streams elsewhere (RFC 9113 section 6.8). */
  drain(): void {
    this.#draining = true;
    this.http2.goAway();
    for (const tunnel of this.#tunnels) tunnel.drain();
    this.ended();
  }

  /**
   * RFC 9113 section 6.8: first a notice, since streams may be on their way; then the end, which refuses later streams.
   */
  retire(): void {
    if (this.#retiring !== undefined || this.#draining) return;
    this.#retiring = performance.now();
    this.http2.announceEnd();
  }

  #endRetired(): void {
    this.#draining = true;
    this.http2.goAway();
    this.ended();
  }

  /** Streams, tunnels among them. */
  get inFlight(): number {
    return this.http2.size;
  }

  /** Others on the connection go on. */
  judge(): number {
    let ended = 0;
    for (const one of this.#inFlight()) ended += one.judge();
    return ended;
  }

  /** Each exchange is answered or cut off by itself before the connection goes. */
  cut(error: SallyportError): void {
    for (const one of this.#inFlight()) one.cut(error);
    this.http2.close(error.code === 'draining' ? errorCode.none : errorCode.inadequateSecurity, error.code);
  }

  /** A copy, since the callbacks may end its members. */
  #inFlight(): InFlight[] {
    return [
      ...this.#tunnels,
      ...this.http2.streams().flatMap(({ events }) => (events instanceof ServerStream ? [events] : [])),
    ];
  }

  /** A stream has become a tunnel. */
  tunnelled(tunnel: Tunnel): void {
    this.#tunnels.add(tunnel);
    void tunnel.closed.then(() => this.#tunnels.delete(tunnel));
  }
}

const none: readonly Buffer[] = [];

/** What a connection has in flight: exchanges, and the tunnels that they became. */
interface InFlight {
  tick(now: number, limits: Limits): void;
  findHolders(now: number, found: Holder[]): void;
  judge(): number;
  cut(error: SallyportError): void;
}

class ServerStream implements Downstream, StreamEvents, InFlight {
  readonly #server: Http2Server;
  readonly #stream: Http2Stream;
  readonly #exchange: Exchange;
  #lastActive = coarseNow();
  /** The head has arrived and waits for a body that may have arrived with it. */
  #held = false;
  /** What has arrived of the body meanwhile. */
  #parts: Buffer[] | undefined = undefined;
  #partBytes = 0;
  /** The paces of the arriving body and of what waits for the client's windows; present only while needed. */
  #requestPace: Pace | undefined = undefined;
  #replyPace: Pace | undefined = undefined;
  /** Present while something waits for the client or the upstream. */
  #backlog: ExchangeBacklog | undefined = undefined;
  /** We have paused the client since the last tick. */
  #wasPaused = false;

  constructor(server: Http2Server, stream: Http2Stream) {
    this.#server = server;
    this.#stream = stream;
    this.#exchange = new Exchange(server.connection, this, server.connection.port.rules.current(), emptyFields);
  }

  tick(now: number, limits: Limits): void {
    if (limits.slowBytesPerSecond > 0 && this.#isTooSlow(now, limits.slowBytesPerSecond)) return;
    if (this.#isStalled(now, limits.streamStallMs)) return;
    if (now - this.#lastActive <= limits.streamIdleMs) {
      if (Date.now() > this.#exchange.validUntil) this.judge();
      return;
    }
    // A finished response may still wait here for a peer that opens no window: it is not kept for ever.
    if (this.#exchange.finished) this.#stream.reset(errorCode.cancel);
    else this.#exchange.carrier?.idle();
  }

  /** Ends an exchange whose waiting bytes the client, or the upstream, does not take. True if it did. */
  #isStalled(now: number, limitMs: number): boolean {
    const { bytesSent, bytesReceived, carrier, upstreamPeer } = this.#exchange;
    const ofReply = this.#stream.waitingBytes;
    const ofRequest = carrier?.waitingBytes ?? 0;
    if (ofReply + ofRequest === 0) {
      this.#backlog = undefined;
      return false;
    }
    this.#backlog ??= new ExchangeBacklog();
    const clientMs = stallMsFor(this.#server.connection.peer, limitMs);
    const upstreamMs = carrier?.gathers === true ? Number.POSITIVE_INFINITY : stallMsFor(upstreamPeer, limitMs);
    const reader = this.#backlog.look(
      now,
      clientMs,
      upstreamMs,
      ofReply,
      bytesSent - ofReply,
      ofRequest,
      bytesReceived,
    );
    if (reader !== undefined) this.#drop(stalled(reader, limitMs));
    return reader !== undefined;
  }

  findHolders(now: number, found: Holder[]): void {
    const { bytesSent, bytesReceived, carrier } = this.#exchange;
    const ofReply = this.#stream.waitingBytes;
    const ofRequest = carrier?.waitingBytes ?? 0;
    const waitMs = this.#backlog?.waitMs(now, ofReply, bytesSent - ofReply, ofRequest, bytesReceived);
    if (waitMs !== undefined) found.push({ bytes: ofReply + ofRequest, waitMs, drop: (error) => this.#drop(error) });
  }

  /** A recorded exchange may still have bytes waiting here. */
  #drop(error: SallyportError): void {
    if (this.#exchange.finished) this.#stream.reset(errorCode.cancel);
    else this.cut(error);
  }

  /** Ends an exchange whose client sends, or takes, more slowly than that. True if it did. */
  #isTooSlow(now: number, perSecond: number): boolean {
    const exchange = this.#exchange;
    const stream = this.#stream;
    const outstanding = stream.waitingBytes;
    if (outstanding === 0) this.#replyPace = undefined;
    else {
      this.#replyPace ??= new Pace(now, exchange.bytesSent - outstanding);
      if (this.#replyPace.isTakenSlowly(now, exchange.bytesSent, outstanding, perSecond)) {
        this.#drop(replyTooSlow(perSecond));
        return true;
      }
    }
    const waited = !this.#wasPaused;
    this.#wasPaused = stream.isPaused;
    const arrives = !stream.remoteEnded && !exchange.finished && !this.#becomesTunnel && owesBody(exchange);
    if (!arrives) {
      this.#requestPace = undefined;
      return false;
    }
    this.#requestPace ??= new Pace(now, exchange.bytesReceived);
    if (!this.#requestPace.isSlow(now, exchange.bytesReceived, waited && !this.#wasPaused, perSecond)) return false;
    this.cut(bodyTooSlow(perSecond));
    return true;
  }

  judge(): number {
    const exchange = this.#exchange;
    const refusal = this.#server.path.refusalOf(exchange);
    if (refusal === undefined) return 0;
    // A recorded exchange may still have bytes waiting here for a reader that must not get them any more.
    if (exchange.finished) this.#stream.reset(errorCode.inadequateSecurity);
    else this.cut(refusal);
    return 1;
  }

  /** A response that has begun is reset; otherwise the refusal is the response. */
  cut(error: SallyportError): void {
    const exchange = this.#exchange;
    if (exchange.finished) return;
    this.#held = false;
    const { carrier } = exchange;
    exchange.carrier = undefined;
    carrier?.downstreamGone();
    this.#server.path.refuse(exchange, error);
  }

  get #becomesTunnel(): boolean {
    return this.#exchange.webSocket || this.#exchange.method === 'CONNECT';
  }

  // -- what arrives ------------------------------------------------------------------------------------------------

  head(block: Block, ended: boolean): void {
    const exchange = this.#exchange;
    const stream = this.#stream;
    this.#touch();
    if (stream.headSeen) return this.#trailers(block, ended);
    stream.headSeen = true;
    try {
      readRequest(block, ended, exchange);
    } catch (error) {
      return this.#refuse(error);
    }
    // What follows the head of a tunnel belongs to the tunnel.
    if (this.#becomesTunnel) return this.#server.path.serve(exchange);
    if (typeof exchange.framing === 'number') stream.expected = exchange.framing;
    if (ended) return this.#server.path.serve(exchange);
    this.#held = true;
    this.#server.http2.afterRead(stream);
  }

  data(lent: Buffer): void {
    // It is answered, and only its response waits: nobody would take what is held, nor count it off again.
    if (this.#exchange.finished) return;
    const chunk = owned(lent);
    this.#touch();
    this.#exchange.bytesReceived += chunk.length;
    if (this.#held || this.#becomesTunnel) {
      this.#parts ??= [];
      this.#parts.push(chunk);
      this.#partBytes += chunk.length;
      hold(chunk.length);
      // For a tunnel that is not open yet no more than one window is kept.
      if (!this.#held) this.#stream.pause();
    } else if (isOverBodyLimit(this.#exchange)) this.cut(bodyTooLarge(this.#exchange));
    else if (this.#exchange.carrier?.requestData(chunk) === false) this.pause();
  }

  ended(): void {
    if (this.#held) this.#release(emptyFields);
    else this.#exchange.carrier?.requestEnd(emptyFields);
  }

  arrived(): void {
    this.#release(undefined);
  }

  #trailers(block: Block, ended: boolean): void {
    let trailers: Fields;
    try {
      if (!ended) throw new SallyportError('http2_protocol', 'trailers that do not end their stream');
      trailers = readTrailers(block);
    } catch (error) {
      return this.#refuse(error);
    }
    if (this.#held) this.#release(trailers);
    else this.#exchange.carrier?.requestEnd(trailers);
  }

  /** Serves the exchange: with its whole body if that has arrived, else with the part that has. */
  #release(trailers: Fields | undefined): void {
    if (!this.#held) return;
    this.#held = false;
    const exchange = this.#exchange;
    const partBytes = this.#partBytes;
    const parts = this.#takeParts();
    if (trailers !== undefined && trailers.names.length === 0 && partBytes > 0) {
      // Its length is known now, so that an upstream in HTTP/1.1 needs no chunks.
      exchange.framing = partBytes;
      exchange.wholeBody = parts.length === 1 ? parts[0] : Buffer.concat(parts);
      this.#server.path.serve(exchange);
      return;
    }
    if (trailers !== undefined && partBytes === 0 && trailers.names.length === 0) exchange.framing = 0;
    this.#server.path.serve(exchange);
    if (isOverBodyLimit(exchange)) return this.cut(bodyTooLarge(exchange));
    for (const part of parts) if (exchange.carrier?.requestData(part) === false) this.pause();
    if (trailers !== undefined && exchange.framing !== 0) exchange.carrier?.requestEnd(trailers);
  }

  /** The end of the exchange calls it as well. */
  #takeParts(): readonly Buffer[] {
    const parts = this.#parts ?? none;
    hold(-this.#partBytes);
    this.#partBytes = 0;
    this.#parts = undefined;
    return parts;
  }

  drained(): void {
    this.#touch();
    this.#exchange.carrier?.downstreamDrained();
  }

  closed(code: number, why: string, ending: Ending): void {
    const exchange = this.#exchange;
    this.#held = false;
    this.#takeParts();
    if (exchange.finished) return;
    const isRapid = ending === 'reset' && !exchange.responded && performance.now() - exchange.started < rapidMs;
    endByClient(
      exchange,
      code === errorCode.protocol ? `downstream_protocol_error{${why}}` : 'downstream_remote_disconnect',
    );
    const { carrier } = exchange;
    exchange.carrier = undefined;
    carrier?.downstreamGone();
    this.#server.path.finish(exchange);
    if (isRapid) this.#server.http2.countReset();
  }

  #refuse(thrown: unknown): void {
    const exchange = this.#exchange;
    const error = asSallyportError(thrown, 'internal', 'the request could not be served');
    this.#held = false;
    const { carrier } = exchange;
    exchange.carrier = undefined;
    carrier?.downstreamGone();
    // Section 8.1.1: a malformed message is no request, and gets no response. A refused request gets one.
    if (exchange.responded || error.code === 'http2_protocol') {
      fail(exchange, error);
      this.#takeParts();
      this.#stream.reset(errorCode.protocol);
      this.#server.path.finish(exchange);
      this.#server.http2.countReset();
    } else this.#server.path.refuse(exchange, error);
  }

  #touch(): void {
    this.#lastActive = coarseNow();
    this.#server.connection.lastActive = this.#lastActive;
  }

  // -- what is answered --------------------------------------------------------------------------------------------

  informational(reply: Reply): void {
    if (reply.status !== 101) this.#sendReply(reply, reply.status, undefined, false);
  }

  respond(reply: Reply, whole: Buffer | undefined): void {
    const exchange = this.#exchange;
    exchange.responded = true;
    this.#touch();
    if (reply.status === 101 || (exchange.method === 'CONNECT' && reply.status < 300)) {
      // RFC 8441 section 5: the upgrade is a plain success here.
      return this.#sendReply(reply, reply.status === 101 ? 200 : reply.status, undefined, false);
    }
    const bodiless = exchange.method === 'HEAD' || reply.status === 204 || reply.status === 304;
    const declared = bodiless ? reply.declaredLength : typeof reply.framing === 'number' ? reply.framing : undefined;
    // Trailers alone, as gRPC sends them, are not a message of length 0.
    const length = exchange.grpc && whole?.length === 0 ? undefined : declared;
    const ends = bodiless || whole?.length === 0;
    this.#sendReply(reply, reply.status, reply.status === 204 ? undefined : length, ends && whole !== undefined);
    if (whole === undefined) return;
    if (!ends) {
      exchange.bytesSent += whole.length;
      this.#stream.writeWhole(whole);
    }
    this.#finish();
  }

  #sendReply(reply: Reply, status: number, length: number | undefined, ends: boolean): void {
    const { http2 } = this.#server;
    const encoder = http2.beginHead(this.#stream);
    if (encoder === undefined) return;
    writeReply(encoder, reply, status, length);
    http2.sendHead(this.#stream, ends);
  }

  write(chunk: Buffer): boolean {
    this.#exchange.bytesSent += chunk.length;
    this.#touch();
    return this.#stream.write(chunk);
  }

  end(trailers: Fields): void {
    sendTrailers(this.#server.http2, this.#stream, trailers);
    this.#finish();
  }

  abort(): void {
    this.#takeParts();
    this.#stream.reset(resetCodeFor(this.#exchange.failure));
    this.#server.path.finish(this.#exchange);
  }

  pause(): void {
    this.#wasPaused = true;
    this.#stream.pause();
  }

  resume(): void {
    this.#stream.resume();
  }

  tunnel(upstream: SpliceEnd): void {
    const exchange = this.#exchange;
    const { http2, path } = this.#server;
    const stream = this.#stream;
    const parts = this.#takeParts();
    const rest = parts.length === 0 ? undefined : Buffer.concat(parts);
    exchange.bytesReceived = 0;
    const end = new StreamEnd(stream, () => http2.sendEnd(stream));
    const tunnel = new Tunnel(exchange, { socket: end, rest }, upstream, path.refusalOf);
    this.#server.tunnelled(tunnel);
    void tunnel.closed.then(() => path.finish(exchange));
  }

  /** RFC 9113 section 8.1: a response before the end of its request is followed by a reset with NO_ERROR. */
  #finish(): void {
    this.#exchange.carrier = undefined;
    this.#takeParts();
    this.#server.path.finish(this.#exchange);
    const stream = this.#stream;
    if (!stream.remoteEnded) stream.endWithReset(errorCode.none);
  }
}

/** Section 7. A withdrawn decision becomes the code that gRPC reads as PERMISSION_DENIED. */
function resetCodeFor(failure: SallyportError | undefined): number {
  const refused = failure?.row.grpc === 7 || failure?.row.grpc === 16;
  return refused ? errorCode.inadequateSecurity : errorCode.internal;
}
