// Text written piece by piece into reused bytes. As a string, text that is put together is a tree of its pieces: several
// times its size in garbage, and the copy that flattens it costs as much as the write (measured).

import { writeLatin1 } from './latin1.ts';
import { Views } from './views.ts';

const firstBytes = 4096;

/** Up to this length a loop is cheaper than a call of Node's. */
const shortLength = 8;

/** Holds one text, latin1. `clear` begins the next; what the last one left behind it is never read. */
export class ByteWriter {
  /** Holds the text in its first `length` bytes, until the next call of any method. */
  bytes = Buffer.alloc(firstBytes);
  /** The length of the text so far, in bytes. */
  length = 0;
  readonly #views = new Views();

  /** Empties it. */
  clear(): this {
    this.length = 0;
    return this;
  }

  /** Adds text as it is. A literal costs least, since it is one piece in memory. */
  raw(text: string): this {
    const { length } = text;
    this.makeRoom(length);
    const { bytes, length: at } = this;
    if (length > shortLength) writeLatin1(bytes, text, at);
    else for (let i = 0; i < length; i++) bytes[at + i] = text.charCodeAt(i);
    this.length = at + length;
    return this;
  }

  /** Adds a whole number that is not negative, in decimal; 0 for anything else. */
  count(value: number): this {
    if (!(value >= 0 && value <= 999)) return this.raw(Number.isSafeInteger(value) && value > 0 ? String(value) : '0');
    this.makeRoom(3);
    const tens = ((value % 100) / 10) | 0;
    if (value > 99) this.bytes[this.length++] = zero + ((value / 100) | 0);
    if (value > 9) this.bytes[this.length++] = zero + tens;
    this.bytes[this.length++] = zero + (value % 10);
    return this;
  }

  /** Adds bytes as they are. */
  add(more: Buffer): this {
    this.makeRoom(more.length);
    this.bytes.set(more, this.length);
    this.length += more.length;
    return this;
  }

  /** Empties it, and overwrites what it held: a credential at the end of a long text would stay until the next such one. */
  wipe(): void {
    this.bytes.fill(0, 0, this.length);
    this.length = 0;
  }

  /** The text so far, in the bytes that it was written to. */
  view(): Buffer {
    return this.#views.first(this.bytes, this.length);
  }

  /** Empties it; its bytes belong to the holder of a view of them, and nothing here refers to them. */
  giveAway(): void {
    this.bytes = Buffer.alloc(firstBytes);
    this.length = 0;
    this.#views.clear();
  }

  /** The text as a string of one piece. */
  toString(): string {
    return this.bytes.toString('latin1', 0, this.length);
  }

  /** Makes room for so many bytes more. */
  makeRoom(more: number): void {
    if (this.length + more <= this.bytes.length) return;
    const larger = Buffer.alloc(Math.max(2 * this.bytes.length, this.length + more));
    larger.set(this.bytes.subarray(0, this.length));
    this.bytes.fill(0);
    this.bytes = larger;
  }
}

const zero = 0x30;
