// The last signed head, outside of the store: `ledger-head.json` in the CA's directory. At its start the CA compares the
// ledger with it before it signs anything. Otherwise it would sign a ledger that an intruder rewrote in the store.

import { existsSync, readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { formatTime } from '../../base/clock.ts';
import { reasonOf, SallyportError } from '../../base/errors.ts';
import { syncDirectory, writeFileDurably } from '../../base/write.ts';
import type { LedgerStore } from '../store/store.ts';
import { mostRecords } from './copy.ts';
import { genesis, hashOf } from './record.ts';
import type { LedgerEnd } from './table.ts';

/** The CA's own record of its ledger's end, outside of the store. */
export function lastHeadFileOf(dir: string): string {
  return join(dir, 'ledger-head.json');
}

/** Remembers that this end of the ledger is signed. `time` is in milliseconds since 1970. */
export function writeLastHead(dir: string, { sequence, hash }: LedgerEnd, time: number): void {
  writeFileDurably(lastHeadFileOf(dir), `${JSON.stringify({ sequence, hash, time: formatTime(time) })}\n`);
}

/** The remembered head; undefined in the directory of a new CA, or of an older version. @throws SallyportError `ledger_forked`. */
export function readLastHead(dir: string): LedgerEnd | undefined {
  const file = lastHeadFileOf(dir);
  if (!existsSync(file)) return undefined;
  try {
    const { sequence, hash } = JSON.parse(readFileSync(file, 'utf8')) as Readonly<Record<string, unknown>>;
    if (
      Number.isSafeInteger(sequence) &&
      Number(sequence) > 0 &&
      typeof hash === 'string' &&
      /^[0-9a-f]{64}$/.test(hash)
    )
      return { sequence: Number(sequence), hash };
  } catch (error) {
    throw forked(`${file} cannot be read: ${reasonOf(error)}`);
  }
  throw forked(`${file} has no sequence and no hash`);
}

/**
 * Verifies that the ledger contains the last head on record, in the file and in the store, and that the hashes of all
 * records after it match. Reads these records only, in pages: an hour's, unless the CA could not sign.
 * @throws SallyportError `ledger_behind` when its end is missing, `ledger_forked` when it has other records.
 */
export async function checkLedger(store: LedgerStore, dir: string): Promise<void> {
  const remembered = readLastHead(dir);
  const end = await store.ledgerEnd();
  const onRecord = await store.ledgerHeadUpTo(Number.MAX_SAFE_INTEGER);
  const first = await store.firstOfLedger();
  for (const head of [remembered, onRecord]) if (head !== undefined) await checkHead(store, head, { end, first });
  const from = remembered ?? onRecord ?? { sequence: 0, hash: genesis };
  let last: LedgerEnd = from;
  while (last.sequence < end.sequence) {
    const page = await store.readLedger(last.sequence + 1, mostRecords);
    for (const { sequence, line, hash } of page) {
      if (sequence !== last.sequence + 1) break;
      if (hashOf(last.hash, line) !== hash) throw forked(`the hash of record ${sequence} does not match`);
      last = { sequence, hash };
    }
    if (page.at(-1)?.sequence !== last.sequence) throw forked(`record ${last.sequence + 1} is missing`);
  }
}

async function checkHead(
  store: LedgerStore,
  { sequence, hash }: LedgerEnd,
  { end, first }: { readonly end: LedgerEnd; readonly first: number },
): Promise<void> {
  if (sequence > end.sequence)
    throw new SallyportError(
      'ledger_behind',
      `the ledger ends with record ${end.sequence}, but the CA has signed record ${sequence}: the end is missing`,
      { hint },
    );
  // The head of the pruned records stays.
  const found = sequence < first ? await store.ledgerHeadUpTo(sequence) : (await store.readLedger(sequence, 1))[0];
  if (found?.sequence !== sequence) throw forked(`record ${sequence}, which the CA has signed, is missing`);
  if (found.hash !== hash) throw forked(`record ${sequence} is not the one that the CA has signed`);
}

/** Keeps the remembered head under another name, as evidence. Returns that name. */
export function setLastHeadAside(dir: string, now: number): string | undefined {
  const file = lastHeadFileOf(dir);
  if (!existsSync(file)) return undefined;
  const aside = join(dir, `ledger-head-${formatTime(now).replaceAll(':', '-')}.json`);
  renameSync(file, aside);
  syncDirectory(dir);
  return aside;
}

const hint =
  'the store was edited, or replaced by an older copy: restore a backup with sallyport ca restore; ca serve --accept-ledger continues with it, and records that';

function forked(message: string): SallyportError {
  return new SallyportError('ledger_forked', `the ledger is not the one that the CA wrote: ${message}`, { hint });
}
