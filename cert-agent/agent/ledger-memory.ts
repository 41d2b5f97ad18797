// Remembers the newest end of the CA's ledger that this agent saw, in `ledger-head.json`. A newer one replaces it only
// if the CA's ledger still has the record that we remember. Otherwise the CA was restored from an older backup, and may
// have forgotten revocations, or its ledger was rewritten; the file is then evidence, and stays. `ca restore --seen` and
// `ca ledger verify --head` take it.

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

/** No CA prunes records that are younger, milliseconds. */
const keptMs = 24 * 3_600_000;

export class LedgerMemory {
  readonly #file: string;
  readonly #log: Log;
  #seen: LedgerHead | undefined;
  /** A newer one, not compared with `#seen` yet. */
  #pending: LedgerHead | undefined;
  #isWritten = true;
  /** The log has complained. It does so once, until the file is deleted. */
  #said = false;

  constructor({ outDir, log }: { readonly outDir: string; readonly log: Log }) {
    this.#file = join(outDir, 'ledger-head.json');
    this.#log = log;
    try {
      this.#seen = readLedgerHead(JSON.parse(readFileSync(this.#file, 'utf8')));
      if (this.#seen === undefined) throw new Error('it has no sequence, hash and time');
    } catch (error) {
      if (!isMissing(error)) log.warn({ code: 'generation_damaged' }, `${this.#file} is not used: ${reasonOf(error)}`);
    }
  }

  /** Call with each head that the CA sends. The first one is remembered, a newer one waits for `confirm`. */
  see(head: LedgerHead | undefined): void {
    if (head === undefined) return;
    // An operator who knows why the ledgers differ deletes the file.
    if (this.#said && this.#isWritten && !existsSync(this.#file)) {
      this.#said = false;
      this.#seen = undefined;
    }
    const seen = this.#seen;
    if (seen === undefined) return this.#remember(head);
    const { sequence, hash } = head;
    if (sequence > seen.sequence) this.#pending = head;
    else if (sequence < seen.sequence) this.#complain('ledger_behind', head, `ends with record ${sequence}`);
    else if (hash !== seen.hash) this.#complain('ledger_forked', head, `has another record ${sequence}`);
    else if (!this.#isWritten) this.#remember(head);
  }

  /**
   * Remembers the newer head that waits, if there is one and `placeOf` finds the remembered record where it was. `now`
   * is in milliseconds since 1970. @throws what `placeOf` throws; the head then waits for the next call.
   */
  async confirm(placeOf: (sequence: number) => Promise<LedgerPlace>, now: number): Promise<void> {
    const [seen, newer] = [this.#seen, this.#pending];
    if (seen === undefined || newer === undefined || this.#said) return;
    const place = await placeOf(seen.sequence);
    if (place === 'unknown' || place.hash === seen.hash || this.#isPruned(place, seen, now)) {
      this.#remember(newer);
      if (this.#pending === newer) this.#pending = undefined;
      return;
    }
    const without = place.hash === undefined ? 'does not have' : 'has another';
    this.#complain('ledger_forked', newer, `ends with record ${newer.sequence} and ${without} record ${seen.sequence}`);
  }

  /** A CA that has lost the record must not say that it pruned it. */
  #isPruned({ hash, first }: Exclude<LedgerPlace, 'unknown'>, seen: LedgerHead, now: number): boolean {
    return hash === undefined && first > seen.sequence && now - Date.parse(seen.time) > keptMs;
  }

  #remember(head: LedgerHead): void {
    this.#seen = head;
    try {
      const { sequence, hash, time } = head;
      writeFileDurably(this.#file, `${JSON.stringify({ sequence, hash, time })}\n`);
      this.#isWritten = true;
    } catch (error) {
      // The next head tries again. The keep reports a disk that cannot be written.
      this.#isWritten = false;
      this.#log.debug({ code: 'generation_unwritten' }, `cannot write ${this.#file}: ${reasonOf(error)}`);
    }
  }

  #complain(code: 'ledger_behind' | 'ledger_forked', { sequence, time }: LedgerHead, what: string): void {
    if (this.#said) return;
    this.#said = true;
    const seen = this.#seen!;
    this.#log.error(
      {
        ...{ code, sequence, time, seen: seen.sequence, seenTime: seen.time },
        hint: `keep a copy of ${this.#file}, and delete it once you know why`,
      },
      `the CA's ledger ${what}, but we saw record ${seen.sequence} of ${seen.time}: ` +
        'the CA was restored from an older backup, and revocations may be forgotten, or its ledger was rewritten',
    );
  }
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
