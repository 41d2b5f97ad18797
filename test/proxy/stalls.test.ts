// Waiting bytes that are not read: in HTTP/1.1 and by HTTP/2's windows, for a client and for an upstream. A slow reader
// is not a stalled one.

import { once } from 'node:events';
import { createServer, type ServerResponse } from 'node:http';
import { connect as connectHttp2 } from 'node:http2';
import { connect } from 'node:net';
import t from 'tap';
import { coarseNow } from '../../sidecar/connection.ts';
import { frame, framesOf, get, preface, speak } from '../fixtures/http2-raw.ts';
import { type Mesh, startMesh } from '../fixtures/mesh.ts';
import { createCredential } from '../fixtures/pki.ts';
import { type Owner, until } from '../fixtures/process.ts';

// Each waits for ticks, most of the time.
t.jobs = 5;

/** A mesh in front of an app that responds without end, or with 100,000 bytes at /some, or reads nothing at /deaf. */
async function start(t: Owner, streamStall = '300ms') {
  const open = new Set<ServerResponse>();
  const app = createServer((req, res) => {
    res.on('error', () => {});
    open.add(res.on('close', () => open.delete(res)));
    if (req.url === '/some') return res.end(Buffer.alloc(100_000, 'x'));
    if (req.url === '/deaf') return req.pause();
    const more = (): void => {
      while (!res.destroyed && res.write(Buffer.alloc(65_536, 'x')));
    };
    res.on('drain', more);
    return more();
  });
  await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    app.closeAllConnections();
    app.close();
  });
  const { port } = app.address() as { port: number };
  const mesh = await startMesh(t, { app: port, limits: `{ streamStall: ${streamStall} }` });
  return { mesh, open: () => open.size };
}

const stalledOf = (mesh: Mesh, side: 'web' | 'orders') =>
  until(
    async () => (await mesh.records(side, 1)).find((one) => one['code'] === 'stream_stalled'),
    `a stall on record of ${side}`,
  );

t.test('an HTTP/1.1 client that reads nothing', { buffered: true }, async (t) => {
  const { mesh, open } = await start(t);
  const stuck = connect(mesh.outPort, '127.0.0.1', () => stuck.write('GET /endless HTTP/1.1\r\nHost: orders\r\n\r\n'));
  stuck.on('error', () => {}).pause();
  t.teardown(() => stuck.destroy());
  t.match(await stalledOf(mesh, 'web'), { protocol: 'HTTP/1.1', response_flags: 'SI', reason: /client took none/ });
  await until(() => open() === 0, 'the app to be notified');
});

t.test('an HTTP/2 client that does not read its socket', { buffered: true }, async (t) => {
  const { mesh } = await start(t);
  const socket = connect(mesh.outPort, '127.0.0.1');
  t.teardown(() => socket.destroy());
  const wide = frame(4, 0, 0, [0, 4, 0x7f, 0xff, 0xff, 0xff]);
  const wideToo = frame(8, 0, 0, [0x7f, 0, 0, 0]);
  socket.on('error', () => {}).pause();
  socket.write(Buffer.concat([preface, wide, wideToo, frame(1, 5, 1, get({ ':path': '/endless' }))]));
  t.match(await stalledOf(mesh, 'web'), { protocol: 'HTTP/2', response_flags: 'SI' });
});

t.test('a peer that opens no window', { buffered: true }, async (t) => {
  const { mesh, open } = await start(t, '150ms');
  const peer = await createCredential(mesh.authority, 'spiffe://demo.test/ns/shop/sa/peer');
  const shut = frame(4, 0, 0, [0, 4, 0, 0, 0, 0]);
  const bytes = Buffer.concat([preface, shut, frame(1, 5, 1, get({ ':path': '/endless' }))]);
  const frames = await speak(mesh.inPort, mesh.authority, peer, bytes, (all) => all.some(({ type }) => type === 3));
  t.notOk(frames.some(({ type, payload }) => type === 0 && payload.length > 0));
  await stalledOf(mesh, 'orders');
  await until(() => open() === 0, 'the app to be notified');
});

t.test('a slow reader is not a stalled one', { buffered: true }, async (t) => {
  // Longer than a busy machine takes for one round.
  const { mesh } = await start(t, '4s');
  const parts: Buffer[] = [];
  const slow = connect(mesh.outPort, '127.0.0.1');
  slow.on('error', () => {}).on('data', (chunk: Buffer) => parts.push(chunk));
  t.teardown(() => slow.destroy());
  const shut = frame(4, 0, 0, [0, 4, 0, 0, 0, 0]);
  slow.write(Buffer.concat([preface, shut, frame(1, 5, 1, get({ ':path': '/some' }))]));
  const frames = () => framesOf(Buffer.concat(parts));
  const isCut = (): boolean => frames().some(({ type }) => type === 3);
  const got = () => frames().reduce((sum, { type, payload }) => sum + (type === 0 ? payload.length : 0), 0);
  // A little between any two of the checks that it takes to be cut.
  for (let wanted = 100; wanted <= 400; wanted += 100) {
    slow.write(frame(8, 0, 1, [0, 0, 0, 100]));
    await until(() => got() === wanted || isCut(), `${wanted} bytes`);
    const before = coarseNow();
    await until(() => coarseNow() > before, 'the next look');
  }
  t.equal(got(), 400);
  // And now nothing.
  await until(isCut, 'it to be cut');
});

t.test('an upstream that reads nothing of a request', { buffered: true }, async (t) => {
  const { mesh } = await start(t);
  const client = connectHttp2(`http://127.0.0.1:${mesh.outPort}`);
  client.on('error', () => {});
  t.teardown(() => client.destroy());
  const request = client.request({ ':authority': 'orders', ':path': '/deaf', ':method': 'POST' }).on('error', () => {});
  const more = (): void => {
    while (!request.destroyed && request.write(Buffer.alloc(65_536)));
  };
  request.on('drain', more);
  more();
  const [head] = await once(request, 'response');
  t.equal(head[':status'], 504);
  t.match(await stalledOf(mesh, 'orders'), { response_code: 504, response_flags: 'SI', reason: /upstream took none/ });
});
