// Shared limits on a real Redis: exact over concurrent gateways, by Redis's clock, without data of clients in it; and
// what happens when Redis is killed, frozen, full, restarted, or never there.

import { writeFileSync } from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { LocalLimits } from '../../../sidecar/edge/rate-limit/local.ts';
import { compileRateLimits, type RateLimits } from '../../../sidecar/edge/rate-limit/rate-limit.ts';
import { redisKey } from '../../../sidecar/edge/rate-limit/script.ts';
import type { RedisLinkOptions } from '../../../sidecar/edge/redis-link.ts';
import { facts, perHeader, rule } from '../../fixtures/limits.ts';
import { captureLog } from '../../fixtures/log-lines.ts';
import { createAuthority, createCredential } from '../../fixtures/pki.ts';
import { freePort, type Owner, tempDir, until } from '../../fixtures/process.ts';
import { noRedis, startRedis } from '../../fixtures/redis.ts';
import { type RedisLimits, startSharedLimits } from '../../fixtures/shared-limits.ts';

/** No decision waits so long: what is refused for time is meant to be. */
const patientMs = 5000;

async function start(t: Owner, options: RedisLinkOptions): Promise<RedisLimits> {
  const limits = await startSharedLimits({ timeoutMs: patientMs, ...options });
  t.teardown(() => limits.close());
  return limits;
}

/** 100 an hour: nothing comes back while the test runs. */
const hourly = (requests = 100) =>
  rule({ id: 'shop/web global rule 1', scope: 'shared', requests, periodMs: 3_600_000 });

function gateway(redis: RedisLimits, rules = [hourly()]): RateLimits {
  return compileRateLimits({ rules }, { local: new LocalLimits(), redis });
}

async function countAllowed(limits: readonly RateLimits[], requests: number, asking = {}): Promise<number> {
  const all = Array.from({ length: requests }, (_, i) => limits[i % limits.length]!.check(facts(asking)));
  return (await Promise.all(all)).filter(({ allowed }) => allowed).length;
}

/** Sends lines of Redis's protocol over a plain socket, so that assertions about Redis do not rely on our client. */
async function commandRedis(port: number, ...command: string[]): Promise<string> {
  const socket = connect(port, '127.0.0.1');
  socket.end(`${command.join(' ')}\r\nQUIT\r\n`);
  let reply = '';
  for await (const part of socket) reply += String(part);
  return reply;
}

t.test('concurrent gateways together admit exactly the limit', { skip: noRedis }, async (t) => {
  const { url } = await startRedis(t);
  const [one, two, three] = await Promise.all([start(t, { url }), start(t, { url }), start(t, { url })]);
  const gateways = [gateway(one), gateway(two), gateway(three)];
  await until(() => [one, two, three].every(({ ready }) => ready), 'all of them to reach Redis');
  t.equal(await countAllowed(gateways, 600), 100);
  t.equal(await countAllowed(gateways, 30), 0);
  const counts = [one, two, three].map((each) => each.facts());
  t.equal(
    counts.reduce((sum, each) => sum + each.allowed, 0),
    100,
  );
  t.ok(counts.every(({ fallback, ready }) => fallback === 0 && ready));
});

t.test('several rules of one request: all or none give tokens', { skip: noRedis }, async (t) => {
  const { url } = await startRedis(t);
  const each = { ...hourly(3), id: 'each', selectors: [perHeader('x-user')] };
  const rules = [each, hourly(5)];
  const gateways = [gateway(await start(t, { url }), rules), gateway(await start(t, { url }), rules)];
  t.equal(await countAllowed(gateways, 100, { headers: { 'x-user': 'ann' } }), 3);
  t.equal(
    await countAllowed(gateways, 100, { headers: { 'x-user': 'bob' } }),
    2,
    "ann's refused requests cost others nothing",
  );
});

t.test('tokens return by the clock of Redis, and keys expire when buckets are full', { skip: noRedis }, async (t) => {
  const { url, port } = await startRedis(t);
  const shared = await start(t, { url });
  const bucket = { key: 'a', takeMs: 400, spanMs: 1200 };
  const took: boolean[] = [];
  for (let i = 0; i < 5; i++) took.push((await shared.take([bucket]))!.allowed);
  t.strictSame(took.slice(0, 3), [true, true, true]);
  t.equal(took.at(-1), false);
  const ttl = Number(/:(-?\d+)/.exec(await commandRedis(port, 'PTTL', redisKey('a')))![1]);
  t.ok(ttl > 0 && ttl <= 1200, `a bucket that is full after ${ttl} ms expires then`);
  await until(async () => (await shared.take([bucket]))!.allowed, 'a token to return', 2000);
  await until(async () => /:0\r/.test(await commandRedis(port, 'EXISTS', redisKey('a'))), 'the key to expire');
});

t.test('if the clock of Redis is set back, a bucket is at most empty', { skip: noRedis }, async (t) => {
  const { url, port } = await startRedis(t);
  const shared = await start(t, { url });
  await commandRedis(port, 'SET', redisKey('a'), '9e15');
  t.strictSame(await shared.take([{ key: 'a', takeMs: 100, spanMs: 300 }]), { allowed: false, usedMs: [300] });
});

t.test('Redis never sees the identity of a client', { skip: noRedis }, async (t) => {
  const { url, port, process } = await startRedis(t);
  const secret = 'k-7c1f0e9a5d';
  const shared = await start(t, { url });
  const watcher = connect(port, '127.0.0.1');
  t.teardown(() => watcher.destroy());
  let seen = '';
  watcher.on('data', (part) => {
    seen += String(part);
  });
  watcher.write('MONITOR\r\n');
  await until(() => seen.includes('+OK'), 'the monitor');
  const limits = gateway(shared, [{ ...hourly(), selectors: [perHeader('authorization')] }]);
  t.equal((await limits.check(facts({ headers: { authorization: secret } }))).allowed, true);
  await until(() => /EVALSHA/i.test(seen), 'the script to be seen');
  t.match(seen, /"sallyport:limit:[\w-]{22}"/);
  t.notMatch(seen + process.stdout() + (await commandRedis(port, 'KEYS', '*')), secret);
});

t.test('a script that Redis has lost is sent again', { skip: noRedis }, async (t) => {
  const { url, port } = await startRedis(t);
  const shared = await start(t, { url });
  await commandRedis(port, 'SCRIPT', 'FLUSH');
  t.equal(await countAllowed([gateway(shared)], 150), 100);
  t.match(shared.facts(), { fallback: 0, outages: 0 });
});

t.test(
  'Redis is killed: each request gets a decision, limits still apply, and the connection is restored',
  { skip: noRedis },
  async (t) => {
    const redis = await startRedis(t);
    const log = captureLog();
    const shared = await start(t, { url: redis.url, log: log.log });
    const limits = gateway(shared, [hourly(50)]);
    t.equal(await countAllowed([limits], 30), 30);
    redis.freeze();
    const inFlight = countAllowed([limits], 40);
    await redis.kill();
    t.equal(await inFlight, 20, 'each gateway continues from its last state: no bucket is refilled');
    t.equal(await countAllowed([limits], 100), 0);
    t.match(shared.facts(), { ready: false, fallback: 40, outages: 1 });
    t.equal(log.withCode('redis_unavailable').length, 1, 'logged once');
    t.match(
      log.withCode('redis_unavailable')[0]!.msg,
      /^Redis at 127\.0\.0\.1:\d+ is unavailable, each gateway has its own limits and its own cache: /,
    );

    await redis.again();
    await until(() => shared.ready, 'Redis to be found again');
    t.match(log.withCode('redis_available'), [{ decisions: 40 }]);
    t.equal(await countAllowed([gateway(shared, [hourly(7)])], 20), 7, 'Redis decides again');
    t.equal(log.withCode('redis_unavailable').length, 1);
  },
);

t.test(
  'Redis hangs: no request waits longer than the limit, and later ones do not wait at all',
  { skip: noRedis },
  async (t) => {
    const redis = await startRedis(t);
    const log = captureLog();
    const shared = await start(t, { url: redis.url, timeoutMs: 50, log: log.log });
    const limits = gateway(shared, [hourly(10)]);
    redis.freeze();
    const asked = performance.now();
    const waiting = Array.from({ length: 20 }, () => limits.check(facts()));
    t.ok(waiting.every((one) => one instanceof Promise));
    const verdicts = await Promise.all(waiting);
    const took = performance.now() - asked;
    t.ok(took >= 45 && took < 1000, `after ${took} ms`);
    t.equal(verdicts.filter(({ allowed }) => allowed).length, 10, 'the limit holds');
    const next = limits.check(facts());
    t.notOk(next instanceof Promise, 'at once');
    t.match(log.withCode('redis_unavailable'), [{ reason: 'it did not answer in 50 ms' }]);
    redis.thaw();
    await until(() => shared.ready, 'Redis to be found again');
    t.match(shared.facts(), { outages: 1, fallback: 20 });
  },
);

t.test('a reply that waits in the socket while the process is busy is not an outage', { skip: noRedis }, async (t) => {
  const { url } = await startRedis(t);
  const shared = await start(t, { url, timeoutMs: 30 });
  // Redis knows the script after the first command.
  await shared.take([{ key: 'b', takeMs: 1, spanMs: 10 }]);
  const asked = shared.take([{ key: 'a', takeMs: 1, spanMs: 10 }])!;
  // The command is sent, then this process is blocked for longer than the reply may take.
  await new Promise(setImmediate);
  for (const end = performance.now() + 80; performance.now() < end; );
  t.match(await asked, { allowed: true });
  t.match(shared.facts(), { outages: 0, fallback: 0 });
});

t.test('a Redis that replies with errors is unavailable until it no longer does', { skip: noRedis }, async (t) => {
  const redis = await startRedis(t);
  const log = captureLog();
  const shared = await start(t, { url: redis.url, log: log.log });
  await commandRedis(redis.port, 'CONFIG', 'SET', 'maxmemory', '1');
  t.equal(await countAllowed([gateway(shared, [hourly(5)])], 10), 5);
  t.match(shared.facts().lastProblem, /OOM/);
  await until(() => /OOM/.test(shared.facts().lastProblem ?? '') && !shared.ready, 'an attempt');
  await commandRedis(redis.port, 'CONFIG', 'SET', 'maxmemory', '0');
  await until(() => shared.ready, 'Redis to work again');
  t.equal(log.withCode('redis_unavailable').length, 1, 'logged once, however many attempts');
});

t.test('Redis is missing at the start: the process starts anyway, and connects later', { skip: noRedis }, async (t) => {
  const port = await freePort();
  const log = captureLog();
  const shared = await start(t, { url: `redis://127.0.0.1:${port}`, log: log.log });
  t.equal(shared.ready, false);
  t.equal(await countAllowed([gateway(shared, [hourly(4)])], 10), 4);
  t.match(log.withCode('redis_unavailable'), [{ reason: /ECONNREFUSED/ }]);
  await startRedis(t, [], port);
  await until(() => shared.ready, 'Redis to be found');
});

t.test('Redis with TLS, a password and a database number', { skip: noRedis }, async (t) => {
  const dir = tempDir(t);
  const authority = await createAuthority('demo.test');
  const server = await createCredential(authority, 'spiffe://demo.test/ns/shop/sa/redis', { dns: ['localhost'] });
  const files = { cert: join(dir, 'redis.pem'), key: join(dir, 'redis.key'), ca: join(dir, 'ca.pem') };
  writeFileSync(files.cert, server.chainPem);
  writeFileSync(files.key, server.keyPem);
  writeFileSync(files.ca, authority.bundlePem);
  const password = join(dir, 'password');
  writeFileSync(password, 'correct horse\n');
  const redis = await startRedis(t, [
    ...[
      '--tls-port',
      'PORT',
      '--tls-cert-file',
      files.cert,
      '--tls-key-file',
      files.key,
      '--tls-ca-cert-file',
      files.ca,
    ],
    ...['--tls-auth-clients', 'no', '--requirepass', 'correct horse'],
  ]);
  const url = `rediss://localhost:${redis.port}/3`;
  const good = await start(t, { url, passwordFile: password, caFile: files.ca });
  t.equal(good.ready, true);
  t.equal(await countAllowed([gateway(good)], 120), 100);

  const log = captureLog();
  const wrongPassword = join(dir, 'wrong');
  writeFileSync(wrongPassword, 'battery staple');
  const other = await createAuthority('other.test');
  writeFileSync(join(dir, 'other.pem'), other.bundlePem);
  // Else the roots of the system would count.
  const empty = join(dir, 'empty.pem');
  writeFileSync(empty, '');
  await t.rejects(start(t, { url, passwordFile: password, caFile: empty }), { code: 'config_invalid' });
  for (const [name, options, why] of [
    ['a wrong password', { url, passwordFile: wrongPassword, caFile: files.ca }, /WRONGPASS/],
    ['no password', { url, caFile: files.ca }, /NOAUTH/],
    [
      'a server with an untrusted certificate',
      { url, passwordFile: password, caFile: join(dir, 'other.pem') },
      /certificate/,
    ],
    [
      'another name',
      { url: url.replace('localhost', '127.0.0.1'), passwordFile: password, caFile: files.ca },
      /altnames|IP/,
    ],
  ] as const) {
    const limits = await start(t, { ...options, log: log.log });
    t.equal(limits.ready, false, name);
    t.match(limits.facts().lastProblem, why, name);
    limits.close();
  }
  t.notMatch(JSON.stringify(log.lines), /correct horse|battery staple/);
});

t.test('a server that does not speak the protocol of Redis is unavailable', async (t) => {
  const servers: [string, (server: Server) => void][] = [
    ['nothing', () => {}],
    ['garbage', (server) => server.on('connection', (socket) => socket.on('data', () => socket.write('hello\r\n')))],
    ['numbers', (server) => server.on('connection', (socket) => socket.on('data', () => socket.write('*1\r\n:1\r\n')))],
    ['the end', (server) => server.on('connection', (socket) => socket.destroy())],
  ];
  await Promise.all(
    servers.map(async ([name, behave]) => {
      const server = createServer((socket) => void socket.on('error', () => {}));
      behave(server);
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
      t.teardown(() => server.close());
      const { port } = server.address() as { port: number };
      const shared = await start(t, { url: `redis://127.0.0.1:${port}` });
      t.equal(shared.ready, false, name);
      t.equal(shared.take([{ key: 'a', takeMs: 1, spanMs: 1 }]), undefined, name);
      shared.close();
    }),
  );
});

const bad: [string, Partial<RedisLinkOptions>, string, RegExp][] = [
  ['no URL', { url: 'redis' }, 'config_invalid', /^the URL of Redis is not a URL$/],
  ['another scheme', { url: 'https://redis:6379' }, 'config_invalid', /begins with https:$/],
  ['a password', { url: 'redis://:hunter2@redis' }, 'config_invalid', /^the URL of Redis holds a password$/],
  ['no host', { url: 'redis:///0' }, 'config_invalid', /has no host|is not a URL/],
  ['a query', { url: 'rediss://redis?x=1' }, 'config_invalid', /has more than host, port/],
  ['a path', { url: 'rediss://redis/a/b' }, 'config_invalid', /has more than host, port/],
  [
    'a password in plaintext',
    { url: 'redis://redis', passwordFile: 'x' },
    'config_invalid',
    /send a password to redis in plaintext$/,
  ],
  ['a CA without TLS', { url: 'redis://redis', caFile: 'x' }, 'config_invalid', /no use for a caFile/],
  [
    'no such file',
    { url: 'redis://127.0.0.1', passwordFile: '/nowhere/x' },
    'config_unreadable',
    /^\/nowhere\/x cannot be read: ENOENT/,
  ],
];

for (const [name, options, code, message] of bad)
  t.test(`refused at the start: ${name}`, async (t) => {
    const wrong = startSharedLimits({ url: '', ...options });
    await t.rejects(wrong, { code, message });
    await wrong.catch((error: unknown) => t.notMatch(JSON.stringify(error) + String(error), /hunter2/));
  });
