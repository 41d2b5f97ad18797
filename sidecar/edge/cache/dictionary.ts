// Dictionaries of Structured Fields (RFC 9651 section 4.2.2). Every form of a value is read, so that a member that is
// not used here does not hide those beside it. Parameters are checked and dropped.

/** A member's value: its type and its text. A member without a value is `true`. */
export interface Member {
  readonly kind: 'integer' | 'decimal' | 'string' | 'token' | 'bytes' | 'true' | 'false' | 'date' | 'display' | 'list';
  /** Unescaped, for a string; the digits of an integer. */
  readonly value: string;
}

/** The members in order, a repeated key with each of its values. Undefined if the text is not a Dictionary. */
export function parseDictionary(text: string): readonly (readonly [key: string, member: Member])[] | undefined {
  const reader = new Reader(text.replace(/^ +| +$/g, ''));
  const found: (readonly [string, Member])[] = [];
  while (!reader.isAtEnd) {
    const key = reader.take(keyPattern);
    if (key === undefined) return undefined;
    const member = reader.take(/=/y) === undefined ? yes : readValue(reader);
    if (member === undefined || !skipParameters(reader)) return undefined;
    found.push([key, member]);
    reader.take(/[ \t]*/y);
    if (reader.isAtEnd) return found;
    if (reader.take(/,[ \t]*/y) === undefined || reader.isAtEnd) return undefined;
  }
  return found;
}

const yes: Member = { kind: 'true', value: '' };
const keyPattern = /[a-z*][a-z0-9_.*-]*/y;

/** Bare items by their grammar (section 3.3). A longer form of a number comes first. */
const items: readonly (readonly [Member['kind'], RegExp])[] = [
  ['decimal', /-?\d{1,12}\.\d{1,3}(?![\d.])/y],
  ['integer', /-?\d{1,15}(?![\d.])/y],
  ['string', /"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"/y],
  ['token', /[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*/y],
  ['bytes', /:[A-Za-z0-9+/=]*:/y],
  ['true', /\?1/y],
  ['false', /\?0/y],
  ['date', /@-?\d{1,15}(?![\d.])/y],
  ['display', /%"(?:[\x20\x21\x23\x24\x26-\x7e]|%[0-9a-f]{2})*"/y],
];

/** Consumes an item or an inner list. */
function readValue(reader: Reader): Member | undefined {
  if (reader.take(/\( */y) === undefined) return readItem(reader);
  while (reader.take(/\)/y) === undefined) {
    if (readItem(reader) === undefined || !skipParameters(reader)) return undefined;
    if (reader.take(/ +|(?=\))/y) === undefined) return undefined;
  }
  return { kind: 'list', value: '' };
}

function readItem(reader: Reader): Member | undefined {
  for (const [kind, pattern] of items) {
    const value = reader.take(pattern);
    if (value !== undefined)
      return { kind, value: kind === 'string' ? value.slice(1, -1).replace(/\\(.)/g, '$1') : value };
  }
  return undefined;
}

/** Consumes parameters; false if they are malformed. */
function skipParameters(reader: Reader): boolean {
  while (reader.take(/; */y) !== undefined) {
    if (reader.take(keyPattern) === undefined) return false;
    if (reader.take(/=/y) !== undefined && readItem(reader) === undefined) return false;
  }
  return true;
}

/** A text, and how far it has been read. */
class Reader {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  get isAtEnd(): boolean {
    return this.#at >= this.#text.length;
  }

  /** Consumes what a sticky pattern matches here; undefined if it does not match. */
  take(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const match = pattern.exec(this.#text);
    if (match === null) return undefined;
    this.#at = pattern.lastIndex;
    return match[0];
  }
}
