// Where requests go: each for itself, to the current, healthy endpoints, and no more than an upstream may have.

import { connect } from 'node:net';
import t from 'tap';
import { Resolver } from '../../sidecar/upstream/resolve.ts';
import type { TrafficPlan } from '../../sidecar/upstream/traffic.ts';
import { onPorts, startForwarder, startPool } from '../fixtures/forwarder.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';
import { type Backend, exchangeBytes, logTo, startBackend } from '../fixtures/mesh.ts';
import { freePort, type Owner, until } from '../fixtures/process.ts';

const ok = (body: string): string => `HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
const failed = 'HTTP/1.1 500 Oh\r\nContent-Length: 4\r\n\r\nfail';

/** The response's status and body. */
async function ask(port: number, fields = '', path = '/'): Promise<string> {
  const got = await exchangeBytes(port, `GET ${path} HTTP/1.1\r\nHost: orders\r\n${fields}Connection: close\r\n\r\n`);
  return `${got.split(' ')[1]} ${got.split('\r\n\r\n').at(-1)}`;
}

/** Backends that each answer with a letter; those in `fails` answer 500. */
async function startLetters(
  t: Owner,
  letters: string,
  fails = new Set<string>(),
): Promise<(Backend & { n: number })[]> {
  return Promise.all(
    [...letters].map(async (letter) => {
      const backend = await startBackend(t, (socket, soFar) => {
        if (!soFar.endsWith('\r\n\r\n')) return;
        one.n++;
        socket.write(fails.has(letter) ? failed : ok(letter));
      });
      const one = Object.assign(backend, { n: 0 });
      return one;
    }),
  );
}

const portsOf = (backends: readonly Backend[]): number[] => backends.map(({ port }) => port);

t.test('round robin counts requests, not connections', async (t) => {
  const backends = await startLetters(t, 'abc');
  const plan: TrafficPlan = { balance: { by: 'roundRobin' } };
  const pool = startPool(t, { endpoints: onPorts(...portsOf(backends)), traffic: plan });
  const { port } = await startForwarder(t, { destination: pool });
  for (let i = 0; i < 12; i++) await ask(port);
  t.same(
    backends.map(({ n }) => n),
    [4, 4, 4],
  );
  t.same(
    backends.map(({ received }) => received.length),
    [1, 1, 1],
    'over one connection each',
  );
  const { endpoints, connections, idle } = pool.describe();
  t.match(
    endpoints,
    portsOf(backends).map((one) => ({
      ...{ address: `127.0.0.1:${one}`, connections: 1, inFlight: 0, ejectedUntil: null, healthy: null },
    })),
  );
  t.same([connections, idle], [3, 3]);
});

t.test('the default is the less busy endpoint', async (t) => {
  const slow = await startBackend(t, () => {});
  const [fast] = await startLetters(t, 'f');
  const pool = startPool(t, { endpoints: onPorts(slow.port, fast!.port) });
  const { port } = await startForwarder(t, { destination: pool });
  const held = connect(port, '127.0.0.1', () => held.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n'));
  t.teardown(() => held.destroy());
  held.on('data', () => held.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n'));
  await until(() => slow.received.length === 1, 'the slow one to have a request');
  for (let i = 0; i < 10; i++) t.equal(await ask(port), '200 f');
  t.equal(slow.received.length, 1);
  t.equal(pool.inFlight, 1);
});

t.test('an endpoint that accepts no connection is skipped, and then avoided for a while', async (t) => {
  const [one] = await startLetters(t, 'a');
  const dead = await freePort();
  const pool = startPool(t, {
    endpoints: onPorts(dead, one!.port),
    traffic: { balance: { by: 'roundRobin' } },
  });
  const { port, finished } = await startForwarder(t, { destination: pool });
  for (let i = 0; i < 10; i++) t.equal(await ask(port), '200 a');
  t.ok(finished.every(({ upstreamAddress }) => upstreamAddress === `127.0.0.1:${one!.port}`));
});

t.test('by hash, equal requests reach one endpoint', async (t) => {
  const backends = await startLetters(t, 'abcd');
  const endpoints = onPorts(...portsOf(backends));
  const serve = async (hash: Extract<TrafficPlan['balance'], { hash: unknown }>['hash'], by: 'ringHash' | 'maglev') => {
    const pool = startPool(t, { endpoints, traffic: { balance: { by, hash, size: by === 'maglev' ? 65_537 : 1024 } } });
    return (await startForwarder(t, { destination: pool })).port;
  };
  const users = Array.from({ length: 16 }, (_, i) => `u${i}`);
  for (const by of ['ringHash', 'maglev'] as const) {
    const header = await serve({ headers: ['x-user'] }, by);
    const first = await Promise.all(users.map((user) => ask(header, `X-User: ${user}\r\n`)));
    t.ok(new Set(first).size > 2, 'several endpoints get some');
    t.same(await Promise.all(users.map((user) => ask(header, `x-user: ${user}\r\n`))), first, 'the same again');
    const query = await serve({ query: 'user' }, by);
    t.same(await Promise.all(users.map((user) => ask(query, '', `/?a=1&user=${user}`))), first, 'by query');
    const cookie = await serve({ cookie: 'user', path: undefined, ttlMs: undefined }, by);
    t.same(await Promise.all(users.map((user) => ask(cookie, `Cookie: a=b; user=${user}\r\n`))), first, 'by cookie');
  }
  const source = await serve({ sourceIp: true }, 'ringHash');
  t.equal(new Set(await Promise.all(users.map(() => ask(source)))).size, 1, 'one address, one endpoint');
});

t.test('a caller without the cookie gets one, and comes back to the same endpoint with it', async (t) => {
  const backends = await startLetters(t, 'abcdefgh');
  const hash = { cookie: 'stay', path: '/shop', ttlMs: 3_600_000 };
  const pool = startPool(t, {
    endpoints: onPorts(...portsOf(backends)),
    traffic: { balance: { by: 'ringHash', hash, size: 1024 } },
  });
  const { port } = await startForwarder(t, { destination: pool });
  for (let i = 0; i < 4; i++) {
    const got = await exchangeBytes(port, 'GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n');
    const [, value] = /\r\nset-cookie: stay=([0-9a-f]{16}); Max-Age=3600; Path=\/shop; HttpOnly\r\n/.exec(got)!;
    const again = await exchangeBytes(
      port,
      `GET / HTTP/1.1\r\nHost: orders\r\nCookie: stay=${value}\r\nConnection: close\r\n\r\n`,
    );
    t.equal(again.at(-1), got.at(-1));
    t.notMatch(again, /set-cookie/);
  }
});

t.test('an endpoint that responds with errors is ejected, and returns', async (t) => {
  const fails = new Set(['a']);
  const backends = await startLetters(t, 'abc', fails);
  const clock = new ManualClock();
  const lines: Record<string, unknown>[] = [];
  const outlier = { consecutive5xx: 2, consecutiveGateway: 0, intervalMs: 1000, baseEjectionMs: 5000 };
  const pool = startPool(t, {
    ...{ endpoints: onPorts(...portsOf(backends)), clock, log: logTo(lines) },
    traffic: { balance: { by: 'roundRobin' }, outlier: { ...outlier, maxEjectionPercent: 50 } },
  });
  const { port } = await startForwarder(t, { destination: pool });
  for (let i = 0; i < 30; i++) await ask(port);
  const [failing, ...rest] = backends.map(({ n }) => n);
  t.equal(failing, 2, 'no request after two errors');
  t.ok(
    rest.every((n) => n > 10),
    `the others share the rest: ${rest.join(', ')}`,
  );
  const [ejected] = pool.describe().endpoints;
  t.equal(ejected!.ejectedUntil, new Date(clock.now() + 5000).toISOString());
  t.match(lines, [{ code: 'endpoint_ejected', address: ejected!.address, times: 1 }]);
  fails.clear();
  clock.advance(4000);
  pool.tick();
  for (let i = 0; i < 4; i++) await ask(port);
  t.equal(backends[0]!.n, 2);
  clock.advance(2000);
  pool.tick();
  for (let i = 0; i < 6; i++) await ask(port);
  t.equal(backends[0]!.n, 4, 'the endpoint has its turn again');
});

t.test('without a healthy endpoint, requests are refused, or all are used if there is a panic threshold', async (t) => {
  const outlier = {
    ...{ consecutive5xx: 1, consecutiveGateway: 0, intervalMs: 1000, baseEjectionMs: 5000, maxEjectionPercent: 100 },
  };
  const [a] = await startLetters(t, 'a', new Set(['a']));
  const pool = startPool(t, { endpoints: onPorts(a!.port), traffic: { outlier } });
  const { port, finished } = await startForwarder(t, { destination: pool });
  t.equal(await ask(port), '500 fail');
  t.match(await ask(port), /^503 /);
  t.match(finished[1], { flag: 'UH', details: 'no_healthy_upstream', failure: { code: 'upstream_unhealthy' } });
  t.equal(finished[1]!.failure!.message, 'orders has no healthy endpoint (0 of 1)');

  const panics = startPool(t, { endpoints: onPorts(a!.port), traffic: { outlier, panicPercent: 50 } });
  const other = await startForwarder(t, { destination: panics });
  t.equal(await ask(other.port), '500 fail');
  t.equal(await ask(other.port), '500 fail', 'an error is better than no response');
});

t.test('a name that resolves to other addresses: new ones are used, former ones are drained', async (t) => {
  let addresses: readonly string[] = ['127.0.0.1', '127.0.0.2'];
  const asked: (() => void)[] = [];
  const resolver = new Resolver(logTo([]), async () => {
    await new Promise<void>((resolve) => asked.push(resolve));
    return addresses;
  });
  const answer = async (): Promise<void> => {
    await until(() => asked.length > 0, 'the lookup');
    asked.shift()!();
  };
  const port = await freePort();
  const seen: Record<string, number> = {};
  const { createServer } = await import('node:http');
  const held: (() => void)[] = [];
  const server = createServer((request, response) => {
    const local = request.socket.localAddress!;
    seen[local] = (seen[local] ?? 0) + 1;
    if (request.url === '/hold') held.push(() => response.end('held'));
    else response.end(local);
  });
  await new Promise<void>((resolve) => server.listen(port, '0.0.0.0', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  const traffic: TrafficPlan = { balance: { by: 'roundRobin' } };
  const pool = startPool(t, { endpoints: [{ host: 'orders.test', port }], resolver, traffic, name: 'orders' });
  const forwarder = await startForwarder(t, { destination: pool });
  t.equal(pool.waitingFor(), 'the name orders.test of upstream orders');
  t.match(await ask(forwarder.port), /^503 /);
  t.equal(forwarder.finished[0]!.failure!.code, 'upstream_unresolved');
  await answer();
  await until(() => pool.waitingFor() === undefined, 'the name');
  for (let i = 0; i < 4; i++) await ask(forwarder.port);
  t.same(seen, { '127.0.0.1': 2, '127.0.0.2': 2 });

  const slow = [ask(forwarder.port, '', '/hold'), ask(forwarder.port, '', '/hold')];
  await until(() => held.length === 2, 'both to be busy');
  addresses = ['127.0.0.3', '127.0.0.2'];
  resolver.refresh('orders.test');
  await answer();
  await until(
    () => pool.describe().endpoints.some(({ address }) => address.startsWith('127.0.0.3')) || pool.tick(),
    'the new address',
  );
  for (let i = 0; i < 4; i++) await ask(forwarder.port);
  t.equal(seen['127.0.0.3'], 2);
  t.equal(seen['127.0.0.1'], 3, 'no new request for the removed endpoint');
  for (const one of held) one();
  t.same(await Promise.all(slow), ['200 held', '200 held'], 'its requests in flight were not cut');
  const ofEndpoints = (): number => pool.describe().endpoints.reduce((sum, { connections }) => sum + connections, 0);
  await until(() => pool.size === ofEndpoints(), 'its connection to close');
});

t.test('circuit breakers', async (t) => {
  const waiting: (() => void)[] = [];
  const backend = await startBackend(t, (socket, soFar) => {
    if (soFar.endsWith('\r\n\r\n')) waiting.push(() => socket.write(ok('a')));
  });
  const start = async (connections: TrafficPlan['connections']) => {
    waiting.length = 0;
    backend.received.length = 0;
    const pool = startPool(t, { endpoints: onPorts(backend.port), traffic: { connections: connections! } });
    return { pool, ...(await startForwarder(t, { destination: pool })) };
  };

  await t.test('connections: further requests wait, up to a limit, and are served in turn', async (t) => {
    const { port, pool, finished } = await start({ maxConnections: 1, maxPending: 2 });
    const first = ask(port);
    await until(() => waiting.length === 1, 'the first');
    const more = [ask(port), ask(port)];
    await until(() => pool.describe().pending === 2, 'two to wait');
    t.equal(await ask(port), '503 overloaded');
    t.match(finished[0], { flag: 'UO', details: 'overflow' });
    t.equal(finished[0]!.failure!.message, '2 requests wait for orders (limit http1MaxPendingRequests)');
    for (let i = 0; i < 3; i++) {
      await until(() => waiting.length === 1, `request ${i}`);
      waiting.shift()!();
    }
    t.same(await Promise.all([first, ...more]), ['200 a', '200 a', '200 a']);
    t.equal(backend.received.length, 1, 'all on one connection');
    t.same(pool.describe().overflows, { connections: 0, pending: 1, requests: 0, retries: 0 });
  });

  await t.test("connections: a request that has left does not take another's turn", async (t) => {
    const { port, pool, finished } = await start({ maxConnections: 1 });
    const first = ask(port);
    await until(() => waiting.length === 1, 'the first');
    const gone = connect(port, '127.0.0.1', () => gone.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n'));
    await until(() => pool.describe().pending === 1, 'one to wait');
    const last = ask(port);
    await until(() => pool.describe().pending === 2, 'two to wait');
    gone.destroy();
    await until(() => finished.length === 1, 'its going to be seen');
    waiting.shift()!();
    await until(() => waiting.length === 1, 'the last');
    waiting.shift()!();
    t.same(await Promise.all([first, last]), ['200 a', '200 a']);
    t.equal(backend.received.length, 1);
  });

  await t.test('streams of a connection: further requests wait where no other connection is allowed', async (t) => {
    const { createServer } = await import('node:http2');
    const streams: (() => void)[] = [];
    const sessions = new Set<{ destroy(): void }>();
    const server = createServer((_, response) => streams.push(() => response.end('h')));
    server.on('session', (session) => sessions.add(session));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    t.teardown(() => {
      for (const one of sessions) one.destroy();
      server.close();
    });
    const pool = startPool(t, {
      ...{ endpoints: onPorts((server.address() as { port: number }).port), http2: true },
      traffic: { connections: { maxConnections: 1, maxStreamsPerConnection: 2 } },
    });
    const { port } = await startForwarder(t, { destination: pool });
    const all = [ask(port), ask(port), ask(port), ask(port)];
    for (let i = 0; i < 4; i++) {
      await until(() => streams.length > 0 && pool.describe().pending === Math.max(0, 2 - i), `stream ${i}`);
      t.ok(streams.length <= 2);
      streams.shift()!();
      if (i < 2) await until(() => streams.length === 2, 'the next in its place');
    }
    for (const one of await Promise.all(all)) t.match(one, /^200 /);
    t.equal(sessions.size, 1);
  });

  await t.test('requests', async (t) => {
    const { port, finished } = await start({ maxRequests: 1 });
    const first = ask(port);
    await until(() => waiting.length === 1, 'the first');
    t.equal(await ask(port), '503 overloaded');
    t.equal(finished[0]!.failure!.message, 'orders has 1 requests in flight (limit http2MaxRequests)');
    waiting.shift()!();
    t.equal(await first, '200 a');
  });

  await t.test('requests of a connection', async (t) => {
    const { port } = await start({ maxRequestsPerConnection: 2 });
    for (let i = 0; i < 5; i++) {
      const one = ask(port);
      await until(() => waiting.length === 1, 'the request');
      waiting.shift()!();
      t.equal(await one, '200 a');
    }
    t.equal(backend.received.length, 3);
  });

  await t.test('the maximum age of a connection', async (t) => {
    const { port, pool } = await start({ maxConnectionMs: 1 });
    const one = ask(port);
    await until(() => waiting.length === 1, 'the request');
    waiting.shift()!();
    t.equal(await one, '200 a');
    await until(() => pool.size === 0 || pool.tick(), 'the old connection to close');
  });

  await t.test('TCP', async (t) => {
    const { pool } = await start({ maxConnections: 1 });
    const { socket } = await pool.dialSocket();
    await t.rejects(pool.dialSocket(), {
      code: 'overloaded',
      message: 'orders has 1 connections (limit maxConnections)',
    });
    socket.destroy();
    await until(() => pool.size === 0, 'it to close');
    (await pool.dialSocket()).socket.destroy();
  });
});
