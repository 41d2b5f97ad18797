// WebSocket with HTTP/2 on one side (RFC 8441) and on both, and CONNECT: policy first, then bytes.

import { once } from 'node:events';
import { connect, createServer, type ServerHttp2Stream } from 'node:http2';
import t from 'tap';
import { acceptOf } from '../../sidecar/protocol/websocket.ts';
import { exchangeBytes, startBackend, startMesh } from '../fixtures/mesh.ts';
import type { Owner } from '../fixtures/process.ts';

/** An app in HTTP/1.1 that accepts every client with a key, and echoes. */
const upgradingApp = (t: Owner) =>
  startBackend(t, (socket, soFar) => {
    const key = /\r\nsec-websocket-key: (\S+)\r\n/i.exec(soFar)?.[1];
    const end = soFar.indexOf('\r\n\r\n') + 4;
    if (key === undefined || end < 4) return;
    if (soFar.length === end)
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${soFar.startsWith('GET /wrong') ? 'wrong' : acceptOf(key)}\r\n\r\n`,
      );
    else socket.write(`echo ${soFar.slice(end)}`);
  });

/** An app in HTTP/2 that accepts extended CONNECT and echoes, or does not support it. */
async function streamingApp(t: Owner, enableConnectProtocol: boolean): Promise<number> {
  const server = createServer({ settings: { enableConnectProtocol } });
  server.on('stream', (stream: ServerHttp2Stream, fields) => {
    stream.on('error', () => {});
    if (fields[':protocol'] !== 'websocket') return stream.close();
    stream.respond({ ':status': 200, 'x-key': String(fields['sec-websocket-key']) });
    stream.on('data', (chunk: Buffer) => stream.write(`echo ${chunk}`));
    stream.on('end', () => stream.end());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  return (server.address() as { port: number }).port;
}

async function session(t: Owner, port: number) {
  const client = connect(`http://127.0.0.1:${port}`);
  client.on('error', () => {});
  t.teardown(() => client.destroy());
  await once(client, 'remoteSettings');
  return client;
}

const extended = { ':method': 'CONNECT', ':protocol': 'websocket', ':authority': 'orders', ':scheme': 'http' };
const upgrade = (path: string): string =>
  `GET ${path} HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n`;

t.test('the client in HTTP/2, the app in HTTP/1.1', async (t) => {
  const app = await upgradingApp(t);
  const mesh = await startMesh(t, { app: app.port });
  const client = await session(t, mesh.outPort);
  t.ok(client.remoteSettings.enableConnectProtocol, 'the protocol is announced');
  const stream = client.request({ ...extended, ':path': '/chat' });
  stream.write('first');
  const [head] = (await once(stream, 'response')) as [Record<string, unknown>];
  t.equal(head[':status'], 200);
  t.equal(head['sec-websocket-accept'], undefined);
  t.equal(String((await once(stream, 'data'))[0]), 'echo first', 'bytes from before the 200 are not lost');
  t.match(app.received.join(''), /^GET \/chat HTTP\/1\.1\r\n/);
  stream.end();
  await once(stream, 'close');
  t.match((await mesh.records('orders', 1)).at(-1), {
    method: 'GET',
    path: '/chat',
    response_code: 101,
    bytes_received: 5,
  });

  t.test('an app that returns a wrong key is refused', async (t) => {
    const wrong = client.request({ ...extended, ':path': '/wrong' });
    const [answer] = (await once(wrong, 'response')) as [Record<string, unknown>];
    t.equal(answer[':status'], 502);
  });
  t.test('another protocol than WebSocket', async (t) => {
    const other = client.request({ ...extended, ':protocol': 'connect-udp', ':path': '/' });
    const [answer] = (await once(other, 'response')) as [Record<string, unknown>];
    t.equal(answer[':status'], 501);
  });
  t.test('policy sees the GET that extended CONNECT stands for', async (t) => {
    await mesh.setPolicy(
      'apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: chat, namespace: shop }\nspec: { rules: [{ to: [{ operation: { methods: [GET], paths: [/chat] } }] }] }\n',
    );
    const denied = client.request({ ...extended, ':path': '/other' });
    const [answer] = (await once(denied, 'response')) as [Record<string, unknown>];
    t.equal(answer[':status'], 403);
  });
});

t.test('the client in HTTP/1.1, the app in HTTP/2', async (t) => {
  const mesh = await startMesh(t, { app: await streamingApp(t, true), protocol: 'http2' });
  const got = await exchangeBytes(mesh.outPort, `${upgrade('/chat')}hello`, /hello$/);
  t.match(got, /^HTTP\/1\.1 101 Switching Protocols\r\n/);
  t.match(got, /\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK\+xOo=\r\n/, 'the response to the key is ours');
  t.match(got, /\r\nx-key: undefined\r\n[\s\S]*\r\n\r\necho hello$/);
});

t.test('HTTP/2 from end to end', async (t) => {
  const mesh = await startMesh(t, { app: await streamingApp(t, true), protocol: 'http2' });
  const client = await session(t, mesh.outPort);
  const stream = client.request({ ...extended, ':path': '/chat' });
  await once(stream, 'response');
  // More than every window on the way, in both directions.
  const sent = 2_000_000;
  let got = 0;
  stream.on('data', (chunk: Buffer) => {
    got += chunk.length;
  });
  stream.end(Buffer.alloc(sent, 'x'));
  await once(stream, 'end');
  t.ok(got > sent, `${got} bytes came back`);
});

t.test('an app with HTTP/2 and without extended CONNECT', async (t) => {
  const mesh = await startMesh(t, { app: await streamingApp(t, false), protocol: 'http2' });
  const got = await exchangeBytes(mesh.outPort, upgrade('/chat'), /unsupported$/);
  t.match(got, /^HTTP\/1\.1 501 /);
  t.match((await mesh.records('orders', 1)).at(-1), { code: 'upgrade_unsupported' });
});

t.test('CONNECT reaches an upstream by its name', async (t) => {
  const app = await startBackend(t, (socket) => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\necho'));
  const http = await startMesh(t, { app: app.port });
  const opened = await exchangeBytes(
    http.outPort,
    'CONNECT orders:80 HTTP/1.1\r\nHost: orders:80\r\n\r\nGET / HTTP/1.1\r\nHost: orders\r\n\r\n',
    /echo$/,
  );
  t.match(
    opened,
    /^HTTP\/1\.1 200 Connection Established\r\n\r\n/,
    'the tunnel leads to the peer, which evaluates its requests',
  );
  t.match(
    await exchangeBytes(http.outPort, 'CONNECT nobody:80 HTTP/1.1\r\nHost: nobody:80\r\n\r\n', /no route$/),
    /^HTTP\/1\.1 404 /,
  );
  t.match(
    await exchangeBytes(http.outPort, 'CONNECT orders HTTP/1.1\r\nHost: orders\r\n\r\n', /bad request$/),
    /^HTTP\/1\.1 400 /,
  );
  const client = await session(t, http.outPort);
  const stream = client.request({ ':method': 'CONNECT', ':authority': 'orders:80' });
  stream.write('GET /in-a-tunnel HTTP/1.1\r\nHost: orders\r\n\r\n');
  const [head] = (await once(stream, 'response')) as [Record<string, unknown>];
  t.equal(head[':status'], 200);
  await once(stream, 'data');
  t.match(app.received.join(''), /in-a-tunnel/);
  stream.close();
});

t.test('inbound CONNECT would bypass every policy, and is refused', async (t) => {
  const app = await startBackend(t, (socket) => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'));
  const mesh = await startMesh(t, { app: app.port });
  // Bytes in a bare tunnel to the peer go to the peer's port.
  const got = await exchangeBytes(
    mesh.outPort,
    'CONNECT orders:80 HTTP/1.1\r\nHost: a:1\r\n\r\nCONNECT orders:8080 HTTP/1.1\r\nHost: orders:8080\r\n\r\n',
    /unsupported$/,
  );
  t.match(got, /^HTTP\/1\.1 200 Connection Established\r\n\r\nHTTP\/1\.1 501 /);
  t.equal(app.received.length, 0);
});
