// Remembers the ends of the CA's ledger that this agent saw, in `ledger-head.json`: the newest, at once, and under
// `before` those that the CA has not confirmed since. If the CA's ledger lacks one of them, the CA was restored from an
// older backup, and may have forgotten revocations, or its ledger was rewritten. The file is then evidence, and stays.
// `ca restore --seen` and `ca ledger verify --head` take it.

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { reasonOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { writeFileDurably } from '../base/write.ts';
import { isMissing } from '../identity/read.ts';

/** A signed head of the ledger, without its signature: the CA sends it over its own connection. */
export interface LedgerHead {
  readonly sequence: number;
  /** Lower-case hex. */
  readonly hash: string;
  /** RFC 3339. */
  readonly time: string;
}

/** What a ledger has of one record. `unknown`: the CA is too old to be asked. */
export type LedgerPlace =
  | 'unknown'
  | {
      /** Absent if the ledger does not have it. */
      readonly hash?: string;
      /** The first record that was not pruned. */
      readonly first: number;
    };

/** No CA prunes records that are younger, milliseconds: a day, less the hour in which a head may follow its record. */
const keptMs = 22 * 3_600_000;

/** More unconfirmed heads than these are not kept: the oldest, and the newest ones. */
const mostBefore = 16;

/** After this time without a confirmation the log warns, milliseconds. */
const patienceMs = 60_000;

/** Reads its file at once. A file that cannot be read is reported, and nothing is believed of it. */
export class LedgerMemory {
  readonly #file: string;
  readonly #log: Log;
  #seen: LedgerHead | undefined;
  /** Older heads, oldest first, that the CA has not confirmed since `#seen` took their place. */
  #before: readonly LedgerHead[] = [];
  /** A head that contradicts `#seen`, unless it was only late: the CA is asked. */
  #doubt: LedgerHead | undefined;
  #isWritten = true;
  /** The log has complained. Nothing is taken until the file is deleted. */
  #isEvidence = false;
  #unconfirmedSince: number | undefined;
  #isWarned = false;

  constructor({ outDir, log }: { readonly outDir: string; readonly log: Log }) {
    this.#file = join(outDir, 'ledger-head.json');
    this.#log = log;
    try {
      const value: unknown = JSON.parse(readFileSync(this.#file, 'utf8'));
      this.#seen = readLedgerHead(value);
      if (this.#seen === undefined) throw new Error('it has no sequence, hash and time');
      this.#before = readBefore(value);
    } catch (error) {
      if (!isMissing(error)) log.warn({ code: 'generation_damaged' }, `${this.#file} is not used: ${reasonOf(error)}`);
    }
  }

  /** Call with each head that the CA sends. A newer one is on disk when this returns. */
  see(head: LedgerHead | undefined): void {
    if (head === undefined) return;
    // An operator who knows why the ledgers differ deletes the file.
    if (this.#isEvidence && this.#isWritten && !existsSync(this.#file)) this.#forget();
    if (this.#isEvidence) return;
    const seen = this.#seen;
    if (seen === undefined) return this.#remember(head, []);
    if (head.sequence > seen.sequence) return this.#remember(head, bounded([...this.#before, seen]));
    if (head.sequence < seen.sequence || head.hash !== seen.hash) this.#doubt = head;
    else if (!this.#isWritten) this.#remember(seen, this.#before);
  }

  /**
   * Compares what was seen with the CA's ledger, if there is anything new. `placeOf` asks the CA for a record, and `now`
   * is in milliseconds since 1970. @throws what `placeOf` throws; the next call tries again.
   */
  async confirm(placeOf: (sequence: number) => Promise<LedgerPlace>, now: number): Promise<void> {
    const [seen, before, doubt] = [this.#seen, this.#before, this.#doubt];
    if (seen === undefined || this.#isEvidence || (before.length === 0 && doubt === undefined)) return;
    try {
      for (const one of doubt === undefined ? before : [...before, seen]) {
        const place = await placeOf(one.sequence);
        const isDoubted = one === seen && place === 'unknown';
        if (isDoubted || !isIn(place, one, now)) return this.#complain(one, doubt ?? seen, place);
      }
    } catch (error) {
      this.#warnIfLate(error, now);
      throw error;
    }
    this.#unconfirmedSince = undefined;
    this.#isWarned = false;
    if (this.#doubt === doubt) this.#doubt = undefined;
    if (before.length > 0 && this.#seen !== undefined)
      this.#remember(
        this.#seen,
        this.#before.filter((one) => !before.includes(one)),
      );
  }

  #forget(): void {
    this.#isEvidence = false;
    this.#seen = undefined;
    this.#before = [];
    this.#doubt = undefined;
  }

  #remember(head: LedgerHead, before: readonly LedgerHead[]): void {
    this.#seen = head;
    this.#before = before;
    try {
      const file = before.length === 0 ? head : { ...head, before };
      writeFileDurably(this.#file, `${JSON.stringify(file)}\n`);
      this.#isWritten = true;
    } catch (error) {
      // The next head tries again. The keep reports a disk that cannot be written.
      this.#isWritten = false;
      this.#log.debug({ code: 'generation_unwritten' }, `cannot write ${this.#file}: ${reasonOf(error)}`);
    }
  }

  #warnIfLate(error: unknown, now: number): void {
    this.#unconfirmedSince ??= now;
    if (this.#isWarned || now - this.#unconfirmedSince < patienceMs) return;
    this.#isWarned = true;
    this.#log.warn(
      { code: 'ledger_unconfirmed', since: new Date(this.#unconfirmedSince).toISOString() },
      `cannot compare the CA's ledger with what we saw of it: ${reasonOf(error)}`,
    );
  }

  /** `lost` was seen, and is not in the ledger. The file keeps it, and what was not confirmed before it. */
  #complain(lost: LedgerHead, now: LedgerHead, place: LedgerPlace): void {
    this.#isEvidence = true;
    this.#remember(
      lost,
      [...this.#before].filter(({ sequence }) => sequence < lost.sequence),
    );
    const isBehind = now.sequence < lost.sequence;
    const has = place === 'unknown' || place.hash === undefined ? 'lacks' : 'has another';
    this.#log.error(
      {
        ...{ code: isBehind ? 'ledger_behind' : 'ledger_forked', sequence: now.sequence, time: now.time },
        ...{ seen: lost.sequence, seenTime: lost.time },
        hint: `keep a copy of ${this.#file}, and delete it once you know why`,
      },
      `the CA's ledger ends with record ${now.sequence} and ${has} record ${lost.sequence}, which we saw with the time ${lost.time}: ` +
        'the CA was restored from an older backup, and revocations may be forgotten, or its ledger was rewritten',
    );
  }
}

/** A CA that has lost the record must not say that it pruned it. */
function isIn(place: LedgerPlace, { sequence, hash, time }: LedgerHead, now: number): boolean {
  if (place === 'unknown' || place.hash === hash) return true;
  return place.hash === undefined && place.first > sequence && now - Date.parse(time) > keptMs;
}

/** The oldest is what the CA confirmed last. */
function bounded(heads: readonly LedgerHead[]): readonly LedgerHead[] {
  return heads.length <= mostBefore ? heads : [...heads.slice(0, 1), ...heads.slice(1 - mostBefore)];
}

function readBefore(value: unknown): readonly LedgerHead[] {
  const { before } = value as { readonly before?: unknown };
  if (!Array.isArray(before)) return [];
  return bounded(before.map(readLedgerHead).filter((one) => one !== undefined));
}

/** What the CA says of record `sequence`; undefined if it cannot be read. */
export function readLedgerPlace(value: unknown, sequence: number): LedgerPlace | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const { sequence: of, hash, first } = value as Readonly<Record<string, unknown>>;
  if (of !== sequence || !Number.isSafeInteger(first) || Number(first) < 1) return undefined;
  if (hash === undefined) return { first: Number(first) };
  return typeof hash === 'string' && isHash(hash) ? { hash, first: Number(first) } : undefined;
}

function isHash(text: string): boolean {
  return /^[0-9a-f]{64}$/.test(text);
}

/** The head in the CA's bundle document; undefined if there is none that can be read. */
export function readLedgerHead(value: unknown): LedgerHead | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const { sequence, hash, time } = value as Readonly<Record<string, unknown>>;
  if (!Number.isSafeInteger(sequence) || Number(sequence) < 1) return undefined;
  if (typeof hash !== 'string' || !isHash(hash)) return undefined;
  if (typeof time !== 'string' || Number.isNaN(Date.parse(time))) return undefined;
  return { sequence: Number(sequence), hash, time: new Date(time).toISOString() };
}
