// HPACK encoding (RFC 7541): fields to header blocks. A repeated field is one byte: between two sidecars that is nearly
// every field of nearly every request. Strings are not Huffman-coded: the bytes saved are worth less than the time.

import type { FieldName } from '../../exchange/message.ts';
import { staticFields } from './hpack-tables.ts';

const staticCount = staticFields.length;

/** Different each time: in the table they would only push out fields that repeat. */
const transient = new Set([
  ...['content-length', 'date', 'x-request-id', 'traceparent', 'tracestate', 'etag', 'last-modified', 'age'],
  ...['if-none-match', 'if-modified-since', 'content-range', 'range', 'location', 'expires'],
]);

/** Section 7.1.3: never kept, since clients that may add fields of their own could guess them byte by byte. */
const secret = new Set(['authorization', 'cookie', 'set-cookie', 'proxy-authorization']);

/** How fields of one name are written. */
interface Manner {
  /** The static index of the name alone; 0 without one. */
  readonly name: number;
  /** The static indexes of values, for the few names that have some. */
  readonly values: ReadonlyMap<string, number> | undefined;
  readonly isTransient: boolean;
  readonly isSecret: boolean;
}

const ordinary: Manner = { name: 0, values: undefined, isTransient: false, isSecret: false };

/** For every name that is not ordinary: one look-up for each field. */
const manners = new Map<string, Manner>(
  [...new Set([...staticFields.map(([name]) => name), ...transient, ...secret])].map((name) => {
    const own = staticFields.flatMap(([other, value], at) => (other === name ? [[value, at + 1] as const] : []));
    const values = own.filter(([value]) => value !== '');
    const manner: Manner = {
      name: own[0]?.[1] ?? 0,
      values: values.length === 0 ? undefined : new Map(values),
      isTransient: transient.has(name),
      isSecret: secret.has(name),
    };
    return [name, manner];
  }),
);

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
    const manner = manners.get(lower) ?? ordinary;
    const { isTransient, isSecret } = manner;
    // Looking up a value that is never kept would only hash it.
    if (!isTransient) {
      const pair = manner.values?.get(value);
      if (pair !== undefined) return this.#writeInteger(0x80, 7, pair);
    }
    const mayKeep = !isTransient && !isSecret && value.length <= maxKept;
    if (mayKeep) {
      const known = this.#known.get(lower)?.get(value);
      if (known !== undefined) return this.#writeInteger(0x80, 7, staticCount + 1 + this.#inserted - known);
    }
    const name = manner.name > 0 ? manner.name : this.#nameIndex(lower);
    if (mayKeep) this.#writeInteger(0x40, 6, name);
    else this.#writeInteger(isSecret ? 0x10 : 0, 4, name);
    if (name === 0) this.#writeString(lower);
    this.#writeString(value);
    if (mayKeep) this.#keep(lower, value);
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
