// Stored responses in memory, with a limit in bytes. The least recently used goes first. Several responses of one URL
// are variants, selected by Vary, and kept apart by rule. Arriving responses count as well, and get at most
// half of the memory: slow backends and clients that leave cannot evict complete responses.

import { noBody } from '../../exchange/answer.ts';
import { hold } from '../../exchange/held-bytes.ts';
import type { Fields, Reply } from '../../exchange/message.ts';
import { type Selection, selects } from './request.ts';
import type { Terms } from './response.ts';

/** The overhead of an entry beside its body and its texts, bytes (measured over 10,000 entries). */
const overheadBytes = 1500;

/** The limit on variants of one URL: with more, Vary names a field that differs for each client. */
const maxVariants = 64;

/** The place of a response. */
export interface Place {
  /** Scheme, authority, path and query: the unit of purges and invalidations. */
  readonly url: string;
  /** The rule, and the headers of the key: never shared. */
  readonly partition: string;
}

/** The scope of a purge. */
export interface Purge {
  readonly url?: string | undefined;
  readonly prefix?: string | undefined;
  readonly tag?: string | undefined;
}

/** The parts of an entry. */
export interface EntryParts extends Place {
  readonly status: number;
  readonly reason: string;
  readonly fields: Fields;
  readonly terms: Terms;
  readonly selection: Selection;
  readonly tags: readonly string[];
  /** The Accept-Encoding that the backend received; undefined if unknown. */
  readonly codings?: string | undefined;
}

/** A stored response, or one that is being stored. */
export class Entry {
  readonly url: string;
  readonly partition: string;
  readonly status: number;
  readonly reason: string;
  readonly codings: string | undefined;
  selection: Selection;
  tags: readonly string[];
  fields: Fields;
  terms: Terms;
  /** Empty until the response is complete. */
  body: Buffer = noBody;
  /** Counted by the store. */
  counted = 0;
  /** True once purged, invalidated, replaced or evicted: no new request may be served from it. */
  isGone = false;
  /** Clients that read its body, and how much of it is counted for them alone once the store no longer counts it. */
  #readers = 0;
  #held = 0;
  /** A validation runs in the background. */
  isRevalidating = false;
  /** performance.now(): a wall clock that jumps must not make it fresh again. */
  #since = performance.now();

  constructor({ url, partition, status, reason, fields, terms, selection, tags, codings }: EntryParts) {
    this.codings = codings;
    this.url = url;
    this.partition = partition;
    this.status = status;
    this.reason = reason;
    this.fields = fields;
    this.terms = terms;
    this.selection = selection;
    this.tags = tags;
  }

  /** The current age in seconds (RFC 9111 section 4.2.3). */
  get age(): number {
    return this.terms.initialAge + (performance.now() - this.#since) / 1000;
  }

  /** When its head arrived, or was renewed: performance.now(). */
  get since(): number {
    return this.#since;
  }

  /** The entry with the head of a validated response. */
  freshen({ fields, terms, selection, tags }: Pick<EntryParts, 'fields' | 'terms' | 'selection' | 'tags'>): void {
    this.fields = fields;
    this.terms = terms;
    this.selection = selection;
    this.tags = tags;
    this.#since = performance.now();
  }

  /** A client starts to read its body, which stays in memory until `giveBack`. */
  lend(): void {
    this.#readers++;
    if (this.isGone) this.holdLent();
  }

  /** Once for each `lend`: the client no longer reads. */
  giveBack(): void {
    this.#readers--;
    if (this.#readers > 0) return;
    hold(-this.#held);
    this.#held = 0;
  }

  /** The store no longer counts the entry. It counts once as waiting for slow readers, for all that still read it. */
  holdLent(): void {
    if (this.#readers === 0 || this.#held > 0) return;
    this.#held = this.body.length;
    hold(this.#held);
  }

  /** Makes it stale, if it is not. */
  outdate(): void {
    const { age, terms } = this;
    if (age < terms.lifetime) this.terms = { ...terms, lifetime: age };
  }

  /** The complete response's head. */
  get reply(): Reply {
    const { status, reason, fields, body } = this;
    return {
      status,
      reason,
      fields,
      hopFields: undefined,
      framing: body.length,
      declaredLength: status === 204 ? undefined : body.length,
    };
  }

  /** The memory that its head takes. */
  get headBytes(): number {
    let bytes = overheadBytes + this.url.length + this.partition.length;
    for (const value of this.fields.values) bytes += value.length + 24;
    for (const [name, value] of this.selection) bytes += name.length + (value?.length ?? 0) + 48;
    for (const tag of this.tags) bytes += tag.length + 24;
    bytes += this.codings?.length ?? 0;
    return bytes;
  }
}

/** The stored responses of one policy in one process. */
export class Store {
  readonly maxBytes: number;
  readonly #byUrl = new Map<string, Entry[]>();
  /** In the order of use. */
  readonly #used = new Set<Entry>();
  /** Arriving responses, oldest first, each with the callback that gives up its place. */
  readonly #filling = new Map<Entry, () => void>();
  #fillingBytes = 0;
  #bytes = 0;
  evictions = 0;

  constructor(maxBytes: number) {
    this.maxBytes = maxBytes;
  }

  /** The largest response that can be stored, with its head, bytes. */
  get largest(): number {
    return Math.floor(this.maxBytes / 2);
  }

  /** All counted bytes: complete entries and arriving ones. */
  get bytes(): number {
    return this.#bytes;
  }

  /** The number of complete entries. */
  get size(): number {
    return this.#used.size;
  }

  /** The most recent response that a request selects, and whether there are others at its place. */
  find({ url, partition }: Place, request: Fields): { readonly entry: Entry | undefined; readonly others: boolean } {
    const variants = this.#byUrl.get(url);
    if (variants === undefined) return none;
    let others = false;
    for (let i = variants.length - 1; i >= 0; i--) {
      const entry = variants[i]!;
      if (entry.partition !== partition) continue;
      if (selects(entry.selection, request)) {
        this.#used.delete(entry);
        this.#used.add(entry);
        return { entry, others };
      }
      others = true;
    }
    return { entry: undefined, others };
  }

  /**
   * Counts a response whose body is on its way; false if there is no room.
   * @param giveUp called once, if it has to make room for others: it is no longer counted then
   */
  begin(entry: Entry, giveUp: () => void): boolean {
    this.#filling.set(entry, giveUp);
    if (this.grow(entry, entry.headBytes)) return true;
    this.release(entry);
    return false;
  }

  /** Counts more bytes of an arriving response. The oldest arriving ones make room. */
  grow(entry: Entry, bytes: number): boolean {
    if (entry.counted + bytes > this.largest) return false;
    while (this.#fillingBytes + bytes > this.largest) {
      const [first] = this.#filling;
      if (first === undefined || first[0] === entry) return false;
      const [oldest, giveUp] = first;
      giveUp();
      this.release(oldest);
    }
    if (!this.reserve(entry, bytes)) return false;
    this.#fillingBytes += bytes;
    return true;
  }

  /** Counts bytes to store, and makes room for them; false if there is none. */
  reserve(entry: Entry, bytes: number): boolean {
    if (this.#fillingBytes + bytes > this.maxBytes) return false;
    while (this.#bytes + bytes > this.maxBytes) {
      const [oldest] = this.#used;
      if (oldest === undefined) return false;
      this.evictions++;
      this.remove(oldest);
    }
    this.#bytes += bytes;
    entry.counted += bytes;
    return true;
  }

  /** Takes back what was counted for an entry that is not stored. */
  release(entry: Entry): void {
    this.#landed(entry);
    this.#bytes -= entry.counted;
    entry.counted = 0;
  }

  /** Stores a complete entry, whose bytes are counted, in place of the one that the same requests select. */
  add(entry: Entry): void {
    this.#landed(entry);
    const variants = this.#byUrl.get(entry.url) ?? [];
    for (const one of [...variants])
      if (one.partition === entry.partition && isSame(one.selection, entry.selection)) this.remove(one);
    const kept = this.#byUrl.get(entry.url);
    if (kept === undefined) this.#byUrl.set(entry.url, [entry]);
    else {
      if (kept.length >= maxVariants) this.remove(kept[0]!);
      kept.push(entry);
    }
    this.#used.add(entry);
  }

  /** Counts a stored entry again after its head has changed, and replaces the entry that its requests select now. */
  replaceHead(entry: Entry): void {
    if (!this.#used.delete(entry)) return;
    const variants = this.#byUrl.get(entry.url)!;
    for (const one of [...variants])
      if (one !== entry && one.partition === entry.partition && isSame(one.selection, entry.selection))
        this.remove(one);
    const more = entry.headBytes + entry.body.length - entry.counted;
    // Now it is the most recent.
    variants.splice(variants.indexOf(entry), 1);
    variants.push(entry);
    // It is not among those that make room for it.
    const fits = this.reserve(entry, more);
    this.#used.add(entry);
    if (!fits) this.remove(entry);
  }

  /** Takes the entry out and releases its bytes. Readers of its body are not affected. */
  remove(entry: Entry): void {
    entry.isGone = true;
    if (!this.#used.delete(entry)) return;
    this.release(entry);
    entry.holdLent();
    const variants = this.#byUrl.get(entry.url)!;
    if (variants.length === 1) this.#byUrl.delete(entry.url);
    else variants.splice(variants.indexOf(entry), 1);
  }

  /** Removes all entries of a URL, in all variants and partitions; returns how many. */
  removeUrl(url: string): number {
    const variants = [...(this.#byUrl.get(url) ?? [])];
    for (const entry of variants) this.remove(entry);
    return variants.length;
  }

  #landed(entry: Entry): void {
    if (this.#filling.delete(entry)) this.#fillingBytes -= entry.counted;
  }

  /** Removes the entries that match; returns how many. */
  removeWhere(matches: (entry: Entry) => boolean): number {
    const found = [...this.#used].filter(matches);
    for (const entry of found) this.remove(entry);
    return found.length;
  }
}

const none = Object.freeze({ entry: undefined, others: false });

function isSame(a: Selection, b: Selection): boolean {
  return a.length === b.length && a.every(([name, value], i) => b[i]![0] === name && b[i]![1] === value);
}
