// The pieces of a request's body on their way: those that wait for a connection, and, where the request may be sent again,
// all of them so far, up to a limit. What is kept counts among what the process holds.

import { hold, pile } from '../exchange/held-bytes.ts';
import type { Fields } from '../exchange/message.ts';

/** What may wait for a connection, or be kept for another try; a request with a longer body is sent once. */
const keptBytes = 64 * 1024;

export class RequestBody {
  /** The trailers, once it has ended. */
  ended: Fields | undefined = undefined;
  /** A piece has been handed to a connection. */
  isTouched = false;
  #waiting: Buffer[] = [];
  #waitingBytes = 0;
  #kept: Buffer[] | undefined;
  #keptBytes = 0;

  constructor(keeps: boolean) {
    this.#kept = keeps ? [] : undefined;
  }

  /** Whether all that has come of it is at hand. */
  get canRepeat(): boolean {
    return this.#kept !== undefined;
  }

  /** A piece has come: remembers it for another try while there is room. */
  keep(chunk: Buffer): void {
    if (this.#kept === undefined) return;
    if (this.#keptBytes + chunk.length > keptBytes) return this.forget();
    pile(this.#kept, chunk);
    this.#keptBytes += chunk.length;
    hold(chunk.length);
  }

  /** There is no connection yet. False asks its sender to wait. */
  wait(chunk: Buffer): boolean {
    pile(this.#waiting, chunk);
    this.#wait(chunk.length);
    return this.#waitingBytes < keptBytes;
  }

  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  takeWaiting(): Buffer[] {
    this.#wait(-this.#waitingBytes);
    return this.#waiting.splice(0);
  }

  #wait(bytes: number): void {
    this.#waitingBytes += bytes;
    hold(bytes);
  }

  /** From the beginning, once there is another connection. Only while it can be repeated. */
  rewind(): void {
    this.#waiting = [...(this.#kept ?? [])];
    this.#wait(this.#keptBytes - this.#waitingBytes);
  }

  /** Nothing is kept for another try any more. */
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
