// Views of bytes that are used again. A view is an object of some 100 bytes, and most of what is read or written has one
// of a few lengths: those are kept.

/** A power of two. */
const places = 64;

/** Views of one buffer at a time, from its beginning. What they show changes with the buffer. */
export class Views {
  readonly #views: (Buffer | undefined)[] = new Array(places).fill(undefined);

  /** The first `length` bytes of `bytes`. */
  first(bytes: Buffer, length: number): Buffer {
    const at = length & (places - 1);
    const known = this.#views[at];
    if (known?.length === length && known.buffer === bytes.buffer && known.byteOffset === bytes.byteOffset)
      return known;
    const made = bytes.subarray(0, length);
    this.#views[at] = made;
    return made;
  }

  /** Forgets all: a view keeps its buffer in memory, with all that is in it. */
  clear(): void {
    this.#views.fill(undefined);
  }
}
