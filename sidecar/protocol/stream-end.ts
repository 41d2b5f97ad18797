// An HTTP/2 stream as one end of a tunnel: it acts as a socket to a splice, with the stream's windows as back-pressure.

import { Duplex } from 'node:stream';
import { errorCode } from './http2/frames.ts';
import type { Http2Stream, StreamEvents } from './http2/stream.ts';
import { owned } from './lent-reads.ts';

/** Takes the stream's events over. Destroying it resets the stream. */
export class StreamEnd extends Duplex {
  readonly #stream: Http2Stream;
  readonly #sendEnd: () => void;
  #written: (() => void) | undefined = undefined;

  /** Takes the stream over; `sendEnd` sends its last frame. What arrived before is given to the splice as its rest. */
  constructor(stream: Http2Stream, sendEnd: () => void) {
    super({ allowHalfOpen: true });
    this.#stream = stream;
    this.#sendEnd = sendEnd;
    stream.events = this.#events();
    if (stream.remoteEnded) this.push(null);
  }

  #events(): StreamEvents {
    return {
      // Trailers have no meaning in a tunnel, but they end the stream.
      head: (_block, ended) => ended && this.push(null),
      data: (chunk) => {
        if (!this.push(owned(chunk))) this.#stream.pause();
      },
      ended: () => this.push(null),
      arrived() {},
      drained: () => {
        const written = this.#written;
        this.#written = undefined;
        written?.();
      },
      closed: (_code, why) => this.destroy(new Error(why)),
    };
  }

  /** The splice wants more: the stream's window opens. */
  override _read(): void {
    this.#stream.resume();
  }

  /** Calls `written` when the windows have taken it all. */
  override _write(chunk: Buffer, _encoding: BufferEncoding, written: () => void): void {
    if (this.#stream.write(chunk)) written();
    else this.#written = written;
  }

  /** Half-closes: what waits is sent first. */
  override _final(done: () => void): void {
    this.#stream.endWith(this.#sendEnd);
    done();
  }

  /** CANCEL if it was ended on purpose, CONNECT_ERROR after a failure (RFC 9113 section 8.5). */
  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    if (this.#stream.open) this.#stream.reset(error === null ? errorCode.cancel : errorCode.connect);
    done(error);
  }
}
