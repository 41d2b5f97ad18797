// What is on record, as pages of the operator's socket. Each answer has a bounded size.

import { z } from 'zod';
import type { Page } from '../../base/admin.ts';
import { SallyportError } from '../../base/errors.ts';
import { mostHeads, mostRecords } from '../ledger/copy.ts';
import { mostIdentities } from './identities.ts';
import type { Records } from './records.ts';

const backupSchema = z.strictObject({ out: z.string() });
const number = z.coerce.number().int().nonnegative();

/** Pages of the operator's socket. */
export function recordsPages(records: Records): readonly Page[] {
  return [
    {
      method: 'GET',
      path: '/v1/ledger',
      sentence: 'the first and the last record of the ledger, and the roots of the CA',
      answer: async () => ({ body: await records.state() }),
    },
    {
      method: 'GET',
      path: '/v1/ledger/records',
      sentence: `records, ${mostRecords} at most: ?from=N&count=N`,
      answer: async ({ url }) => ({
        body: await records.records(read(url, 'from', 1), read(url, 'count', mostRecords)),
      }),
    },
    {
      method: 'GET',
      path: '/v1/ledger/heads',
      sentence: `signed heads, ${mostHeads} at most: ?from=N&count=N, or ?upTo=N for the last one up to a record`,
      async answer({ url }) {
        if (!url.searchParams.has('upTo'))
          return { body: await records.heads(read(url, 'from', 1), read(url, 'count', mostHeads)) };
        const head = await records.headUpTo(read(url, 'upTo', 0));
        return { body: head === undefined ? [] : [head] };
      },
    },
    {
      method: 'GET',
      path: '/v1/ledger/since',
      sentence: 'the first record at or after a time: ?time=MILLISECONDS',
      async answer({ url }) {
        return { body: { first: await records.firstSince(read(url, 'time', 0)) } };
      },
    },
    {
      method: 'POST',
      path: '/v1/backup',
      sentence: "writes a backup to a new directory of the CA's machine: { out }",
      async answer({ body }) {
        const result = backupSchema.safeParse(body);
        if (!result.success) throw new SallyportError('body_invalid', 'the body is not { out }');
        return { body: await records.backup(result.data.out) };
      },
    },
    {
      method: 'GET',
      path: '/v1/identities',
      sentence: `identities with their certificates summed up, ${mostIdentities} at most: ?after=ID&count=N`,
      answer: async ({ url }) => ({
        body: await records.identities(url.searchParams.get('after') ?? '', read(url, 'count', mostIdentities)),
      }),
    },
  ];
}

function read(url: URL, name: string, otherwise: number): number {
  const result = number.safeParse(url.searchParams.get(name) ?? otherwise);
  if (result.success && Number.isSafeInteger(result.data)) return result.data;
  throw new SallyportError('body_invalid', `${name} is not a number`);
}
