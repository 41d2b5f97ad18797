// Parts of a log line that are the same in many lines, for one upstream or one policy, say. As one piece they are written
// for the price of one of their fields.

/** A power of two. */
const places = 64;
/** A longer part repeats too seldom for its memory. */
const longest = 512;

type Key = string | undefined;

interface Seen {
  readonly first: Key;
  readonly second: Key;
  readonly third: Key;
  readonly text: string;
}

/** Remembers parts by up to three texts that they are made of. Each has one place, which the next one of it takes over. */
export class SeenParts {
  readonly #seen: (Seen | undefined)[] = new Array(places).fill(undefined);
  readonly #make: (first: Key, second: Key, third: Key) => string;

  /** `make` makes a part from its texts, and from nothing else. */
  constructor(make: (first: Key, second: Key, third: Key) => string) {
    this.#make = make;
  }

  /** The part that is made of these texts. */
  of(first: Key, second?: Key, third?: Key): string {
    const place = (hash(first) + 3 * hash(second) + 5 * hash(third)) & (places - 1);
    const seen = this.#seen[place];
    if (seen !== undefined && seen.first === first && seen.second === second && seen.third === third) return seen.text;
    const text = this.#make(first, second, third);
    if (text.length <= longest) this.#seen[place] = { first, second, third, text };
    return text;
  }
}

function hash(text: Key): number {
  if (text === undefined || text === '') return 0;
  return text.length + text.charCodeAt(text.length - 1) + 7 * text.charCodeAt(text.length >> 1);
}
