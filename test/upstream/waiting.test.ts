// Requests that wait for a connection, and their places after they give up; and requests whose response comes before
// they are complete.

import { createServer as createHttp2Server, type ServerHttp2Session, type ServerHttp2Stream } from 'node:http2';
import { createServer, type Socket } from 'node:net';
import t from 'tap';
import { emptyFields } from '../../sidecar/exchange/message.ts';
import type { UpstreamConnection, UpstreamEvents } from '../../sidecar/exchange/upstream.ts';
import type { Pool } from '../../sidecar/upstream/pool.ts';
import { Resolver } from '../../sidecar/upstream/resolve.ts';
import { onPorts, poolLimits, startForwarder, startPool } from '../fixtures/forwarder.ts';
import { exchangeBytes, logTo, startBackend } from '../fixtures/mesh.ts';
import { freePort, type Owner, until } from '../fixtures/process.ts';

const get = 'GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n';
const ok = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';

t.test('a request that is cancelled while it waits leaves the queue', async (t) => {
  const waiting: Socket[] = [];
  const backend = await startBackend(t, (socket) => waiting.push(socket));
  const limits = { ...poolLimits, pendingRequests: 3 };
  const traffic = { connections: { maxConnections: 1 } };
  const pool = startPool(t, { endpoints: onPorts(backend.port), limits, traffic });
  const { port } = await startForwarder(t, { destination: pool, timeouts: { requestMs: 60, backendRequestMs: 0 } });
  const slow = await startForwarder(t, { destination: pool });
  const first = exchangeBytes(slow.port, get);
  await until(() => waiting.length === 1, 'the only connection to be busy');
  const tooLate = await Promise.all([1, 2, 3].map(() => exchangeBytes(port, get)));
  for (const one of tooLate) t.match(one, /^HTTP\/1\.1 504 /);
  await until(() => pool.describe().pending === 0, 'their places to be free');
  const last = exchangeBytes(slow.port, get);
  await until(() => pool.describe().pending === 1, 'another to wait');
  waiting[0]!.write(ok);
  t.match(await first, /^HTTP\/1\.1 200 /);
  await until(() => waiting.length === 2, 'the request that still waits to be sent');
  waiting[1]!.write(ok);
  t.match(await last, /^HTTP\/1\.1 200 /);
  t.equal(backend.received.length, 1, 'over the same connection: none was closed for the requests that had left');
  t.same(pool.describe().overflows, { connections: 0, pending: 0, requests: 0, retries: 0 });
});

t.test('a try that is cancelled while it waits leaves the connection to others', async (t) => {
  const waiting: Socket[] = [];
  const backend = await startBackend(t, (socket) => waiting.push(socket));
  const pool = startPool(t, { endpoints: onPorts(backend.port), traffic: { connections: { maxConnections: 1 } } });
  const slow = await startForwarder(t, { destination: pool });
  const retry = { attempts: 9, codes: [], on: ['reset' as const], backoffMs: 1, perTryTimeoutMs: 150 };
  const trying = await startForwarder(t, { destination: pool, retry });
  const first = exchangeBytes(slow.port, get);
  await until(() => waiting.length === 1, 'the only connection to be busy');
  const second = exchangeBytes(trying.port, get);
  await until(() => pool.describe().pending >= 3, 'several tries to wait');
  waiting[0]!.write(ok);
  t.match(await first, /^HTTP\/1\.1 200 /);
  await until(() => waiting.length >= 2, 'the newest try to be sent');
  waiting[1]!.write(ok);
  t.match(await second, /^HTTP\/1\.1 200 /);
  t.equal(backend.received.length, 1);
});

t.test('the place of a failed connection is passed on at once', async (t) => {
  const port = await freePort();
  const connections = { maxConnections: 1 };
  const pool = startPool(t, { endpoints: onPorts(port), traffic: { connections } });
  const forwarder = await startForwarder(t, { destination: pool });
  const began = performance.now();
  const all = await Promise.all([1, 2, 3, 4].map(() => exchangeBytes(forwarder.port, get)));
  for (const one of all) t.match(one, /^HTTP\/1\.1 503 /);
  t.ok(performance.now() - began < 900, 'no request waited for the tick');
});

t.test('a request that waits at a removed endpoint goes to its replacement', async (t) => {
  const waiting: Socket[] = [];
  const answer = async (host: string, say: (socket: Socket) => void, port = 0): Promise<number> => {
    const server = createServer((socket) => {
      socket.on('error', () => {}).once('data', () => say(socket));
      t.teardown(() => socket.destroy());
    });
    await new Promise<void>((resolve) => server.listen(port, host, resolve));
    t.teardown(() => server.close());
    return (server.address() as { port: number }).port;
  };
  const port = await answer('127.0.0.1', (socket) => waiting.push(socket));
  await answer('127.0.0.2', (socket) => socket.write(ok), port);
  let address = '127.0.0.1';
  const resolver = new Resolver(logTo([]), async () => [address]);
  t.teardown(() => resolver.close());
  const connections = { maxConnections: 1 };
  const pool = startPool(t, { endpoints: [{ host: 'orders.test', port }], resolver, traffic: { connections } });
  await until(() => pool.waitingFor() === undefined, 'the name');
  const forwarder = await startForwarder(t, { destination: pool });
  const first = exchangeBytes(forwarder.port, get);
  await until(() => waiting.length === 1, 'the only connection to be busy');
  const second = exchangeBytes(forwarder.port, get);
  await until(() => pool.describe().pending === 1, 'one to wait');
  address = '127.0.0.2';
  await until(
    () => resolver.addressesOf('orders.test')[0] === address || void resolver.refresh('orders.test'),
    'the name',
  );
  pool.tick();
  waiting[0]!.write(ok);
  t.match(await second, /^HTTP\/1\.1 200 /);
  t.match(await first, /^HTTP\/1\.1 200 /);
});

async function startHttp2(
  t: Owner,
  answer: (stream: ServerHttp2Stream) => void,
  settings: { maxConcurrentStreams?: number } = {},
): Promise<{ readonly port: number; readonly sessions: Set<ServerHttp2Session> }> {
  const sessions = new Set<ServerHttp2Session>();
  const server = createHttp2Server({ settings });
  server.on('session', (session) => sessions.add(session.on('error', () => {})));
  server.on('stream', (stream) => answer(stream.on('error', () => {})));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    for (const one of sessions) one.destroy();
    server.close();
  });
  return { port: (server.address() as { port: number }).port, sessions };
}

const call = {
  ...{ method: 'POST', path: '/', authority: 'a', fields: emptyFields, hopFields: undefined, clientCert: undefined },
  ...{ requestId: undefined, framing: 'chunked' as const, webSocket: false, expectContinue: false },
};

/** Sends the beginning of a request; resolves with the status when the response is over. */
function begin(upstream: UpstreamConnection): Promise<number> {
  return new Promise((resolve, reject) => {
    let status = 0;
    const events: UpstreamEvents = {
      upstreamInformational() {},
      upstreamReply(reply, whole) {
        status = reply.status;
        if (whole !== undefined) resolve(status);
      },
      upstreamData: () => true,
      upstreamEnd: () => resolve(status),
      upstreamDrained() {},
      upstreamFailed: reject,
    };
    upstream.send(call, undefined, events);
    upstream.write(Buffer.from('the beginning'));
  });
}

const acquire = async (pool: Pool): Promise<UpstreamConnection> => pool.acquire(false, false);

const frame = (type: number, flags: number, id: number, payload: Buffer = Buffer.alloc(0)): Buffer => {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(id, 5);
  return Buffer.concat([head, payload]);
};

t.test('HTTP/2: a response that ends before its request ends the request', async (t) => {
  // `:status: 200` of the static table, from a server that waits for the rest of the request however long it takes (RFC
  // 9113 section 8.1 only permits it to do otherwise).
  const [data, headers, reset] = [0, 1, 3];
  const status = Buffer.from([0x88]);
  const trailer = Buffer.concat([Buffer.from([0x00, 11]), Buffer.from('grpc-status'), Buffer.from([1, 0x38])]);
  const answers: [string, (id: number) => Buffer[]][] = [
    ['a head alone', (id) => [frame(headers, 5, id, status)]],
    ['with a body', (id) => [frame(headers, 4, id, status), frame(data, 1, id, Buffer.from('no'))]],
    ['in pieces', (id) => [frame(headers, 4, id, status), frame(data, 0, id, Buffer.from('n')), frame(data, 1, id)]],
    ['with trailers, as gRPC does', (id) => [frame(headers, 4, id, status), frame(headers, 5, id, trailer)]],
  ];
  for (const [name, answer] of answers)
    await t.test(name, async (t) => {
      const resets: number[] = [];
      let used = 24;
      const backend = await startBackend(t, (socket, soFar) => {
        if (used === 24 && soFar.length >= 24) socket.write(frame(4, 0, 0));
        const bytes = Buffer.from(soFar, 'latin1');
        for (; used + 9 <= bytes.length && used + 9 + bytes.readUIntBE(used, 3) <= bytes.length; ) {
          const id = bytes.readUInt32BE(used + 5);
          if (bytes[used + 3] === headers) socket.write(Buffer.concat(answer(id)));
          if (bytes[used + 3] === reset) resets.push(bytes.readUInt32BE(used + 9));
          used += 9 + bytes.readUIntBE(used, 3);
        }
      });
      const pool = startPool(t, { endpoints: onPorts(backend.port), http2: true });
      t.equal(await begin(await acquire(pool)), 200);
      t.equal(pool.inFlight, 0);
      t.equal(await begin(await acquire(pool)), 200);
      await until(() => resets.length === 2, 'the server to know');
      t.same(resets, [8, 8], 'cancelled');
      t.equal(pool.size, 1, 'the connection is as good as before');
    });
});

t.test('HTTP/2: no more streams than the peer accepts, including reserved ones', async (t) => {
  const { port, sessions } = await startHttp2(t, (stream) => stream.respond({ ':status': 204 }, { endStream: true }), {
    maxConcurrentStreams: 3,
  });
  const pool = startPool(t, { endpoints: onPorts(port), http2: true });
  t.equal(await begin(await acquire(pool)), 204, "the peer's settings are known now");
  const taken = await Promise.all(Array.from({ length: 10 }, () => acquire(pool)));
  t.same(await Promise.all(taken.map(begin)), Array(10).fill(204));
  t.ok(sessions.size >= 4, `${sessions.size} connections for ten at once, three each`);
});

t.test('HTTP/2: a stream that a new connection refused unprocessed is sent once more, without a policy', async (t) => {
  let asked = 0;
  const { port } = await startHttp2(t, (stream) => {
    if (++asked === 1) stream.close(7);
    else stream.respond({ ':status': 204 }, { endStream: true });
  });
  const pool = startPool(t, { endpoints: onPorts(port), http2: true });
  const forwarder = await startForwarder(t, { destination: pool });
  t.match(await exchangeBytes(forwarder.port, get), /^HTTP\/1\.1 204 /);
  asked = 0;
  const post = 'POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc';
  t.match(
    await exchangeBytes(forwarder.port, post),
    /^HTTP\/1\.1 503 /,
    'but a request that is not idempotent only by a policy',
  );
  t.equal(asked, 1);
});

t.test('HTTP/2: a closed pool drops a peer that does not close its side', async (t) => {
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.on('error', () => {}).on('close', () => sockets.delete(socket));
    let soFar = Buffer.alloc(0);
    socket.write(frame(4, 0, 0));
    socket.on('data', (chunk: Buffer) => {
      const asked = Buffer.from([1, 4, 0, 0, 0, 1]);
      const before = soFar.includes(asked);
      soFar = Buffer.concat([soFar, chunk]);
      if (!before && soFar.includes(asked)) socket.write(frame(1, 5, 1, Buffer.from([0x88])));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const pool = startPool(t, { endpoints: onPorts((server.address() as { port: number }).port), http2: true });
  const asked = pool.acquire(false, false);
  t.equal(await begin(await asked), 200);
  t.equal(pool.size, 1);
  pool.close();
  await until(() => pool.size === 0, 'it to be closed from our side', 5000);
});

t.test('a health check that waits for its response ends with its pool', async (t) => {
  const asked: Socket[] = [];
  const backend = await startBackend(t, (socket) => asked.push(socket));
  const health = {
    ...{ type: 'http' as const, path: '/', method: 'GET', expectedStatuses: [200] },
    ...{ intervalMs: 60_000, timeoutMs: 60_000, unhealthyThreshold: 1, healthyThreshold: 1 },
  };
  const pool = startPool(t, { endpoints: onPorts(backend.port), traffic: { health } });
  await until(() => asked.length === 1, 'the check');
  pool.close();
  await until(() => backend.sockets.size === 0, 'it to be cut off');
});
