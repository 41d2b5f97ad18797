// The client side of HTTP/1.1: one connection to an upstream, one exchange at a time, reused while both sides agree.
// It owns its socket; the pool owns it while it is idle, otherwise the exchange that acquired it does.

import type { Socket } from 'node:net';
import { performance } from 'node:perf_hooks';
import { formatPlace } from '../../../cert-agent/base/address.ts';
import { reasonOf, SallyportError } from '../../../cert-agent/base/errors.ts';
import { holdSocket } from '../../exchange/held-bytes.ts';
import { type Call, type Fields, type Framing, printable, type Reply, role } from '../../exchange/message.ts';
import type { SpliceEnd, UpstreamConnection, UpstreamEvents, UpstreamPeer } from '../../exchange/upstream.ts';
import { keepLent, LentReads } from '../lent-reads.ts';
import { resetSocket } from '../reset.ts';
import { acceptName, acceptOf, keyName, newKey } from '../websocket.ts';
import { type BodyReader, type BodySink, createBodyReader } from './body.ts';
import {
  checkHead,
  connectionOptions,
  endOfLine,
  parseContentLength,
  readFields,
  readStatusLine,
  type StatusLine,
} from './head.ts';
import { corkForTurn, printLastChunk, printRequest, writeBody, writeHead, writeTogether } from './print.ts';

/**
 * The pool, or the only user of the connection. `released` comes after each exchange that leaves it usable, `gone`
 * once, last.
 */
export interface ClientOwner {
  /** The exchange is over and the connection can be reused. */
  released(client: Http1Client): void;
  /** The connection is closed, for whatever reason. */
  gone(client: Http1Client): void;
}

/** `headBytes` and `headFields` limit the response's head. `peer` is undefined without mutual TLS. */
export interface ClientOptions {
  readonly secure: boolean;
  readonly peer: UpstreamPeer | undefined;
  readonly address: string;
  readonly headBytes: number;
  readonly headFields: number;
  /** How long an upstream that announces nothing is trusted to keep an idle connection, milliseconds. */
  readonly idleMs: number;
}

const endOfHead = Buffer.from('\r\n\r\n');
const noBody = Buffer.alloc(0);

/** One connection. It destroys itself on errors, and says so by `gone`. */
export class Http1Client implements UpstreamConnection, BodySink {
  readonly secure: boolean;
  readonly peer: UpstreamPeer | undefined;
  readonly address: string;
  readonly localAddress: string;
  reused = false;
  /** performance.now() until which it may be taken from the pool. */
  usableUntil: number;

  readonly #socket: Socket;
  readonly #owner: ClientOwner;
  readonly #options: ClientOptions;
  #events: UpstreamEvents | undefined = undefined;
  #method = '';
  #webSocket = false;
  readonly #reads: LentReads;
  /** What is consumed now is lent. */
  #isLent = false;
  #held: Buffer | undefined = undefined;
  #body: BodyReader | undefined = undefined;
  /** The trailers of a body that has ended but is not reported yet. */
  #ended: Fields | undefined = undefined;
  /** The expected Sec-WebSocket-Accept for a key of ours. */
  #accept: string | undefined = undefined;
  #requestDone = false;
  #chunkedRequest = false;
  #received = false;
  #replied = false;
  #keep = true;
  #closed = false;

  constructor(socket: Socket, owner: ClientOwner, options: ClientOptions) {
    this.#socket = socket;
    this.#owner = owner;
    this.#options = options;
    this.secure = options.secure;
    this.peer = options.peer;
    this.address = options.address;
    this.usableUntil = performance.now() + options.idleMs;
    this.localAddress = formatPlace(socket.localAddress, socket.localPort);
    holdSocket(socket);
    this.#reads = new LentReads(socket, this.#onData);
    socket.on('drain', this.#onDrain);
    socket.on('end', this.#onEnd);
    socket.on('error', this.#onError);
    socket.on('close', this.#onClose);
  }

  // -- the request -------------------------------------------------------------------------------------------------

  /** Begins the only exchange of this connection until `released`. With `whole`, no body follows. */
  send(call: Call, whole: Buffer | undefined, events: UpstreamEvents): void {
    this.#events = events;
    this.#method = call.method;
    this.#webSocket = call.webSocket;
    this.#accept = undefined;
    this.#received = false;
    this.#replied = false;
    this.#keep = true;
    this.#chunkedRequest = call.framing === 'chunked';
    this.#requestDone = call.framing === 0 || whole !== undefined;
    const head = printRequest(call, call.webSocket ? this.#withKey(call.fields) : call.fields);
    if (whole !== undefined) writeTogether(this.#socket, head, whole);
    else {
      if (!this.#requestDone) corkForTurn(this.#socket);
      writeHead(this.#socket, head);
    }
  }

  /** A client in HTTP/2 sent no key; an app in HTTP/1.1 needs one, and we must then check its answer. */
  #withKey(fields: Fields): Fields {
    const { names, values } = fields;
    if (names.some(({ lower }) => lower === keyName.lower)) return fields;
    const key = newKey();
    this.#accept = acceptOf(key);
    return { names: [...names, keyName], values: [...values, key] };
  }

  /** Bytes of the request that the upstream's socket has not taken. */
  get waitingBytes(): number {
    return this.#socket.writableLength;
  }

  /** False asks to wait for `upstreamDrained`. Adds chunk framing where the request has it. */
  write(chunk: Buffer): boolean {
    return writeBody(this.#socket, chunk, this.#chunkedRequest);
  }

  /** Trailers go with a chunked body only: no other has a place for them. */
  end(trailers: Fields): void {
    if (this.#chunkedRequest) writeHead(this.#socket, printLastChunk(trailers));
    this.#requestDone = true;
  }

  /** Stops reading the response. TCP then slows the upstream. */
  pause(): void {
    this.#socket.pause();
  }

  /** Reads on. Harmless if it was not paused. */
  resume(): void {
    this.#socket.resume();
  }

  /** Gives up on the exchange and its connection. No event follows. */
  destroy(): void {
    const inFlight = this.#events !== undefined;
    this.#events = undefined;
    // In the middle of an exchange the other side must see an abort: an end alone reads as a half-close.
    if (inFlight) resetSocket(this.#socket);
    else this.#socket.destroy();
  }

  /** After a 101. The caller owns and closes the socket from then on; `rest` was read past the head. */
  takeSocket(): SpliceEnd {
    const rest = this.#held;
    this.#held = undefined;
    this.#events = undefined;
    this.#reads.stop();
    this.#socket.off('drain', this.#onDrain).off('end', this.#onEnd).off('error', this.#onError);
    return { socket: this.#socket, rest };
  }

  // -- the response ------------------------------------------------------------------------------------------------

  #onData = (chunk: Buffer, isLent: boolean): void => {
    if (this.#events === undefined) {
      // A response without a request: the next client's request would get it.
      this.#socket.destroy();
      return;
    }
    this.#received = true;
    this.#isLent = isLent && this.#held === undefined;
    const buffer = this.#held === undefined ? chunk : Buffer.concat([this.#held, chunk]);
    this.#held = undefined;
    try {
      this.#consume(buffer);
    } catch (error) {
      this.#fail(toUpstreamError(error, this.#replied));
    }
  };

  /** These bytes, to be kept for longer than this call. */
  #own(bytes: Buffer): Buffer {
    return this.#isLent ? keepLent(bytes) : bytes;
  }

  #consume(buffer: Buffer): void {
    let at = 0;
    while (at < buffer.length) {
      if (this.#events === undefined) {
        this.#socket.destroy();
        return;
      }
      if (this.#body !== undefined) {
        at = this.#body.read(buffer, at, this);
        this.#reportEnd(at < buffer.length);
        continue;
      }
      const next = this.#readHead(buffer, at);
      if (next === -1) return;
      at = next;
    }
  }

  /** Consumes one head, and the body with it if complete. -1 if it is not complete or the socket was taken. */
  #readHead(buffer: Buffer, at: number): number {
    const end = buffer.indexOf(endOfHead, at);
    const { headBytes, headFields } = this.#options;
    if ((end === -1 ? buffer.length : end) - at > headBytes) {
      throw new SallyportError(
        'upstream_head_too_large',
        `the response head is larger than ${headBytes} bytes (limit headBytes)`,
      );
    }
    if (end === -1) {
      checkHead(buffer, at, buffer[buffer.length - 1] === 13 ? buffer.length - 1 : buffer.length);
      this.#held = this.#own(buffer.subarray(at));
      return -1;
    }
    checkHead(buffer, at, end);
    const lineEnd = endOfLine(buffer, at, end);
    const start = readStatusLine(buffer, at, lineEnd);
    const fields = readFields(buffer, lineEnd + 2, end, headFields);
    return this.#takeHead(start, fields, buffer, end + 4);
  }

  #takeHead(start: StatusLine, fields: Fields, buffer: Buffer, at: number): number {
    const events = this.#events!;
    const reply = this.#readReply(start, fields);
    if (start.status < 200) {
      if (start.status !== 101) {
        events.upstreamInformational(reply);
        return at;
      }
      if (!this.#webSocket)
        throw new SallyportError('upstream_protocol', 'the upstream switched protocols without a request for it');
      const accept = fields.values[fields.names.findIndex(({ lower }) => lower === acceptName.lower)];
      if (this.#accept !== undefined && accept !== this.#accept)
        throw new SallyportError('upstream_protocol', 'the upstream returned a wrong Sec-WebSocket-Accept');
      this.#held = at < buffer.length ? this.#own(buffer.subarray(at)) : undefined;
      events.upstreamReply(reply, undefined);
      return -1;
    }
    this.#replied = true;
    const { framing } = reply;
    if (typeof framing === 'number' && buffer.length - at >= framing) {
      const whole = framing === 0 ? noBody : buffer.subarray(at, at + framing);
      this.#finish(at + framing < buffer.length);
      events.upstreamReply(reply, whole);
      return at + framing;
    }
    this.#body = createBodyReader(framing);
    events.upstreamReply(reply, undefined);
    return at;
  }

  /** For the body's reader only. */
  bodyData(chunk: Buffer): void {
    if (this.#events?.upstreamData(this.#own(chunk)) === false) this.#socket.pause();
  }

  /** For the body's reader only. The end is reported after the whole buffer was looked at. */
  bodyEnd(trailers: Fields): void {
    this.#body = undefined;
    this.#ended = trailers;
  }

  /**
   * Only now is it known whether bytes follow the body. That must be checked before the end is reported: the next
   * request may be sent on this connection at once, and would take those bytes for its response.
   */
  #reportEnd(excess: boolean): void {
    const trailers = this.#ended;
    if (trailers === undefined) return;
    this.#ended = undefined;
    const events = this.#events;
    this.#finish(excess);
    events?.upstreamEnd(trailers);
  }

  /** The response is complete. The connection goes back to the pool if both sides can reuse it, else it is closed. */
  #finish(excess: boolean): void {
    this.#events = undefined;
    this.reused = true;
    if (this.#keep && this.#requestDone && !excess && !this.#closed) {
      // A client that could not take the last bytes has paused us, and is no longer there to resume.
      this.#socket.resume();
      this.#owner.released(this);
    } else this.#socket.destroy();
  }

  /** RFC 9112 section 6.3 for responses; one that two parsers could end in two places is refused. */
  #readReply(start: StatusLine, fields: Fields): Reply {
    const { names, values } = fields;
    let length: string | undefined;
    let coding: string | undefined;
    let hopFields: string[] | undefined;
    this.#keep = start.minor === 1;
    this.usableUntil = performance.now() + this.#options.idleMs;
    for (let i = 0; i < names.length; i++) {
      const which = names[i]!.role;
      if (which === role.plain) continue;
      const value = values[i]!;
      if (which === role.contentLength) {
        if (length !== undefined)
          throw new SallyportError('upstream_protocol', 'the response has two Content-Length fields');
        length = value;
      } else if (which === role.transferEncoding) {
        if (coding !== undefined)
          throw new SallyportError('upstream_protocol', 'the response has two Transfer-Encoding fields');
        coding = value;
      } else if (which === role.connection) {
        const options = connectionOptions(value);
        if (options.includes('close')) this.#keep = false;
        else if (options.includes('keep-alive')) this.#keep = true;
        hopFields = [...(hopFields ?? []), ...options];
      } else if (which === role.keepAlive) this.#readKeepAlive(value);
    }
    const framing = replyFraming(this.#method, start, length, coding);
    if (framing === 'close') this.#keep = false;
    const declaredLength = length === undefined ? undefined : parseContentLength(length);
    return { status: start.status, reason: start.reason, fields, hopFields, framing, declaredLength };
  }

  /** `Keep-Alive: timeout=5`: not used in the last second, when the other side may already be closing it. */
  #readKeepAlive(value: string): void {
    const seconds = /(?:^|[,\s])timeout=(\d{1,6})/i.exec(value)?.[1];
    if (seconds !== undefined) this.usableUntil = performance.now() + (Number(seconds) - 1) * 1000;
  }

  // -- how it ends -------------------------------------------------------------------------------------------------

  #onDrain = (): void => {
    this.#events?.upstreamDrained();
  };

  #onEnd = (): void => {
    const events = this.#events;
    if (events !== undefined && this.#body?.endsWithConnection(this) === true) return this.#reportEnd(false);
    this.#fail(this.#closedError('closed the connection'));
    this.#socket.destroy();
  };

  #onError = (error: Error): void => {
    this.#fail(this.#closedError(reasonOf(error)));
  };

  #onClose = (): void => {
    this.#closed = true;
    this.#fail(this.#closedError('closed the connection'));
    this.#owner.gone(this);
  };

  #closedError(what: string): SallyportError {
    if (this.#replied)
      return new SallyportError('upstream_cut', `${this.address} ${what} in the middle of its response`);
    if (this.#received)
      return new SallyportError('upstream_protocol', `${this.address} ${what} in the middle of a head`);
    // Node refuses a client certificate after the handshake and without an alert; so do we.
    if (this.secure && !this.reused) {
      return new SallyportError(
        'upstream_refused_us',
        `${this.address} closed after the handshake (is our SVID refused?): ${what}`,
      );
    }
    return new SallyportError('upstream_closed', `${this.address} ${what} before it responded`);
  }

  #fail(error: SallyportError): void {
    const events = this.#events;
    if (events === undefined) return;
    this.#events = undefined;
    this.#socket.destroy();
    events.upstreamFailed(error);
  }
}

function replyFraming(
  method: string,
  start: StatusLine,
  length: string | undefined,
  coding: string | undefined,
): Framing {
  if (coding !== undefined) {
    if (length !== undefined)
      throw new SallyportError('upstream_protocol', 'the response has both Content-Length and Transfer-Encoding');
    if (start.minor === 0)
      throw new SallyportError('upstream_protocol', 'an HTTP/1.0 response has a Transfer-Encoding');
    if (coding.toLowerCase() !== 'chunked')
      throw new SallyportError(
        'upstream_protocol',
        `the response's transfer coding '${printable(coding)}' is not supported`,
      );
  }
  if (method === 'HEAD' || start.status < 200 || start.status === 204 || start.status === 304) return 0;
  if (coding !== undefined) return 'chunked';
  return length === undefined ? 'close' : parseContentLength(length);
}

/** An error that the codec found in a response is the upstream's, whatever code the same error has in a request. */
function toUpstreamError(error: unknown, replied: boolean): SallyportError {
  if (!(error instanceof SallyportError))
    return new SallyportError('internal', `cannot read the response: ${reasonOf(error)}`, { cause: error });
  if (replied) return new SallyportError('upstream_answer_malformed', `the response was cut off: ${error.message}`);
  if (error.code === 'head_too_many_fields') return new SallyportError('upstream_head_too_large', error.message);
  return error.code.startsWith('upstream_')
    ? error
    : new SallyportError('upstream_protocol', `cannot read the response: ${error.message}`);
}
