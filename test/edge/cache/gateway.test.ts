// A gateway with a cache, on real sockets: what clients get, and what the app is asked.

import { randomBytes } from 'node:crypto';
import { request, type ServerResponse } from 'node:http';
import t from 'tap';
import { saying, startCached } from '../../fixtures/cached.ts';
import { until } from '../../fixtures/process.ts';

const minute = { 'cache-control': 'max-age=60' };

t.test('a fresh response is served again, with its age, for GET and HEAD', async (t) => {
  const { say, get, asked, gateway } = await startCached(t);
  say(saying('hello', { ...minute, 'x-a': '1' }));
  const first = await get('/a?b=c');
  t.match(first.headers['cache-status'], /^sallyport; fwd=uri-miss; fwd-status=200; stored; ttl=5\d$/);
  t.equal(first.headers.age, undefined);
  const second = await get('/a?b=c');
  t.equal(String(second.body), 'hello');
  t.equal(second.headers['x-a'], '1');
  t.match(second.headers['cache-status'], /^sallyport; hit; ttl=5\d$/);
  t.match(second.headers.age, /^[01]$/);
  const head = await get('/a?b=c', {}, { method: 'HEAD' });
  t.equal(head.headers['content-length'], '5');
  t.equal(head.body.length, 0);
  await get('/a?b=d');
  t.equal(asked.length, 2);
  const [miss, hit] = await gateway.records(4);
  t.equal(miss!['cache'], 'miss');
  t.equal(miss!['response_code_details'], 'via_upstream');
  t.equal(hit!['cache'], 'hit');
  t.equal(hit!['response_code_details'], 'cache_hit');
  t.equal(hit!['upstream_host'], null);
});

t.test('responses without a body are stored', async (t) => {
  const { say, get, asked } = await startCached(t);
  say((_, answer) => void answer.writeHead(204, minute).end());
  for (let i = 0; i < 2; i++) {
    const { status, headers, cut } = await get('/none');
    t.strictSame([status, headers['content-length'], cut], [204, undefined, false]);
  }
  say(saying('', { ...minute, location: '/there' }, 301));
  for (let i = 0; i < 2; i++) t.equal((await get('/moved')).headers.location, '/there');
  t.equal(asked.length, 2);
});

t.test('conditional and range requests are answered from the store', async (t) => {
  const { say, get, asked } = await startCached(t);
  say(saying('0123456789', { ...minute, etag: '"v1"' }));
  await get('/');
  t.equal((await get('/', { 'if-none-match': '"v1"' })).status, 304);
  const part = await get('/', { range: 'bytes=2-4' });
  t.equal(part.status, 206);
  t.equal(String(part.body), '234');
  t.equal(part.headers['content-range'], 'bytes 2-4/10');
  const none = await get('/', { range: 'bytes=10-' });
  t.equal(none.status, 416);
  t.equal(none.headers['content-range'], 'bytes */10');
  t.equal(String((await get('/', { range: 'bytes=0-1', 'if-range': '"v0"' })).body), '0123456789');
  t.equal(asked.length, 1);
});

t.test('a stale response is validated, and its head is updated', async (t) => {
  const { say, get, asked } = await startCached(t);
  say(saying('body', { 'cache-control': 'max-age=0', etag: '"v1"', 'x-a': 'old', 'x-b': 'kept' }));
  await get('/');
  say((_, answer) => void answer.writeHead(304, { ...minute, etag: '"v1"', 'x-a': 'new' }).end());
  const validated = await get('/');
  t.equal(asked[1]!.headers['if-none-match'], '"v1"');
  t.equal(validated.status, 200);
  t.equal(String(validated.body), 'body');
  t.equal(validated.headers['x-a'], 'new');
  t.equal(validated.headers['x-b'], 'kept');
  t.match(validated.headers['cache-status'], /fwd=stale; fwd-status=304; ttl=5\d/);
  t.match((await get('/')).headers['cache-status'], /; hit; /);
});

t.test('a 304 about another response is ignored', async (t) => {
  const { say, get, asked } = await startCached(t);
  say(saying('old', { 'cache-control': 'max-age=0', etag: '"v1"' }));
  await get('/');
  say((one, answer) =>
    one.headers['if-none-match'] === undefined
      ? saying('new', { ...minute, etag: '"v2"' })(one, answer)
      : void answer.writeHead(304, { etag: '"v2"' }).end(),
  );
  t.equal(String((await get('/')).body), 'new');
  t.equal(asked.length, 3);
});

t.test('variants by Vary; Vary: * and private responses are not stored', async (t) => {
  const { say, get, asked } = await startCached(t);
  say((one, answer) =>
    saying(`in ${one.headers['accept-language']}`, { ...minute, vary: 'Accept-Language' })(one, answer),
  );
  for (const language of ['de', 'en', 'de', 'en'])
    t.equal(String((await get('/', { 'accept-language': language })).body), `in ${language}`);
  t.equal(asked.length, 2);
  t.match((await get('/', { 'accept-language': 'fr' })).headers['cache-status'], /vary-miss/);
  const refused: readonly Record<string, string>[] = [
    { ...minute, vary: '*' },
    { 'cache-control': 'private' },
    { 'cache-control': 'no-store' },
    { ...minute, 'set-cookie': 'a=b' },
    {},
  ];
  for (const headers of refused) {
    say(saying('x', headers));
    const before = asked.length;
    await get('/not');
    await get('/not');
    t.equal(asked.length, before + 2, JSON.stringify(headers));
  }
});

t.test('unsafe methods invalidate their URL, and the URLs that they name on the same host', async (t) => {
  const { say, get, asked } = await startCached(t);
  say(saying('x', minute));
  for (const path of ['/a', '/b', '/c']) await get(path);
  say(saying('', { location: '/b', 'content-location': 'http://other.test/c' }, 201));
  await get('/a', {}, { method: 'POST', body: 'x' });
  say(saying('y', minute));
  t.equal(String((await get('/a')).body), 'y');
  t.equal(String((await get('/b')).body), 'y');
  t.equal(String((await get('/c')).body), 'x');
  say(saying('', {}, 500));
  await get('/c', {}, { method: 'DELETE' });
  t.match((await get('/c')).headers['cache-status'], /hit/, 'not if the request failed');
  t.equal(asked.length, 7);
  const quoted = "/d?name='x'";
  await get(quoted);
  say(saying('', { location: quoted }, 201));
  await get('/a', {}, { method: 'POST', body: 'x' });
  say(saying('z', minute));
  t.equal(String((await get(quoted)).body), 'z', 'as it is written');
});

t.test('only-if-cached holds for requests with conditions that the cache leaves to the app', async (t) => {
  const { get, asked } = await startCached(t);
  const only = { 'cache-control': 'only-if-cached', 'if-match': '"a"' };
  t.equal((await get('/', only)).status, 504);
  t.equal(asked.length, 0);
  t.equal((await get('/', only, { method: 'DELETE' })).status, 200, 'it changes something');
});

t.test('a client with no-store neither validates nor removes what is served stale meanwhile', async (t) => {
  const { say, get, asked } = await startCached(t);
  say(saying('x', { 'cache-control': 'max-age=0, stale-while-revalidate=60', etag: '"a"' }));
  await get('/');
  say(saying('y', minute));
  for (let i = 0; i < 2; i++) t.equal(String((await get('/', { 'cache-control': 'no-store' })).body), 'x');
  t.equal(asked.length, 1);
  t.equal(String((await get('/')).body), 'x');
  await until(async () => String((await get('/')).body) === 'y', 'the validation in the background');
});

t.test('stale responses replace errors and those of an unreachable backend', async (t) => {
  const { say, get, stop } = await startCached(t);
  say(saying('good', { 'cache-control': 'max-age=0, stale-if-error=60', etag: '"a"' }));
  await get('/');
  say(saying('strict', { 'cache-control': 'max-age=0, must-revalidate', etag: '"a"' }));
  await get('/strict');
  say(saying('broken', {}, 503));
  const stale = await get('/');
  t.equal(String(stale.body), 'good');
  t.match(stale.headers['cache-status'], /hit; ttl=-\d+; detail=stale-if-error/);
  t.equal((await get('/strict')).status, 503);
  await stop();
  t.equal(String((await get('/')).body), 'good');
  t.equal((await get('/strict')).status, 503);
});

t.test('a stale response is served while it is validated in the background', async (t) => {
  const { say, get, asked } = await startCached(t);
  say(saying('old', { 'cache-control': 'max-age=0, stale-while-revalidate=60', etag: '"a"' }));
  await get('/');
  say(saying('new', minute));
  t.equal(String((await get('/')).body), 'old');
  await until(async () => String((await get('/')).body) === 'new', 'the new response');
  t.equal(asked.length, 2);
});

t.test('a thousand clients cause one request; each gets the whole response while it arrives', async (t) => {
  const { say, get, asked } = await startCached(t, 'maxEntry: 1Mi');
  // Together less than heldBytes: on a busy machine all of them may be slow readers.
  const body = randomBytes(40_000);
  const waiting: ServerResponse[] = [];
  say((_, answer) => void waiting.push(answer));
  const clients = Array.from({ length: 1000 }, () => get('/big'));
  await until(() => waiting.length > 0, 'the first request');
  const [answer] = waiting;
  answer!.writeHead(200, { ...minute, 'content-length': String(body.length) });
  answer!.write(body.subarray(0, 20_000));
  setImmediate(() => answer!.end(body.subarray(20_000)));
  const heard = await Promise.all(clients);
  const other = heard.filter((one) => !one.body.equals(body));
  t.strictSame([...new Set(other.map((one) => `${one.status} ${one.body.length} ${one.headers['cache-status']}`))], []);
  t.equal(asked.length, 1);
});

t.test('a backend that stops sharing a response: the waiting requests ask for themselves', async (t) => {
  const { say, get, asked } = await startCached(t);
  const waiting: ServerResponse[] = [];
  say((_, answer) => void waiting.push(answer));
  const clients = Array.from({ length: 5 }, () => get('/x'));
  await until(() => waiting.length === 1, 'the first request');
  say((_, answer) => saying(`for ${asked.length}`, { 'cache-control': 'private' })(_, answer));
  saying('for 1', { 'cache-control': 'private' })(asked[0]!, waiting[0]!);
  const bodies = (await Promise.all(clients)).map(({ body }) => String(body));
  t.equal(new Set(bodies).size, 5, 'no response is delivered twice');
  t.equal(asked.length, 5);
});

t.test('a client that leaves in the middle does not affect the others', async (t) => {
  const { say, get, asked, gateway } = await startCached(t);
  const waiting: ServerResponse[] = [];
  say((_, answer) => void waiting.push(answer));
  const leaving = request({
    host: '127.0.0.1',
    port: gateway.port('default/g:80'),
    path: '/y',
    headers: { host: 'a.test' },
  });
  leaving.on('error', () => {});
  leaving.end();
  await until(() => waiting.length === 1, 'the first request');
  const other = get('/y');
  const [answer] = waiting;
  const piece = new Promise((resolve) => leaving.on('response', (one) => one.once('data', resolve)));
  answer!.writeHead(200, { ...minute, 'content-length': '10' });
  answer!.write('12345');
  await piece;
  leaving.destroy();
  await gateway.records(1);
  answer!.end('67890');
  t.equal(String((await other).body), '1234567890');
  t.equal(String((await get('/y')).body), '1234567890');
  t.equal(asked.length, 1);
});

t.test('a truncated response is not stored, and its readers see the truncation', async (t) => {
  const { say, get, asked } = await startCached(t);
  say((_, answer) => {
    answer.writeHead(200, { ...minute, 'content-length': '10' });
    answer.write('12345', () => answer.destroy());
  });
  t.equal((await get('/z')).cut, true);
  say(saying('whole', minute));
  t.equal(String((await get('/z')).body), 'whole');
  t.equal(asked.length, 2);
});

t.test('a response larger than an entry passes, with and without a length', async (t) => {
  const { say, get, asked } = await startCached(t, 'maxEntry: 64Ki');
  const body = randomBytes(3_000_000);
  say(saying(body, minute));
  t.equal((await get('/l')).body.equals(body), true);
  say((_, answer) => void answer.writeHead(200, minute).end(body));
  t.equal((await get('/l')).body.equals(body), true);
  t.equal((await get('/l')).body.equals(body), true);
  t.equal(asked.length, 3);
});

t.test('a purge works by URL, prefix and tag', async (t) => {
  const { say, get, purge, asked } = await startCached(t);
  say((one, answer) => saying('x', { ...minute, 'cache-tag': `all, t${one.url!.slice(1)}` })(one, answer));
  const fill = async () => {
    for (const path of ['/1', '/2', '/3']) await get(path);
  };
  await fill();
  t.strictSame(await purge({ url: 'HTTP://A.test/1' }), { status: 200, body: { removed: 1 } });
  t.strictSame((await purge({ prefix: 'http://a.test/' })).body, { removed: 2 });
  await fill();
  t.strictSame((await purge({ tag: 't2' })).body, { removed: 1 });
  t.strictSame((await purge({ tag: 'all' })).body, { removed: 2 });
  for (const wrong of [{}, { url: 'x' }, { host: 'a' }, { tag: 'a', url: 'b' }])
    t.equal((await purge(wrong)).status, 400);
  t.equal(asked.length, 6);
});

t.test('a purge while a response arrives keeps it out of the store', async (t) => {
  const { say, get, purge, asked } = await startCached(t);
  const waiting: ServerResponse[] = [];
  say((_, answer) => void waiting.push(answer));
  const first = get('/p');
  await until(() => waiting.length === 1, 'the first request');
  await purge({ url: 'http://a.test/p' });
  saying('old', minute)(asked[0]!, waiting[0]!);
  t.equal(String((await first).body), 'old');
  say(saying('new', minute));
  t.equal(String((await get('/p')).body), 'new');
});

t.test('a client that accepts stored responses only', async (t) => {
  const { say, get, asked } = await startCached(t);
  say(saying('x', minute));
  t.equal((await get('/', { 'cache-control': 'only-if-cached' })).status, 504);
  await get('/');
  t.equal((await get('/', { 'cache-control': 'only-if-cached' })).status, 200);
  t.equal(asked.length, 1);
});
