// Leaving: not ready, no new connections, what is in flight finishes, what is idle closes, and the way out stays open.

import { connect } from 'node:net';
import t from 'tap';
import { startBackend, startMesh } from '../fixtures/mesh.ts';
import { until } from '../fixtures/process.ts';

t.test('drain', async (t) => {
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
  await until(() => text.endsWith('ok'), 'the answer');
  t.equal(await leftIn, 0, 'nothing had to be cut');

  const leftOut = mesh.outbound.drain();
  await idleClosed;
  t.equal(await leftOut, 0);
  t.match(text, /^HTTP\/1\.1 200 OK/);
  busy.destroy();
});

t.test('what does not finish in time is cut, and counted', async (t) => {
  const backend = await startBackend(t, () => {});
  const mesh = await startMesh(t, { app: backend.port, limits: '{ drain: 200ms }' });
  const busy = connect(mesh.outPort, '127.0.0.1', () => busy.write('GET / HTTP/1.1\r\nHost: orders\r\n\r\n'));
  busy.on('error', () => {});
  await until(() => backend.received.length === 1, 'the request in flight');
  t.equal(await mesh.inbound.drain(), 1);
  busy.destroy();
});
