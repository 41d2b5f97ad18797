// Readers that do not read: streams waiting for them end if none of it is read, and if memory is short they are cut,
// and not the next request. The count equals the memory held.

import { once } from 'node:events';
import { createServer as createHttpServer, type ServerResponse } from 'node:http';
import { type ClientHttp2Session, connect as connectHttp2 } from 'node:http2';
import { connect, createServer, type Socket } from 'node:net';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import t from 'tap';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import { LiveCell } from '../../cert-agent/base/live.ts';
import { Connection, ConnectionTable, type Holder, type Speaker } from '../../sidecar/connection.ts';
import type { PortRules } from '../../sidecar/exchange/exchange.ts';
import { heldBytes, hold, holdSocket, measureSockets, pile } from '../../sidecar/exchange/held-bytes.ts';
import { HeldBody } from '../../sidecar/hold-body.ts';
import { Backlog } from '../../sidecar/protocol/backlog.ts';
import { Http2Connection } from '../../sidecar/protocol/http2/connection.ts';
import { Http2Server } from '../../sidecar/protocol/http2/server.ts';
import { refuse } from '../../sidecar/respond.ts';
import { FakeSocket, limits } from '../fixtures/codec.ts';
import { createExchange } from '../fixtures/exchange.ts';
import { frame, get as getBlock, hello } from '../fixtures/http2-raw.ts';
import { exchangeBytes, type Mesh, startMesh } from '../fixtures/mesh.ts';
import { type Owner, until } from '../fixtures/process.ts';

const get = (path: string): string => `GET ${path} HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n`;

/** An app whose responses are large, or never end. */
async function startApp(t: Owner) {
  const open = new Set<ServerResponse>();
  const app = createHttpServer((req, res) => {
    res.on('error', () => {});
    open.add(res.on('close', () => open.delete(res)));
    if (req.url === '/small') return res.end('ok');
    if (req.url === '/large') return res.end(Buffer.alloc(300_000, 'x'));
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
  return { port: (app.address() as { port: number }).port, open: () => open.size };
}

function session(t: Owner, port: number, settings = {}): ClientHttp2Session {
  const client = connectHttp2(`http://127.0.0.1:${port}`, { settings });
  client.on('error', () => {});
  t.teardown(() => client.destroy());
  return client;
}

const ask = (client: ClientHttp2Session, path: string) =>
  client.request({ ':authority': 'orders', ':path': path }).on('error', () => {});

const recordOf = (mesh: Mesh, code: string, reason: RegExp) =>
  until(
    async () =>
      (await mesh.records('web', 1)).find((one) => one['code'] === code && reason.test(String(one['reason']))),
    `a record with ${code}`,
  );

t.test('the stream that has held the most memory for the longest is cut, and the next request is served', async (t) => {
  const app = await startApp(t);
  const mesh = await startMesh(t, { app: app.port, limits: '{ heldBytes: 2097152, streamStall: 1h }' });
  // A reader that reads continuously, for the whole time.
  const reader = ask(session(t, mesh.outPort), '/endless');
  let [read, isCut] = [0, false];
  reader.on('data', (chunk: Buffer) => {
    read += chunk.length;
    // At a measured pace: it shares this test's event loop.
    reader.pause();
    setImmediate(() => reader.resume());
  });
  reader.on('close', () => {
    isCut = true;
  });
  const greedy = await Promise.all(
    Array.from({ length: 8 }, async () => {
      const client = session(t, mesh.outPort, { initialWindowSize: 0 });
      await once(client, 'remoteSettings');
      return Array.from({ length: 8 }, () => ask(client, '/large'));
    }),
  );
  const ended = (): number => greedy.flat().filter((one) => one.closed).length;
  await until(() => heldBytes() > 2_097_152, 'memory to be short');
  const answer = await until(async () => {
    const text = await exchangeBytes(mesh.outPort, get('/small'));
    return text.startsWith('HTTP/1.1 200 ') && text;
  }, 'the next to be served');
  t.match(answer, /ok$/);
  await until(() => ended() > 0, 'some to be cut');
  t.match(await recordOf(mesh, 'memory_full', /bytes waited for a slow reader/), { response_flags: 'OM' });
  const before = read;
  await until(() => isCut || read > before, 'the reader to continue');
  t.notOk(isCut);
  for (let i = 0; i < 5; i++) t.match(await exchangeBytes(mesh.outPort, get('/small')), /^HTTP\/1\.1 200 /);
});

t.test('a response that its client does not read ends', async (t) => {
  const app = await startApp(t);
  const mesh = await startMesh(t, { app: app.port, limits: '{ streamStall: 300ms }' });
  const client = session(t, mesh.outPort, { initialWindowSize: 0 });
  const stuck = ask(client, '/endless');
  await new Promise((resolve) => stuck.once('close', resolve));
  t.notOk(client.closed, 'others on the connection continue');
  t.match(await recordOf(mesh, 'stream_stalled', /client took none .*streamStall/), { response_flags: 'SI' });
  await until(() => app.open() === 0, 'the app to be notified');
});

t.test('the count equals the memory that is held', async (t) => {
  await t.test('a piece of a large read does not keep the whole read in memory', async (t) => {
    const pieces: Buffer[] = [];
    pile(pieces, Buffer.alloc(65_536, 'x').subarray(10, 5000));
    t.equal(pieces[0]!.buffer.byteLength, 4990);
    t.equal(String(pieces[0]), 'x'.repeat(4990));
    const whole = Buffer.alloc(65_536);
    pile(pieces, whole);
    t.equal(pieces[1], whole, 'a whole piece is not copied');
  });
  await t.test('many tiny pieces are merged into one', async (t) => {
    const pieces: Buffer[] = [];
    for (let i = 0; i < 10_000; i++) pile(pieces, Buffer.from(String(i % 10)));
    t.equal(pieces.length, 10);
    t.equal(Buffer.concat(pieces).toString(), '0123456789'.repeat(1000));
    t.same(new Set(pieces.map((one) => one.buffer.byteLength - one.length)), new Set([0]));
  });
  await t.test('bytes that wait for a window are counted', async (t) => {
    const owner = { opened() {}, ended() {}, goingAway() {}, closed() {} };
    const options = { side: 'client', headBytes: 1000, headFields: 10, streams: 0 } as const;
    const connection = new Http2Connection(new FakeSocket() as unknown as Socket, options, owner);
    const stream = connection.open();
    const before = heldBytes();
    t.ok(stream.write(Buffer.alloc(65_535)), 'all bytes that the window allows');
    const reads = Array.from({ length: 100 }, () => new WeakRef(new ArrayBuffer(65_536)));
    for (const read of reads) stream.write(Buffer.from(read.deref()!, 0, 10));
    t.equal(heldBytes() - before, 1000);
    connection.tick(performance.now());
    t.equal(heldBytes() - before, 1000);
    t.equal(stream.waitingBytes, 1000);
    // Unreachable memory is not held.
    const gc = collector();
    await until(() => {
      gc();
      return reads.every((read) => read.deref() === undefined);
    }, 'the reads to be gone');
    stream.reset();
    t.equal(heldBytes(), before);
  });
  await t.test('a body that waited for a step is not held after its refusal, however late that comes', async (t) => {
    const before = heldBytes();
    const { exchange, sent } = createExchange();
    const held = new HeldBody(exchange);
    exchange.carrier = held;
    held.requestData(Buffer.alloc(1000));
    t.equal(heldBytes(), before + 1000);
    refuse(exchange, new SallyportError('policy_denied', 'no'));
    t.equal(sent.replies.length, 1);
    t.equal(heldBytes(), before);
    held.drop();
    t.equal(heldBytes(), before, 'once');
  });
  await t.test('what comes for a tunnel that was refused is not held', async (t) => {
    for (const head of [
      { ':method': 'CONNECT', ':protocol': 'websocket' },
      { ':method': 'CONNECT', ':path': undefined, ':scheme': undefined },
    ]) {
      const socket = new FakeSocket();
      const rules = { limits, direction: 'inbound', protocol: 'http' } as unknown as PortRules;
      const connection = new Connection(socket as unknown as Socket, { key: 'test', rules: new LiveCell(rules) });
      connection.speaker = new Http2Server(connection, {
        draining: () => false,
        refusalOf: () => undefined,
        finish: (exchange) => {
          exchange.finished = true;
        },
        refuse,
        serve: (exchange) => refuse(exchange, new SallyportError('policy_denied', 'no')),
      });
      const before = heldBytes();
      // The body of the refusal waits for a window.
      const noWindow = frame(4, 0, 0, [0, 4, 0, 0, 0, 0]);
      socket.emit('data', Buffer.concat([hello, noWindow]));
      for (let id = 1; id < 20; id += 2) {
        const data = Array.from({ length: 4 }, () => frame(0, 0, id, Buffer.alloc(16_000)));
        socket.emit('data', Buffer.concat([frame(1, 4, id, getBlock(head)), ...data]));
        socket.emit('data', frame(8, 0, id, [0, 0, 3, 232]));
      }
      socket.destroy();
      await once(socket, 'close');
      t.equal(heldBytes(), before);
    }
  });
  await t.test('bytes that an upstream has sent and the client has not read are counted', async (t) => {
    measureSockets();
    const before = heldBytes();
    const server = createServer((socket) => socket.write(Buffer.alloc(50_000)));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    t.teardown(() => server.close());
    const socket: Socket = connect((server.address() as { port: number }).port, '127.0.0.1');
    holdSocket(socket);
    await until(() => {
      measureSockets();
      return heldBytes() === before + socket.readableLength && socket.readableLength > 0;
    }, 'it to be counted');
    socket.destroy();
    measureSockets();
    t.equal(heldBytes(), before);
  });
});

t.test('no more streams than necessary are cut, the worst first, and never an active reader', async (t) => {
  const table = new ConnectionTable(() => {});
  t.teardown(() => table.close());
  const cut: string[] = [];
  const holder = (name: string, bytes: number, waitMs: number): Holder => {
    hold(bytes);
    return {
      ...{ bytes, waitMs },
      drop(error) {
        t.equal(error.code, 'memory_full');
        hold(-bytes);
        cut.push(name);
      },
    };
  };
  const found = [
    holder('small and old', 10_000, 60_000),
    holder('reads', 400_000, 100),
    holder('large and young', 400_000, 2000),
    holder('large and old', 400_000, 60_000),
  ];
  const speaker = { tick() {}, findHolders: (_now: number, into: Holder[]) => into.push(...found) };
  const port = { key: 'x', rules: new LiveCell({} as PortRules) };
  const connection = new Connection(new FakeSocket() as unknown as Socket, port);
  connection.speaker = speaker as unknown as Speaker;
  table.add(connection);
  t.equal(table.makeRoom(heldBytes() - 1), true);
  t.same(cut, ['large and old']);
  found.pop();
  t.equal(table.makeRoom(heldBytes() - 1), false, 'not again at once: a full scan takes a while');
  await until(() => table.makeRoom(500_000), 'room again');
  t.same(cut, ['large and old', 'large and young']);
  found.splice(2, 1);
  await until(() => !table.makeRoom(1000) && cut.length === 3, 'the last slow one to be cut');
  t.same(cut, ['large and old', 'large and young', 'small and old']);
  hold(-400_000);
});

t.test('a reader that takes a byte now and then is treated like one that takes none', async (t) => {
  const none = new Backlog(0, 1000);
  const crumbs = new Backlog(0, 1000);
  const fast = new Backlog(0, 1000);
  t.equal(none.waitMs(60_000, 250_000, 1000), 60_000);
  t.equal(crumbs.waitMs(60_000, 250_000, 1060), 60_000);
  t.equal(Math.round(fast.waitMs(60_000, 250_000, 60_001_000)), 250);
  t.notOk(none.isStalled(0, 1000, 100));
  t.notOk(none.isStalled(100, 1000, 100));
  t.ok(none.isStalled(101, 1000, 100));
  t.notOk(none.isStalled(200, 1001, 100), 'the stream moves again');
});

/** Permits a garbage collection in a process that was not started with the option for it. */
function collector(): () => void {
  setFlagsFromString('--expose-gc');
  return runInNewContext('gc') as () => void;
}
