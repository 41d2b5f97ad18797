// One client that reads a response of the cache, stored or still arriving, at its own pace. At most one piece of the
// body is buffered for a client that does not read: a body with many readers is in memory once.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { Carrier } from '../../exchange/ends.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import { emptyFields, type Fields } from '../../exchange/message.ts';
import type { Onward } from '../../exchange/onward.ts';
import type { Entry } from './store.ts';

/** How much of a stored body is written at once, bytes: the most that is buffered for a client that does not read. */
export const pieceBytes = 64 * 1024;

/** The source of a reader's bytes. */
export interface Source {
  /** The next bytes for a reader; undefined if they have not arrived yet. */
  next(reader: Reader): Buffer | undefined;
  /** Known once the whole body has arrived. */
  readonly trailers: Fields | undefined;
  /** Why it broke off; undefined while it continues, and after its end. */
  readonly failure: SallyportError | undefined;
  /** A reader starts; `leave` follows once. */
  join(reader: Reader): void;
  /** A reader has read on. */
  advanced(): void;
  /** A reader has left. */
  leave(reader: Reader): void;
}

/** One client that reads. */
export class Reader implements Carrier {
  readonly #exchange: Exchange;
  readonly #source: Source;
  readonly #onward: Onward;
  /** The number of the piece that it reads, and how many bytes of it have been read. */
  piece = 0;
  taken = 0;
  /** Bytes read in total. */
  bytes = 0;
  #isFull = false;
  #isOver = false;
  #isPumping = false;

  constructor(exchange: Exchange, source: Source, onward: Onward) {
    this.#exchange = exchange;
    this.#source = source;
    this.#onward = onward;
    source.join(this);
    exchange.carrier = this;
  }

  /** Passes on the bytes that have arrived. */
  pump(): void {
    if (this.#isPumping || !this.#exchange.responded) return;
    this.#isPumping = true;
    for (let piece = this.#next(); piece !== undefined; piece = this.#next()) {
      this.bytes += piece.length;
      this.#isFull = !this.#exchange.downstream.write(piece);
    }
    this.#isPumping = false;
    if (this.#isOver || this.#isFull) return;
    const { failure, trailers } = this.#source;
    if (failure !== undefined) this.cut(failure);
    else if (trailers !== undefined) {
      this.#end();
      this.#exchange.downstream.end(trailers);
    }
  }

  /** Ends its client's response with `error`; other readers continue. */
  cut(error: SallyportError): void {
    if (this.#isOver) return;
    this.#end();
    this.#onward.refuse(this.#exchange, error);
  }

  /** Dropped: its request is not forwarded. */
  requestData(): boolean {
    return true;
  }

  /** Does nothing. */
  requestEnd(): void {}

  /** The client can take more: it gets the bytes that have arrived meanwhile. */
  downstreamDrained(): void {
    this.#isFull = false;
    this.pump();
    if (!this.#isOver) this.#source.advanced();
  }

  /** Leaves the source, which continues for others. */
  downstreamGone(): void {
    this.#end();
  }

  /** No byte moved for `streamIdleMs`: only this client is cut. */
  idle(): void {
    const limit = this.#exchange.rules.limits.streamIdleMs;
    this.cut(new SallyportError('stream_idle', `no byte moved for ${limit} ms (limit streamIdle)`));
  }

  #next(): Buffer | undefined {
    return this.#isOver || this.#isFull ? undefined : this.#source.next(this);
  }

  #end(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#source.leave(this);
  }
}

/** A part of a stored body, read by one client in pieces. */
export class StoredPart implements Source {
  readonly trailers = emptyFields;
  readonly failure = undefined;
  readonly #entry: Entry;
  readonly #part: Buffer;

  constructor(entry: Entry, part: Buffer) {
    this.#entry = entry;
    this.#part = part;
  }

  /** At most `pieceBytes`, a view of the stored body. Undefined at the end. */
  next({ bytes }: Reader): Buffer | undefined {
    return bytes < this.#part.length ? this.#part.subarray(bytes, bytes + pieceBytes) : undefined;
  }

  /** The body stays in memory until `leave`. */
  join(): void {
    this.#entry.lend();
  }

  /** Does nothing: no backend waits for this reader. */
  advanced(): void {}

  /** Once for each `join`. */
  leave(): void {
    this.#entry.giveBack();
  }
}
