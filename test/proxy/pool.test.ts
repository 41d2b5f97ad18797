// Connections to upstreams: reused, not reused near their end, and what happens when one dies unseen.

import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import t from 'tap';
import { exchangeBytes, startBackend, startMesh } from '../fixtures/mesh.ts';
import { until } from '../fixtures/process.ts';

const ok = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';
const get = (path = '/', method = 'GET', body = ''): string =>
  `${method} ${path} HTTP/1.1\r\nHost: orders\r\n${body === '' ? '' : `Content-Length: ${body.length}\r\n`}\r\n${body}`;
const status = async (port: number, text: string): Promise<string> =>
  (await exchangeBytes(port, text, /(?:ok|headers)$/)).split(' ')[1]!;

t.test('one connection to the app serves many clients one after another', async (t) => {
  const backend = await startBackend(t, (socket) => socket.write(ok));
  const mesh = await startMesh(t, { app: backend.port });
  for (let i = 0; i < 5; i++) t.equal(await status(mesh.outPort, get()), '200');
  t.equal(backend.received.length, 1);
});

t.test('a request that fails on a reused connection is sent again', async (t) => {
  const seen = new Map<number, number>();
  const backend = await startBackend(t, (socket, _soFar, connection) => {
    const requests = (seen.get(connection) ?? 0) + 1;
    seen.set(connection, requests);
    if (requests === 1) socket.write(ok);
    else socket.destroy();
  });
  const mesh = await startMesh(t, { app: backend.port });

  t.equal(await status(mesh.outPort, get()), '200');
  t.equal(await status(mesh.outPort, get()), '200', 'GET is sent once more, on a fresh connection');
  t.equal(backend.received.length, 2);
  t.equal(
    await status(mesh.outPort, get('/', 'POST', 'abc')),
    '503',
    'POST is not: it may have been processed already',
  );
  t.equal(backend.received.length, 2);
  const records = await mesh.records('orders', 3);
  t.match(records[2], { response_code: 503, response_flags: 'UC', code: 'upstream_closed' });
});

t.test('a request that fails on a fresh connection is not sent again', async (t) => {
  const backend = await startBackend(t, (socket) => socket.destroy());
  const mesh = await startMesh(t, { app: backend.port });
  t.equal(await status(mesh.outPort, get()), '503');
  t.equal(backend.received.length, 1);
});

t.test('a connection near its announced end is not reused', async (t) => {
  const backend = await startBackend(t, (socket) =>
    socket.write('HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 2\r\n\r\nok'),
  );
  const mesh = await startMesh(t, { app: backend.port });
  await status(mesh.outPort, get());
  await status(mesh.outPort, get());
  t.equal(backend.received.length, 2, 'timeout=1 minus the last second leaves nothing');
});

t.test('a response without a request closes the connection, and the next request uses a new one', async (t) => {
  const backend = await startBackend(t, (socket, soFar) => socket.write(soFar.includes('/double') ? ok + ok : ok));
  const mesh = await startMesh(t, { app: backend.port });
  t.equal(await status(mesh.outPort, get('/double')), '200');
  t.equal(await status(mesh.outPort, get('/next')), '200');
  t.equal(backend.received.length, 2);
});

t.test('an app that is down is 503 UF, and is served again once it is up', async (t) => {
  const backend = await startBackend(t, (socket) => socket.write(ok));
  const mesh = await startMesh(t, { app: backend.port });
  await new Promise((resolve) => backend.server.close(resolve));
  t.equal(await status(mesh.outPort, get()), '503');
  const [record] = await mesh.records('orders', 1);
  t.match(record, {
    response_flags: 'UF',
    code: 'upstream_connect',
    response_code_details: 'upstream_reset_before_response_started{connection_failure}',
  });
  await new Promise<void>((resolve) => backend.server.listen(backend.port, '127.0.0.1', resolve));
  t.equal(await status(mesh.outPort, get()), '200');
});

t.test('a peer that is down or does not speak TLS is 503 UF each time', async (t) => {
  const backend = await startBackend(t, (socket) => socket.write(ok));
  const mesh = await startMesh(t, { app: backend.port });
  await mesh.inbound.drain();
  for (let i = 0; i < 3; i++) t.equal(await status(mesh.outPort, get()), '503');
  let answer = (socket: Socket): unknown => socket.destroy();
  const peer = createServer((socket) => answer(socket.on('error', () => {}))).listen(mesh.inPort, '127.0.0.1');
  t.teardown(() => peer.close());
  await once(peer, 'listening');
  t.equal(await status(mesh.outPort, get()), '503', 'the peer closes at once');
  answer = (socket) => socket.resetAndDestroy();
  t.equal(await status(mesh.outPort, get()), '503', 'the peer resets');
  answer = (socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n');
  t.equal(await status(mesh.outPort, get()), '503', 'the peer speaks plain HTTP');
  const flags = (await mesh.records('web', 6)).map((one) => `${one['response_flags']} ${one['code']}`);
  t.same(flags, [...Array(3).fill('UF upstream_connect'), ...Array(3).fill('UF upstream_tls')]);
});

t.test('an app that does not respond is 504 after the stream-idle limit', async (t) => {
  const backend = await startBackend(t, () => {});
  const mesh = await startMesh(t, { app: backend.port, limits: '{ streamIdle: 300ms }' });
  const got = await exchangeBytes(mesh.outPort, get(), /timeout|idle$/);
  t.match(got, /^HTTP\/1\.1 504 /);
  // Both sides have the same limit; the other passes the 504 on, or sees its client leave.
  const records = [...(await mesh.records('web', 1)), ...(await mesh.records('orders', 1))];
  t.ok(records.some((one) => one['response_flags'] === 'SI' && one['code'] === 'stream_idle'));
});

t.test('a client that disconnects ends its request to the app', async (t) => {
  const backend = await startBackend(t, () => {});
  const mesh = await startMesh(t, { app: backend.port });
  const { connect } = await import('node:net');
  const socket = connect(mesh.outPort, '127.0.0.1', () => socket.write(get()));
  await until(() => backend.received.length === 1, 'the request to arrive');
  socket.resetAndDestroy();
  await until(() => backend.sockets.size === 0, 'the app to be let go');
  const [record] = await mesh.records('web', 1);
  t.match(record, { response_code: 0, response_flags: 'DC', response_code_details: 'downstream_remote_disconnect' });
});

t.test('a connection that a slow reader held up serves the next request', async (t) => {
  const size = 8 * 1024 * 1024;
  const backend = await startBackend(t, (socket, soFar) => {
    if (!soFar.endsWith('\r\n\r\n')) return;
    const isBig = soFar.lastIndexOf('GET /big ') > soFar.lastIndexOf('GET / ');
    const body = isBig ? Buffer.alloc(size) : Buffer.from('ok');
    socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n`);
    socket.write(body);
  });
  const mesh = await startMesh(t, { app: backend.port });
  for (let round = 0; round < 3; round++) {
    const client = connect(mesh.outPort, '127.0.0.1', () => client.write('GET /big HTTP/1.1\r\nHost: orders\r\n\r\n'));
    let read = 0;
    client.on('data', (chunk: Buffer) => {
      read += chunk.length;
      client.pause();
      setImmediate(() => client.resume());
    });
    await until(() => read > size, 'the big response');
    client.destroy();
    const got = await exchangeBytes(mesh.outPort, 'GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n');
    t.match(got, /ok$/);
  }
  t.equal(backend.received.length, 1, 'all on one connection');
});
