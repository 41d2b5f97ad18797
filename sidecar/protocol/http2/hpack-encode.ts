// HPACK encoding (RFC 7541): fields to header blocks. A repeated field is one byte: between two sidecars that is nearly
// every field of nearly every request. Strings are not Huffman-coded: the bytes saved are worth less than the time.

import type { FieldName } from '../../exchange/message.ts';
import { staticFields } from './hpack-tables.ts';

const staticCount = staticFields.length;

/** Static index of a name alone, and of its values for the few names that have some. */
const staticNames = new Map<string, number>();
const staticValues = new Map<string, Map<string, number>>();
for (const [index, [name, value]] of staticFields.entries()) {
  if (!staticNames.has(name)) staticNames.set(name, index + 1);
  if (value === '') continue;
  const values = staticValues.get(name) ?? new Map<string, number>();
  staticValues.set(name, values.set(value, index + 1));
}

/** Different each time: in the table they would only push out fields that repeat. */
const transient = new Set([
  ...['content-length', 'date', 'x-request-id', 'traceparent', 'tracestate', 'etag', 'last-modified', 'age'],
  ...['if-none-match', 'if-modified-since', 'content-range', 'range', 'location', 'expires'],
]);

/** Section 7.1.3: never kept, since clients that may add fields of their own could guess them byte by byte. */
const secret = new Set(['authorization', 'cookie', 'set-cookie', 'proxy-authorization']);

/** Longer values repeat too seldom, and push out too much. */
const maxKept = 256;

interface Kept {
  readonly name: string;
  readonly value: string;
  readonly size: number;
}

/** One for each direction of a connection. Send every block in the order in which it was encoded. */
export class HpackEncoder {
  #out = Buffer.allocUnsafeSlow(4096);
  #at = 0;
  /** By name, then value: the number of the insertion, from 1. */
  readonly #known = new Map<string, Map<string, number>>();
  #kept: Kept[] = [];
  #first = 0;
  #bytes = 0;
  #inserted = 0;
  #limit = 4096;
  #announce = false;

  /** The peer keeps at most this much (its SETTINGS_HEADER_TABLE_SIZE); we use no more than 4096. */
  setLimit(bytes: number): void {
    const limit = Math.min(bytes, 4096);
    if (limit === this.#limit) return;
    this.#limit = limit;
    this.#announce = true;
    this.#evict();
  }

  /** Begins a header block. A changed table size is announced first (RFC 7541 section 4.2). */
  begin(): void {
    this.#at = 0;
    if (this.#announce) this.#writeInteger(0x20, 5, this.#limit);
    this.#announce = false;
  }

  /**
   * Adds a field. Credentials are marked as never indexed (section 7.1.3), and values that do not repeat are not kept.
   */
  add({ lower }: Pick<FieldName, 'lower'>, value: string): void {
    this.#reserve(lower.length + value.length + 32);
    // Looking up a value that is never kept would only hash it.
    const passing = transient.has(lower);
    if (!passing) {
      const pair = staticValues.get(lower)?.get(value);
      if (pair !== undefined) return this.#writeInteger(0x80, 7, pair);
      const known = this.#known.get(lower)?.get(value);
      if (known !== undefined) return this.#writeInteger(0x80, 7, staticCount + 1 + this.#inserted - known);
    }
    const name = this.#nameIndex(lower);
    const keep = !passing && value.length <= maxKept && !secret.has(lower);
    if (keep) this.#writeInteger(0x40, 6, name);
    else this.#writeInteger(secret.has(lower) ? 0x10 : 0, 4, name);
    if (name === 0) this.#writeString(lower);
    this.#writeString(value);
    if (keep) this.#keep(lower, value);
  }

  /** Holds the block in its first `length` bytes, until the next begin(). */
  get bytes(): Buffer {
    return this.#out;
  }

  /** The length of the block so far, in bytes. */
  get length(): number {
    return this.#at;
  }

  #nameIndex(lower: string): number {
    const fixed = staticNames.get(lower);
    if (fixed !== undefined) return fixed;
    const values = this.#known.get(lower);
    if (values === undefined) return 0;
    for (const inserted of values.values()) return staticCount + 1 + this.#inserted - inserted;
    return 0;
  }

  #keep(name: string, value: string): void {
    const size = name.length + value.length + 32;
    this.#kept.push({ name, value, size });
    this.#bytes += size;
    this.#inserted++;
    const values = this.#known.get(name);
    if (values === undefined) this.#known.set(name, new Map([[value, this.#inserted]]));
    else values.set(value, this.#inserted);
    this.#evict();
  }

  #evict(): void {
    while (this.#bytes > this.#limit) {
      const { name, value, size } = this.#kept[this.#first++]!;
      this.#bytes -= size;
      const values = this.#known.get(name);
      values?.delete(value);
      if (values?.size === 0) this.#known.delete(name);
    }
    if (this.#first > 256) {
      this.#kept = this.#kept.slice(this.#first);
      this.#first = 0;
    }
  }

  #writeInteger(flags: number, bits: number, value: number): void {
    const mask = (1 << bits) - 1;
    if (value < mask) {
      this.#out[this.#at++] = flags | value;
      return;
    }
    this.#out[this.#at++] = flags | mask;
    let rest = value - mask;
    for (; rest >= 0x80; rest >>>= 7) this.#out[this.#at++] = (rest & 0x7f) | 0x80;
    this.#out[this.#at++] = rest;
  }

  #writeString(text: string): void {
    this.#writeInteger(0, 7, text.length);
    this.#at += this.#out.write(text, this.#at, 'latin1');
  }

  #reserve(bytes: number): void {
    if (this.#at + bytes <= this.#out.length) return;
    const larger = Buffer.allocUnsafeSlow(2 * (this.#at + bytes));
    this.#out.copy(larger, 0, 0, this.#at);
    this.#out = larger;
  }
}
