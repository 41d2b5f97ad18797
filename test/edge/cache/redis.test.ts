// Two gateways with one Redis: what one has stored, the other serves, and a purge at one reaches both. Without Redis
// each has its own memory, and no request fails.

import { createClient } from '@redis/client';
import t from 'tap';
import { saying, startCached } from '../../fixtures/cached.ts';
import { until } from '../../fixtures/process.ts';
import { noRedis, startRedis } from '../../fixtures/redis.ts';

const minute = { 'cache-control': 'max-age=60' };
const skip = { skip: noRedis };

async function startTwo(t: Parameters<typeof startCached>[0]) {
  const redis = await startRedis(t);
  const yaml = `redis: { url: "${redis.url}", timeout: 1s }\n`;
  const one = await startCached(t, 'store: Redis', '', yaml);
  const two = await startCached(t, 'store: Redis', '', yaml, one);
  const client = await createClient({ url: redis.url })
    .on('error', () => {})
    .connect();
  t.teardown(() => client.destroy());
  const keys = () => client.sendCommand<string[]>(['KEYS', 'sallyport:cache:*:heads']);
  return { redis, one, two, client, keys, yaml };
}

t.test('what one gateway has stored, the other serves', skip, async (t) => {
  const { one, two, keys } = await startTwo(t);
  const body = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
  one.say(saying(body, { ...minute, 'x-a': 'caf\xe9', vary: 'x-b' }));
  await one.get('/', { 'x-b': '1' });
  await until(async () => (await keys()).length === 1, 'the response in Redis');
  const hit = await two.get('/', { 'x-b': '1' });
  t.equal(hit.body.equals(body), true);
  t.equal(hit.headers['x-a'], 'caf\xe9');
  t.match(hit.headers['cache-status'], /hit/);
  t.equal(one.asked.length, 1);
  await two.get('/', { 'x-b': '2' });
  t.equal(one.asked.length, 2, 'another variant');
});

t.test('a purge at one gateway reaches the other, also two at once', skip, async (t) => {
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
  const { one, two, client, keys } = await startTwo(t);
  one.say(saying('good', minute));
  await one.get('/');
  await until(async () => (await keys()).length === 1, 'the response in Redis');
  const [key] = await keys();
  const [variant] = await client.hKeys(key!);
  const head = JSON.parse((await client.hGet(key!, variant!))!) as Record<string, unknown>;
  for (const bad of ['', '{', '[]', 'null', JSON.stringify({ ...head, fields: [['a', 'b\r\nset-cookie: x=1']] })]) {
    await client.hSet(key!, variant!, bad);
    await two.purge({ url: 'http://other.test/' });
    const heard = await two.get('/', { 'cache-control': 'no-store' });
    t.equal(heard.status, 200);
    t.equal(heard.headers['set-cookie'], undefined);
  }
});

t.test('without Redis, and when it comes back', skip, async (t) => {
  const { redis, one } = await startTwo(t);
  one.say(saying('a', minute));
  await one.get('/a');
  await redis.kill();
  await until(() => one.gateway.lines.some(({ code }) => code === 'redis_unavailable'), 'the log to say so');
  t.equal((await one.get('/b')).status, 200);
  t.match((await one.get('/b')).headers['cache-status'], /hit/, 'its own memory still serves');
  await redis.again();
  one.say(saying('c', minute));
  // A purge of another gateway may have been missed: what memory holds is dropped.
  await until(async () => String((await one.get('/a')).body) === 'c', 'an empty memory');
});

t.test('a gateway without a Redis says that its responses stay in memory', async (t) => {
  const { gateway, get, say } = await startCached(t, 'store: Redis');
  t.ok(gateway.lines.some(({ msg }) => /'store: Redis' needs 'redis'/.test(String(msg))));
  say(saying('x', minute));
  await get('/');
  t.match((await get('/')).headers['cache-status'], /hit/);
});
