// Health checks: an endpoint that fails or is silent gets no requests until it is healthy again.

import { createServer } from 'node:http';
import { createServer as createHttp2Server } from 'node:http2';
import type { AddressInfo } from 'node:net';
import t from 'tap';
import type { HealthCheckPlan } from '../../sidecar/upstream/traffic.ts';
import { onPorts, startForwarder, startPool } from '../fixtures/forwarder.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';
import { exchangeBytes, logTo, startBackend } from '../fixtures/mesh.ts';
import { freePort, type Owner, until } from '../fixtures/process.ts';

const plan: HealthCheckPlan = {
  ...{ type: 'http', path: '/healthz', method: 'GET', host: 'orders.test', expectedStatuses: [200, 204] },
  ...{ intervalMs: 3000, timeoutMs: 1000, unhealthyThreshold: 3, healthyThreshold: 2 },
};

/** An app whose health the test sets: a status, or 0 for silence. */
async function startApp(t: Owner, http2 = false) {
  const app = { status: 200, checks: [] as string[], requests: 0, port: 0 };
  const connections = new Set<{ destroy(): void }>();
  const serve = (
    request: { url?: string | undefined; method?: string | undefined; headers: Record<string, unknown> },
    response: { writeHead(status: number): unknown; end(text?: string): unknown },
  ): void => {
    if (request.url !== '/healthz') {
      app.requests++;
      response.end('ok');
      return;
    }
    app.checks.push(`${request.method} ${request.headers['host'] ?? request.headers[':authority']}`);
    if (app.status === 0) return;
    response.writeHead(app.status);
    response.end();
  };
  const server = http2 ? createHttp2Server(serve as never) : createServer(serve as never);
  server.on('connection', (socket: { destroy(): void }) => connections.add(socket));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', () => resolve()));
  t.teardown(() => {
    for (const one of connections) one.destroy();
    server.close();
  });
  app.port = (server.address() as AddressInfo).port;
  return Object.assign(app, { connections });
}

for (const http2 of [false, true]) {
  t.test(`health is checked in ${http2 ? 'HTTP/2' : 'HTTP/1.1'}`, async (t) => {
    const [good, bad] = [await startApp(t, http2), await startApp(t, http2)];
    const clock = new ManualClock();
    const lines: Record<string, unknown>[] = [];
    const pool = startPool(t, {
      ...{ endpoints: onPorts(good.port, bad.port), clock, http2, log: logTo(lines) },
      traffic: { balance: { by: 'roundRobin' }, health: plan },
    });
    const { port } = await startForwarder(t, { destination: pool });
    const ask = async (times: number): Promise<number> => {
      const before = bad.requests;
      for (let i = 0; i < times; i++)
        await exchangeBytes(port, 'GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n');
      return bad.requests - before;
    };
    const health = () => pool.describe().endpoints.map(({ healthy }) => healthy);
    const rounds = async (number: number): Promise<void> => {
      for (let i = 0; i < number; i++) {
        const before = bad.checks.length;
        await until(() => {
          clock.advance(100);
          return bad.checks.length > before;
        }, 'the next question');
      }
    };
    await until(() => health().every((one) => one === true), 'both to be well');
    t.same(good.checks[0], 'GET orders.test');
    t.equal(await ask(4), 2);

    bad.status = 503;
    await rounds(1);
    await until(() => health()[1] === false, 'a wrong status counts at once');
    t.equal(await ask(4), 0, 'it gets no request');
    t.match(lines, [{ code: 'endpoint_unhealthy', address: `127.0.0.1:${bad.port}` }]);

    bad.status = 204;
    await rounds(1);
    t.equal(health()[1], false, 'once is not enough');
    await rounds(2);
    await until(() => health()[1] === true, 'it is well again');
    t.match(lines[1], { code: 'endpoint_healthy' });
    t.equal(await ask(4), 2);
    t.ok(bad.connections.size <= 3, 'checks share a connection');
  });
}

t.test('TCP: whether the endpoint accepts connections', async (t) => {
  const backend = await startBackend(t, (socket) => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'));
  const dead = await freePort();
  const pool = startPool(t, { endpoints: onPorts(backend.port, dead), traffic: { health: { ...plan, type: 'tcp' } } });
  await until(() => pool.describe().endpoints[1]!.healthy === false, 'the dead one to be known');
  await until(() => pool.describe().endpoints[0]!.healthy === true, 'the living one, too');
});

t.test('all endpoints unhealthy: requests are refused, or all are used if there is a panic threshold', async (t) => {
  const app = await startApp(t);
  app.status = 500;
  const start = async (panicPercent: number): Promise<number> => {
    const pool = startPool(t, { endpoints: onPorts(app.port), traffic: { health: plan, panicPercent } });
    await until(() => pool.describe().endpoints[0]!.healthy === false, 'it to be unwell');
    return (await startForwarder(t, { destination: pool })).port;
  };
  const get = 'GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n';
  t.match(await exchangeBytes(await start(0), get), /^HTTP\/1\.1 503 /);
  t.match(await exchangeBytes(await start(50), get), /^HTTP\/1\.1 200 /);
});
