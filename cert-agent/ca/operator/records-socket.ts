// The client of records-pages.ts.

import type { MadeBackup } from '../backup/backup.ts';
import type { LedgerState } from '../ledger/copy.ts';
import type { LedgerRecord } from '../ledger/record.ts';
import type { LedgerHead } from '../ledger/table.ts';
import type { ListedIdentity } from './identities.ts';
import type { Records } from './records.ts';

/** Asks the CA for a page, and returns its answer. */
export type Ask = (method: string, path: string, body?: object, timeoutMs?: number) => Promise<unknown>;

/** A store with millions of certificates takes minutes. */
const longestBackupMs = 3_600_000;

/** The same records, of a running CA. Each call is a request. @throws what `ask` throws. */
export function connectRecords(ask: Ask): Records {
  const get = (path: string, query: Record<string, string | number> = {}): Promise<unknown> => {
    const text = Object.entries(query).map(([name, value]) => `${name}=${encodeURIComponent(value)}`);
    return ask('GET', text.length === 0 ? path : `${path}?${text.join('&')}`);
  };
  return {
    backup: async (out) => (await ask('POST', '/v1/backup', { out }, longestBackupMs)) as MadeBackup,
    state: async () => (await get('/v1/ledger')) as LedgerState,
    records: async (from, count) => (await get('/v1/ledger/records', { from, count })) as LedgerRecord[],
    heads: async (from, count) => (await get('/v1/ledger/heads', { from, count })) as LedgerHead[],
    headUpTo: async (upTo) => ((await get('/v1/ledger/heads', { upTo })) as LedgerHead[])[0],
    firstSince: async (time) => ((await get('/v1/ledger/since', { time })) as { first?: number }).first,
    identities: async (after, count) => (await get('/v1/identities', { after, count })) as ListedIdentity[],
  };
}
