// The admin server packs long pages, for clients that take that.

import { request } from 'node:http';
import { buffer } from 'node:stream/consumers';
import { gunzipSync } from 'node:zlib';
import t from 'tap';
import { startAdmin } from '../../cert-agent/base/admin.ts';

t.test('long bodies in gzip', async (t) => {
  const long = 'metric{label="value"} 1\n'.repeat(500);
  const server = await startAdmin({
    listen: { host: '127.0.0.1', port: 0 },
    title: 'test',
    pages: [
      { method: 'GET', path: '/text', sentence: '', answer: () => ({ body: long }) },
      { method: 'GET', path: '/bytes', sentence: '', answer: () => ({ body: Buffer.from(long), type: 'text/plain' }) },
      { method: 'GET', path: '/json', sentence: '', answer: () => ({ body: { a: long } }) },
      { method: 'GET', path: '/short', sentence: '', answer: () => ({ body: 'short' }) },
    ],
  });
  t.teardown(() => server.close());
  const { port } = server.address as { port: number };
  const ask = (path: string, accepted: string | undefined) =>
    new Promise<{ packed: boolean; type: string; text: string; size: number }>((resolve, reject) => {
      const headers = accepted === undefined ? {} : { 'accept-encoding': accepted };
      request({ host: '127.0.0.1', port, path, headers, agent: false }, async (response) => {
        const body = await buffer(response);
        const packed = response.headers['content-encoding'] === 'gzip';
        t.equal(Number(response.headers['content-length']), body.length);
        const text = String(packed ? gunzipSync(body) : body);
        resolve({ packed, type: response.headers['content-type']!, text, size: body.length });
      })
        .on('error', reject)
        .end();
    });
  const rows: [accepted: string | undefined, packed: boolean][] = [
    ['gzip', true],
    ['br, GZIP;q=0.5', true],
    ['*', true],
    [undefined, false],
    ['br', false],
    ['gzip;q=0', false],
    ['gzip; q=0.000, *', false],
    ['*;q=0', false],
  ];
  for (const [accepted, packed] of rows) {
    const heard = await ask('/text', accepted);
    t.equal(heard.packed, packed, accepted ?? 'none');
    t.equal(heard.text, long);
  }
  t.ok((await ask('/text', 'gzip')).size < long.length / 20);
  t.match(await ask('/bytes', 'gzip'), { packed: true, type: 'text/plain', text: long });
  t.match(await ask('/json', 'gzip'), { packed: true, type: 'application/json' });
  t.match(await ask('/short', 'gzip'), { packed: false, text: 'short' });
});
