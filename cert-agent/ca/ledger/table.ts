// The ledger's tables, in the store: a record is in the same transaction as its act, so that neither exists
// without the other. Runs in the store's worker.

import type { DatabaseSync, SQLOutputValue } from 'node:sqlite';
import { type Act, type LedgerRecord, nextRecord } from './record.ts';

/** A signed head: the CA's signature over the ledger up to one record. All but the numbers are text. */
export interface LedgerHead {
  /** The last record that it covers. */
  readonly sequence: number;
  readonly hash: string;
  /** Milliseconds since 1970. */
  readonly time: number;
  /** Base64. */
  readonly signature: string;
  /** The intermediate that signed it and CAs between it and the root: base64 DER, separated by spaces. */
  readonly issuer: string;
}

/** The end of the ledger. Sequence 0 is an empty one. */
export interface LedgerEnd {
  readonly sequence: number;
  readonly hash: string;
}

/** Dropped records, and the head that stands for them. */
export interface Pruned {
  readonly checkpoint: number;
  readonly records: number;
}

/** Records that one call drops, unless there is no head among them: the store is blocked meanwhile. */
const mostPruned = 20_000;

export const ledgerSchema = `
  CREATE TABLE ledger (sequence INTEGER PRIMARY KEY, time INTEGER NOT NULL, line TEXT NOT NULL, hash TEXT NOT NULL) STRICT;
  CREATE INDEX ledger_by_time ON ledger (time);
  CREATE TABLE ledger_heads (
    sequence INTEGER PRIMARY KEY, hash TEXT NOT NULL, time INTEGER NOT NULL, signature TEXT NOT NULL,
    issuer TEXT NOT NULL
  ) STRICT;
`;

type Row = Record<string, SQLOutputValue>;

/** The operations on the ledger. `append` is for other operations of the store as well. */
export function createLedgerTable(db: DatabaseSync) {
  const last = db.prepare('SELECT sequence, hash FROM ledger ORDER BY sequence DESC LIMIT 1');
  const insert = db.prepare('INSERT INTO ledger VALUES (?, ?, ?, ?)');
  const some = db.prepare('SELECT sequence, line, hash FROM ledger WHERE sequence >= ? ORDER BY sequence LIMIT ?');
  const since = db.prepare('SELECT min(sequence) AS first FROM ledger WHERE time >= ?');
  const addHead = db.prepare('INSERT OR REPLACE INTO ledger_heads VALUES (?, ?, ?, ?, ?)');
  const heads = db.prepare('SELECT * FROM ledger_heads WHERE sequence >= ? ORDER BY sequence LIMIT ?');
  const headUpTo = db.prepare('SELECT * FROM ledger_heads WHERE sequence <= ? ORDER BY sequence DESC LIMIT 1');
  const headFrom = db.prepare('SELECT * FROM ledger_heads WHERE sequence > ? ORDER BY sequence LIMIT 1');
  const first = db.prepare('SELECT sequence FROM ledger ORDER BY sequence LIMIT 1');
  const acts = db.prepare(
    "SELECT json_extract(line, '$.act') AS act, count(*) AS number FROM ledger WHERE sequence <= ? GROUP BY 1",
  );
  const lastHead = db.prepare('SELECT * FROM ledger_heads ORDER BY sequence DESC LIMIT 1');
  const dropRecords = db.prepare('DELETE FROM ledger WHERE sequence <= ?');
  const dropHeads = db.prepare('DELETE FROM ledger_heads WHERE sequence < ?');

  function end(): LedgerEnd | undefined {
    const row = last.get();
    return row === undefined ? undefined : { sequence: Number(row['sequence']), hash: String(row['hash']) };
  }

  function append(act: Act, now: number): LedgerEnd {
    // Read each time: a failed call is rolled back.
    const { sequence, line, hash } = nextRecord(end() ?? headEnd(lastHead.get()), now, act);
    insert.run(sequence, now, line, hash);
    return { sequence, hash };
  }

  function firstSince(time: number): number | undefined {
    const found = since.get(time)?.['first'];
    return found === null || found === undefined ? undefined : Number(found);
  }

  /** The last head that covers only records before `time`, at most `mostPruned` of them, or the very next head. */
  function prunableTo(time: number): LedgerHead | undefined {
    const begin = first.get()?.['sequence'];
    if (begin === undefined) return undefined;
    const most = (firstSince(time) ?? Number.MAX_SAFE_INTEGER) - 1;
    const near = headUpTo.get(Math.min(most, Number(begin) + mostPruned - 1));
    const row =
      near !== undefined && Number(near['sequence']) >= Number(begin) ? near : headFrom.get(Number(begin) - 1);
    return row === undefined || Number(row['sequence']) > most ? undefined : headOf(row);
  }

  return {
    append,
    end: (): LedgerEnd => end() ?? headEnd(lastHead.get()) ?? { sequence: 0, hash: '' },
    read: (from: number, count: number): LedgerRecord[] => some.all(from, count).map(recordOf),
    /** The first record at or after `time`; undefined if there is none. */
    firstSince,
    /** The first record that is kept; the next one if there is none. */
    first(): number {
      const found = first.get()?.['sequence'];
      return found === undefined ? (headEnd(lastHead.get())?.sequence ?? 0) + 1 : Number(found);
    },
    addHead: ({ sequence, hash, time, signature, issuer }: LedgerHead): void => {
      addHead.run(sequence, hash, time, signature, issuer);
    },
    heads: (from: number, count: number): LedgerHead[] => heads.all(from, count).map(headOf),
    headUpTo(sequence: number): LedgerHead | undefined {
      const row = headUpTo.get(sequence);
      return row === undefined ? undefined : headOf(row);
    },
    /**
     * Drops records from before `time`, up to a signed head, which stays as their checkpoint. A record says how many of
     * each act are dropped. Returns undefined if there are none.
     */
    prune(time: number, now: number): Pruned | undefined {
      const head = prunableTo(time);
      if (head === undefined) return undefined;
      const counts = acts.all(head.sequence).map((row) => [String(row['act']), Number(row['number'])] as const);
      const records = counts.reduce((sum, [, number]) => sum + number, 0);
      const details = { upTo: head.sequence, hash: head.hash, records, ...Object.fromEntries(counts) };
      append({ act: 'checkpoint', caller: 'self', answer: 'pruned', details }, now);
      dropHeads.run(head.sequence);
      dropRecords.run(head.sequence);
      return { checkpoint: head.sequence, records };
    },
  };
}

function headEnd(row: Row | undefined): LedgerEnd | undefined {
  return row === undefined ? undefined : { sequence: Number(row['sequence']), hash: String(row['hash']) };
}

function recordOf(row: Row): LedgerRecord {
  return { sequence: Number(row['sequence']), line: String(row['line']), hash: String(row['hash']) };
}

function headOf(row: Row): LedgerHead {
  return {
    sequence: Number(row['sequence']),
    hash: String(row['hash']),
    time: Number(row['time']),
    signature: String(row['signature']),
    issuer: String(row['issuer']),
  };
}
