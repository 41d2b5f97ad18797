// A table with expiring entries and a bound: beyond it the oldest entry is dropped, expired or not.

/** Values with an expiry, by key. */
export class Expiring<V> {
  readonly #entries = new Map<string, { readonly value: V; readonly until: number }>();
  readonly #max: number;
  readonly #now: () => number;

  constructor(max: number, now: () => number) {
    this.#max = max;
    this.#now = now;
  }

  /** Undefined for an unknown or expired key. Does not prolong its life. */
  get(key: string): V | undefined {
    const entry = this.#entries.get(key);
    if (entry === undefined) return undefined;
    if (this.#now() < entry.until) return entry.value;
    this.#entries.delete(key);
    return undefined;
  }

  /** `until`: wall clock, milliseconds. */
  set(key: string, value: V, until: number): void {
    // Moved behind all others: the first in the table is the oldest.
    this.#entries.delete(key);
    this.#entries.set(key, { value, until });
    for (const oldest of this.#entries.keys()) {
      if (this.#entries.size <= this.#max) break;
      this.#entries.delete(oldest);
    }
  }

  /** Does nothing for an unknown key. */
  delete(key: string): void {
    this.#entries.delete(key);
  }

  /** The entries that have not expired, the oldest first. */
  *entries(): IterableIterator<readonly [key: string, value: V, until: number]> {
    const now = this.#now();
    for (const [key, { value, until }] of this.#entries) if (now < until) yield [key, value, until];
  }
}
