// Sends purges to other gateways by a stream in Redis, and reads theirs. A purge that Redis missed is sent again.

import type { RedisLink } from '../redis-link.ts';
import type { Purge } from './store.ts';

/** A stream keeps this many records, and a record this many bytes of text: together they bound its size in Redis. */
const keptRecords = 1000;
const maxRecord = 32 * 1024;

/** If more purges than this wait for Redis, one purge of everything is sent instead. */
const maxOwed = 1000;

/** One stream. */
export class PurgeStream {
  readonly #link: RedisLink;
  readonly #key: string;
  readonly #apply: (purge: Purge) => void;
  readonly #clear: () => void;
  /** The last record that was read; undefined before the first read. */
  #last: string | undefined = undefined;
  /** The outages of Redis until the last read. */
  #outages = 0;
  /** Purges that are not in the stream yet. */
  #owed: readonly Purge[] = [];

  /**
   * @param apply another gateway, or this one, has purged
   * @param clear purges may have been missed: the responses in memory cannot be trusted
   */
  constructor(link: RedisLink, name: string, apply: (purge: Purge) => void, clear: () => void) {
    this.#link = link;
    this.#key = `sallyport:cache:${name}`;
    this.#apply = apply;
    this.#clear = clear;
  }

  /**
   * Sends purges, several in one record. Never rejects.
   * @param done whether the stores in Redis have applied them; if not, they are sent again later
   */
  async tell(purges: readonly Purge[], done: Promise<readonly boolean[]>): Promise<void> {
    const told = this.#add(purges);
    if ((await told) && (await done).every(Boolean)) return;
    this.#owed = this.#owed.length + purges.length > maxOwed ? [{ prefix: '' }] : [...this.#owed, ...purges];
  }

  /** Sends the purges that Redis has missed. Never rejects. */
  async tellOwed(): Promise<void> {
    const owed = this.#owed;
    if (owed.length === 0) return;
    this.#owed = [];
    await this.tell(owed, Promise.resolve([true]));
  }

  /** Reads new records. Never rejects. */
  async look(): Promise<void> {
    const from = this.#last;
    const answer = await this.#link.ask((client) =>
      from === undefined
        ? client.sendCommand(['XREVRANGE', this.#key, '+', '-', 'COUNT', '1'])
        : client.sendCommand(['XRANGE', this.#key, `(${from}`, '+']),
    );
    if (!Array.isArray(answer)) return;
    const records = answer as readonly (readonly [id: string, pairs: readonly string[]])[];
    const { outages } = this.#link;
    if (from === undefined || outages !== this.#outages || records.length >= keptRecords) this.#clear();
    else for (const [, pairs] of records) for (let i = 1; i < pairs.length; i += 2) this.#read(pairs[i]!);
    this.#outages = outages;
    this.#last = records.at(-1)?.[0] ?? from ?? '0-0';
  }

  /** False if Redis has not confirmed all of them. */
  async #add(purges: readonly Purge[]): Promise<boolean> {
    const answers = recordsOf(purges).map((record) =>
      this.#link.ask((client) =>
        client.sendCommand(['XADD', this.#key, 'MAXLEN', '~', String(keptRecords), '*', ...record]),
      ),
    );
    return (await Promise.all(answers)).every((answer) => answer !== undefined);
  }

  #read(text: string): void {
    const said = parse(text);
    if (typeof said !== 'object' || said === null) return;
    const { url, prefix, tag } = said as Purge;
    if ([url, prefix, tag].every((one) => one === undefined || typeof one === 'string'))
      this.#apply({ url, prefix, tag });
  }
}

/** Pairs of a record: each purge under `p`. */
function recordsOf(purges: readonly Purge[]): readonly (readonly string[])[] {
  const records: string[][] = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const purge of purges) {
    const text = JSON.stringify(purge);
    if (bytes + text.length > maxRecord) {
      records.push([]);
      bytes = 0;
    }
    records.at(-1)!.push('p', text);
    bytes += text.length;
  }
  return records;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
