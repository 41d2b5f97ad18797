// The connections to one address: which one a request gets, which are kept, who waits, and how the counts come back to
// nothing.

import { createServer as createHttp2Server, type ServerHttp2Session } from 'node:http2';
import t from 'tap';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Choice, UpstreamConnection } from '../../sidecar/exchange/upstream.ts';
import { Breaker } from '../../sidecar/upstream/breaker.ts';
import { type Dial, dialPlain } from '../../sidecar/upstream/dial.ts';
import { Endpoint, type EndpointOptions } from '../../sidecar/upstream/endpoint.ts';
import type { ConnectionPlan } from '../../sidecar/upstream/traffic.ts';
import { poolLimits } from '../fixtures/forwarder.ts';
import { startBackend } from '../fixtures/mesh.ts';
import { freePort, type Owner, until } from '../fixtures/process.ts';
import { getOver, ok } from '../fixtures/upstream.ts';

/** An endpoint with no pool around it. */
function createEndpoint(t: Owner, port: number, plan: ConnectionPlan = {}, options: Partial<EndpointOptions> = {}) {
  const all: EndpointOptions = {
    ...{ name: 'orders', dial: dialPlain, secure: false, alpn: [], http2: false, limits: poolLimits, idleMs: 5000 },
    ...options,
  };
  const breaker = new Breaker('orders', all.limits, plan);
  const heard: string[] = [];
  const endpoint: Endpoint = new Endpoint({ host: '127.0.0.1', port }, undefined, all, breaker, {
    connected: () => void heard.push('connected'),
    unreachable: (_, { code }) => void heard.push(code),
    freed: () => endpoint.serveQueue(),
  });
  t.teardown(() => endpoint.leave());
  const acquire = async (fresh = false, choice?: Choice): Promise<UpstreamConnection> =>
    endpoint.acquire(fresh, false, choice);
  return { endpoint, breaker, heard, acquire };
}

const startApp = (t: Owner) => startBackend(t, (socket) => socket.write(ok));

t.test('a returned connection serves the next request', async (t) => {
  const app = await startApp(t);
  const { endpoint, breaker, heard, acquire } = createEndpoint(t, app.port);
  const first = await acquire();
  t.match([first.reused, endpoint.size, endpoint.idle, endpoint.inFlight], [false, 1, 0, 1]);
  t.equal(await getOver(first), 200);
  t.match([endpoint.size, endpoint.idle, endpoint.inFlight], [1, 1, 0]);
  const second = await acquire();
  t.match([second.reused, second.localAddress], [true, first.localAddress]);
  t.equal(await getOver(second), 200);
  t.strictSame([app.received.length, heard, breaker.connections, breaker.pending], [1, ['connected'], 1, 0]);
});

t.test('the most recently returned connection is reused first', async (t) => {
  const { acquire } = createEndpoint(t, (await startApp(t)).port);
  const [a, b] = [await acquire(), await acquire()];
  await getOver(b);
  await getOver(a);
  const again = await acquire();
  t.equal(again.localAddress, a.localAddress);
  again.destroy();
});

t.test('a request that wants a fresh connection gets no used one', async (t) => {
  const { endpoint, acquire } = createEndpoint(t, (await startApp(t)).port);
  await getOver(await acquire());
  const fresh = await acquire(true);
  t.match([fresh.reused, endpoint.size, endpoint.idle], [false, 2, 1]);
  fresh.destroy();
});

const ends: [
  name: string,
  plan: ConnectionPlan,
  options: Partial<EndpointOptions>,
  requests: number,
  connections: number,
][] = [
  ['without a limit', {}, {}, 4, 1],
  ['after so many requests', { maxRequestsPerConnection: 2 }, {}, 5, 3],
  ['after its time', { maxConnectionMs: 0 }, {}, 2, 2],
  [
    'at the end of its certificates',
    {},
    { dial: async (...of) => ({ ...(await dialPlain(...of)), validUntil: 1 }) },
    2,
    2,
  ],
];

for (const [name, plan, options, requests, connections] of ends)
  t.test(`how long a connection is kept: ${name}`, async (t) => {
    const app = await startApp(t);
    const { endpoint, acquire } = createEndpoint(t, app.port, plan, options);
    for (let i = 0; i < requests; i++) t.equal(await getOver(await acquire()), 200);
    t.equal(app.received.length, connections);
    endpoint.leave();
    await until(() => endpoint.size === 0, 'all of them to be closed');
  });

const ticks: [name: string, plan: ConnectionPlan, laterMs: number, isKept: boolean][] = [
  ['idle for a while', {}, 4000, true],
  ['idle for too long', {}, 6000, false],
  ['too old, if not idle for long', { maxConnectionMs: 3000 }, 4000, false],
];

for (const [name, plan, laterMs, isKept] of ticks)
  t.test(`tick: ${name}`, async (t) => {
    const { endpoint, acquire } = createEndpoint(t, (await startApp(t)).port, plan);
    await getOver(await acquire());
    endpoint.tick(performance.now() + laterMs);
    t.equal(endpoint.idle, isKept ? 1 : 0);
    if (!isKept) await until(() => endpoint.size === 0, 'it to be closed');
  });

t.test('after a renewal no earlier connection is reused, even if it was in use meanwhile', async (t) => {
  const { endpoint, breaker, acquire } = createEndpoint(t, (await startApp(t)).port);
  const [busy, idle] = [await acquire(), await acquire()];
  await getOver(idle);
  endpoint.renew();
  t.match([endpoint.idle, endpoint.inFlight], [0, 1]);
  t.equal(await getOver(busy), 200, 'the exchange on it continues');
  await until(() => endpoint.size === 0 && breaker.connections === 0, 'both to be closed');
  const next = await acquire();
  t.equal(next.reused, false);
  await getOver(next);
  t.equal(endpoint.idle, 1);
});

/** Fails so many times, and then dials. */
function failing(times: number, error: unknown = new SallyportError('upstream_tls', 'refused')): Dial {
  let left = times;
  return (...of) => (left-- > 0 ? Promise.reject(error) : dialPlain(...of));
}

t.test('an address that does not respond rests longer each time, and a success ends that', async (t) => {
  const app = await startApp(t);
  const { endpoint, breaker, heard, acquire } = createEndpoint(t, app.port, {}, { dial: failing(6) });
  const rests: number[] = [];
  for (let i = 0; i < 6; i++) {
    await t.rejects(acquire(), { code: 'upstream_tls' });
    rests.push(Math.round((endpoint.restUntil - performance.now()) / 1000));
  }
  t.strictSame(rests, [1, 2, 4, 8, 16, 16]);
  t.match(endpoint.problem, { code: 'upstream_tls' });
  t.strictSame([endpoint.size, endpoint.inFlight, breaker.connections, breaker.pending], [0, 0, 0, 0]);
  endpoint.toldProblem = 'told';
  await getOver(await acquire());
  t.match([endpoint.restUntil, endpoint.problem, endpoint.toldProblem], [0, undefined, undefined]);
  t.strictSame(heard, [...Array(6).fill('upstream_tls'), 'connected']);
});

t.test('every failure is reported as a failure to connect', async (t) => {
  const odd = createEndpoint(t, 1, {}, { dial: failing(1, new Error('odd')) });
  await t.rejects(odd.acquire(), { code: 'upstream_connect' });
  const closed = createEndpoint(t, await freePort());
  await t.rejects(closed.acquire(), { code: 'upstream_connect' });
  t.strictSame([odd.heard, closed.heard], [['upstream_connect'], ['upstream_connect']]);
});

const waiting = (attempt?: number): Choice & { over: boolean; attempt?: number } => ({
  ...{ hash: undefined, avoid: [], over: false },
  ...(attempt === undefined ? {} : { attempt }),
});

t.test('at the connection limit requests wait, and are served in order', async (t) => {
  const app = await startApp(t);
  const { endpoint, breaker, acquire } = createEndpoint(t, app.port, { maxConnections: 1 });
  const first = await acquire();
  const served: number[] = [];
  const others = [1, 2].map(async (n) => {
    const got = await acquire();
    served.push(n);
    t.equal(await getOver(got), 200);
  });
  t.match([breaker.pending, endpoint.inFlight, endpoint.size], [2, 3, 1]);
  await getOver(first);
  await Promise.all(others);
  t.strictSame([served, app.received.length, breaker.pending, endpoint.inFlight], [[1, 2], 1, 0, 0]);
});

t.test('a request that no longer waits loses its place, and no connection is lost with it', async (t) => {
  const { endpoint, breaker, acquire } = createEndpoint(t, (await startApp(t)).port, { maxConnections: 1 });
  const first = await acquire();
  const [over, again, stays] = [waiting(), waiting(1), waiting(1)];
  const asked = [over, again, stays].map((choice) => acquire(false, choice));
  over.over = true;
  again.attempt = 2;
  const gone = Promise.all(asked.slice(0, 2).map((one) => t.rejects(one, { code: 'overloaded' })));
  endpoint.tick(performance.now());
  await gone;
  t.equal(breaker.pending, 1);
  await getOver(first);
  t.equal(await getOver(await asked[2]!), 200);
});

t.test('an endpoint that is removed rejects waiting requests', async (t) => {
  const { endpoint, breaker, acquire } = createEndpoint(t, (await startApp(t)).port, { maxConnections: 1 });
  const first = await acquire();
  const rejected = t.rejects(acquire(), { code: 'upstream_connect', message: /no longer an endpoint of orders/ });
  endpoint.leave();
  endpoint.turnAway();
  await rejected;
  t.equal(await getOver(first), 200);
  await until(() => breaker.connections === 0, 'the last to be closed');
});

t.test('a connection that breaks while another request waits gives that request its place', async (t) => {
  const { acquire } = createEndpoint(t, (await startApp(t)).port, { maxConnections: 1 });
  const first = await acquire();
  const second = acquire();
  first.destroy();
  t.equal(await getOver(await second), 200);
});

t.test('process-wide limits apply', async (t) => {
  const { port } = await startApp(t);
  const few = createEndpoint(t, port, {}, { limits: { ...poolLimits, connections: 1 } });
  const first = await few.acquire();
  t.throws(() => few.endpoint.acquire(false, false, undefined), { code: 'overloaded', message: /limit connections/ });
  first.destroy();
  const none = createEndpoint(t, port, {}, { limits: { ...poolLimits, pendingRequests: 0 } });
  t.throws(() => none.endpoint.acquire(false, false, undefined), { code: 'overloaded', message: /pendingRequests/ });
  t.match([few.breaker.overflows, none.breaker.overflows], [{ connections: 1 }, { pending: 1 }]);
});

t.test('a bare connection is counted until it is closed', async (t) => {
  const { port } = await startApp(t);
  const { endpoint, breaker } = createEndpoint(t, port);
  const { socket, address } = await endpoint.dialSocket();
  t.match([address, endpoint.size, endpoint.inFlight, breaker.connections], [`127.0.0.1:${port}`, 1, 1, 1]);
  socket.destroy();
  await until(() => endpoint.size === 0 && breaker.connections === 0, 'it to be closed');
  const closed = createEndpoint(t, await freePort());
  await t.rejects(closed.endpoint.dialSocket(), { code: 'upstream_connect' });
  t.strictSame([closed.endpoint.size, closed.breaker.connections], [0, 0]);
});

t.test('a PROXY header leaves a connection for the first request, and none of a byte stream', async (t) => {
  const app = await startApp(t);
  const http = createEndpoint(t, app.port, {}, { alpn: ['http/1.1'] });
  await http.endpoint.greet();
  t.strictSame([http.endpoint.size, http.endpoint.idle], [1, 1]);
  await getOver(await http.acquire());
  t.equal(http.endpoint.size, 1);
  const tcp = createEndpoint(t, app.port);
  await tcp.endpoint.greet();
  t.strictSame([tcp.endpoint.size, tcp.heard], [0, ['connected']]);
});

/** A server of HTTP/2 without TLS that answers each request. */
async function startHttp2(t: Owner) {
  const sessions = new Set<ServerHttp2Session>();
  const server = createHttp2Server();
  server.on('session', (session) => sessions.add(session.on('error', () => {})));
  server.on('stream', (stream) => stream.on('error', () => {}).respond({ ':status': 204 }, { endStream: true }));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    for (const one of sessions) one.destroy();
    server.close();
  });
  return { port: (server.address() as { port: number }).port, sessions };
}

const http2Plans: [name: string, plan: ConnectionPlan, connections: number][] = [
  ['requests that come while a connection is opened share it', {}, 1],
  ['so many streams on each', { maxStreamsPerConnection: 1 }, 4],
  ['so many requests on each', { maxRequestsPerConnection: 1 }, 4],
];

for (const [name, plan, connections] of http2Plans)
  t.test(`HTTP/2: ${name}`, async (t) => {
    const { port, sessions } = await startHttp2(t);
    const { endpoint, breaker, acquire } = createEndpoint(t, port, plan, { http2: true });
    const got = await Promise.all([1, 2, 3, 4].map(() => acquire()));
    t.equal(endpoint.inFlight, 4);
    t.strictSame(await Promise.all(got.map(getOver)), [204, 204, 204, 204]);
    t.equal(sessions.size, connections);
    t.strictSame([endpoint.inFlight, breaker.pending], [0, 0]);
    endpoint.leave();
    await until(() => breaker.connections === 0, 'all of them to be closed');
  });
