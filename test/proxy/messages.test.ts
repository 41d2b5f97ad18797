// HTTP/1.1 messages through two sidecars, byte by byte at both ends: the bytes that the app receives are asserted, and
// those that the client gets back.

import { networkInterfaces } from 'node:os';
import t from 'tap';
import { type Backend, exchangeBytes, type Mesh, startBackend, startMesh } from '../fixtures/mesh.ts';

/** The app answers each complete request with `replies[path]`. */
const replies: Record<string, string> = {
  '/length': 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello',
  '/chunked':
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n0\r\nX-Sum: 9\r\nx-forwarded-client-cert: forged\r\n\r\n',
  '/none': 'HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n',
  '/unchanged': 'HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: "a"\r\n\r\n',
  '/hints': 'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok',
  '/hop':
    'HTTP/1.1 200 OK\r\nConnection: X-Secret, keep-alive\r\nX-Secret: 1\r\nKeep-Alive: timeout=9\r\nX-Forwarded-Client-Cert: forged\r\nContent-Length: 0\r\n\r\n',
  '/switch': 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\nevil',
  '/garbage': 'SSH-2.0-OpenSSH_9.2\r\n\r\n',
  '/both': 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
  '/huge-head': `HTTP/1.1 200 OK\r\nX-A: ${'a'.repeat(70_000)}\r\n\r\n`,
};

let backend: Backend;
let mesh: Mesh;

t.before(async () => {
  const owner = { teardown: (run: () => unknown) => t.teardown(run) };
  backend = await startBackend(owner, (socket, soFar) => {
    // One request per connection: the app closes after each response, so that `soFar` is that request alone.
    const path = soFar.split(' ')[1]!;
    if (!soFar.includes('\r\n\r\n')) return;
    if (path === '/continue' && !soFar.endsWith('body!')) socket.write('HTTP/1.1 100 Continue\r\n\r\n');
    else if (path === '/closes') socket.end('HTTP/1.1 200 OK\r\n\r\nuntil the end');
    else if (path === '/cut')
      socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n', () => socket.destroy());
    else if (path === '/dies') socket.destroy();
    else if (path === '/upload?chunks' && !/0\r\n(?:x-sum: 1\r\n)?\r\n$/i.test(soFar)) return;
    else socket.end(replies[path] ?? 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
  });
  mesh = await startMesh(owner, { app: backend.port });
});

const ask = (line: string, fields = '', body = '', end?: RegExp): Promise<string> =>
  exchangeBytes(mesh.outPort, `${line} HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n${fields}\r\n${body}`, end);
const lastReceived = (): string => backend.received.at(-1)!.toString('latin1');

t.test('a body with a length keeps its length', async (t) => {
  t.equal(await ask('GET /length'), 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello');
});

t.test('chunks stay chunks, extensions are dropped, and trailers stay except ours', async (t) => {
  t.equal(
    await ask('GET /chunked'),
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 9\r\n\r\n',
  );
});

t.test('HEAD has the head of GET and no body', async (t) => {
  t.equal(await ask('HEAD /length'), 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n');
});

t.test('204 and 304 have no body, 304 keeps its length', async (t) => {
  t.equal(await ask('GET /none'), 'HTTP/1.1 204 No Content\r\nx-a: 1\r\nConnection: close\r\n\r\n');
  t.equal(
    await ask('GET /unchanged'),
    'HTTP/1.1 304 Not Modified\r\netag: "a"\r\nContent-Length: 99\r\nConnection: close\r\n\r\n',
  );
});

t.test('1xx is passed on', async (t) => {
  t.equal(
    await ask('GET /hints'),
    'HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok',
  );
});

t.test('a response that ends by close becomes chunks', async (t) => {
  t.equal(
    await ask('GET /closes'),
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nd\r\nuntil the end\r\n0\r\n\r\n',
  );
});

t.test('a truncated response never looks complete', async (t) => {
  const got = await ask('GET /cut');
  t.match(got, /hello/);
  t.notMatch(got, /\r\n0\r\n\r\n$/);
});

t.test('hop-by-hop fields of the app, and a forged client certificate, are dropped', async (t) => {
  t.equal(await ask('GET /hop'), 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n');
});

t.test('an app that exits, responds with garbage or with both lengths, or upgrades without a request', async (t) => {
  for (const [path, status] of [
    ['/dies', 503],
    ['/garbage', 502],
    ['/both', 502],
    ['/huge-head', 502],
    ['/switch', 502],
  ] as const) {
    const got = await ask(`GET ${path}`);
    t.match(got, new RegExp(`^HTTP/1.1 ${status} `), path);
    t.notMatch(got, /evil|SSH/, `${path}: nothing of it reaches the client`);
  }
});

t.test('the app gets the request serialized again, with the identity of the client', async (t) => {
  await ask(
    'POST /upload?a=1',
    'Content-Length: 3\r\nX-Forwarded-Client-Cert: By=forged\r\nx_forwarded_client_cert: forged\r\nConnection: X-Mine\r\nX-Mine: 1\r\nTE: gzip\r\nX-Request-Id: abc\r\n',
    'abc',
  );
  const got = lastReceived();
  t.match(got, /^POST \/upload\?a=1 HTTP\/1\.1\r\nHost: orders\r\n/);
  t.match(
    got,
    /\r\nx-forwarded-client-cert: By=spiffe:\/\/demo\.test\/ns\/shop\/sa\/orders;Hash=[0-9a-f]{64};Subject="";URI=spiffe:\/\/demo\.test\/ns\/shop\/sa\/web\r\n/,
  );
  t.notMatch(got, /forged|X-Mine|TE:/i);
  t.match(got, /\r\nx-request-id: abc\r\n/);
  t.match(got, /\r\nContent-Length: 3\r\n\r\nabc$/);
});

t.test('fields that Connection names are dropped before ours are added', async (t) => {
  await ask('GET /length', 'Connection: x-forwarded-client-cert, x-request-id\r\nX-Request-Id: theirs\r\n');
  t.match(lastReceived(), /\r\nx-forwarded-client-cert: By=spiffe/);
  t.match(lastReceived(), /\r\nx-request-id: [0-9a-f-]{36}\r\n/);
});

t.test('a chunked request with trailers, in pieces', async (t) => {
  const got = await ask(
    'POST /upload',
    'Transfer-Encoding: chunked\r\n',
    '3;x=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n',
  );
  t.match(got, /^HTTP\/1\.1 200 /);
  t.match(lastReceived(), /\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 1\r\n\r\n$/);
});

t.test('Expect: 100-continue goes to the app, and its 100 comes back before the body', async (t) => {
  const { connect } = await import('node:net');
  const got = await new Promise<string>((resolve, reject) => {
    const socket = connect(mesh.outPort, '127.0.0.1');
    let text = '';
    let sent = false;
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString('latin1');
      if (!sent && text.includes('100 Continue')) {
        sent = true;
        socket.write('body!');
      }
      if (text.endsWith('ok')) {
        socket.destroy();
        resolve(text);
      }
    });
    socket.on('error', reject);
    socket.write('POST /continue HTTP/1.1\r\nHost: orders\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n');
  });
  t.match(got, /^HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 200 OK\r\n/);
});

t.test('HTTP/1.0: no chunks, no 1xx, closes unless keep-alive', async (t) => {
  const old = (path: string, fields = ''): Promise<string> =>
    exchangeBytes(mesh.outPort, `GET ${path} HTTP/1.0\r\nHost: orders\r\n${fields}\r\n`, /never/);
  t.equal(await old('/chunked'), 'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello');
  t.equal(await old('/hints'), 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok');
  const kept = await exchangeBytes(
    mesh.outPort,
    'GET /length HTTP/1.0\r\nHost: orders\r\nConnection: keep-alive\r\n\r\n',
    /hello$/,
  );
  t.match(kept, /\r\nConnection: keep-alive\r\n/);
});

t.test('pipelined requests are answered in order', async (t) => {
  const line = (path: string): string => `GET ${path} HTTP/1.1\r\nHost: orders\r\n\r\n`;
  const got = await exchangeBytes(
    mesh.outPort,
    `${line('/length')}${line('/hop')}${line('/none')}${line('/length')}`,
    /hello[\s\S]*hello$/,
  );
  t.match(
    got,
    /^HTTP\/1\.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP\/1\.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP\/1\.1 204 No Content\r\nx-a: 1\r\n\r\nHTTP\/1\.1 200 OK\r\n/,
  );
});

t.test('three ways to name the upstream: name, host, and absolute-form, whose authority wins', async (t) => {
  const status = async (text: string): Promise<string> => (await exchangeBytes(mesh.outPort, text)).split(' ')[1]!;
  const close = 'Connection: close\r\n\r\n';
  t.equal(await status(`GET / HTTP/1.1\r\nHost: orders:80\r\n${close}`), '200');
  t.equal(await status(`GET / HTTP/1.1\r\nHost: ORDERS.shop.svc\r\n${close}`), '200');
  t.equal(await status(`GET http://orders/length HTTP/1.1\r\nHost: elsewhere\r\n${close}`), '200');
  t.match(lastReceived(), /\r\nHost: orders\r\n/);
  t.equal(await status(`GET http://elsewhere/ HTTP/1.1\r\nHost: orders\r\n${close}`), '404');
  t.equal(await status(`GET / HTTP/1.1\r\nHost: example.com\r\n${close}`), '404');
  t.equal(await status(`GET https://orders/ HTTP/1.1\r\nHost: orders\r\n${close}`), '400');
  t.equal(await status(`GET http://user@orders/ HTTP/1.1\r\nHost: orders\r\n${close}`), '400');
});

const v6 = Object.values(networkInterfaces())
  .flatMap((list) => list ?? [])
  .some((one) => one.address === '::1');

t.test('IPv6 works from the app and between sidecars', { skip: v6 ? false : 'this machine has no IPv6' }, async (t) => {
  const app = await startBackend(t, (socket) => socket.end(replies['/length']!));
  const { outPort, records } = await startMesh(t, { app: app.port, loopback: '::1' });
  const request = 'GET /length HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n';
  t.match(await exchangeBytes(outPort, request, undefined, 5000, '::1'), /hello$/);
  t.match((await records('web', 1)).at(-1), {
    downstream_remote_address: /^\[::1\]:\d+$/,
    upstream_host: /^\[::1\]:\d+$/,
  });
  t.match((await records('orders', 1)).at(-1), { downstream_remote_address: /^\[::1\]:\d+$/ });
});
