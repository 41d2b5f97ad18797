// The state of logins that several gateways share, on a real Redis, and what happens if Redis is down, empty or a
// Cluster.

import { join } from 'node:path';
import t from 'tap';
import { RedisSessions } from '../../../sidecar/edge/oidc/redis-sessions.ts';
import { captureLog } from '../../fixtures/log-lines.ts';
import { freePort, type Owner, tempDir, until } from '../../fixtures/process.ts';
import { noRedis, startRedis } from '../../fixtures/redis.ts';
import { type RedisLimits, startSharedLimits } from '../../fixtures/shared-limits.ts';

/** A gateway's memory, with longer timeouts than in production, so that only intended timeouts occur. */
async function start(t: Owner, url: string, patienceMs = 5000): Promise<{ redis: RedisLimits; memory: RedisSessions }> {
  const redis = await startSharedLimits({ url, timeoutMs: 5000 });
  const memory = new RedisSessions(redis.link, patienceMs);
  await memory.start();
  t.teardown(() => {
    memory.close();
    redis.close();
  });
  return { redis, memory };
}

const inAnHour = (): number => Date.now() + 3_600_000;

t.test('one owner gets the claim, and the others get the result', { skip: noRedis }, async (t) => {
  const { url } = await startRedis(t);
  const [{ memory: one }, { memory: two }] = [await start(t, url), await start(t, url)];
  t.equal(await one.claim('a', 'first', 60_000), 'mine');
  t.equal(await one.claim('a', 'first', 60_000), 'mine', 'claimed again after a lost connection');
  t.equal(await two.claim('a', 'second', 60_000), 'busy');
  await two.settle('a', 'second', 'forged', 60_000);
  t.equal(await two.claim('a', 'second', 60_000), 'busy', 'an owner without the claim cannot store a result');
  await one.settle('a', 'first', 'sealed', 60_000);
  t.strictSame(await two.claim('a', 'second', 60_000), { answer: 'sealed' });
  t.equal(await one.claim('b', 'first', 60_000), 'mine');
  await one.settle('b', 'first', undefined, 60_000);
  t.equal(await two.claim('b', 'second', 60_000), 'mine', 'a failed claim is released');
  t.equal(await one.claim('c', 'first', 30), 'mine');
  await until(
    async () => (await two.claim('c', 'second', 60_000)) === 'mine',
    'the claim of an owner that is gone to end',
  );
  t.strictSame(
    await Promise.all([one, two, one, two].map((memory) => memory.spend('state', inAnHour()))).then((all) =>
      all.filter(Boolean),
    ),
    [true],
  );
});

t.test(
  'Redis is down: claims are refused, sessions continue, and logouts are sent when it returns',
  { skip: noRedis },
  async (t) => {
    const redis = await startRedis(t);
    const [{ memory: one }, { memory: two, redis: link }] = [
      await start(t, redis.url, 100),
      await start(t, redis.url, 100),
    ];
    await one.end('before', inAnHour());
    t.equal(one.isEnded('before'), true, 'at once in the process that ends it');
    await until(() => two.isEnded('before'), 'the other process to know the logout');
    await redis.kill();
    await t.rejects(one.claim('a', 'first', 1000), {
      code: 'redis_unavailable',
      message: /^Redis at \S+ is unavailable/,
    });
    await t.rejects(one.spend('a', inAnHour()), { code: 'redis_unavailable' });
    await one.end('during', inAnHour());
    t.equal(one.isEnded('during'), true);
    t.equal(two.isEnded('during'), false);
    t.equal(two.isEnded('another'), false, 'no other session is ended');
    await redis.again();
    await until(() => two.isEnded('during'), 'the logout to be sent');
    await until(() => link.ready, 'Redis');
    // Redis returned empty: a process that starts now gets the logouts that the others sent again.
    const { memory: three } = await start(t, redis.url);
    await until(() => three.isEnded('during') && three.isEnded('before'), 'the logouts that were sent again');
  },
);

t.test('a logout is forgotten when the session would have expired', { skip: noRedis }, async (t) => {
  const { url } = await startRedis(t);
  const { memory, redis } = await start(t, url);
  await memory.end('old', Date.now() - 2000);
  await memory.end('new', inAnHour());
  await memory.end('newer', inAnHour());
  const left = await redis.link.ask((client) => client.sendCommand(['ZCARD', 'sallyport:session:ended']));
  t.equal(left, 2);
});

t.test('a node of a Redis Cluster is refused with a clear message', { skip: noRedis }, async (t) => {
  const port = await freePort();
  const redis = await startRedis(
    t,
    ['--cluster-enabled', 'yes', '--cluster-config-file', join(tempDir(t), 'nodes.conf')],
    port,
  );
  const log = captureLog();
  const limits = await startSharedLimits({ url: redis.url, log: log.log });
  t.teardown(() => limits.close());
  t.equal(limits.ready, false);
  t.match(log.withCode('redis_unavailable'), [{ reason: /is a node of a Redis Cluster, which is not supported/ }]);
});
