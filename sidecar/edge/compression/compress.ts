// Compresses responses with gzip or brotli, for clients that accept them and rules that say so. A short response that
// is complete is coded at once. A longer one goes through a stream between the upstream and the codec, which do not
// know of it. What has arrived is never held back for what may follow, either side can pause the other, and a response
// that breaks off is never finished.

import {
  type BrotliCompress,
  brotliCompressSync,
  constants,
  createBrotliCompress,
  createGzip,
  type Gzip,
  gzipSync,
} from 'node:zlib';
import { reasonOf, SallyportError } from '../../../cert-agent/base/errors.ts';
import type { Carrier, Downstream } from '../../exchange/ends.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import { headerOf } from '../../exchange/facts.ts';
import { addFields } from '../../exchange/fields.ts';
import { hold, pile } from '../../exchange/held-bytes.ts';
import { emptyFields, type Fields, type Reply } from '../../exchange/message.ts';
import type { SpliceEnd } from '../../exchange/upstream.ts';
import { chooseCoding } from '../accept.ts';
import type { Coding } from './schema.ts';

/** Below this, compression saves no packet. */
const leastBytes = 1024;
/** Up to this, a body is coded at once: that takes 0.14 ms (measured), and a stream of its own costs more. */
const atOnceBytes = 16 * 1024;
/** Each takes 0.3 MB in gzip and 0.7 MB in brotli (measured); beyond this, responses are not compressed. */
const maxStreams = 128;
/** How much of one response may wait to be coded. */
const waitingBytes = 64 * 1024;

const gzipOptions = { level: 5, flush: constants.Z_SYNC_FLUSH };
const brotliOptions = {
  flush: constants.BROTLI_OPERATION_FLUSH,
  params: { [constants.BROTLI_PARAM_QUALITY]: 4, [constants.BROTLI_PARAM_LGWIN]: 18 },
};

/** Media types that get smaller, and whose meaning stays the same. */
const statuses: ReadonlySet<number> = new Set([200, 201, 202, 203, 400, 403, 404, 409, 410, 422, 500]);

/** Text of any type; gRPC-Web's JSON is framed, and is not text. */
const textTypes = [
  /^text\/(?!event-stream)/,
  /^application\/(?!grpc)[\w.+-]*(?:json|xml|javascript|ecmascript|graphql|yaml|manifest)$/,
  /^(?:application\/wasm|image\/svg\+xml|image\/bmp|font\/ttf|font\/otf)$/,
];

/** The compression of one process. */
export class Compression {
  #streams = 0;

  /** Sends a response on in a coding that the client accepts, or as it is. `fail` ends the exchange with an error. */
  respond(
    exchange: Exchange,
    reply: Reply,
    whole: Buffer | undefined,
    offers: readonly Coding[],
    fail: (error: SallyportError) => void,
  ): void {
    const { downstream } = exchange;
    if (!couldBeCoded(exchange, reply, whole)) return downstream.respond(reply, whole);
    // Section 12.5.5: also for clients that get it uncoded, so that caches keep both apart.
    const varied = { ...reply, fields: withVary(reply.fields) };
    const coding = chooseCoding(headerOf(exchange, 'accept-encoding'), offers);
    if (coding === undefined) return downstream.respond(varied, whole);
    if (exchange.method === 'HEAD') return downstream.respond(coded(varied, coding, 0), whole);
    if (whole !== undefined && whole.length <= atOnceBytes) {
      const body = coding === 'gzip' ? gzipSync(whole, gzipOptions) : brotliCompressSync(whole, brotliOptions);
      if (body.length >= whole.length) return downstream.respond(varied, whole);
      return downstream.respond(coded(varied, coding, body.length), body);
    }
    if (this.#streams >= maxStreams) return downstream.respond(varied, whole);
    this.#streams++;
    const compressor = new Compressor(exchange, coding, fail, () => this.#streams--);
    compressor.respond(coded(varied, coding, 'chunked'), undefined);
    if (whole === undefined) return;
    compressor.write(whole);
    compressor.end(emptyFields);
  }
}

/** True if this response may be coded for a client that accepts it. */
function couldBeCoded(exchange: Exchange, reply: Reply, whole: Buffer | undefined): boolean {
  const { minor, grpc, webSocket } = exchange;
  // In HTTP/1.0 a body of unknown length ends with its connection, which looks the same as a cut.
  if (minor === 0 || grpc || webSocket || !statuses.has(reply.status)) return false;
  const { framing, declaredLength } = reply;
  const told = exchange.method === 'HEAD' ? declaredLength : (whole?.length ?? framing);
  if (typeof told === 'number' && told < leastBytes) return false;
  // RFC 9111 section 5.2.1.6: the client may forbid it as well.
  if (forbids(headerOf(exchange, 'cache-control'))) return false;
  return areFit(reply.fields);
}

/**
 * By the response's fields: it is text, it is not coded yet, and no field makes a statement about its bytes that coding
 * would break.
 */
function areFit({ names, values }: Fields): boolean {
  let isText = false;
  for (let i = 0; i < names.length; i++) {
    const { lower } = names[i]!;
    if (untouched.has(lower) || (lower === 'cache-control' && forbids(values[i]!))) return false;
    if (lower !== 'content-type') continue;
    const type = values[i]!.split(';', 1)[0]!.trim().toLowerCase();
    // Events go out one by one, and each is shorter than what coding adds.
    isText = textTypes.some((one) => one.test(type));
  }
  return isText;
}

/** Each of these means that the bytes are final: coded already, a part of a whole, or covered by a digest. */
const untouched: ReadonlySet<string> = new Set([
  ...['content-encoding', 'content-range', 'content-md5', 'digest', 'content-digest', 'repr-digest'],
]);

function forbids(cacheControl: string | undefined): boolean {
  return cacheControl?.toLowerCase().includes('no-transform') === true;
}

function withVary(fields: Fields): Fields {
  const said = fields.names.some(
    ({ lower }, i) => lower === 'vary' && /(?:^|,)\s*(?:\*|accept-encoding)\s*(?:,|$)/i.test(fields.values[i]!),
  );
  return said ? fields : addFields(fields, [['vary', 'Accept-Encoding']]);
}

/** The head of the coded response: another length, no ranges, and a weak validator. */
function coded(reply: Reply, coding: Coding, framing: Reply['framing']): Reply {
  const names: Fields['names'] = [];
  const values: string[] = [];
  for (const [i, name] of reply.fields.names.entries()) {
    if (name.lower === 'accept-ranges') continue;
    const value = reply.fields.values[i]!;
    names.push(name);
    // RFC 9110 section 8.8.1: a strong validator would be of other bytes.
    values.push(name.lower === 'etag' && value.startsWith('"') ? `W/${value}` : value);
  }
  const fields = addFields({ names, values }, [['content-encoding', coding]]);
  return { ...reply, fields, framing, declaredLength: undefined };
}

/**
 * Stands between the upstream's response and the codec: the downstream of the one, the carrier of the other. One piece
 * is coded at a time; what arrives meanwhile waits, up to a limit, and is coded together.
 */
class Compressor implements Downstream, Carrier {
  readonly #exchange: Exchange;
  readonly #codec: Downstream;
  /** The upstream. Once its response has ended, its connection belongs to another exchange and gets no more calls. */
  readonly #carrier: Carrier | undefined;
  readonly #zlib: Gzip | BrotliCompress;
  readonly #fail: (error: SallyportError) => void;
  readonly #closed: () => void;
  #waiting: Buffer[] = [];
  #waitingBytes = 0;
  #busyBytes = 0;
  #isBusy = false;
  #isDue = false;
  /** True if the upstream was asked to wait. */
  #isBlocked = false;
  #trailers: Fields | undefined = undefined;
  #isClosed = false;

  constructor(exchange: Exchange, coding: Coding, fail: (error: SallyportError) => void, closed: () => void) {
    this.#exchange = exchange;
    this.#codec = exchange.downstream;
    this.#carrier = exchange.carrier;
    this.#fail = fail;
    exchange.downstream = this;
    exchange.carrier = this;
    this.#closed = closed;
    this.#zlib = coding === 'gzip' ? createGzip(gzipOptions) : createBrotliCompress(brotliOptions);
    this.#zlib.on('data', (chunk: Buffer) => {
      if (!this.#isClosed && !this.#codec.write(chunk)) this.#zlib.pause();
    });
    this.#zlib.on('end', () => this.#finish());
    this.#zlib.on('error', (error) => {
      if (!this.#isClosed)
        this.#fail(
          new SallyportError('internal', `cannot compress the response: ${reasonOf(error)}`, { cause: error }),
        );
    });
  }

  // -- from the upstream -------------------------------------------------------------------------------------------

  respond(reply: Reply, whole: Buffer | undefined): void {
    this.#codec.respond(reply, whole);
  }

  informational(reply: Reply): void {
    this.#codec.informational(reply);
  }

  write(chunk: Buffer): boolean {
    if (this.#isClosed || chunk.length === 0) return true;
    // If nothing is being coded, it is coded at the end of this turn.
    if (this.#isBusy) pile(this.#waiting, chunk);
    else this.#waiting.push(chunk);
    this.#waitingBytes += chunk.length;
    hold(chunk.length);
    this.#workSoon();
    this.#isBlocked = this.#waitingBytes >= waitingBytes;
    return !this.#isBlocked;
  }

  end(trailers: Fields): void {
    if (this.#isClosed) return;
    this.#trailers = trailers;
    this.#workSoon();
  }

  abort(): void {
    this.#close();
    this.#codec.abort();
  }

  pause(): void {
    this.#codec.pause();
  }

  resume(): void {
    this.#codec.resume();
  }

  tunnel(upstream: SpliceEnd): void {
    this.#codec.tunnel(upstream);
  }

  // -- from the codec ----------------------------------------------------------------------------------------------

  requestData(chunk: Buffer): boolean {
    return this.#carrier?.requestData(chunk) ?? true;
  }

  get waitingBytes(): number {
    return this.#carrier?.waitingBytes ?? 0;
  }

  requestEnd(trailers: Fields): void {
    this.#carrier?.requestEnd(trailers);
  }

  downstreamDrained(): void {
    this.#zlib.resume();
  }

  downstreamGone(): void {
    const isOver = this.#trailers !== undefined;
    this.#close();
    if (!isOver) this.#carrier?.downstreamGone();
  }

  idle(): void {
    if (this.#trailers === undefined) return this.#carrier?.idle();
    const limit = this.#exchange.rules.limits.streamIdleMs;
    this.#fail(new SallyportError('stream_idle', `no byte moved for ${limit} ms (limit streamIdle)`));
  }

  // -- the work ----------------------------------------------------------------------------------------------------

  /** At the end of this turn, so that all pieces of one read are one. */
  #workSoon(): void {
    if (this.#isBusy || this.#isDue) return;
    this.#isDue = true;
    process.nextTick(() => {
      this.#isDue = false;
      this.#work();
    });
  }

  #work(): void {
    if (this.#isClosed || this.#isBusy) return;
    if (this.#waiting.length === 0) {
      if (this.#trailers !== undefined) this.#zlib.end();
      return;
    }
    const pieces = this.#waiting.splice(0);
    this.#busyBytes = this.#waitingBytes;
    this.#waitingBytes = 0;
    this.#isBusy = true;
    this.#zlib.write(pieces.length === 1 ? pieces[0] : Buffer.concat(pieces), () => this.#worked());
  }

  #worked(): void {
    if (this.#isClosed) return;
    hold(-this.#busyBytes);
    this.#busyBytes = 0;
    this.#isBusy = false;
    if (this.#isBlocked) {
      this.#isBlocked = false;
      if (this.#trailers === undefined) this.#carrier?.downstreamDrained();
    }
    this.#work();
  }

  #finish(): void {
    if (this.#isClosed) return;
    this.#close();
    this.#codec.end(this.#trailers!);
  }

  #close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#closed();
    hold(-this.#waitingBytes - this.#busyBytes);
    this.#waiting = [];
    this.#zlib.destroy();
  }
}
