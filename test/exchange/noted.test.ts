// What capabilities add to the access log: in their order, once each, and without the query if it is what they found.

import t from 'tap';
import { writeRecord } from '../../sidecar/access-log.ts';
import type { Connection } from '../../sidecar/connection.ts';
import { noteInLog } from '../../sidecar/exchange/noted.ts';
import { LogLine } from '../../sidecar/observe/log-line.ts';
import { createExchange } from '../fixtures/exchange.ts';

function lineOf({ exchange, connection }: ReturnType<typeof createExchange>): Record<string, unknown> {
  const line = new LogLine();
  writeRecord(line, exchange, connection as Connection, 1);
  return JSON.parse(line.toString()) as Record<string, unknown>;
}

t.test('fields stand in the line, escaped, before the code', async (t) => {
  const one = createExchange({ path: '/a?b=c' });
  noteInLog(one.exchange, { name: 'first', text: 'a "b"\u00e4' });
  noteInLog(one.exchange, { name: 'second', text: '-' });
  const line = lineOf(one);
  t.match(line, { path: '/a?b=c', first: 'a "b"\u00e4', second: null });
  t.strictSame(Object.keys(line).slice(-2), ['first', 'second']);
});

t.test('a later field of the same name takes the place of the earlier', async (t) => {
  const one = createExchange();
  for (const [name, text] of [
    ['cached', 'miss'],
    ['other', 'x'],
    ['cached', 'shared'],
  ] as const)
    noteInLog(one.exchange, { name, text });
  t.strictSame(one.exchange.noted, [
    { name: 'cached', text: 'shared' },
    { name: 'other', text: 'x' },
  ]);
});

t.test('a query that is evidence is not shown', async (t) => {
  const one = createExchange({ path: '/a?b=<script>' });
  noteInLog(one.exchange, { name: 'found', text: '5 xss b', hidesQuery: true });
  t.match(lineOf(one), { path: '/a', found: '5 xss b' });
});
