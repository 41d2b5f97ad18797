// Too much of everything: each limit refuses in time with its flag, and what it protects keeps working.

import { once } from 'node:events';
import { createServer } from 'node:http';
import { type ClientHttp2Session, connect as connectHttp2 } from 'node:http2';
import { connect, createServer as createTcpServer } from 'node:net';
import t from 'tap';
import { type Frame, frame, get as getHead, hello, speak } from '../fixtures/http2-raw.ts';
import { exchangeBytes, readState, startBackend, startMesh } from '../fixtures/mesh.ts';
import { createCredential } from '../fixtures/pki.ts';
import { type Owner, until } from '../fixtures/process.ts';

const get = 'GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n';

function session(t: Owner, port: number, settings = {}): ClientHttp2Session {
  const client = connectHttp2(`http://127.0.0.1:${port}`, { settings });
  client.on('error', () => {});
  t.teardown(() => client.destroy());
  return client;
}

t.test('more streams than a connection may have are refused at little cost', async (t) => {
  const backend = await startBackend(t, () => {});
  const mesh = await startMesh(t, { app: backend.port, limits: '{ streams: 5 }' });
  const client = session(t, mesh.outPort);
  await once(client, 'remoteSettings');
  t.equal(client.remoteSettings.maxConcurrentStreams, 5, 'the limit is announced');
  const peer = await createCredential(mesh.authority, 'spiffe://demo.test/ns/shop/sa/peer');
  // Node's own client respects the announced limit; this one does not.
  const seven = Buffer.concat([hello, ...Array.from({ length: 7 }, (_, i) => frame(1, 5, 2 * i + 1, getHead()))]);
  const isReset = ({ type }: Frame): boolean => type === 3;
  const frames = await speak(mesh.inPort, mesh.authority, peer, seven, (all) => all.filter(isReset).length === 2);
  t.same(
    frames.filter(isReset).map(({ stream, payload }) => [stream, payload.readUInt32BE(0)]),
    [
      [11, 7],
      [13, 7],
    ],
    'REFUSED_STREAM, which may be tried again elsewhere',
  );
  t.ok(backend.received.length <= 5);
});

t.test('requests that wait for a connection: the next is 503 UO', async (t) => {
  const sockets = new Set<{ destroy(): void }>();
  const backend = await startBackend(t, (socket) =>
    socket.end('HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'),
  );
  const mesh = await startMesh(t, { app: backend.port, limits: '{ pendingRequests: 3, connect: 10s }' });
  await mesh.inbound.drain();
  // The process in its place accepts connections, and never completes a handshake.
  const mute = createTcpServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
  });
  await new Promise<void>((resolve) => mute.listen(mesh.inPort, '127.0.0.1', resolve));
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    mute.close();
  });
  const clients = Array.from({ length: 3 }, () =>
    connect(mesh.outPort, '127.0.0.1', function (this: { write(text: string): void }) {
      this.write(get);
    }),
  );
  for (const client of clients) {
    client.on('error', () => {});
    t.teardown(() => client.destroy());
  }
  await until(async () => ((await readState(mesh.outAdmin))['connections'] as number) === 3, 'three to wait');
  const refused = await until(async () => {
    const answer = await exchangeBytes(mesh.outPort, get, /overloaded$/, 1000);
    return answer.startsWith('HTTP/1.1 503 ') ? answer : undefined;
  }, 'the refusal');
  t.match(refused, /overloaded$/);
  t.match(refused, /\r\nx-envoy-overloaded: true\r\n/);
  t.match(refused, /\r\ndate: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n/);
  t.match((await mesh.records('web', 1)).at(-1), {
    response_flags: 'UO',
    code: 'overloaded',
    reason: /limit pendingRequests/,
  });
});

t.test(
  'readers that never read: held memory is bounded, until they are cut as slow the next request is 503 OM',
  async (t) => {
    const big = Buffer.alloc(300_000, 'x');
    const app = createServer((_req, res) => res.end(big));
    await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve));
    t.teardown(() => {
      app.closeAllConnections();
      app.close();
    });
    const mesh = await startMesh(t, {
      app: (app.address() as { port: number }).port,
      limits: '{ heldBytes: 2097152 }',
    });
    // A window of 0: responses can be requested but not sent.
    const client = session(t, mesh.outPort, { initialWindowSize: 0 });
    await once(client, 'remoteSettings');
    for (let i = 0; i < 60; i++) client.request({ ':authority': 'orders', ':path': '/' }).on('error', () => {});
    const held = async (): Promise<number> => {
      const metrics = await (await fetch(`http://127.0.0.1:${mesh.outAdmin}/stats/prometheus`)).text();
      return Number(/^sallyport_held_bytes (\d+)$/m.exec(metrics)?.[1]);
    };
    await until(async () => (await held()) > 2_097_152, 'it to be full');
    t.match(await exchangeBytes(mesh.outPort, get), /^HTTP\/1\.1 503 [\s\S]*memory full$/);
    // Past the limit only requests that were begun before may still send: one window for each stream.
    t.ok((await held()) < 60 * 300_000, `${await held()} bytes are held`);
    t.match(
      (await mesh.records('web', 1)).find((one) => one['code'] === 'memory_full'),
      { response_flags: 'OM', response_code_details: 'overload' },
    );
    client.destroy();
    await until(async () => (await held()) === 0, 'all of it to go with its reader');
    t.match(await exchangeBytes(mesh.outPort, get), /^HTTP\/1\.1 200 /);
  },
);

t.test('an HTTP/1.1 client that does not read pauses the app', async (t) => {
  let written = 0;
  const app = createServer(async (_req, res) => {
    res.on('error', () => {});
    const closed = new Promise((resolve) => res.once('close', resolve));
    for (let i = 0; i < 1000 && !res.destroyed; i++) {
      written += 65_536;
      if (!res.write(Buffer.alloc(65_536)))
        await Promise.race([new Promise((resolve) => res.once('drain', resolve)), closed]);
    }
    res.end();
  });
  await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    app.closeAllConnections();
    app.close();
  });
  const mesh = await startMesh(t, { app: (app.address() as { port: number }).port });
  const slow = connect(mesh.outPort, '127.0.0.1', () => slow.write(get));
  slow.pause();
  slow.on('error', () => {});
  let last = -1;
  let same = 0;
  const standing = await until(() => {
    same = written > 0 && written === last ? same + 1 : 0;
    last = written;
    return same > 5 ? written : undefined;
  }, 'the app to stop');
  // The kernel's buffers on three hops hold some megabytes.
  t.ok(standing < 40_000_000, `it stood still after ${standing} bytes`);
  t.match(await exchangeBytes(mesh.outPort, get.replace('/ ', '/other '), /200 OK/), /200 OK/, 'others are served');
  slow.destroy();
});
