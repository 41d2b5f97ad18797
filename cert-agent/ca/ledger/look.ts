// Looks into the ledger for people: the last records that match, all records one by one, and CSV.

import { type CopiedHead, copyHead, type LedgerReader, mostHeads, mostRecords } from './copy.ts';
import type { LedgerRecord } from './record.ts';

/** A record's fields. */
export interface ShownRecord {
  readonly sequence: number;
  readonly time: string;
  readonly act: string;
  readonly caller: string;
  readonly id?: string;
  readonly evidence?: string;
  readonly answer: string;
  readonly details: Readonly<Record<string, string | number | boolean>>;
  readonly hash: string;
}

/** Times are milliseconds since 1970. */
export interface Wanted {
  readonly since?: number;
  readonly until?: number;
  readonly limit: number;
  /** Records of this SPIFFE ID, proved or claimed. */
  readonly identity?: string;
  readonly acts?: readonly string[];
}

/** For people. A record that cannot be read has the act `unreadable`. Does not verify the hash. */
export function readRecord({ sequence, line, hash }: LedgerRecord): ShownRecord {
  try {
    const { sequence: _, time, act, caller, id, evidence, answer, salt: __, ...details } = JSON.parse(line);
    const optional = { ...(id === undefined ? {} : { id }), ...(evidence === undefined ? {} : { evidence }) };
    return { sequence, time, act, caller, ...optional, answer, details, hash };
  } catch {
    return { sequence, time: '', act: 'unreadable', caller: '', answer: '', details: {}, hash };
  }
}

/** The last records that match, oldest first. Reads from the end, no further than necessary. */
export async function lastRecords(reader: LedgerReader, wanted: Wanted): Promise<ShownRecord[]> {
  const { first, end } = await reader.state();
  const { since, until, limit } = wanted;
  const from = since === undefined ? first : ((await reader.firstSince(since)) ?? end.sequence + 1);
  const after = until === undefined ? undefined : await reader.firstSince(until);
  const found: ShownRecord[] = [];
  for (let last = after === undefined ? end.sequence : after - 1; last >= from && found.length < limit; ) {
    const start = Math.max(from, last - mostRecords + 1);
    const page = (await reader.records(start, last - start + 1)).filter(({ sequence }) => sequence <= last);
    for (const record of page.toReversed().map(readRecord))
      if (found.length < limit && matches(record, wanted)) found.push(record);
    last = start - 1;
  }
  return found.toReversed();
}

function matches({ act, id, details }: ShownRecord, { identity, acts }: Wanted): boolean {
  if (acts !== undefined && !acts.includes(act)) return false;
  return identity === undefined || id === identity || details['claims'] === identity;
}

/** The last signed heads, oldest first. */
export async function lastHeads(reader: LedgerReader, { since = 0, until, limit }: Wanted): Promise<CopiedHead[]> {
  const found: CopiedHead[] = [];
  for (let next = 0; ; ) {
    const page = await reader.heads(next, mostHeads);
    for (const head of page)
      if (head.time >= since && (until === undefined || head.time < until)) found.push(copyHead(head));
    found.splice(0, found.length - limit);
    const last = page.at(-1);
    if (last === undefined) return found;
    next = last.sequence + 1;
  }
}

/** All records from `since` (milliseconds since 1970) on, in order. */
export async function* eachRecord(reader: LedgerReader, since?: number): AsyncGenerator<ShownRecord> {
  const { first, end } = await reader.state();
  let next = since === undefined ? first : ((await reader.firstSince(since)) ?? end.sequence + 1);
  while (next <= end.sequence) {
    const page = await reader.records(next, mostRecords);
    const last = page.at(-1);
    if (last === undefined) return;
    yield* page.filter(({ sequence }) => sequence <= end.sequence).map(readRecord);
    next = last.sequence + 1;
  }
}

/** RFC 4180. */
export async function* csvLines(reader: LedgerReader, since?: number): AsyncGenerator<string> {
  yield 'sequence,time,act,caller,id,evidence,answer,details,hash';
  for await (const one of eachRecord(reader, since)) {
    const { sequence, time, act, caller, id = '', evidence = '', answer, details, hash } = one;
    yield [sequence, time, act, caller, id, evidence, answer, JSON.stringify(details), hash].map(cell).join(',');
  }
}

function cell(value: string | number): string {
  // A spreadsheet would execute a cell that begins like a formula.
  const text = String(value).replace(/^[=+\-@\t\r]/, "'$&");
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
