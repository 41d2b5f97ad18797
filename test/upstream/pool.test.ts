// One upstream: which of its endpoints gets a request, what follows from failures, and how it follows its names.

import t from 'tap';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Choice, UpstreamConnection } from '../../sidecar/exchange/upstream.ts';
import { type Dial, dialPlain } from '../../sidecar/upstream/dial.ts';
import type { Pool, PoolOptions } from '../../sidecar/upstream/pool.ts';
import type { Resolver } from '../../sidecar/upstream/resolve.ts';
import type { TrafficPlan } from '../../sidecar/upstream/traffic.ts';
import { onPorts, poolLimits, startPool } from '../fixtures/forwarder.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';
import { logTo, startBackend } from '../fixtures/mesh.ts';
import { type Owner, until } from '../fixtures/process.ts';
import { getOver, ok } from '../fixtures/upstream.ts';

const inTurn: TrafficPlan = { balance: { by: 'roundRobin' } };

const startApp = (t: Owner) => startBackend(t, (socket) => socket.write(ok));

const startApps = (t: Owner, count: number) => Promise.all(Array.from({ length: count }, () => startApp(t)));

/** Fails for the ports that `broken` has, and dials the others; `dialed` are the ports in order. */
function choosyDial(broken: Map<number, string> = new Map()): { readonly dial: Dial; readonly dialed: number[] } {
  const dialed: number[] = [];
  return {
    dialed,
    async dial(address, ...rest) {
      const { port } = address as { readonly port: number };
      dialed.push(port);
      const code = broken.get(port);
      if (code !== undefined) throw new SallyportError(code as 'upstream_connect', `${port} is broken`);
      return dialPlain(address, ...rest);
    },
  };
}

/** A pool over so many apps, the first of which are broken. */
async function start(t: Owner, count: number, broken: readonly string[] = [], more: Partial<PoolOptions> = {}) {
  const ports = (await startApps(t, count)).map(({ port }) => port);
  const faults = new Map(broken.map((code, i) => [ports[i]!, code]));
  const lines: Record<string, unknown>[] = [];
  const { dial, dialed } = choosyDial(faults);
  const pool = startPool(t, { endpoints: onPorts(...ports), dial, traffic: inTurn, log: logTo(lines), ...more });
  return { pool, ports, faults, dialed, lines };
}

const choice = (more: Partial<Choice> = {}): Choice => ({ hash: undefined, avoid: [], over: false, ...more });
const acquire = async (pool: Pool, of?: Choice): Promise<UpstreamConnection> => pool.acquire(false, false, of);
const portOf = ({ address }: { readonly address: string }): number => Number(address.split(':')[1]);

t.test('each endpoint gets its turn, and counts cover all endpoints', async (t) => {
  const { pool, ports } = await start(t, 3);
  const got = [await acquire(pool), await acquire(pool), await acquire(pool)];
  t.strictSame(got.map(portOf).toSorted(), ports.toSorted());
  t.strictSame([pool.size, pool.idle, pool.inFlight], [3, 0, 3]);
  for (const one of got) t.equal(await getOver(one), 200);
  t.strictSame([pool.size, pool.idle, pool.inFlight], [3, 3, 0]);
  t.match(pool.describe(), { connections: 3, idle: 3, pending: 0, waitingFor: null, ejections: 0 });
});

const failures: [name: string, broken: string[], of: Choice | undefined, outcome: string, dials: number][] = [
  ['one that fails is passed over for the next', ['upstream_connect'], undefined, 'passed', 2],
  ['each is tried once', ['upstream_connect', 'upstream_tls', 'upstream_connect'], undefined, 'upstream_', 3],
  [
    "a failure that is not the endpoint's is not tried elsewhere",
    Array(3).fill('not_ready'),
    undefined,
    'not_ready',
    1,
  ],
  [
    'a request that no longer waits is not tried elsewhere',
    Array(3).fill('upstream_connect'),
    choice({ over: true }),
    'upstream_connect',
    1,
  ],
];

for (const [name, broken, of, outcome, dials] of failures)
  t.test(`failures: ${name}`, async (t) => {
    const { pool, dialed, ports } = await start(t, 3, broken);
    let code = 'passed';
    // The turn may begin with one that is well: then the broken one is met in one of the next turns.
    for (let i = 0; i < 3 && (i === 0 || !dialed.includes(ports[0]!)); i++) {
      dialed.length = 0;
      code = await acquire(pool, of).then(
        (one) => {
          one.destroy();
          return 'passed';
        },
        (error: SallyportError) => error.code,
      );
    }
    t.match(code, outcome);
    t.strictSame([dialed.length, new Set(dialed).size], [dials, dials]);
  });

t.test('an endpoint that failed recently is tried last, also when it is its turn', async (t) => {
  const { pool, ports, dialed } = await start(t, 2, ['upstream_connect']);
  for (let i = 0; i < 2; i++) (await acquire(pool)).destroy();
  t.ok(dialed.includes(ports[0]!));
  dialed.length = 0;
  for (let i = 0; i < 4; i++) (await acquire(pool)).destroy();
  t.strictSame(dialed, Array(4).fill(ports[1]));
});

t.test('addresses that a request has tried are tried last', async (t) => {
  const { pool, ports } = await start(t, 3);
  const addresses = ports.map((port) => `127.0.0.1:${port}`);
  for (let i = 0; i < 3; i++) {
    const one = await acquire(pool, choice({ avoid: addresses.slice(0, 2) }));
    t.equal(one.address, addresses[2]);
    one.destroy();
  }
  const any = await acquire(pool, choice({ avoid: addresses }));
  t.ok(addresses.includes(any.address), 'one of them is better than none');
  any.destroy();
});

t.test('equal requests go to the same endpoint', async (t) => {
  const { pool } = await start(t, 3, [], {
    traffic: { balance: { by: 'maglev', hash: { sourceIp: true }, size: 1009 } },
  });
  t.strictSame(pool.hashBy, { sourceIp: true });
  const of = async (hash: string) => {
    const one = await acquire(pool, choice({ hash }));
    one.destroy();
    return one.address;
  };
  t.equal(await of('a'), await of('a'));
  const all = await Promise.all(Array.from({ length: 30 }, (_, i) => of(`client ${i}`)));
  t.equal(new Set(all).size, 3);
});

const outlier = {
  consecutive5xx: 2,
  consecutiveGateway: 0,
  intervalMs: 1000,
  baseEjectionMs: 5000,
  maxEjectionPercent: 100,
};

t.test('an endpoint that misbehaves is ejected, reported, and returns', async (t) => {
  const clock = new ManualClock();
  const { pool, ports, lines } = await start(t, 2, [], { traffic: { ...inTurn, outlier }, clock });
  const [first, second] = ports.map((port) => `127.0.0.1:${port}`) as [string, string];
  const addresses = async () => {
    const got = [await acquire(pool), await acquire(pool)];
    for (const one of got) one.destroy();
    return [...new Set(got.map(({ address }) => address))].toSorted();
  };
  for (const status of [500, 200, 500]) pool.report!(first, status);
  t.equal((await addresses()).length, 2, 'not for two failures that are not consecutive');
  pool.report!(first, 500);
  t.strictSame(await addresses(), [second]);
  const { ejections, endpoints } = pool.describe();
  t.equal(ejections, 1);
  t.equal(endpoints.find(({ address }) => address === first)!.ejectedUntil, new Date(clock.now() + 5000).toISOString());
  t.match(lines, [{ code: 'endpoint_ejected', upstream: 'orders', address: first }]);
  pool.report!(second, 500);
  pool.report!(second, 500);
  t.throws(() => pool.acquire(false, false), { code: 'upstream_unhealthy', message: /0 of 2/ });
  pool.report!('127.0.0.1:1', 500);
  clock.advance(6000);
  pool.tick();
  t.strictSame(await addresses(), [first, second].toSorted());
});

t.test('where too many endpoints are unhealthy, all are used', async (t) => {
  const { pool, ports } = await start(t, 2, [], { traffic: { ...inTurn, outlier, panicPercent: 60 } });
  for (let i = 0; i < 2; i++) pool.report!(`127.0.0.1:${ports[0]}`, 500);
  const got = [await acquire(pool), await acquire(pool)];
  t.equal(new Set(got.map(portOf)).size, 2);
  for (const one of got) one.destroy();
});

t.test('without outlier detection no outcome is reported', async (t) => {
  t.equal((await start(t, 1)).pool.report, undefined);
});

t.test('a wrong identity is logged once; a refused connection is not', async (t) => {
  const { pool, lines, faults, ports } = await start(t, 1, ['upstream_identity']);
  const fail = () => t.rejects(acquire(pool));
  await fail();
  await fail();
  t.match(lines, [{ code: 'upstream_identity', upstream: 'orders', address: `127.0.0.1:${ports[0]}` }]);
  t.equal(lines.length, 1);
  t.match(pool.describe().endpoints, [{ lastProblem: /is broken/ }]);
  faults.delete(ports[0]!);
  (await acquire(pool)).destroy();
  t.match(pool.describe().endpoints, [{ lastProblem: null }]);
  faults.set(ports[0]!, 'upstream_identity');
  await fail();
  t.equal(lines.length, 2, 'after a success it is logged again');
  faults.set(ports[0]!, 'upstream_connect');
  await fail();
  t.equal(lines.length, 2);
});

/** Names whose addresses the test gives. */
function createNames(names: Record<string, readonly string[]>) {
  const asked: string[] = [];
  const resolver = {
    version: 0,
    watch: (host: string) => void asked.push(`watch ${host}`),
    forget: (host: string) => void asked.push(`forget ${host}`),
    refresh: (host: string) => void asked.push(`refresh ${host}`),
    addressesOf: (host: string) => names[host] ?? (/^[\d.]+$/.test(host) ? [host] : []),
    close() {},
  };
  const set = (host: string, addresses: readonly string[]): void => {
    names[host] = addresses;
    resolver.version++;
  };
  return { resolver: resolver as unknown as Resolver, asked, set };
}

t.test('the pool follows its DNS names', async (t) => {
  const app = await startApp(t);
  const { resolver, asked, set } = createNames({});
  const pool = startPool(t, { endpoints: [{ host: 'orders.test', port: app.port }], resolver, traffic: inTurn });
  t.equal(pool.waitingFor(), 'the name orders.test of upstream orders');
  t.throws(() => pool.acquire(false, false), { code: 'upstream_unresolved' });
  set('orders.test', ['127.0.0.1']);
  t.equal(pool.waitingFor(), undefined);
  const busy = await acquire(pool);
  const idle = await acquire(pool);
  await getOver(idle);
  set('orders.test', ['127.0.0.2']);
  pool.tick();
  t.strictSame(
    pool.describe().endpoints.map(({ address }) => address),
    [`127.0.0.2:${app.port}`],
  );
  t.equal(pool.inFlight, 1, 'connections in use continue, and count');
  t.equal(await getOver(busy), 200);
  await until(() => pool.size === 0, 'the former endpoint to be let go');
  await t.rejects(acquire(pool), { code: 'upstream_connect' });
  t.strictSame(asked, ['watch orders.test', 'refresh orders.test'], 'a name whose address fails is looked up again');
  set('orders.test', []);
  t.throws(() => pool.acquire(false, false), { code: 'upstream_unresolved' });
  pool.close();
  t.equal(asked.at(-1), 'forget orders.test');
});

t.test('an address with two names is one endpoint, and stays while one of them has it', async (t) => {
  const { port } = await startApp(t);
  const { resolver, set } = createNames({ 'a.test': ['127.0.0.1'], 'b.test': ['127.0.0.1'] });
  const endpoints = ['a.test', 'b.test'].map((host) => ({ host, port }));
  const pool = startPool(t, { endpoints, resolver });
  await getOver(await acquire(pool));
  set('a.test', []);
  pool.tick();
  t.strictSame([pool.describe().endpoints.length, pool.idle], [1, 1], 'its connection is kept');
});

t.test('an awaited endpoint is contacted before the first request, until it has responded', async (t) => {
  const { pool, ports, faults } = await start(t, 1, ['upstream_connect'], { awaited: true, alpn: ['http/1.1'] });
  t.equal(pool.unanswered(), 'upstream orders: not contacted yet');
  await until(() => pool.unanswered() === `upstream orders: ${ports[0]} is broken`, 'the reason');
  faults.clear();
  pool.tick();
  await until(() => pool.unanswered() === undefined, 'an answer');
  await until(() => pool.idle === 1, 'a connection for the first request');
  const one = await acquire(pool);
  t.equal(pool.size, 1);
  await getOver(one);
  const other = await start(t, 1);
  t.strictSame([other.pool.unanswered(), other.dialed], [undefined, []], 'other endpoints are not contacted');
});

t.test('the limits of one upstream apply', async (t) => {
  const connections = { maxRequests: 2, maxConnections: 1, maxRetries: 1 };
  const { pool } = await start(t, 1, [], { traffic: { connections } });
  const first = await acquire(pool);
  const second = acquire(pool);
  t.throws(() => pool.acquire(false, false), { code: 'overloaded', message: /http2MaxRequests/ });
  await t.rejects(pool.dialSocket(), { code: 'overloaded', message: /maxConnections/ }, 'a stream does not wait');
  t.strictSame([pool.takeRetry(undefined), pool.takeRetry(undefined)], [true, false]);
  pool.giveRetryBack();
  t.equal(pool.takeRetry(undefined), true);
  t.strictSame(pool.describe().overflows, { connections: 1, pending: 0, requests: 1, retries: 1 });
  await getOver(first);
  await getOver(await second);
  const { socket } = await start(t, 1).then((other) => other.pool.dialSocket());
  socket.destroy();
});

t.test('a place that one endpoint frees goes at once to a request that waits at another', async (t) => {
  const began = performance.now();
  const { pool } = await start(t, 2, [], { traffic: { ...inTurn, connections: { maxConnections: 2 } } });
  const [a, b] = [await acquire(pool), await acquire(pool)];
  const waiting = acquire(pool);
  t.equal(pool.describe().pending, 1);
  const turn = portOf(a);
  b.destroy();
  const got = await waiting;
  t.equal(portOf(got), turn, 'it waited at the endpoint whose turn it was, and the other was freed');
  t.ok(performance.now() - began < 900, 'it did not wait for the tick');
  t.equal(await getOver(got), 200);
  a.destroy();
});

t.test('a renewed pool reuses no connection, and a closed one keeps none', async (t) => {
  const { pool } = await start(t, 2, [], { limits: poolLimits });
  for (const one of [await acquire(pool), await acquire(pool)]) await getOver(one);
  t.equal(pool.idle, 2);
  pool.renew();
  t.equal(pool.idle, 0);
  const busy = await acquire(pool);
  t.equal(busy.reused, false);
  pool.close();
  t.equal(await getOver(busy), 200);
  await until(() => pool.size === 0, 'all of them to be closed');
});
