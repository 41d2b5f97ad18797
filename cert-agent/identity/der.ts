// Reads DER (X.690) element by element. Clients present certificates before they are authenticated, so this reads each
// byte once, builds no tree and does not recurse: its cost is linear. Strict: each length has only one valid encoding.

/** One element: its tag, its content, and the whole encoding. Views of the input, not copies. */
export interface DerElement {
  readonly tag: number;
  readonly body: Buffer;
  readonly whole: Buffer;
}

/** The X.680 tags that certificates use. */
export const derTag = Object.freeze({
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  oid: 0x06,
  sequence: 0x30,
});

/** Consumes one element after the other. Every method throws TypeError when the bytes are not as expected. */
export class DerReader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  /** True if nothing is left. */
  get done(): boolean {
    return this.#at >= this.#bytes.length;
  }

  /** What is left. Consumes nothing. */
  rest(): Buffer {
    return this.#bytes.subarray(this.#at);
  }

  /** True if an element with `tag` is next. Consumes nothing. */
  isNext(tag: number): boolean {
    return this.#bytes[this.#at] === tag;
  }

  /** The next element. If `tag` is given, it must have that tag. */
  read(tag?: number): DerElement {
    const from = this.#at;
    const found = this.#byte();
    // X.690 section 8.1.2.4 has tags of several bytes, but certificates do not use them.
    if ((found & 0x1f) === 0x1f) throw new TypeError('a tag of several bytes');
    if (tag !== undefined && found !== tag) throw new TypeError(`tag ${found} where ${tag} is expected`);
    const length = this.#length();
    const start = this.#at;
    if (length > this.#bytes.length - start) throw new TypeError('an element is longer than its container');
    this.#at = start + length;
    return { tag: found, body: this.#bytes.subarray(start, this.#at), whole: this.#bytes.subarray(from, this.#at) };
  }

  /** The next element if it has `tag`; otherwise undefined, and nothing is consumed. */
  readIf(tag: number): DerElement | undefined {
    return this.isNext(tag) ? this.read(tag) : undefined;
  }

  /** A reader of the content of the next element, which must have `tag`. */
  enter(tag: number = derTag.sequence): DerReader {
    return new DerReader(this.read(tag).body);
  }

  /** Throws if bytes are left. */
  end(): void {
    if (!this.done) throw new TypeError('unexpected bytes at the end');
  }

  #byte(): number {
    const byte = this.#bytes[this.#at++];
    if (byte === undefined) throw new TypeError('unexpected end');
    return byte;
  }

  /** X.690 sections 8.1.3 and 10.1: the definite form, in as few bytes as possible. */
  #length(): number {
    const first = this.#byte();
    if (first < 0x80) return first;
    const count = first & 0x7f;
    if (count === 0 || count > 4) throw new TypeError('a length form that DER does not allow');
    let length = 0;
    for (let i = 0; i < count; i++) length = length * 256 + this.#byte();
    if (length < 0x80 || length < 256 ** (count - 1)) throw new TypeError('a length in more bytes than necessary');
    return length;
  }
}

/** An object identifier in dotted form. @throws TypeError. */
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

/** A non-negative integer of at most 6 bytes. @throws TypeError. */
export function readSmallInteger({ body }: DerElement): number {
  if (body.length === 0 || body.length > 6 || (body[0]! & 0x80) !== 0) throw new TypeError('a number out of range');
  return body.readUIntBE(0, body.length);
}

/**
 * BOOLEAN. DER allows 0 and 255 only. An explicit FALSE where it is the default occurs in practice and is harmless.
 * @throws TypeError.
 */
export function readBoolean({ body }: DerElement): boolean {
  if (body.length !== 1 || (body[0] !== 0 && body[0] !== 0xff)) throw new TypeError('not a boolean');
  return body[0] === 0xff;
}

/** The named bits of a BIT STRING, in order. @throws TypeError. */
export function readNamedBits<T extends string>({ body }: DerElement, names: readonly T[]): T[] {
  const [unused] = body;
  if (unused === undefined || unused > 7 || (body.length === 1 && unused !== 0))
    throw new TypeError('not a bit string');
  return names.filter((_, bit) => ((body[1 + (bit >> 3)] ?? 0) & (0x80 >> (bit & 7))) !== 0);
}

/**
 * Checks that `bytes` is one element, that all its constructed elements are well formed, and that neither their depth
 * nor their number exceeds a limit. Call it before a parser that recurses. @throws TypeError.
 */
export function checkDerShape(bytes: Uint8Array, limit: { readonly depth: number; readonly elements: number }): void {
  const outer = new DerReader(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
  const open: DerReader[] = [outer];
  let elements = 0;
  for (let reader = open.at(-1); reader !== undefined; reader = open.at(-1)) {
    if (reader.done) {
      open.pop();
      continue;
    }
    const { tag, body } = reader.read();
    if (++elements > limit.elements) throw new TypeError('too many elements');
    if ((tag & 0x20) === 0) continue;
    if (open.length > limit.depth) throw new TypeError('elements are nested too deeply');
    open.push(new DerReader(body));
    if (reader === outer) outer.end();
  }
  if (elements === 0) throw new TypeError('unexpected end');
}
