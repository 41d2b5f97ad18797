// Cancelled requests, in thousands: by clients that time out or mean harm, by refusals before the body has arrived, by
// frames that make us reset (CVE-2025-8671). A client that does it on its own connection loses that; other requests on
// the shared hop continue, also if the hop's other end counts as Envoy does.

import { once } from 'node:events';
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect as connectHttp2,
  constants,
  createSecureServer,
  type SecureClientSessionOptions,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2';
import { connect } from 'node:net';
import t, { type Test } from 'tap';
import { block, type Frame, frame, framesOf, get, hello } from '../fixtures/http2-raw.ts';
import { startBackend, startMesh } from '../fixtures/mesh.ts';
import { createCredential } from '../fixtures/pki.ts';
import { type Owner, until } from '../fixtures/process.ts';

const [data, headers, reset, goaway] = [0, 1, 3, 7];
const calm = 11;
const endHeaders = 4;
const whole = 5;
const u32 = (value: number): number[] => [value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255];
const many = (count: number, make: (stream: number) => Buffer): Buffer =>
  Buffer.concat(Array.from({ length: count }, (_, index) => make(2 * index + 1)));
const post = (stream: number, fields: Readonly<Record<string, string>> = {}): Buffer =>
  frame(headers, endHeaders, stream, get({ ':method': 'POST', ':path': '/slow', ...fields }));

/** An app that answers everything except /slow, and begins a response at /long, of which it sends a byte on demand. */
async function startApp(t: Owner) {
  let asked = 0;
  const streams: { write(text: string): unknown }[] = [];
  const backend = await startBackend(t, (socket, soFar) => {
    if (soFar.includes(' /slow')) asked++;
    else if (soFar.includes('GET /long ')) {
      socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n');
      streams.push(socket);
    } else if (soFar.endsWith('\r\n\r\n')) socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
  });
  return { port: backend.port, asked: () => asked, say: () => streams.map((one) => one.write('1\r\n.\r\n')) };
}

function session(t: Owner, port: number, secure?: SecureClientSessionOptions): ClientHttp2Session {
  const client = connectHttp2(`${secure === undefined ? 'http' : 'https'}://127.0.0.1:${port}`, secure);
  client.on('error', () => {});
  t.teardown(() => client.destroy());
  return client;
}

const ask = (client: ClientHttp2Session, path: string): ClientHttp2Stream =>
  client.request({ ':authority': 'orders', ':path': path }).on('error', () => {});

/** Another client's request that has long begun and is not over. */
async function startLong(t: Owner, port: number) {
  const stream = ask(session(t, port), '/long');
  let [got, isOver] = [0, false];
  stream.on('data', (chunk: Buffer) => {
    got += chunk.length;
  });
  stream.on('close', () => {
    isOver = true;
  });
  await once(stream, 'response');
  return { got: () => got, isOver: () => isOver };
}

/** `clients` connections each send `each` slow requests, and cancel them once they have arrived. */
async function cancelAll(
  t: Owner,
  port: number,
  clients: number,
  each: number,
  hasArrived: (count: number) => boolean,
) {
  let sent = 0;
  for (let one = 0; one < clients; one++) {
    const client = session(t, port);
    const requests = Array.from({ length: each }, () => ask(client, '/slow'));
    sent += each;
    await until(() => hasArrived(sent), `${sent} requests to arrive`);
    for (const request of requests) request.close(constants.NGHTTP2_CANCEL);
    await Promise.all(requests.map((request) => request.closed || once(request, 'close')));
  }
}

async function stillGoesOn(t: Test, long: Awaited<ReturnType<typeof startLong>>, say: () => unknown): Promise<void> {
  const before = long.got();
  say();
  await until(() => long.got() > before || long.isOver(), 'the long stream to continue');
  t.notOk(long.isOver(), 'the connection was not cut');
}

/** Speaks HTTP/2 in plaintext, frame by frame, until the other side closes or has reset `most` streams. */
function speakPlain(port: number, bytes: Buffer, most: number): Promise<readonly Frame[]> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(bytes));
    const parts: Buffer[] = [];
    const frames = (): Frame[] => framesOf(Buffer.concat(parts));
    socket.on('data', (chunk: Buffer) => {
      parts.push(chunk);
      if (frames().filter(({ type }) => type === reset).length >= most) socket.destroy();
    });
    socket.on('error', () => {});
    socket.on('close', () => resolve(frames()));
  });
}

const saidOf = (frames: readonly Frame[]): number | undefined =>
  frames.find((one) => one.type === goaway)?.payload.readUInt32BE(4);

t.test('clients that cancel slow requests do not end the requests of others', async (t) => {
  const app = await startApp(t);
  const mesh = await startMesh(t, { app: app.port });
  const long = await startLong(t, mesh.outPort);
  await cancelAll(t, mesh.outPort, 15, 90, (count) => app.asked() >= count);
  await stillGoesOn(t, long, app.say);
  const answer = ask(session(t, mesh.outPort), '/');
  t.equal((await once(answer, 'response'))[0][':status'], 200);
});

t.test('refusals before the body has arrived do not end the requests of others', async (t) => {
  const app = await startApp(t);
  const policy = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: get-only, namespace: shop }
spec: { action: ALLOW, rules: [{ to: [{ operation: { methods: [GET] } }] }] }
`;
  const mesh = await startMesh(t, { app: app.port, policy });
  const long = await startLong(t, mesh.outPort);
  for (let one = 0; one < 15; one++) {
    const client = session(t, mesh.outPort);
    const statuses = await Promise.all(
      Array.from({ length: 90 }, async () => {
        const request = client.request({ ':authority': 'orders', ':method': 'POST' }, { endStream: false });
        request.on('error', () => {});
        request.write('the beginning of a body');
        return (await once(request, 'response'))[0][':status'] as number;
      }),
    );
    t.same(new Set(statuses), new Set([403]));
    client.destroy();
  }
  await stillGoesOn(t, long, app.say);
});

/**
 * One cancelled request for each finished one, in rounds of 90, until `enough` have been cancelled in so many seconds.
 * True if the other end has closed by then.
 */
async function trade(
  client: ClientHttp2Session,
  enough: (cancelled: number, seconds: number) => boolean,
): Promise<boolean> {
  const started = performance.now();
  for (let count = 0; !client.destroyed && !enough(count, (performance.now() - started) / 1000); count += 90) {
    const slow = Array.from({ length: 90 }, () => ask(client, '/slow'));
    const quick = Array.from({ length: 90 }, () => ask(client, '/'));
    for (const request of slow) request.close(constants.NGHTTP2_CANCEL);
    // Closing a session fails the requests on it.
    const ended = [...slow, ...quick].map(
      (request) => request.resume().closed || once(request, 'close').catch(() => {}),
    );
    await Promise.all(ended);
  }
  return client.destroyed;
}

t.test('a peer may cancel as many requests as it lets finish', async (t) => {
  const app = await startApp(t);
  const mesh = await startMesh(t, { app: app.port });
  const peer = await createCredential(mesh.authority, 'spiffe://demo.test/ns/shop/sa/peer');
  const client = session(t, mesh.inPort, {
    ...{ ca: mesh.authority.bundlePem, cert: peer.chainPem, key: peer.keyPem, checkServerIdentity: () => undefined },
  });
  t.notOk(await trade(client, (cancelled) => cancelled >= 1260));
});

t.test('a client without a certificate does not earn resets by finished requests', async (t) => {
  const app = await startApp(t);
  const mesh = await startMesh(t, { app: app.port, ordersYaml: 'defaultMtls: PERMISSIVE\n' });
  // 1,000 at once and 33 a second are allowed to all: on a slow machine it takes more.
  const tooMany = (cancelled: number, seconds: number): boolean => cancelled > 2000 + 2 * 33 * seconds;
  t.ok(await trade(session(t, mesh.inPort), tooMany), 'the connection ends');
});

t.test('resets that a client provokes count against that client (MadeYouReset, CVE-2025-8671)', async (t) => {
  const app = await startApp(t);
  const mesh = await startMesh(t, { app: app.port, ordersYaml: 'defaultMtls: PERMISSIVE\n' });
  const long = await startLong(t, mesh.outPort);
  const ways: readonly (readonly [name: string, make: (stream: number) => Buffer])[] = [
    ['WINDOW_UPDATE of 0', (id) => Buffer.concat([post(id), frame(8, 0, id, u32(0))])],
    ['a window that overflows', (id) => Buffer.concat([post(id), frame(8, 0, id, u32(2 ** 31 - 1))])],
    [
      'a body longer than its Content-Length',
      (id) => Buffer.concat([post(id, { 'content-length': '1' }), frame(data, 0, id, [1, 2])]),
    ],
    [
      'a body shorter than its Content-Length',
      (id) => Buffer.concat([post(id, { 'content-length': '3' }), frame(data, 1, id, [1])]),
    ],
    ['trailers with a pseudo-header', (id) => Buffer.concat([post(id), frame(headers, whole, id, get())])],
    ['trailers in capitals', (id) => Buffer.concat([post(id), frame(headers, whole, id, block([['X-A', '1']]))])],
    [
      'trailers that do not end the stream',
      (id) => Buffer.concat([post(id), frame(headers, endHeaders, id, block([['x-a', '1']]))]),
    ],
    [
      'DATA after the end',
      (id) => Buffer.concat([frame(headers, whole, id, get({ ':path': '/slow' })), frame(data, 0, id, [1])]),
    ],
    ['a head that is malformed', (id) => frame(headers, whole, id, get({ connection: 'close' }))],
  ];
  for (const [name, make] of ways)
    t.equal(saidOf(await speakPlain(mesh.inPort, Buffer.concat([hello, many(1500, make)]), 1500)), calm, name);
  t.equal(
    saidOf(await speakPlain(mesh.inPort, Buffer.concat([hello, many(3000, (id) => post(id))]), 2750)),
    calm,
    'more streams at once than there may be',
  );
  await stillGoesOn(t, long, app.say);
});

/**
 * Envoy 1.39's rule, over the life of a connection: half of 500 streams were reset before any response, or certainly
 * will be.
 */
function countAsEnvoy(session: ServerHttp2Session, tooMany: () => void): void {
  let [closed, premature] = [0, 0];
  session.on('stream', (stream: ServerHttp2Stream) => {
    stream.on('close', () => {
      closed++;
      if (!stream.headersSent) premature++;
      if (closed < 500 ? premature < 250 : premature * 2 < closed) return;
      tooMany();
      session.destroy();
    });
  });
}

t.test('an upstream that counts resets like Envoy has no reason to end the streams of other clients', async (t) => {
  const mesh = await startMesh(t, { app: 1 });
  await mesh.inbound.drain();
  const { orders, authority } = mesh;
  const server = createSecureServer({
    ...{ key: orders.keyPem, cert: orders.chainPem, ca: authority.bundlePem },
    ...{ requestCert: true, rejectUnauthorized: false, allowHTTP1: false },
  });
  let [asked, sessions, cut] = [0, 0, 0];
  const streams: ServerHttp2Stream[] = [];
  server.on('session', (one: ServerHttp2Session) => {
    sessions++;
    t.teardown(() => one.destroy());
    one.on('error', () => {});
    countAsEnvoy(one, () => cut++);
  });
  server.on('stream', (stream, head) => {
    stream.on('error', () => {});
    if (head[':path'] === '/slow') asked++;
    else stream.respond({ ':status': 200 });
    if (head[':path'] === '/long') streams.push(stream);
  });
  await new Promise<void>((resolve) => server.listen(mesh.inPort, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  const long = await startLong(t, mesh.outPort);
  await cancelAll(t, mesh.outPort, 15, 90, (count) => asked >= count);
  t.equal(cut, 0);
  await stillGoesOn(t, long, () => streams.map((one) => one.write('.')));
  t.ok(sessions < (15 * 90) / 100, `${sessions} connections`);
});
