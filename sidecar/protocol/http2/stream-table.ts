// The open streams of a connection by their number. Numbers rise, and most streams are short: nearly all are found in a
// ring, by the lower bits of their number. A Map of streams that come and go is copied again and again, as its deleted
// entries fill it.

/** A power of two, larger than the number of streams that are usually open. */
const places = 128;

/** What has a number. */
interface Numbered {
  readonly id: number;
}

/** Streams, each by its number. */
export class StreamTable<T extends Numbered> {
  /** How many there are. */
  size = 0;
  /** Made for the first stream: an idle connection has none. */
  #ring: (T | undefined)[] | undefined = undefined;
  /** Streams whose place another one had. */
  readonly #others = new Map<number, T>();

  /** The stream with that number; undefined if there is none. */
  get(id: number): T | undefined {
    const one = this.#ring?.[placeOf(id)];
    if (one?.id === id) return one;
    return this.#others.size === 0 ? undefined : this.#others.get(id);
  }

  /** Adds one. No other has its number. */
  add(stream: T): void {
    this.#ring ??= new Array(places).fill(undefined);
    const place = placeOf(stream.id);
    if (this.#ring[place] === undefined) this.#ring[place] = stream;
    else this.#others.set(stream.id, stream);
    this.size++;
  }

  /** Nothing if it is not there. */
  delete(stream: T): void {
    const place = placeOf(stream.id);
    if (this.#ring?.[place] === stream) this.#ring[place] = undefined;
    else if (this.#others.get(stream.id) !== stream) return;
    else this.#others.delete(stream.id);
    this.size--;
  }

  /** Removes all. */
  clear(): void {
    this.size = 0;
    this.#ring = undefined;
    this.#others.clear();
  }

  /** All there are now, in the order of their numbers. */
  all(): T[] {
    const inRing = (this.#ring ?? []).filter((one) => one !== undefined);
    return [...inRing, ...this.#others.values()].sort((a, b) => a.id - b.id);
  }
}

/** All numbers of one side are odd, or even. */
function placeOf(id: number): number {
  return (id >>> 1) & (places - 1);
}
