// One stream of an HTTP/2 connection: what it may still send, what waits to be sent, and what its peer may send it.

import { hold, pile } from '../../exchange/held-bytes.ts';
import { owned } from '../lent-reads.ts';
import { errorCode } from './frames.ts';
import type { Block } from './hpack-decode.ts';

/** How a stream ended: the peer has reset it, we have for a fault of the peer, or its connection is gone. */
export type Ending = 'reset' | 'fault' | 'gone';

/** What a stream reports. After `closed` nothing follows. */
export interface StreamEvents {
  /** A head, an interim head or trailers; `ended` if nothing comes after it. */
  head(block: Block, ended: boolean): void;
  /** Counts against the stream's window until it is acknowledged. It may be lent until everything that arrived is read. */
  data(chunk: Buffer): void;
  /** The peer has sent its end. */
  ended(): void;
  /** Everything that arrived with the last frame is read; once for each `afterRead`. */
  arrived(): void;
  /** There is room for more after write() returned false. */
  drained(): void;
  /** The stream is over before its end: `code` is the wire's, `why` a sentence. */
  closed(code: number, why: string, ending: Ending): void;
}

/** What a stream needs of the connection that it is on. */
export interface StreamOwner {
  readonly streamWindow: number;
  readonly roomy: boolean;
  /** False once the stream is over. */
  has(stream: Http2Stream): boolean;
  /** Sends what the windows allow and returns how many bytes that were. */
  sendData(stream: Http2Stream, chunk: Buffer, ends: boolean): number;
  /** END_STREAM without trailers. Nothing if our side has ended. */
  sendEnd(stream: Http2Stream): void;
  /** RST_STREAM, and the stream is over. Nothing if it is already. */
  resetStream(stream: Http2Stream, code: number): void;
  /** Lets the peer send so many bytes more. */
  openWindow(stream: Http2Stream | undefined, bytes: number): void;
  /** The stream has something to send and no window for it. */
  waits(stream: Http2Stream): void;
}

/** Set `events` before the first frame arrives. Bytes that wait in it count among the process's held bytes. */
export class Http2Stream {
  readonly id: number;
  events: StreamEvents | undefined = undefined;
  sendWindow: number;
  /** What the peer may still send until we give it more. */
  receiveWindow: number;
  /** Our side has sent its end. */
  localEnded = false;
  /** The peer has sent its end. */
  remoteEnded = false;
  headSeen = false;
  /** The rest of a declared Content-Length; undefined if none was declared. */
  expected: number | undefined = undefined;
  readonly #connection: StreamOwner;
  /** Present only while something waits: most streams send everything at once. */
  #waiting: Buffer[] | undefined = undefined;
  #waitingBytes = 0;
  #endAfter: (() => void) | undefined = undefined;
  #paused = false;
  #unacknowledged = 0;
  #blocked = false;

  constructor(connection: StreamOwner, id: number, sendWindow: number, receiveWindow: number) {
    this.#connection = connection;
    this.id = id;
    this.sendWindow = sendWindow;
    this.receiveWindow = receiveWindow;
  }

  /** False once either side has reset it, or both have ended. */
  get open(): boolean {
    return this.#connection.has(this);
  }

  /** Bytes that wait for the peer's windows. */
  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  /** True between `pause` and `resume`. */
  get isPaused(): boolean {
    return this.#paused;
  }

  /** Our side has ended, or will when everything that waits is sent. */
  get isEnding(): boolean {
    return this.localEnded || this.#endAfter !== undefined;
  }

  /** Sends a piece of the body, or keeps what the windows do not allow. False asks to wait for `drained`. */
  write(chunk: Buffer): boolean {
    if (!this.open) return true;
    const sent = this.#waiting !== undefined ? 0 : this.#connection.sendData(this, chunk, false);
    if (sent === chunk.length) return this.#connection.roomy || this.#block();
    this.#waiting ??= [];
    this.#waiting.push(owned(sent === 0 ? chunk : chunk.subarray(sent)));
    this.#wait(chunk.length - sent);
    return this.#block();
  }

  /** Ends our side once everything that waits is sent; `last` writes the final frame. */
  endWith(last: () => void): void {
    if (!this.open) return;
    const before = this.#endAfter;
    if (this.#waiting === undefined) last();
    else if (before === undefined) this.#endAfter = last;
    else {
      this.#endAfter = () => {
        before();
        last();
      };
    }
  }

  /** Resets it once everything that waits is sent. */
  endWithReset(code: number): void {
    this.endWith(() => this.reset(code));
  }

  /** Sends a whole body, and our end with it. */
  writeWhole(body: Buffer): void {
    const sent = this.#connection.sendData(this, body, true);
    if (sent < body.length || body.length === 0) this.#writeRest(body, sent);
  }

  #writeRest(body: Buffer, sent: number): void {
    if (sent < body.length) this.write(body.subarray(sent));
    this.endWith(() => this.#connection.sendEnd(this));
  }

  /** Called when a window or the socket has room again. True if nothing waits any more. */
  pump(): boolean {
    if (!this.#sendWaiting()) return false;
    const last = this.#endAfter;
    this.#endAfter = undefined;
    last?.();
    if (this.#blocked && last === undefined) {
      this.#blocked = false;
      this.events?.drained();
    }
    return true;
  }

  /** True if nothing waits any more. */
  #sendWaiting(): boolean {
    const waiting = this.#waiting ?? [];
    while (waiting.length > 0) {
      const chunk = waiting[0]!;
      const sent = this.#connection.sendData(this, chunk, false);
      this.#wait(-sent);
      if (sent < chunk.length) {
        if (sent > 0) waiting[0] = chunk.subarray(sent);
        return false;
      }
      waiting.shift();
    }
    this.#waiting = undefined;
    return true;
  }

  /**
   * Called periodically: copies waiting bytes, so that they retain no more memory than their size. Copying at once
   * would be wasted on bytes that leave at once.
   */
  compact(): void {
    if (this.#waiting === undefined) return;
    const pieces: Buffer[] = [];
    for (const chunk of this.#waiting) pile(pieces, chunk);
    this.#waiting = pieces;
  }

  /** Bytes have arrived; their credit goes back to the peer unless the reader has asked for a pause. */
  received(bytes: number): void {
    this.receiveWindow -= bytes;
    this.#unacknowledged += bytes;
    if (!this.#paused) this.#acknowledge();
  }

  /** The peer may send no more than its window; the reader keeps what has arrived. */
  pause(): void {
    this.#paused = true;
  }

  /** Gives the peer back the window for what it has sent meanwhile. */
  resume(): void {
    this.#paused = false;
    if (this.open) this.#acknowledge();
  }

  /** The stream is over: drops what waited. */
  dropWaiting(): void {
    this.#waiting = undefined;
    this.#wait(-this.#waitingBytes);
  }

  /** Ends both sides at once. */
  reset(code: number = errorCode.cancel): void {
    this.#connection.resetStream(this, code);
  }

  #wait(bytes: number): void {
    this.#waitingBytes += bytes;
    hold(bytes);
  }

  #block(): false {
    this.#blocked = true;
    this.#connection.waits(this);
    return false;
  }

  #acknowledge(): void {
    if (this.remoteEnded || this.#unacknowledged < this.#connection.streamWindow / 2) return;
    this.#connection.openWindow(this, this.#unacknowledged);
    this.receiveWindow += this.#unacknowledged;
    this.#unacknowledged = 0;
  }
}
