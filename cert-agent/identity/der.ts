// Reading DER (X.690) element by element. Strangers present certificates before we know who they are, so this reads each
// byte once, builds no tree and never descends by itself: the cost is that of the bytes. Strict: one encoding for each length.

/** One element: its tag, what is in it, and both together. Views of the bytes that were read, not copies. */
export interface DerElement {
  readonly tag: number;
  readonly body: Buffer;
  readonly whole: Buffer;
}

/** Tags of X.680 that certificates are made of. */
export const derTag = Object.freeze({
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  oid: 0x06,
  sequence: 0x30,
});

/** Consumes elements one after the other. Every method throws TypeError where the bytes are not what was asked for. */
export class DerReader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get done(): boolean {
    return this.#at >= this.#bytes.length;
  }

  /** Whether an element with `tag` is next; consumes nothing. */
  isNext(tag: number): boolean {
    return this.#bytes[this.#at] === tag;
  }

  /** The next element; with `tag` it must bear that one. */
  read(tag?: number): DerElement {
    const from = this.#at;
    const found = this.#byte();
    // X.690 section 8.1.2.4: tags of several bytes exist, and certificates have none.
    if ((found & 0x1f) === 0x1f) throw new TypeError('a tag of several bytes');
    if (tag !== undefined && found !== tag) throw new TypeError(`tag ${found} where ${tag} is expected`);
    const length = this.#length();
    const start = this.#at;
    if (length > this.#bytes.length - start) throw new TypeError('an element is longer than what holds it');
    this.#at = start + length;
    return { tag: found, body: this.#bytes.subarray(start, this.#at), whole: this.#bytes.subarray(from, this.#at) };
  }

  /** The next element if it bears `tag`; undefined, and nothing consumed, otherwise. */
  readIf(tag: number): DerElement | undefined {
    return this.isNext(tag) ? this.read(tag) : undefined;
  }

  /** Goes into the next element, which must bear `tag`. */
  enter(tag: number = derTag.sequence): DerReader {
    return new DerReader(this.read(tag).body);
  }

  /** Nothing may be left. */
  end(): void {
    if (!this.done) throw new TypeError('there is more than there should be');
  }

  #byte(): number {
    const byte = this.#bytes[this.#at++];
    if (byte === undefined) throw new TypeError('it ends early');
    return byte;
  }

  /** X.690 sections 8.1.3 and 10.1: definite, and in as few bytes as possible. */
  #length(): number {
    const first = this.#byte();
    if (first < 0x80) return first;
    const count = first & 0x7f;
    if (count === 0 || count > 4) throw new TypeError('a length that DER does not have');
    let length = 0;
    for (let i = 0; i < count; i++) length = length * 256 + this.#byte();
    if (length < 0x80 || length < 256 ** (count - 1)) throw new TypeError('a length in more bytes than it needs');
    return length;
  }
}

/** An object identifier in dots. @throws TypeError. */
export function readOid({ body }: DerElement): string {
  const arcs: number[] = [];
  let arc = 0;
  for (const [index, byte] of body.entries()) {
    arc = arc * 128 + (byte & 0x7f);
    if (!Number.isSafeInteger(arc)) throw new TypeError('an object identifier that is too large');
    if ((byte & 0x80) !== 0) {
      if (index === body.length - 1) throw new TypeError('an object identifier that ends early');
      continue;
    }
    arcs.push(arc);
    arc = 0;
  }
  const [first] = arcs;
  if (first === undefined) throw new TypeError('an empty object identifier');
  const root = Math.min(2, Math.floor(first / 40));
  return [root, first - root * 40, ...arcs.slice(1)].join('.');
}

/** A whole number that is not negative and fits a number. @throws TypeError. */
export function readSmallInteger({ body }: DerElement): number {
  if (body.length === 0 || body.length > 6 || (body[0]! & 0x80) !== 0) throw new TypeError('a number out of range');
  return body.readUIntBE(0, body.length);
}

/** BOOLEAN. DER knows 0 and 255 only; an explicit FALSE where it is the default is seen in the wild, and harmless. @throws TypeError. */
export function readBoolean({ body }: DerElement): boolean {
  if (body.length !== 1 || (body[0] !== 0 && body[0] !== 0xff)) throw new TypeError('neither true nor false');
  return body[0] === 0xff;
}

/** The named bits of a BIT STRING, the first one first. @throws TypeError. */
export function readNamedBits<T extends string>({ body }: DerElement, names: readonly T[]): T[] {
  const [unused] = body;
  if (unused === undefined || unused > 7 || (body.length === 1 && unused !== 0)) throw new TypeError('no bit string');
  return names.filter((_, bit) => ((body[1 + (bit >> 3)] ?? 0) & (0x80 >> (bit & 7))) !== 0);
}
