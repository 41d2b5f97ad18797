// The pieces of a request's body in transit: those that wait for a connection and, if the request may be retried, all
// of them so far, up to a limit. Kept bytes count among the process's held bytes.

import { hold, pile } from '../exchange/held-bytes.ts';
import type { Fields } from '../exchange/message.ts';

/** The most that may wait for a connection, or be kept for a retry; a request with a longer body is sent once. */
const keptBytes = 64 * 1024;

/** Of one request. Call `drop` in every case: what it holds is counted. */
export class RequestBody {
  /** The trailers, once it has ended. */
  ended: Fields | undefined = undefined;
  /** A piece has been given to a connection. */
  isTouched = false;
  #waiting: Buffer[] = [];
  #waitingBytes = 0;
  #kept: Buffer[] | undefined;
  #keptBytes = 0;

  constructor(keeps: boolean) {
    this.#kept = keeps ? [] : undefined;
  }

  /** Whether everything that has arrived is still kept. */
  get canRepeat(): boolean {
    return this.#kept !== undefined;
  }

  /** Keeps an arrived piece for a retry while there is room. */
  keep(chunk: Buffer): void {
    if (this.#kept === undefined) return;
    if (this.#keptBytes + chunk.length > keptBytes) return this.forget();
    pile(this.#kept, chunk);
    this.#keptBytes += chunk.length;
    hold(chunk.length);
  }

  /** Keeps a piece until there is a connection. False asks the sender to wait. */
  wait(chunk: Buffer): boolean {
    pile(this.#waiting, chunk);
    this.#wait(chunk.length);
    return this.#waitingBytes < keptBytes;
  }

  /** Without those that are kept for a retry only. */
  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  /** Empties it: the caller sends the pieces, in this order. */
  takeWaiting(): Buffer[] {
    this.#wait(-this.#waitingBytes);
    return this.#waiting.splice(0);
  }

  #wait(bytes: number): void {
    this.#waitingBytes += bytes;
    hold(bytes);
  }

  /** Starts again from the beginning, for another connection. Only while it can be repeated. */
  rewind(): void {
    this.#waiting = [...(this.#kept ?? [])];
    this.#wait(this.#keptBytes - this.#waitingBytes);
  }

  /** Keeps nothing for a retry from now on. */
  forget(): void {
    hold(-this.#keptBytes);
    this.#keptBytes = 0;
    this.#kept = undefined;
  }

  /** The request is over. */
  drop(): void {
    this.forget();
    this.takeWaiting();
  }
}
