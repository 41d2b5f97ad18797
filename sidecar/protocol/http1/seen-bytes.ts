// What clients and servers say with each message is the same each time. Bytes that have come before are compared, which
// costs less than to make strings of them, and to look those up.

/** A power of two. */
const places = 512;
/** Longer runs repeat too seldom. */
const longest = 256;

interface Seen<T> {
  readonly bytes: Uint8Array;
  readonly meaning: T;
}

/**
 * Remembers what runs of bytes mean. Each has one place, which the next one of that place takes over. It shares no memory
 * with what it is given; a credential is not to be given to it.
 */
export class SeenBytes<T> {
  readonly #seen: (Seen<T> | undefined)[] = new Array(places).fill(undefined);

  /** What the bytes from `at` to before `end` mean, if they have come before; undefined if that is not known. */
  find(bytes: Uint8Array, at: number, end: number): T | undefined {
    const seen = this.#seen[placeOf(bytes, at, end)];
    if (seen === undefined || seen.bytes.length !== end - at) return undefined;
    const { bytes: own, meaning } = seen;
    for (let from = at, i = 0; from < end; from++, i++) if (own[i] !== bytes[from]) return undefined;
    return meaning;
  }

  /** Remembers them, unless there are too many. */
  learn(bytes: Uint8Array, at: number, end: number, meaning: T): void {
    if (end - at > longest) return;
    this.#seen[placeOf(bytes, at, end)] = { bytes: Uint8Array.prototype.slice.call(bytes, at, end), meaning };
  }
}

function placeOf(bytes: Uint8Array, at: number, end: number): number {
  const middle = bytes[(at + end) >> 1]!;
  return ((end - at) ^ (bytes[at]! << 2) ^ (middle << 4) ^ (bytes[end - 1]! << 1)) & (places - 1);
}
