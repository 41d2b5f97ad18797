// An exported copy of the ledger, JSON lines: a first line, then records in order, each head after the record that it
// covers. `ledger/verify.ts` checks a copy without the CA.

import { formatTime } from '../../base/clock.ts';
import { SallyportError } from '../../base/errors.ts';
import type { LedgerRecord } from './record.ts';
import type { LedgerEnd, LedgerHead } from './table.ts';

/** The extent of a ledger. */
export interface LedgerState {
  readonly trustDomain: string;
  /** The first record that is kept. Earlier ones were pruned; the head before it is the checkpoint. */
  readonly first: number;
  readonly end: LedgerEnd;
  /** The roots of the CA, base64 DER. */
  readonly roots: readonly string[];
}

/** Reads a ledger in pages. */
export interface LedgerReader {
  /** The current extent: records may follow while it is read. */
  state(): Promise<LedgerState>;
  /** At most `count` records (500 at most), from sequence `from` on. */
  records(from: number, count: number): Promise<readonly LedgerRecord[]>;
  /** At most `count` heads (100 at most), from sequence `from` on. */
  heads(from: number, count: number): Promise<readonly LedgerHead[]>;
  /** The newest head up to `sequence`. */
  headUpTo(sequence: number): Promise<LedgerHead | undefined>;
  /** The first record at or after `time`, milliseconds since 1970. */
  firstSince(time: number): Promise<number | undefined>;
}

/** The largest pages of a reader. */
export const mostRecords = 500;
export const mostHeads = 100;

/** A head as a copy contains it: its time is text. */
export interface CopiedHead extends Omit<LedgerHead, 'time'> {
  readonly time: string;
}

/** As in a copy: the time as RFC 3339 text. */
export function copyHead({ sequence, hash, time, signature, issuer }: LedgerHead): CopiedHead {
  return { sequence, hash, time: formatTime(time), signature, issuer };
}

/** The first line of a copy. */
export function firstLine(trustDomain: string, checkpoint: LedgerHead | undefined): string {
  return JSON.stringify({ ledger: 1, trustDomain, checkpoint: checkpoint === undefined ? null : copyHead(checkpoint) });
}

/** One line of a copy. The record is its text as it was hashed. */
export function recordLine({ hash, line }: Pick<LedgerRecord, 'hash' | 'line'>): string {
  return JSON.stringify({ hash, record: line });
}

/** One line of a copy, after the record that the head signs. */
export function headLine(head: LedgerHead): string {
  return JSON.stringify({ head: copyHead(head) });
}

/**
 * The lines of a copy, up to the current end of the ledger. With `since` (milliseconds since 1970) it begins after
 * the last head before that time, so that it can be verified.
 * @throws SallyportError `store_failed` when records are pruned meanwhile.
 */
export async function* copyLines(reader: LedgerReader, since?: number): AsyncGenerator<string> {
  const { trustDomain, first, end } = await reader.state();
  const from = since === undefined ? first : ((await reader.firstSince(since)) ?? end.sequence + 1);
  const checkpoint = from > 1 ? await reader.headUpTo(from - 1) : undefined;
  yield firstLine(trustDomain, checkpoint);
  let next = checkpoint === undefined ? first : checkpoint.sequence + 1;
  const heads = headsFrom(reader, next);
  let head = await nextOf(heads);
  const isWhole = next === first;
  let last = next - 1;
  while (next <= end.sequence) {
    const page = await reader.records(next, Math.min(mostRecords, end.sequence - next + 1));
    // At the very beginning a gap is a fault of the ledger, which the copy shows.
    if (page.length === 0) break;
    if (isWhole && next === first && page[0]!.sequence !== first) throw pruned();
    for (const record of page) {
      for (; head !== undefined && head.sequence < record.sequence; head = await nextOf(heads)) yield headLine(head);
      yield recordLine(record);
      last = record.sequence;
    }
    next = last + 1;
  }
  // Heads past the end: of records that were added meanwhile, or that were removed.
  const { end: now } = await reader.state();
  for (; head !== undefined; head = await nextOf(heads))
    if (head.sequence <= last || head.sequence > now.sequence) yield headLine(head);
}

async function* headsFrom(reader: LedgerReader, from: number): AsyncGenerator<LedgerHead> {
  for (let next = from; ; ) {
    const page = await reader.heads(next, mostHeads);
    yield* page;
    const last = page.at(-1);
    if (last === undefined || page.length < mostHeads) return;
    next = last.sequence + 1;
  }
}

async function nextOf(heads: AsyncGenerator<LedgerHead>): Promise<LedgerHead | undefined> {
  const next = await heads.next();
  return next.done === true ? undefined : next.value;
}

function pruned(): SallyportError {
  return new SallyportError('store_failed', 'records were pruned while they were read', { hint: 'try again' });
}
