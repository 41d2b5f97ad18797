// Compares responses as they pass. A copy of the body is kept up to the limit; the client does not wait.

import { brotliDecompressSync, gunzipSync, inflateSync, zstdDecompressSync } from 'node:zlib';
import type { Downstream } from '../../exchange/ends.ts';
import { type Exchange, type ResponseWatch, Slot } from '../../exchange/exchange.ts';
import { headerOf } from '../../exchange/facts.ts';
import { hold, pile } from '../../exchange/held-bytes.ts';
import type { Fields, Reply } from '../../exchange/message.ts';
import { PassingDownstream } from '../../exchange/passing.ts';
import { isPlain } from '../content.ts';

/** The outcome of a response: its body, or undefined if that cannot be compared. */
type Conclude = (exchange: Exchange, reply: Reply, body: Buffer | undefined) => void;

/** Encoded bodies are decoded between two requests of other clients: only small ones. */
const mostCoded = 64 * 1024;

const decoders: Readonly<Record<string, (body: Buffer, options: { maxOutputLength: number }) => Buffer>> = {
  gzip: gunzipSync,
  'x-gzip': gunzipSync,
  deflate: inflateSync,
  br: brotliDecompressSync,
  zstd: zstdDecompressSync,
};

/** The decoded body; undefined if it is too large, or its encoding is unknown or broken. */
function decoded(body: Buffer, { fields }: Reply, exchange: Exchange, limit: number): Buffer | undefined {
  const coding = headerOf(exchange, 'content-encoding', fields);
  if (body.length === 0 || isPlain(coding)) return body;
  const decode = decoders[coding!.trim().toLowerCase()];
  if (decode === undefined || body.length > mostCoded) return undefined;
  try {
    return decode(body, { maxOutputLength: limit });
  } catch {
    return undefined;
  }
}

/** Responses without a body (RFC 9110 section 6.4.1), and parts of one. */
function hasOwnBody({ method }: Exchange, { status }: Reply): boolean {
  return method !== 'HEAD' && status !== 204 && status !== 205 && status !== 304 && status !== 206;
}

const copies = new Slot<Copy>();

/** Watches responses. `conclude` is called once for each, before its record is written. */
export function watchResponses(limit: number, conclude: Conclude): ResponseWatch {
  return function watchResponse(exchange, reply, whole) {
    if (reply.status === 101 || exchange.method === 'CONNECT' || !hasOwnBody(exchange, reply)) return undefined;
    const finish = (body: Buffer | undefined): void =>
      conclude(
        exchange,
        reply,
        body === undefined || body.length > limit ? undefined : decoded(body, reply, exchange, limit),
      );
    if (whole !== undefined || reply.framing === 0) return void finish(whole ?? nothing);
    return function copyBody(inner) {
      const copy = new Copy(inner, limit, finish);
      copies.set(exchange, copy);
      return copy;
    };
  };
}

const nothing = Buffer.alloc(0);

/** Releases what an unfinished response has left. */
export function dropCopy(exchange: Exchange): void {
  copies.get(exchange)?.drop();
}

/** Wraps the client's codec, and keeps a copy of what passes. */
class Copy extends PassingDownstream {
  readonly #limit: number;
  readonly #finish: (body: Buffer | undefined) => void;
  #pieces: Buffer[] = [];
  #bytes = 0;
  #isTooLong = false;

  constructor(inner: Downstream, limit: number, finish: (body: Buffer | undefined) => void) {
    super(inner);
    this.#limit = limit;
    this.#finish = finish;
  }

  override write(chunk: Buffer): boolean {
    if (!this.#isTooLong) {
      this.#isTooLong = this.#bytes + chunk.length > this.#limit;
      if (this.#isTooLong) this.drop();
      else {
        pile(this.#pieces, chunk);
        this.#bytes += chunk.length;
        hold(chunk.length);
      }
    }
    return this.inner.write(chunk);
  }

  override end(trailers: Fields): void {
    const body = this.#isTooLong ? undefined : Buffer.concat(this.#pieces);
    this.drop();
    this.#finish(body);
    this.inner.end(trailers);
  }

  drop(): void {
    hold(-this.#bytes);
    this.#bytes = 0;
    this.#pieces = [];
  }

  override abort(): void {
    this.drop();
    this.inner.abort();
  }
}
