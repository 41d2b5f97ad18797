// What a cache gets in practice: slow and leaving readers, clocks that jump, heads that are strange, HTTP/2 beside
// HTTP/1.1, compression behind it, several workers' worth of purges.

import { randomBytes } from 'node:crypto';
import { request, type ServerResponse } from 'node:http';
import { gunzipSync } from 'node:zlib';
import t from 'tap';
import { readTerms } from '../../../sidecar/edge/cache/response.ts';
import { Entry, Store } from '../../../sidecar/edge/cache/store.ts';
import { heldBytes } from '../../../sidecar/exchange/held-bytes.ts';
import { emptyFields } from '../../../sidecar/exchange/message.ts';
import { saying, startCached } from '../../fixtures/cached.ts';
import { askAs } from '../../fixtures/edge-client.ts';
import { until } from '../../fixtures/process.ts';

const minute = { 'cache-control': 'max-age=60' };

function entryOf(url: string, now = Date.now()): Entry {
  const terms = readTerms({ status: 200, fields: emptyFields }, now, now, false);
  return new Entry({
    ...{ url, partition: '', status: 200, reason: '', fields: emptyFields },
    ...{ terms: { ...terms, lifetime: 60 }, selection: [], tags: [] },
  });
}

t.test('a wall clock that jumps makes no response fresh again, and none stale', async (t) => {
  const entry = entryOf('u');
  const real = Date.now;
  t.teardown(() => {
    Date.now = real;
  });
  for (const jump of [-86_400_000, 86_400_000]) {
    Date.now = () => real() + jump;
    t.ok(entry.age >= 0 && entry.age < 30, `${jump}: ${entry.age}`);
  }
});

t.test('the store counts its bytes, and evicts the least recently used first', async (t) => {
  const store = new Store(10_000);
  const entries = ['a', 'b', 'c', 'd', 'e', 'f'].map((url) => entryOf(url));
  for (const entry of entries.slice(0, 5)) {
    t.equal(store.reserve(entry, 2000), true);
    store.add(entry);
  }
  t.equal(store.bytes, 10_000);
  store.find({ url: 'a', partition: '' }, emptyFields);
  store.reserve(entries[5]!, 2000);
  store.add(entries[5]!);
  t.equal(store.find({ url: 'b', partition: '' }, emptyFields).entry, undefined);
  t.equal(store.find({ url: 'a', partition: '' }, emptyFields).entry, entries[0]);
  t.equal(store.reserve(entryOf('g'), 20_000), false, 'more than can exist');
  for (const entry of entries) store.remove(entry);
  t.equal(store.bytes, 0);
});

t.test('HTTP/2 and HTTP/1.1 share stored responses', async (t) => {
  const { say, get, asked, gateway } = await startCached(t);
  const body = randomBytes(100_000);
  say(saying(body, minute));
  const over2 = await askAs('HTTP/2', gateway.port('default/g:80'), { path: '/' });
  t.equal(over2.body.equals(body), true);
  t.equal((await get('/')).body.equals(body), true);
  t.equal((await askAs('HTTP/2', gateway.port('default/g:80'), { path: '/' })).body.equals(body), true);
  t.equal(asked.length, 1);
});

t.test('compression runs for each client', async (t) => {
  const compression = `---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata: { name: z }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }]
  compression: [{ type: Gzip, gzip: {} }]
`;
  const { say, get, asked } = await startCached(t, '', compression);
  const text = 'text '.repeat(20_000);
  say((_, answer) => void answer.writeHead(200, { ...minute, 'content-type': 'text/plain' }).end(text));
  for (let i = 0; i < 2; i++) {
    const coded = await get('/', { 'accept-encoding': 'gzip' });
    t.equal(String(gunzipSync(coded.body)), text);
    t.equal(String((await get('/')).body), text);
  }
  t.equal(asked.length, 1);
});

t.test('a body that the app has encoded goes to clients that accept the encoding', async (t) => {
  const { say, get, asked } = await startCached(t);
  say(saying('not really', { ...minute, 'content-encoding': 'gzip' }));
  await get('/', { 'accept-encoding': 'gzip' });
  say(saying('plain', minute));
  t.equal(String((await get('/')).body), 'plain');
  t.equal(asked.length, 2);
});

t.test('a reader that takes nothing stops no other, and holds no more than one entry', async (t) => {
  const { say, get, gateway } = await startCached(t, 'maxEntry: 4Mi');
  const body = randomBytes(4_000_000);
  const waiting: ServerResponse[] = [];
  say((_, answer) => void waiting.push(answer));
  const slow = request({
    host: '127.0.0.1',
    port: gateway.port('default/g:80'),
    path: '/s',
    headers: { host: 'a.test' },
  });
  slow.on('error', () => {});
  slow.on('response', (one) => one.pause());
  slow.end();
  await until(() => waiting.length === 1, 'the first request');
  const others = Array.from({ length: 20 }, () => get('/s'));
  saying(body, minute)(undefined as never, waiting[0]!);
  const heard = await Promise.all(others);
  t.equal(heard.filter((one) => one.body.equals(body)).length, 20);
  slow.destroy();
});

t.test('a response of unknown length that becomes too large continues for its readers', async (t) => {
  const { say, get, asked } = await startCached(t, 'maxEntry: 64Ki');
  const body = randomBytes(1_000_000);
  const waiting: ServerResponse[] = [];
  say((_, answer) => void waiting.push(answer));
  const clients = Array.from({ length: 5 }, () => get('/u'));
  await until(() => waiting.length === 1, 'the first request');
  say((_, answer) => void answer.writeHead(200, minute).end(body));
  waiting[0]!.writeHead(200, minute).end(body);
  const heard = await Promise.all(clients);
  t.equal(heard.filter((one) => one.cut || one.body.equals(body)).length, 5, 'complete, or visibly truncated');
  t.equal(heard[0]!.body.equals(body), true);
  t.ok(asked.length <= 5);
  await until(() => heldBytes() === 0, 'nothing to be held any more');
});

t.test('an unreachable backend fails every waiting request with its own response', async (t) => {
  const { get, say, stop } = await startCached(t);
  const waiting: ServerResponse[] = [];
  say((_, answer) => void waiting.push(answer));
  const clients = Array.from({ length: 10 }, () => get('/f'));
  await until(() => waiting.length === 1, 'the first request');
  const stopping = stop();
  t.strictSame(new Set((await Promise.all(clients)).map(({ status }) => status)), new Set([503]));
  await stopping;
});

t.test('requests that are reset at once do not leave the backend working', async (t) => {
  const { gateway, get, say } = await startCached(t);
  const waiting: ServerResponse[] = [];
  let closed = 0;
  say((one, answer) => {
    if (one.url === '/probe') return saying('here', {})(one, answer);
    waiting.push(answer);
    one.socket.once('close', () => closed++);
  });
  const leave = (path: string) =>
    request({ host: '127.0.0.1', port: gateway.port('default/g:80'), path, agent: false, headers: { host: 'a.test' } })
      .on('error', () => {})
      .end();
  const leaving = Array.from({ length: 5 }, (_, i) => leave(`/${i}`));
  const one = leave('/shared');
  await until(() => waiting.length === 6, 'the requests');
  const other = get('/shared');
  // It was sent after the other, and so is read after it.
  await get('/probe');
  for (const client of [...leaving, one]) client.destroy();
  await until(() => closed === 5, 'those that no client wants to end');
  say(saying('x', minute));
  for (const answer of waiting) if (!answer.destroyed) saying('x', minute)(undefined as never, answer);
  t.equal(String((await other).body), 'x', 'the request that another client waits for continues');
});

t.test('a 206 and a response to a range are not stored', async (t) => {
  const { get, say, asked } = await startCached(t);
  say(saying('01', { ...minute, 'content-range': 'bytes 0-1/10' }, 206));
  t.equal((await get('/r', { range: 'bytes=0-1' })).status, 206);
  say(saying('0123456789', minute));
  t.equal(String((await get('/r')).body), '0123456789');
  t.equal(asked.length, 2);
  t.equal(asked[0]!.headers.range, 'bytes=0-1');
});

t.test('request directives that are not honoured', async (t) => {
  const { get, say, asked } = await startCached(t, 'clientDirectives: Ignore');
  say(saying('x', minute));
  await get('/');
  for (const control of ['no-cache', 'max-age=0', 'no-store', 'only-if-cached'])
    await get('/', { 'cache-control': control });
  t.equal(asked.length, 1);
});

t.test('headers that are part of the key', async (t) => {
  const { get, say, asked } = await startCached(t, 'keyHeaders: [X-Tenant]');
  say((one, answer) => saying(String(one.headers['x-tenant']), minute)(one, answer));
  for (const tenant of ['a', 'b', 'a', 'b']) t.equal(String((await get('/', { 'x-tenant': tenant })).body), tenant);
  t.equal(asked.length, 2);
});

t.test('strange heads of a backend', async (t) => {
  const { get, say } = await startCached(t);
  const heads: Record<string, string>[] = [
    { 'cache-control': 'max-age=99999999999999999999' },
    { 'cache-control': ',,,max-age=60,=,"' },
    { ...minute, vary: ',, ,' },
    { ...minute, vary: Array.from({ length: 200 }, (_, i) => `x-${i}`).join(',') },
    { ...minute, age: '-1' },
    { ...minute, date: 'yesterday', expires: 'tomorrow' },
    { ...minute, etag: 'no quotes' },
    { ...minute, 'cache-tag': ' , ,, ' },
    { ...minute, 'cdn-cache-control': 'max-age=\u00e9' },
  ];
  for (const [i, headers] of heads.entries()) {
    say(saying('x', headers));
    for (let n = 0; n < 2; n++) t.equal(String((await get(`/${i}`)).body), 'x', JSON.stringify(headers).slice(0, 60));
  }
});
