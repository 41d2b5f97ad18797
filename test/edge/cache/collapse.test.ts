// Requests that wait for another's response: none has to suffer for what the other asked.

import { type IncomingMessage, request, type ServerResponse } from 'node:http';
import t from 'tap';
import { Unshared } from '../../../sidecar/edge/cache/unshared.ts';
import { type Answer, saying, startCached } from '../../fixtures/cached.ts';
import { ManualClock } from '../../fixtures/manual-clock.ts';
import { until } from '../../fixtures/process.ts';

const minute = { 'cache-control': 'max-age=60' };
const bad = { 'x-bad': '1' };

/** An app that does one thing for requests with the bad header, once `go` is called, and another for the rest. */
function unlessBad(forBad: Answer, other: Answer): { readonly app: Answer; readonly go: () => void } {
  const waiting: (readonly [IncomingMessage, ServerResponse])[] = [];
  return {
    app(one, answer) {
      if (one.headers['x-bad'] === undefined) other(one, answer);
      else waiting.push([one, answer]);
    },
    go() {
      for (const [one, answer] of waiting.splice(0)) forBad(one, answer);
    },
  };
}

t.test('a failure is not shared: one of the waiting requests asks for all', async (t) => {
  const { say, get, asked } = await startCached(t);
  const { app, go } = unlessBad((one) => one.socket.destroy(), saying('fine', minute));
  say(app);
  const leader = get('/', bad);
  await until(() => asked.length === 1, 'the first request');
  const others = Array.from({ length: 20 }, () => get('/'));
  await until(
    async () => (await get('/none', { 'cache-control': 'only-if-cached' })).status === 504,
    'a later request',
  );
  go();
  t.equal((await leader).status, 503);
  for (const { status, body } of await Promise.all(others)) t.strictSame([status, String(body)], [200, 'fine']);
  // A request that dies on a reused connection is sent again once.
  t.ok(asked.filter(({ headers }) => headers['x-bad'] === undefined).length === 1, 'one request serves all');
});

t.test('slowness is not shared: after 5 s each waiting request asks for itself', async (t) => {
  const { say, get, asked } = await startCached(t);
  const { app, go } = unlessBad(saying('slow', minute), saying('fine', minute));
  say(app);
  const leader = get('/', bad);
  await until(() => asked.length === 1, 'the first request');
  const started = performance.now();
  const other = await get('/');
  t.equal(String(other.body), 'fine');
  const took = performance.now() - started;
  t.ok(took > 4900 && took < 10_000, `${took} ms`);
  t.match((await get('/')).headers['cache-status'], /; hit; /);
  go();
  t.equal(String((await leader).body), 'slow');
});

t.test('an error for one request neither removes a fresh response nor ends waiting', async (t) => {
  const { say, get, asked } = await startCached(t);
  for (const status of [400, 401, 500]) {
    const path = `/${status}`;
    say((one, answer) =>
      one.headers['x-bad'] === undefined ? saying('fine', minute)(one, answer) : saying('no', {}, status)(one, answer),
    );
    await get(path);
    const before = asked.length;
    // A 5xx is replaced by what is stored.
    t.equal((await get(path, { ...bad, 'cache-control': 'no-cache' })).status, status < 500 ? status : 200);
    t.match((await get(path)).headers['cache-status'], /; hit; /);
    t.equal(asked.length, before + 1);

    t.equal((await get(`${path}/new`, bad)).status, status);
    const waiting: ServerResponse[] = [];
    say((_, answer) => void waiting.push(answer));
    const clients = Array.from({ length: 5 }, () => get(`${path}/new`));
    await until(() => waiting.length > 0, 'a request');
    await until(async () => (await get('/none', { 'cache-control': 'only-if-cached' })).status === 504, 'a later one');
    t.equal(waiting.length, 1, `${status}: one response for all`);
    for (const answer of waiting) saying('fine', minute)(asked[0]!, answer);
    for (const { body } of await Promise.all(clients)) t.equal(String(body), 'fine');
  }
});

t.test('a response for one client does not remove one that is fresh for all', async (t) => {
  const { say, get } = await startCached(t);
  say(saying('fine', { 'cache-control': 'public, max-age=60' }));
  await get('/');
  say(saying('mine', { 'cache-control': 'private' }));
  t.equal(String((await get('/', { authorization: 'Basic x', 'cache-control': 'no-cache' })).body), 'mine');
  t.equal(String((await get('/')).body), 'fine');
});

t.test('after an invalidation or a purge, requests wait for a new response at once', async (t) => {
  const { say, get, asked, purge } = await startCached(t);
  const waiting: ServerResponse[] = [];
  const url = (path: string) => `http://a.test${path}`;
  const invalidations: readonly (readonly [string, () => Promise<unknown>])[] = [
    ['/post', () => get('/post', {}, { method: 'POST' })],
    ['/url', () => purge({ url: url('/url') })],
    ['/prefix', () => purge({ prefix: url('/pre') })],
    ['/tag', () => purge({ tag: 'x' })],
  ];
  for (const [path, invalidate] of invalidations) {
    say((one, answer) => (one.method === 'GET' ? void waiting.push(answer) : saying('')(one, answer)));
    const before = asked.length;
    const [first, second] = [get(path), get(path)];
    await until(() => waiting.length === 1, 'the first request');
    await until(
      async () => (await get('/none', { 'cache-control': 'only-if-cached' })).status === 504,
      'the one that waits',
    );
    await invalidate();
    const later = Array.from({ length: 5 }, () => get(path));
    await until(() => waiting.length === 2, 'a new request, while the first is on its way');
    saying('old', minute)(asked[0]!, waiting.shift()!);
    t.equal(String((await first).body), 'old');
    say(saying('too many'));
    await until(async () => (await get('/none', { 'cache-control': 'only-if-cached' })).status === 504, 'all to wait');
    saying('new', minute)(asked[0]!, waiting.shift()!);
    for (const { body } of await Promise.all([second, ...later])) t.equal(String(body), 'new', path);
    t.match((await get(path)).headers['cache-status'], /; hit/);
    t.equal(asked.slice(before).filter(({ method }) => method === 'GET').length, 2);
  }
});

t.test('a late response that is older does not replace one that arrived meanwhile', async (t) => {
  const { say, get, asked } = await startCached(t);
  const at = (ms: number) => ({ ...minute, date: new Date(Date.now() + ms).toUTCString() });
  for (const [path, late, expected] of [
    ['/older', at(-5000), 'new'],
    ['/newer', at(5000), 'late'],
  ] as const) {
    const waiting: ServerResponse[] = [];
    say((_, answer) => void waiting.push(answer));
    const slow = get(path);
    await until(() => waiting.length === 1, 'the first request');
    say(saying('new', at(0)));
    // A part is asked for alone; the whole is stored.
    await get(path, { range: 'bytes=0-1' });
    saying('late', late)(asked[0]!, waiting[0]!);
    t.equal(String((await slow).body), 'late');
    const after = await get(path);
    t.equal(String(after.body), expected);
    t.match(after.headers['cache-status'], /; hit/);
  }
});

t.test('waiting requests get the whole response if the first client leaves, before the head or after it', async (t) => {
  const { say, gateway, get, asked } = await startCached(t);
  for (const path of ['/before', '/after']) {
    const waiting: ServerResponse[] = [];
    say((_, answer) => void waiting.push(answer));
    const first = request({ port: gateway.port('default/g:80'), path, headers: { host: 'a.test' } });
    const closed = new Promise((resolve) => first.on('error', resolve).on('close', resolve));
    const head = new Promise((resolve) => first.on('response', resolve));
    first.end();
    await until(() => waiting.length === 1, 'the first request');
    const others = Array.from({ length: 5 }, () => get(path));
    await until(async () => (await get('/none', { 'cache-control': 'only-if-cached' })).status === 504, 'all to wait');
    if (path === '/after') {
      waiting[0]!.writeHead(200, { ...minute, 'content-length': 10 }).write('12345');
      await head;
    }
    first.destroy();
    await closed;
    await until(async () => (await get('/none', { 'cache-control': 'only-if-cached' })).status === 504, 'its end');
    if (path === '/after') waiting[0]!.end('67890');
    else saying('1234567890', minute)(asked[0]!, waiting[0]!);
    for (const { body, cut } of await Promise.all(others)) t.strictSame([String(body), cut], ['1234567890', false]);
    t.equal(waiting.length, 1);
  }
});

t.test('a client that asks for a newer response does not join one whose head has arrived', async (t) => {
  const { say, get, gateway } = await startCached(t);
  let end = (): void => {};
  say((_, answer) => {
    answer.writeHead(200, { ...minute, 'content-length': 3 }).write('ol');
    end = () => void answer.end('d');
  });
  const first = request({ port: gateway.port('default/g:80'), path: '/', headers: { host: 'a.test' } });
  const head = new Promise((resolve) => first.on('response', (answer) => resolve(answer.resume())));
  first.end();
  await head;
  say(saying('new', minute));
  for (const control of ['no-cache', 'max-age=0'])
    t.equal(String((await get('/', { 'cache-control': control })).body), 'new', control);
  end();
});

t.test('a stale response is removed when another takes its place', async (t) => {
  const { say, get } = await startCached(t);
  const stale = { 'cache-control': 'max-age=0, stale-if-error=60', etag: '"a"' };
  for (const [status, left] of [
    [404, 503],
    [200, 503],
    [403, 200],
  ] as const) {
    say(saying('old', stale));
    await get(`/${status}`);
    say(saying('else', { 'cache-control': 'no-store' }, status));
    t.equal((await get(`/${status}`)).status, status);
    say(saying('broken', {}, 503));
    t.equal((await get(`/${status}`)).status, left);
  }
});

t.test('a backend that answers 304 to a request without a condition', async (t) => {
  const { say, get, asked } = await startCached(t);
  say((_, answer) => void answer.writeHead(304, { etag: '"x"' }).end());
  t.equal((await get('/')).status, 502);
  t.equal(asked.length, 1);
  t.equal((await get('/', { 'if-none-match': '"x"' })).status, 304, 'with a condition, the 304 is for the client');
  say(saying('old', { 'cache-control': 'max-age=0, stale-while-revalidate=0', 'last-modified': 'x' }));
  await get('/old');
  say((_, answer) => void answer.writeHead(304, { 'last-modified': 'y' }).end());
  t.equal((await get('/old')).status, 502, 'about another response, and repeated without a condition');
});

t.test('a response larger than half the memory is passed on, and evicts nothing', async (t) => {
  const { say, get, gateway } = await startCached(t, 'memory: 1Mi\nmaxEntry: 4Mi');
  say(saying('x', minute));
  for (let i = 0; i < 50; i++) await get(`/k${i}`);
  const body = Buffer.alloc(2_000_000);
  say(saying(body, minute));
  t.notMatch((await get('/big')).headers['cache-status'], /stored/);
  say((_, answer) => void answer.writeHead(200, minute).end(body));
  t.equal((await get('/chunked')).body.length, body.length);
  for (let i = 0; i < 50; i++) t.match((await get(`/k${i}`)).headers['cache-status'], /; hit; /);
  const warning = gateway.lines.find(({ msg }) => String(msg).includes('maxEntry'));
  t.match(warning?.['msg'], "default/c: 'maxEntry' is more than half of the memory of one worker (1048576 bytes)");
});

t.test('keys that could not be shared are remembered for 10 s, in bounded memory', async (t) => {
  const clock = new ManualClock();
  const unshared = new Unshared(clock);
  const place = (url: string) => ({ url, partition: 'p' });
  unshared.note(place('a'));
  clock.advance(9000);
  unshared.note(place('b'));
  t.equal(unshared.has(place('a')), true);
  t.equal(unshared.has({ url: 'a', partition: 'q' }), false);
  clock.advance(1001);
  t.equal(unshared.has(place('a')), false);
  t.equal(unshared.has(place('b')), true);
  unshared.note(place('c'));
  t.equal(unshared.size, 2, 'the expired one is gone');
  unshared.forget(place('c'));
  t.equal(unshared.size, 1);
  for (let i = 0; i < 10_100; i++) unshared.note(place(`${i}`));
  t.equal(unshared.size, 10_000);
  t.equal(unshared.has(place('10099')), true);
  t.equal(unshared.has(place('0')), false);
});
