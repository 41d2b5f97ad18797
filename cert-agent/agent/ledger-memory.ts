// Remembers the newest end of the CA's ledger that this agent saw, in `ledger-head.json`. A CA whose ledger is behind
// it was restored from an older backup, and may have forgotten revocations. `ca restore --seen` and `ca ledger verify
// --head` take the file.

import { readFileSync } from 'node:fs';
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

export class LedgerMemory {
  readonly #file: string;
  readonly #log: Log;
  #seen: LedgerHead | undefined;
  #isWritten = true;
  /** The head that the log has complained of. */
  #said: string | undefined;

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

  /** Call with each head that the CA sends. A newer one is remembered, an older one reported. */
  see(head: LedgerHead | undefined): void {
    if (head === undefined) return;
    const seen = this.#seen;
    if (
      seen !== undefined &&
      (head.sequence < seen.sequence || (head.sequence === seen.sequence && head.hash !== seen.hash))
    )
      return this.#complain(head, seen);
    if (head.sequence === seen?.sequence && this.#isWritten) return;
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

  #complain({ sequence, hash, time }: LedgerHead, seen: LedgerHead): void {
    if (hash === this.#said) return;
    this.#said = hash;
    const now = sequence < seen.sequence ? `ends with record ${sequence}` : `has another record ${sequence}`;
    this.#log.error(
      { code: 'ledger_behind', sequence, time, seen: seen.sequence, seenTime: seen.time },
      `the CA's ledger ${now}, but we saw record ${seen.sequence} of ${seen.time}: ` +
        'the CA was restored from an older backup, and revocations may be forgotten',
    );
  }
}

/** The head in the CA's bundle document; undefined if there is none that can be read. */
export function readLedgerHead(value: unknown): LedgerHead | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const { sequence, hash, time } = value as Readonly<Record<string, unknown>>;
  if (!Number.isSafeInteger(sequence) || Number(sequence) < 1) return undefined;
  if (typeof hash !== 'string' || !/^[0-9a-f]{64}$/.test(hash)) return undefined;
  if (typeof time !== 'string' || Number.isNaN(Date.parse(time))) return undefined;
  return { sequence: Number(sequence), hash, time: new Date(time).toISOString() };
}
