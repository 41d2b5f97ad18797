// The client side of HTTP/2: one connection to an upstream that carries many exchanges at once. The path sees each of
// its streams as a connection of its own.

import type { Socket } from 'node:net';
import { formatPlace } from '../../../cert-agent/base/address.ts';
import { reasonOf, SallyportError } from '../../../cert-agent/base/errors.ts';
import { holdSocket } from '../../exchange/held-bytes.ts';
import { type Call, emptyFields, type Fields, type Reply } from '../../exchange/message.ts';
import type { SpliceEnd, UpstreamConnection, UpstreamEvents, UpstreamPeer } from '../../exchange/upstream.ts';
import { Budget } from '../budget.ts';
import { owned } from '../lent-reads.ts';
import { StreamEnd } from '../stream-end.ts';
import { Http2Connection, type Http2Owner, peerGoesAway, sendTrailers } from './connection.ts';
import { errorCode } from './frames.ts';
import { type NewReply, readReply, readTrailers, writeRequest } from './head.ts';
import type { Block } from './hpack-decode.ts';
import type { Ending, Http2Stream, StreamEvents } from './stream.ts';

/** The pool. `gone` comes once, last. */
export interface Http2ClientOwner {
  /** Nothing is in flight on it. */
  quiet(client: Http2Client): void;
  /** A stream has ended; others continue. */
  freed?(client: Http2Client): void;
  /** The upstream may soon take its number of reset streams for an attack: no more should be opened on it. */
  worn?(client: Http2Client): void;
  /** The connection has ended: no stream may be opened. */
  gone(client: Http2Client): void;
}

/** `headBytes` and `headFields` limit each response's head. `peer` is undefined without mutual TLS. */
export interface Http2ClientOptions {
  readonly secure: boolean;
  readonly peer: UpstreamPeer | undefined;
  readonly address: string;
  readonly headBytes: number;
  readonly headFields: number;
}

/** With more in flight than this, another connection is opened: TCP and TLS deliver all of them in one order. */
const streamsEach = 100;

// What other servers tolerate. Envoy ends a connection, with everything on it, once half of its streams, of 500 or
// more, were reset before any response (`overload.premature_reset_total_stream_count`), which is 250 at the least;
// nghttp2, and Node with it, after 1,000 resets of any kind and 33 a second. A client that cancels its requests must
// not cause that, so no stream is opened once the streams open by then could be too many.
const envoyResets = 250;
const anyResets = 1000;
const anyResetsPerSecond = 33;

/** One connection. Take a stream with `take`; it is opened when its request is sent. */
export class Http2Client implements Http2Owner {
  readonly options: Http2ClientOptions;
  readonly localAddress: string;
  readonly http2: Http2Connection;
  /** A response has arrived on it: a later failure is not a refusal of our identity. */
  proven = false;
  /** performance.now() since when nothing is in flight. */
  quietSince = performance.now();
  readonly #owner: Http2ClientOwner;
  #retired = false;
  /** Streams that were taken and have not begun. */
  #promised = 0;
  /** Streams that are over, and those of them that we reset before a response had begun. */
  #over = 0;
  #unanswered = 0;
  readonly #resets = new Budget(anyResets - 2 * streamsEach, anyResetsPerSecond);

  constructor(socket: Socket, owner: Http2ClientOwner, options: Http2ClientOptions) {
    this.options = options;
    this.#owner = owner;
    holdSocket(socket);
    this.localAddress = formatPlace(socket.localAddress, socket.localPort);
    const { headBytes, headFields } = options;
    this.http2 = new Http2Connection(socket, { side: 'client', headBytes, headFields, streams: 0 }, this);
  }

  /** Includes streams that were taken: many may be taken before the first of them is open. */
  get hasRoom(): boolean {
    return !this.#retired && this.http2.hasRoom && this.load < Math.min(streamsEach, this.http2.maxPeerStreams);
  }

  /** Streams in flight, and those that were taken for one. */
  get load(): number {
    return this.http2.size + this.#promised;
  }

  /** A stream for one exchange. */
  take(): UpstreamConnection {
    this.#promised++;
    return new ClientStream(this);
  }

  /** Opens a stream that was taken. Only now, since stream numbers must rise in the order in which heads are sent. */
  open(): Http2Stream {
    this.#promised--;
    return this.http2.open();
  }

  /** Returns a taken stream that is not needed. */
  giveBack(): void {
    this.#promised--;
    this.#closeIfDone();
  }

  /** Accepts no more exchanges; closes when those in flight are over. */
  retire(): void {
    this.#retired = true;
    this.#closeIfDone();
  }

  #closeIfDone(): void {
    if (this.#retired && this.http2.size + this.#promised === 0) this.http2.close();
  }

  /** Never: servers that push are refused. */
  opened(): void {}

  /** Counts resets as upstreams do, to stop before they end the connection. */
  resetSent(stream: Http2Stream): void {
    if (!stream.headSeen) this.#unanswered++;
    const isWorn = this.#unanswered + streamsEach >= Math.max(envoyResets, this.#over / 2);
    if (!this.#resets.spend() || isWorn) this.#owner.worn?.(this);
  }

  /** Tells the pool that there is room, or nothing in flight. */
  ended(): void {
    this.#over++;
    if (this.http2.size > 0) return this.#owner.freed?.(this);
    this.quietSince = performance.now();
    if (this.#retired) this.#closeIfDone();
    else this.#owner.quiet(this);
  }

  /** After GOAWAY: streams in flight go on. */
  goingAway(): void {
    this.retire();
  }

  /** Every stream has been told before. */
  closed(): void {
    this.#owner.gone(this);
  }
}

const noBody = Buffer.alloc(0);

class ClientStream implements UpstreamConnection, StreamEvents {
  readonly reused: boolean;
  isUnsent = false;
  readonly #client: Http2Client;
  #begun: Http2Stream | undefined = undefined;
  #events: UpstreamEvents | undefined = undefined;
  #method = '';
  #webSocket = false;
  /** A response head that waits for a body that may have arrived with it. */
  #held: NewReply | undefined = undefined;
  /** Its body so far. It may be lent: what is held is given out before the end of the read. */
  #whole: Buffer | undefined = undefined;
  #replied = false;
  /** The response has ended before its request. */
  #isAnswered = false;

  constructor(client: Http2Client) {
    this.#client = client;
    this.reused = client.proven;
  }

  get secure(): boolean {
    return this.#client.options.secure;
  }

  get peer(): UpstreamPeer | undefined {
    return this.#client.options.peer;
  }

  get address(): string {
    return this.#client.options.address;
  }

  get localAddress(): string {
    return this.#client.localAddress;
  }

  get #stream(): Http2Stream {
    return this.#begun!;
  }

  // -- the request -------------------------------------------------------------------------------------------------

  send(call: Call, whole: Buffer | undefined, events: UpstreamEvents): void {
    // What they need may be refused, a token for example: before the stream is open and the encoder's table has changed.
    const { fields } = call;
    this.#events = events;
    this.#method = call.method;
    this.#begun = this.#client.open();
    this.#begun.events = this;
    if (this.#client.http2.isClosed) {
      this.isUnsent = true;
      queueMicrotask(() => this.closed(errorCode.none, 'the connection was closed', 'gone'));
      return;
    }
    this.#webSocket = call.webSocket;
    const ends = call.framing === 0 && !call.webSocket;
    const encoder = this.#client.http2.beginHead(this.#stream);
    if (encoder === undefined) return;
    writeRequest(encoder, call, fields, this.secure ? 'https' : 'http');
    this.#client.http2.sendHead(this.#stream, ends);
    if (whole !== undefined && !ends) this.#stream.writeWhole(whole);
  }

  get waitingBytes(): number {
    return this.#begun?.waitingBytes ?? 0;
  }

  write(chunk: Buffer): boolean {
    return this.#stream.write(chunk);
  }

  end(trailers: Fields): void {
    sendTrailers(this.#client.http2, this.#stream, trailers);
  }

  pause(): void {
    this.#stream.pause();
  }

  resume(): void {
    this.#stream.resume();
  }

  destroy(): void {
    this.#events = undefined;
    if (this.#begun === undefined) this.#client.giveBack();
    else this.#begun.reset(errorCode.cancel);
  }

  takeSocket(): SpliceEnd {
    const { http2 } = this.#client;
    const stream = this.#stream;
    this.#events = undefined;
    return { socket: new StreamEnd(stream, () => http2.sendEnd(stream)), rest: undefined };
  }

  // -- the response ------------------------------------------------------------------------------------------------

  head(block: Block, ended: boolean): void {
    const events = this.#events;
    this.#client.proven = true;
    if (events === undefined) return;
    try {
      if (this.#replied) return this.#end(this.#readTrailers(block, ended));
      const reply = readReply(block, ended, this.#method);
      if (reply.status < 200) {
        if (ended) throw new SallyportError('upstream_protocol', 'an interim response ends the stream');
        return events.upstreamInformational(reply);
      }
      this.#replied = true;
      this.#stream.headSeen = true;
      if (this.#webSocket && reply.status < 300 && !ended) return this.#becomeTunnel(reply);
      if (typeof reply.framing === 'number' && reply.framing > 0) this.#stream.expected = reply.framing;
      else if (reply.framing === 0) this.#stream.expected = 0;
      if (ended) {
        this.#events = undefined;
        events.upstreamReply(reply, noBody);
        return this.#stopAsking();
      }
      this.#held = reply;
      this.#client.http2.afterRead(this.#stream);
    } catch (error) {
      this.#stream.reset(errorCode.protocol);
      this.#failFor(reasonOf(error));
    }
  }

  /** Ends it for a fault of the upstream. A held response has not begun, since it was not reported yet. */
  #failFor(why: string): void {
    const isKnown = this.#replied && this.#held === undefined;
    this.#held = undefined;
    this.#whole = undefined;
    const code = isKnown ? 'upstream_answer_malformed' : 'upstream_protocol';
    this.#fail(new SallyportError(code, `${this.address} violated HTTP/2: ${why}`));
  }

  /** The path sees it as the 101 of HTTP/1.1. */
  #becomeTunnel(reply: Reply): void {
    this.#events?.upstreamReply({ ...reply, status: 101, framing: 0, declaredLength: undefined }, undefined);
  }

  #readTrailers(block: Block, ended: boolean): Fields {
    if (!ended) throw new SallyportError('upstream_protocol', 'trailers that do not end their stream');
    return readTrailers(block);
  }

  data(chunk: Buffer): void {
    if (this.#held !== undefined) {
      if (this.#whole === undefined) {
        this.#whole = chunk;
        return;
      }
      this.#release();
    }
    if (this.#events?.upstreamData(owned(chunk)) === false) this.#stream.pause();
  }

  ended(): void {
    const reply = this.#held;
    if (reply === undefined) return this.#end(emptyFields);
    const events = this.#events;
    // A response that arrived in one piece is passed on in one piece.
    if (this.#whole !== undefined || reply.framing === 0) {
      this.#held = undefined;
      this.#events = undefined;
      // Its length is known now, so that a client in HTTP/1.1 needs no chunks.
      const whole = this.#whole ?? noBody;
      reply.framing = whole.length;
      events?.upstreamReply(reply, whole);
      return this.#stopAsking();
    }
    this.#release();
    this.#end(emptyFields);
  }

  arrived(): void {
    this.#release();
    // A peer that wants no more of the request usually resets it in the same read.
    if (this.#isAnswered && !this.#stream.isEnding) this.#stream.reset(errorCode.cancel);
  }

  #release(): void {
    const reply = this.#held;
    const whole = this.#whole;
    if (reply === undefined) return;
    this.#held = undefined;
    this.#whole = undefined;
    this.#events?.upstreamReply(reply, undefined);
    if (whole !== undefined && this.#events?.upstreamData(owned(whole)) === false) this.#stream.pause();
  }

  #end(trailers: Fields): void {
    this.#release();
    const events = this.#events;
    this.#events = undefined;
    events?.upstreamEnd(trailers);
    this.#stopAsking();
  }

  /**
   * A response may end before its request does, and the rest of the request is never sent. A peer that waited for it
   * would keep the stream for ever, and we would count it as in flight.
   */
  #stopAsking(): void {
    if (this.#stream.isEnding) return;
    this.#isAnswered = true;
    this.#client.http2.afterRead(this.#stream);
  }

  drained(): void {
    this.#events?.upstreamDrained();
  }

  closed(code: number, why: string, ending: Ending): void {
    if (ending === 'fault') return this.#failFor(why);
    this.#release();
    this.isUnsent ||= why === peerGoesAway;
    this.#fail(this.#closedError(code, why));
  }

  #closedError(code: number, why: string): SallyportError {
    const { address } = this;
    if (this.#replied) return new SallyportError('upstream_cut', `${address} cut its response off: ${why}`);
    // RFC 9113 section 8.7: such a stream was not processed.
    if (code === errorCode.refusedStream)
      return new SallyportError('upstream_refused_stream', `${address} refused the stream: ${why}`);
    if (code !== errorCode.none)
      return new SallyportError('upstream_reset', `${address} reset the stream before it responded: ${why}`);
    if (this.secure && !this.#client.proven)
      return new SallyportError(
        'upstream_refused_us',
        `${address} closed after the handshake (is our SVID refused?): ${why}`,
      );
    return new SallyportError('upstream_closed', `${address} closed before it responded: ${why}`);
  }

  #fail(error: SallyportError): void {
    const events = this.#events;
    this.#events = undefined;
    events?.upstreamFailed(error);
  }
}
