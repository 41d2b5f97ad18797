// HPACK decoding (RFC 7541): header blocks to fields. One decoder for each direction of a connection, since later
// blocks refer to what earlier ones added to the table. A block that cannot be decoded ends the connection; a field
// that HTTP does not allow ends its request only, and the table stays right.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { type FieldName, type Fields, fieldName, makeName, role } from '../../exchange/message.ts';
import { huffmanTree, staticFields } from './hpack-tables.ts';

/** A decoded field that later blocks may refer to. */
interface Entry {
  readonly name: FieldName;
  readonly value: string;
  /** Why a message with this field is malformed; checked once, however often it is referred to. */
  readonly wrong: string | undefined;
  /** Section 4.1: name and value plus 32 bytes of table overhead. */
  readonly size: number;
}

/** One header block. */
export interface Block {
  /** Pseudo-header fields (`:method`, ...) and the fields after them, in order. */
  readonly fields: Fields;
  /** Why the message must be refused, or undefined. */
  readonly malformed: string | undefined;
}

/** What we let a peer keep in our memory: the protocol's own default. */
export const tableBytes = 4096;

const makePseudo = (lower: string): FieldName => makeName(lower, lower, '', role.pseudo);

/** The names of pseudo-header fields, RFC 9113 section 8.3 and RFC 8441: each is this object wherever it is decoded. */
export const pseudo = Object.freeze({
  method: makePseudo(':method'),
  scheme: makePseudo(':scheme'),
  authority: makePseudo(':authority'),
  path: makePseudo(':path'),
  status: makePseudo(':status'),
  protocol: makePseudo(':protocol'),
});

const pseudoNames = new Map<string, FieldName>(Object.values(pseudo).map((name) => [name.lower, name]));

const staticEntries: readonly Entry[] = staticFields.map(([name, value]) => ({
  name: nameOf(name)!,
  value,
  wrong: undefined,
  size: name.length + value.length + 32,
}));

/** Control characters and bytes that end a line, RFC 9113 section 8.2.1; and white space around a value. */
const badValue = /[\0-\x08\x0a-\x1f\x7f]|^[ \t]|[ \t]$/;

// A list that grows piece by piece has room for seventeen fields; those that leave here are as long as they need.
const namesRead: FieldName[] = [];
const valuesRead: string[] = [];

const noBytes = Buffer.alloc(0);

const unknownName = makeName('', '', '', role.hop);

/** Decode every block in the order of arrival, those of refused streams too, or the table is wrong. */
export class HpackDecoder {
  /** Newest last; those before `#first` are evicted. */
  #entries: Entry[] = [];
  #first = 0;
  #bytes = 0;
  #limit = tableBytes;
  /** Of the block that is read now. */
  readonly #cursor: Cursor = { block: noBytes, at: 0, end: 0 };
  readonly #maxBytes: number;
  readonly #maxFields: number;

  /** A header list of more than `maxBytes` (names and values) or `maxFields` is malformed. */
  constructor(maxBytes: number, maxFields: number) {
    this.#maxBytes = maxBytes;
    this.#maxFields = maxFields;
  }

  /**
   * Decodes one whole block: the bytes from `from` to before `to`.
   * @throws SallyportError `http2_compression`: the table is lost, and the connection with it.
   */
  decode(block: Buffer, from = 0, to: number = block.length): Block {
    const cursor = this.#cursor;
    cursor.block = block;
    cursor.at = from;
    cursor.end = to;
    let count = 0;
    let malformed: string | undefined;
    let bytes = 0;
    try {
      while (cursor.at < to) {
        const first = block[cursor.at]!;
        if ((first & 0xe0) === 0x20) {
          // Section 4.2: a size change is only allowed at the beginning of a block.
          if (count > 0) throw broken('the table changes its size in the middle of a block');
          this.#resize(readInteger(cursor, 5));
          continue;
        }
        const entry =
          first >= 0x80 ? this.#entryAt(readInteger(cursor, 7)) : this.#readLiteral(cursor, (first & 0xc0) === 0x40);
        bytes += entry.size;
        if (bytes > this.#maxBytes || count >= this.#maxFields) malformed ??= tooLarge;
        else {
          if (entry.wrong !== undefined) malformed ??= entry.wrong;
          namesRead[count] = entry.name;
          valuesRead[count++] = entry.value;
        }
      }
      return { fields: { names: namesRead.slice(0, count), values: valuesRead.slice(0, count) }, malformed };
    } finally {
      // A credential must not stay reachable from here.
      for (let i = 0; i < count; i++) valuesRead[i] = '';
      cursor.block = noBytes;
    }
  }

  #readLiteral(cursor: Cursor, indexed: boolean): Entry {
    const index = readInteger(cursor, indexed ? 6 : 4);
    const name = index === 0 ? (nameOf(readString(cursor)) ?? unknownName) : this.#entryAt(index).name;
    const value = readString(cursor);
    const entry = { name, value, wrong: wrongWith(name, value), size: name.lower.length + value.length + 32 };
    if (indexed) this.#add(entry);
    return entry;
  }

  #entryAt(index: number): Entry {
    if (index === 0) throw broken('index 0');
    const entry =
      index <= staticEntries.length
        ? staticEntries[index - 1]
        : this.#entries[this.#entries.length - (index - staticEntries.length)];
    if (entry === undefined || index - staticEntries.length > this.#entries.length - this.#first)
      throw broken(`no field has the index ${index}`);
    return entry;
  }

  #add(entry: Entry): void {
    this.#entries.push(entry);
    this.#bytes += entry.size;
    this.#evict();
  }

  #resize(limit: number): void {
    // Section 6.3: never more than we have announced.
    if (limit > tableBytes) throw broken(`the table size ${limit} exceeds the limit of ${tableBytes} bytes`);
    this.#limit = limit;
    this.#evict();
  }

  #evict(): void {
    while (this.#bytes > this.#limit) this.#bytes -= this.#entries[this.#first++]!.size;
    // Shifting an array at each eviction would move all of it; now and then is enough.
    if (this.#first > 256) {
      this.#entries = this.#entries.slice(this.#first);
      this.#first = 0;
    }
  }
}

function wrongWith(name: FieldName, value: string): string | undefined {
  if (name === unknownName) return 'a field name contains a character that is not allowed';
  return badValue.test(value) ? `the value of ${name.lower} contains a character that is not allowed` : undefined;
}

const tooLarge = 'the header list exceeds its limits';

/** Whether a block was refused for its size, which has a status of its own (431). */
export function isTooLarge(malformed: string): boolean {
  return malformed === tooLarge;
}

/** The name, or undefined if invalid: capitals (RFC 9113 section 8.2.1), unknown pseudo-headers, not a token. */
function nameOf(raw: string): FieldName | undefined {
  if (raw.startsWith(':')) return pseudoNames.get(raw);
  return /^[!#$%&'*+\-.^_`|~0-9a-z]+$/.test(raw) ? fieldName(raw) : undefined;
}

interface Cursor {
  block: Buffer;
  at: number;
  /** The block ends before it; other frames may follow. */
  end: number;
}

/** @throws SallyportError `http2_compression` at the end of the block. */
function nextByte(cursor: Cursor): number {
  if (cursor.at >= cursor.end) throw broken('the block ends in the middle of a number');
  return cursor.block[cursor.at++]!;
}

/** Section 5.1. No number here needs more than 2^28, and a longer one is an attack. */
function readInteger(cursor: Cursor, bits: number): number {
  const mask = (1 << bits) - 1;
  let value = nextByte(cursor) & mask;
  if (value < mask) return value;
  for (let shift = 0; shift <= 21; shift += 7) {
    const next = nextByte(cursor);
    value += (next & 0x7f) << shift;
    if (next < 0x80) return value;
  }
  throw broken('a number that is too long');
}

/** Section 5.2. */
function readString(cursor: Cursor): string {
  const { block } = cursor;
  const huffman = cursor.at < cursor.end && block[cursor.at]! >= 0x80;
  const length = readInteger(cursor, 7);
  const end = cursor.at + length;
  if (end > cursor.end) throw broken('the block ends in the middle of a string');
  const text = huffman ? decodeHuffman(block, cursor.at, end) : block.toString('latin1', cursor.at, end);
  cursor.at = end;
  return text;
}

function decodeHuffman(block: Buffer, from: number, end: number): string {
  const out = Buffer.allocUnsafe((end - from) * 2);
  let length = 0;
  let row = 0;
  let bits = 0;
  let allOnes = true;
  for (let at = from; at < end; at++) {
    const byte = block[at]!;
    for (let shift = 7; shift >= 0; shift--) {
      const bit = (byte >> shift) & 1;
      const next = huffmanTree[row * 2 + bit]!;
      bits++;
      allOnes &&= bit === 1;
      if (next > 0) {
        row = next;
        continue;
      }
      const symbol = -1 - next;
      if (symbol >= 256) throw broken('a string contains the end symbol');
      out[length++] = symbol;
      row = 0;
      bits = 0;
      allOnes = true;
    }
  }
  // Section 5.2: the rest is the beginning of the end symbol, at most seven bits of it.
  if (bits > 7 || !allOnes) throw broken('a string ends with a broken code');
  return out.toString('latin1', 0, length);
}

function broken(why: string): SallyportError {
  return new SallyportError('http2_compression', `cannot decode the header block: ${why}`);
}
