// One line of JSON, written piece by piece into reused bytes. As a string a line would be a tree of concatenations:
// 4 KB of garbage for 1 KB of text, and the copy that flattens it costs as much as the write (measured).

import { writeLatin1 } from '../../cert-agent/base/latin1.ts';

/** Up to this length a loop is cheaper than a call of Node's. */
const shortLength = 8;

/** Holds one line. `clear` begins the next; what the last one left behind it is never read. */
export class LogLine {
  #bytes = Buffer.allocUnsafeSlow(4096);
  #length = 0;

  /** The bytes of this line; valid until the next `clear`. */
  get bytes(): Buffer {
    return this.#bytes;
  }

  /** How many of `bytes` this line has. */
  get length(): number {
    return this.#length;
  }

  /** Empties the line. */
  clear(): this {
    this.#length = 0;
    return this;
  }

  /** Text of ours: ASCII, and taken as it is. A literal costs least, since it is one piece in memory. */
  raw(text: string): this {
    this.#makeRoom(text.length);
    this.#put(text);
    return this;
  }

  /** A string of ours, or in a checked form, which needs no escaping; null for nothing. */
  own(value: string | undefined): this {
    if (isNothing(value)) return this.raw('null');
    this.#makeRoom(value.length + 2);
    this.#bytes[this.#length] = quote;
    this.#length++;
    this.#put(value);
    this.#bytes[this.#length] = quote;
    this.#length++;
    return this;
  }

  /** Any string, escaped where JSON requires it and in ASCII; null for nothing. */
  text(value: string | undefined): this {
    if (isNothing(value)) return this.raw('null');
    return needsEscape.test(value) ? this.raw(escaped(value)) : this.own(value);
  }

  /** A whole number that is not negative. */
  count(value: number): this {
    if (value > 999) return this.raw(String(value));
    this.#makeRoom(3);
    const hundreds = (value / 100) | 0;
    const tens = ((value % 100) / 10) | 0;
    if (hundreds > 0) this.#bytes[this.#length++] = zero + hundreds;
    if (value > 9) this.#bytes[this.#length++] = zero + tens;
    this.#bytes[this.#length++] = zero + (value % 10);
    return this;
  }

  /** The line as a string of one piece. */
  toString(): string {
    return this.#bytes.toString('latin1', 0, this.#length);
  }

  #put(text: string): void {
    const { length } = text;
    if (length > shortLength) {
      this.#length += writeLatin1(this.#bytes, text, this.#length);
      return;
    }
    const bytes = this.#bytes;
    const at = this.#length;
    for (let i = 0; i < length; i++) bytes[at + i] = text.charCodeAt(i);
    this.#length = at + length;
  }

  #makeRoom(more: number): void {
    if (this.#length + more <= this.#bytes.length) return;
    const larger = Buffer.allocUnsafeSlow(Math.max(2 * this.#bytes.length, this.#length + more));
    larger.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = larger;
  }
}

const quote = 0x22;
const zero = 0x30;

function isNothing(value: string | undefined): value is undefined {
  return value === undefined || value === '' || value === '-';
}

const needsEscape = /[^ !#-[\]-~]/;

function escaped(value: string): string {
  return JSON.stringify(value).replace(
    /[\x7f-\uffff]/g,
    (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}
