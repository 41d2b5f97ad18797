// Draining: not ready, no new connections, requests in flight finish, idle connections close, and outbound stays open.

import { connect, type Socket } from 'node:net';
import t from 'tap';
import { acceptOf } from '../../sidecar/protocol/websocket.ts';
import { readState, startBackend, startMesh } from '../fixtures/mesh.ts';
import { until } from '../fixtures/process.ts';

t.test('a drain finishes requests', async (t) => {
  let answer: () => void = () => {};
  const backend = await startBackend(t, (socket) => {
    answer = () => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
  });
  const mesh = await startMesh(t, { app: backend.port, limits: '{ drain: 4s }' });
  const busy = connect(mesh.outPort, '127.0.0.1', () => busy.write('GET / HTTP/1.1\r\nHost: orders\r\n\r\n'));
  let text = '';
  busy.on('data', (chunk: Buffer) => {
    text += chunk.toString();
  });
  await until(() => backend.received.length === 1, 'the request in flight');
  const idle = connect(mesh.outPort, '127.0.0.1');
  idle.on('error', () => {});
  idle.resume();
  const idleClosed = new Promise((resolve) => idle.once('close', resolve));

  const leftIn = mesh.inbound.drain();
  t.match(mesh.inbound.readiness(), { ready: false });
  const refused = await new Promise((resolve) =>
    connect(mesh.inPort, '127.0.0.1')
      .on('error', resolve)
      .on('connect', () => resolve(undefined)),
  );
  t.match(refused, { code: 'ECONNREFUSED' });
  t.equal(text, '');
  answer();
  await until(() => text.endsWith('ok'), 'the response');
  t.same((await leftIn).cut, [], 'nothing had to be cut');

  const leftOut = mesh.outbound.drain();
  await idleClosed;
  t.same((await leftOut).cut, []);
  t.match(text, /^HTTP\/1\.1 200 OK/);
  busy.destroy();
});

t.test('connections that do not finish in time are cut, and counted', async (t) => {
  const backend = await startBackend(t, () => {});
  const mesh = await startMesh(t, { app: backend.port, limits: '{ drain: 200ms }' });
  const busy = connect(mesh.outPort, '127.0.0.1', () => busy.write('GET / HTTP/1.1\r\nHost: orders\r\n\r\n'));
  busy.on('error', () => {});
  await until(() => backend.received.length === 1, 'the request in flight');
  t.match((await mesh.inbound.drain()).cut, [{ kind: 'http', inFlight: 1, peer: 'spiffe://demo.test/ns/shop/sa/web' }]);
  busy.destroy();
});

t.test('each protocol is notified in its own way, and has its own time', async (t) => {
  const key = 'dGhlIHNhbXBsZSBub25jZQ==';
  const backend = await startBackend(t, (socket, soFar) => {
    if (soFar.includes('GET /ws') && soFar.endsWith('\r\n\r\n'))
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${acceptOf(key)}\r\n\r\n`,
      );
  });
  const mesh = await startMesh(t, { app: backend.port, limits: '{ drain: 300ms, drainWebSocket: 10s }' });
  const open = async (head: string): Promise<{ socket: Socket; text: () => string }> => {
    let text = '';
    const socket = connect(mesh.outPort, '127.0.0.1', () => socket.write(head));
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString('latin1');
    });
    socket.on('error', () => {});
    t.teardown(() => socket.destroy());
    return { socket, text: () => text };
  };
  const waiting = await open('GET /waits HTTP/1.1\r\nHost: orders\r\n\r\n');
  const webSocket = await open(
    `GET /ws HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${key}\r\n\r\n`,
  );
  await until(() => webSocket.text().includes('101') && backend.received.some((one) => one.includes('/waits')), 'both');
  const closed = [waiting, webSocket].map(({ socket }) => new Promise((resolve) => socket.once('close', resolve)));

  const answer = await fetch(`http://127.0.0.1:${mesh.outAdmin}/drain`, { method: 'POST' });
  const report = (await answer.json()) as { cut: { kind: string; remote: string }[] };
  await Promise.all(closed);

  t.match(report.cut, [{ kind: 'http', port: /^outbound /, inFlight: 1 }], 'only the request had to be cut');
  t.equal(report.cut.length, 1);
  t.match(
    waiting.text(),
    /^HTTP\/1\.1 503 [\s\S]*\r\nConnection: close\r\n[\s\S]*draining$/,
    'the response has Connection: close',
  );
  t.match(webSocket.text(), /\r\n\r\n\u0088\u000c\u0003\u00e9going away$/, 'a WebSocket gets 1001');
  t.match(
    mesh.lines.find((one) => one['code'] === 'drained'),
    { cut: 1, finished: 1 },
  );
  const records = await mesh.records('web', 2);
  const byStatus = (status: number) => records.find((one) => one['response_code'] === status);
  t.match(byStatus(101), { response_code_details: 'draining' });
  t.match(byStatus(503), { code: 'draining' });
  t.same(
    await (await fetch(`http://127.0.0.1:${mesh.outAdmin}/drain`, { method: 'POST' })).json(),
    report,
    'a second call gives the same result',
  );
  t.match(await readState(mesh.outAdmin), { ready: false }, 'the admin pages are still served');
});

t.test('a TCP stream continues until its time is over, and is then closed on both sides', async (t) => {
  const backend = await startBackend(t, (socket, soFar) => socket.write(soFar));
  const mesh = await startMesh(t, { app: backend.port, protocol: 'tcp', limits: '{ drain: 10s, drainTcp: 200ms }' });
  const socket = connect(mesh.outPort, '127.0.0.1', () => socket.write('x'));
  socket.on('error', () => {});
  await new Promise((resolve) => socket.once('data', resolve));
  const ended = new Promise((resolve) => socket.once('end', resolve));
  const report = mesh.inbound.drain();
  await ended;
  t.match((await report).cut, [{ kind: 'tcp', peer: 'spiffe://demo.test/ns/shop/sa/web' }]);
  socket.destroy();
});
