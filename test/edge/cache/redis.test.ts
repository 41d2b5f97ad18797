// Two gateways with one Redis: what one has stored, the other serves, and a purge at one reaches both. Without Redis
// each has its own memory, and no request fails.

import { createClient } from '@redis/client';
import t from 'tap';
import { saying, startCached } from '../../fixtures/cached.ts';
import type { Heard } from '../../fixtures/edge-client.ts';
import { until } from '../../fixtures/process.ts';
import { noRedis, startRedis } from '../../fixtures/redis.ts';

const minute = { 'cache-control': 'max-age=60' };
const isHit = ({ headers }: Heard): boolean => /; hit/.test(String(headers['cache-status']));
const skip = { skip: noRedis };
const timeoutMs = 1000;

async function startTwo(t: Parameters<typeof startCached>[0]) {
  const redis = await startRedis(t);
  const yaml = `redis: { url: "${redis.url}", timeout: ${timeoutMs}ms }\n`;
  const one = await startCached(t, 'store: Redis', '', yaml);
  const two = await startCached(t, 'store: Redis', '', yaml, one);
  const client = await createClient({ url: redis.url })
    .on('error', () => {})
    .connect();
  t.teardown(() => client.destroy());
  const keys = () => client.sendCommand<string[]>(['KEYS', 'sallyport:cache:*:heads']);
  /** Asks the first gateway until its response is in Redis: a write that timed out on a busy machine is not retried. */
  const store = (path: string, headers: Record<string, string> = {}) =>
    until(async () => {
      await one.get(path, { ...headers, 'cache-control': 'no-cache' });
      const timedOut = performance.now() + 2 * timeoutMs;
      while (performance.now() < timedOut) if ((await keys()).length === 1) return true;
      return false;
    }, 'the response in Redis');
  return { redis, one, two, client, keys, store, yaml };
}

t.test('one gateway stores a response, and the other serves it', skip, async (t) => {
  const { one, two, store } = await startTwo(t);
  const body = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
  one.say(saying(body, { ...minute, 'x-a': 'caf\xe9', vary: 'x-b' }));
  await store('/', { 'x-b': '1' });
  const hit = await two.get('/', { 'x-b': '1' });
  t.equal(hit.body.equals(body), true);
  t.equal(hit.headers['x-a'], 'caf\xe9');
  t.match(hit.headers['cache-status'], /hit/);
  const before = one.asked.length;
  t.match(await two.get('/', { 'x-b': '1' }), { headers: { 'cache-status': /hit/ } });
  t.equal(one.asked.length, before);
  await two.get('/', { 'x-b': '2' });
  t.equal(one.asked.length, before + 1, 'another variant');
});

t.test('a purge at one gateway reaches the other, also when both purge at once', skip, async (t) => {
  const { one, two, keys } = await startTwo(t);
  for (const purge of [{ url: 'http://a.test/p' }, { prefix: 'http://a.test/' }, { tag: 't' }]) {
    one.say(saying('old', { ...minute, 'cache-tag': 't' }));
    for (const world of [one, two])
      await until(async () => String((await world.get('/p')).body) === 'old', 'the old one');
    one.say(saying('new', { ...minute, 'cache-tag': 't' }));
    await Promise.all([one.purge(purge), two.purge(purge)]);
    for (const world of [one, two])
      await until(async () => String((await world.get('/p')).body) === 'new', JSON.stringify(purge));
    await one.purge({ tag: 't' });
    await two.purge({ tag: 't' });
  }
  t.equal((await keys()).length <= 2, true);
});

t.test('an unsafe request at one gateway invalidates at the other', skip, async (t) => {
  const { one, two } = await startTwo(t);
  one.say(saying('old', minute));
  await one.get('/i');
  await two.get('/i');
  one.say(saying('new', minute));
  await one.get('/i', {}, { method: 'PUT', body: 'x' });
  await until(async () => String((await two.get('/i')).body) === 'new', 'the other to hear of it');
});

t.test('nothing in Redis can break a response', skip, async (t) => {
  const { one, two, client, keys, store } = await startTwo(t);
  one.say(saying('good', minute));
  await store('/');
  const [key] = await keys();
  const [variant] = await client.hKeys(key!);
  const [, at, text] = /^(\d+) (.*)$/.exec((await client.hGet(key!, variant!))!)!;
  const head = JSON.parse(text!) as { readonly fields: readonly unknown[] };
  const withHead = (change: object): string => `${at} ${JSON.stringify({ ...head, ...change })}`;
  const withFields = (...more: readonly (readonly [string, string])[]): string =>
    withHead({ fields: [...head.fields, ...more] });
  one.say(saying('fresh', { 'cache-control': 'private' }));
  const bad = [
    ...['', '{', '[]', 'null', ' ', 'x', `x ${text}`, `${at}`, withFields(['a', 'b\r\nset-cookie: x=1'])],
    ...[204, 205, 206, 304, 416, 200.5].map((status) => withHead({ status })),
    ...[withFields(['set-cookie', 'a=b']), withFields(['vary', '*']), withFields(['cache-control', 'private'])],
  ];
  for (const head of bad) {
    await client.hSet(key!, variant!, head);
    const heard = await two.get('/');
    t.equal(heard.status, 200);
    t.equal(heard.headers['set-cookie'], undefined);
    t.equal(String(heard.body), 'fresh', head);
  }
  await client.hSet(key!, variant!, withFields(['age', '1'], ['cache-status', 'x']));
  const heard = await two.get('/');
  t.equal(String(heard.body), 'good', 'except for fields that are never stored');
  t.match(heard.headers, { age: /^\d$/, 'cache-status': /^sallyport; hit/ });
});

t.test('a purge while Redis is unreachable is not undone', skip, async (t) => {
  const { one, two, redis, client } = await startTwo(t);
  const hour = { 'cache-control': 'max-age=3600' };
  one.say(saying('old', hour));
  for (const path of ['/a', '/b']) {
    await one.get(path);
    await until(async () => isHit(await two.get(path)), 'the other to have it');
  }
  redis.freeze();
  await one.get('/z');
  const isAway = ({ gateway }: typeof one) => gateway.lines.some(({ code }) => code === 'redis_unavailable');
  await until(async () => {
    await two.get('/y');
    return isAway(one) && isAway(two);
  }, 'both to notice');
  one.say(saying('', {}));
  await one.purge({ url: 'http://a.test/a' });
  await one.get('/b', {}, { method: 'POST', body: 'x' });
  one.say(saying('new', hour));
  redis.thaw();
  const seen: string[] = [];
  for (const path of ['/a', '/b']) {
    await until(async () => {
      seen.push(String((await one.get(path)).body));
      return String((await two.get(path)).body) === 'new';
    }, `the other to hear of it: ${path}`);
    t.equal(String((await two.get(path)).body), 'new');
  }
  t.equal(new Set(seen).size, 1, 'the gateway that purged never serves it again');
  t.equal(client.isReady, true);
});

t.test('invalidations by requests do not empty the caches', skip, async (t) => {
  const { one, two, client } = await startTwo(t);
  // More than Redis holds: it is in memory only.
  const large = Buffer.alloc(70_000, 'x');
  one.say((asked, answer) => {
    asked.resume();
    saying(large, minute)(asked, answer);
  });
  const isKept = async (path: string) => isHit(await two.get(path));
  // Looked for until the first look at the streams, which empties memory, is over.
  await one.get('/first', {}, { method: 'POST', body: 'x' });
  await until(() => isKept('/first'), 'it to be stored');
  await one.get('/first', {}, { method: 'POST', body: 'x' });
  await until(async () => !(await isKept('/first')), 'the other to hear of it');
  for (const path of ['/keep', '/mark']) await until(() => isKept(path), 'it to be stored');
  const start = Date.now();
  for (let i = 0; i < 24; i++)
    await Promise.all(
      Array.from({ length: 50 }, (_, j) => one.get(`/none${i * 50 + j}`, {}, { method: 'POST', body: 'x' })),
    );
  await one.get('/mark', {}, { method: 'POST', body: 'x' });
  await until(async () => !(await isKept('/mark')), 'the other to hear of the last');
  t.equal(await isKept('/keep'), true);
  const records = await Promise.all(['invalidations', 'purges'].map((name) => client.xLen(`sallyport:cache:${name}`)));
  // A record contains what 50 ms bring; the first two requests, and what is left at the end, are in others.
  const most = Math.max(200, (Date.now() - start) / 50 + 4);
  t.ok(records[0]! + records[1]! < most, 'many variants in one record');
});

t.test('variants in Redis are bounded', skip, async (t) => {
  const { one, client, keys } = await startTwo(t);
  one.say(saying('x', { ...minute, vary: 'x-v' }));
  await Promise.all(Array.from({ length: 100 }, (_, i) => one.get('/v', { 'x-v': String(i) })));
  const held = async () => Promise.all((await keys()).map((key) => client.hLen(key)));
  await until(async () => (await held())[0] === 32, 'as many as it holds');
  await one.get('/long', { 'x-v': 'p'.repeat(9000) });
  await one.get('/w');
  await until(async () => (await held()).length === 2, 'the last one');
  t.strictSame(
    (await held()).toSorted((a, b) => a - b),
    [1, 32],
    'no variant with a long head, and no more',
  );
});

t.test('of several that match, the most recent is served', skip, async (t) => {
  const { one, two, client, keys, store } = await startTwo(t);
  one.say(saying('new', { ...minute, vary: 'x-l' }));
  await store('/o', { 'x-l': 'de' });
  const [key] = await keys();
  const bodies = key!.replace(/heads$/, 'bodies');
  const [variant] = await client.hKeys(key!);
  const written = (await client.hGet(key!, variant!))!;
  const head = JSON.parse(written.replace(/^\d+ /, '')) as { readonly fields: readonly (readonly [string, string])[] };
  const date = new Date(Date.now() - 5000).toUTCString();
  const older = head.fields.map(([name, value]) => (name === 'date' ? [name, date] : [name, value]));
  // The order of a hash is random: with many older ones, one of them comes first.
  const before = written.replace(/\{.*/, JSON.stringify({ ...head, selection: [], fields: older }));
  for (let n = 0; n < 20; n++) {
    await client.hSet(key!, `older${n}`, before);
    await client.hSet(bodies, `older${n}`, 'old');
  }
  one.say(saying('neither'));
  t.equal(String((await two.get('/o', { 'x-l': 'de' })).body), 'new');
});

t.test('the clock of Redis determines how long a response was stored', skip, async (t) => {
  const { one, two, client, keys, store } = await startTwo(t);
  one.say(saying('x', { 'cache-control': 'max-age=600' }));
  await store('/o');
  const [key] = await keys();
  const [variant] = await client.hKeys(key!);
  const written = (await client.hGet(key!, variant!))!;
  // Written 100 s ago by a gateway whose clock is an hour ahead.
  const head = JSON.parse(written.replace(/^\d+ /, '')) as { readonly fields: readonly (readonly [string, string])[] };
  const date = new Date(Date.now() + 3_600_000).toUTCString();
  const fields = head.fields.map(([name, value]) => (name === 'date' ? [name, date] : [name, value]));
  const at = Number(/^\d+/.exec(written)![0]) - 100;
  await client.hSet(key!, variant!, `${at} ${JSON.stringify({ ...head, fields })}`);
  const age = Number((await two.get('/o')).headers['age']);
  t.ok(age >= 100 && age < 130, `${age} s`);
});

t.test('a purge during a read of Redis discards the response that was read', skip, async (t) => {
  const { one, two, client, store } = await startTwo(t);
  one.say(saying('old', minute));
  await store('/r');
  one.say(saying('new', minute));
  await client.sendCommand(['CLIENT', 'PAUSE', '900', 'WRITE']);
  const reading = two.get('/r');
  await until(
    async () => (await two.get('/none', { 'cache-control': 'only-if-cached' })).status === 504,
    'a later request',
  );
  await two.purge({ url: 'http://a.test/r' });
  await client.sendCommand(['CLIENT', 'UNPAUSE']);
  t.equal(String((await reading).body), 'new');
  t.equal(String((await two.get('/r')).body), 'new');
});

t.test('the cache works without Redis, and again when Redis returns', skip, async (t) => {
  const { redis, one } = await startTwo(t);
  one.say(saying('a', minute));
  await one.get('/a');
  await redis.kill();
  await until(() => one.gateway.lines.some(({ code }) => code === 'redis_unavailable'), 'the log to say so');
  t.equal((await one.get('/b')).status, 200);
  t.match((await one.get('/b')).headers['cache-status'], /hit/, 'its own memory still serves the response');
  await redis.again();
  one.say(saying('c', minute));
  // A purge of another gateway may have been missed: what memory holds is dropped.
  await until(async () => String((await one.get('/a')).body) === 'c', 'an empty memory');
});

t.test('a gateway without Redis reports that its responses stay in memory', async (t) => {
  const { gateway, get, say } = await startCached(t, 'store: Redis');
  t.ok(gateway.lines.some(({ msg }) => /'store: Redis' needs 'redis'/.test(String(msg))));
  say(saying('x', minute));
  await get('/');
  t.match((await get('/')).headers['cache-status'], /hit/);
});
