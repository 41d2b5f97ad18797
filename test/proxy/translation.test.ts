// HTTP/1.1 on one side and HTTP/2 on the other, in both directions, with foreign clients and servers: node:http2, curl
// and nghttp. The meaning of a request does not depend on its encoding.

import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:http';
import {
  type ClientHttp2Session,
  connect,
  createServer as createHttp2Server,
  type ServerHttp2Stream,
} from 'node:http2';
import { text } from 'node:stream/consumers';
import t from 'tap';
import { exchangeBytes, startBackend, startMesh } from '../fixtures/mesh.ts';
import { type Owner, startProcess } from '../fixtures/process.ts';

/**
 * An app in HTTP/2 by prior knowledge that reports its request; `/trailers` has some, `/reset` is reset, `/early` does
 * not wait.
 */
async function startHttp2App(t: Owner): Promise<number> {
  const server = createHttp2Server();
  server.on('stream', async (stream: ServerHttp2Stream, fields) => {
    stream.on('error', () => {});
    const { ':path': path, ':method': method, ':authority': authority, ':scheme': scheme } = fields;
    if (path === '/reset') return stream.close(8);
    if (path === '/early') {
      stream.respond({ ':status': 413 });
      stream.end('too much');
      return;
    }
    if (path === '/trailers') {
      stream.respond({ ':status': 200 }, { waitForTrailers: true });
      stream.on('wantTrailers', () => stream.sendTrailers({ 'x-sum': 'abc' }));
      stream.end('body');
      return;
    }
    if (path === '/hints') stream.additionalHeaders({ ':status': 103, link: '</style.css>' });
    const body = await text(stream);
    stream.respond({ ':status': 201, 'x-app': 'http2' });
    stream.end(
      method === 'HEAD'
        ? undefined
        : JSON.stringify({ method, path, authority, scheme, body, cookie: fields.cookie ?? null }),
    );
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  return (server.address() as { port: number }).port;
}

async function ask(
  session: ClientHttp2Session,
  fields: Record<string, string>,
  body?: string,
): Promise<{ status: number; body: string; trailers: Record<string, unknown> }> {
  const stream = session.request({ ':authority': 'orders', ...fields }, { endStream: body === undefined });
  let trailers: Record<string, unknown> = {};
  stream.on('trailers', (found) => {
    trailers = found;
  });
  if (body !== undefined) stream.end(body);
  const [head] = (await once(stream, 'response')) as [Record<string, unknown>];
  return { status: Number(head[':status']), body: await text(stream), trailers };
}

t.test('a request in HTTP/1.1, a response in HTTP/2', async (t) => {
  const mesh = await startMesh(t, { app: await startHttp2App(t), protocol: 'http2' });
  const got = (head: string, done: RegExp): Promise<string> => exchangeBytes(mesh.outPort, head, done);

  t.match(
    await got('GET /a?b=c HTTP/1.1\r\nHost: orders\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n', /\}$/),
    /^HTTP\/1\.1 201 Created\r\nx-app: http2\r\ndate: [^\r]+\r\nContent-Length: 99\r\n\r\n\{"method":"GET","path":"\/a\?b=c","authority":"orders","scheme":"http","body":"","cookie":"a=1; b=2"\}$/,
    'GET',
  );
  t.match(
    await got(
      'POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n',
      /"body":"abcde"/,
    ),
    /^HTTP\/1\.1 201 /,
    'a chunked body',
  );
  t.match(await got('HEAD / HTTP/1.1\r\nHost: orders\r\n\r\n', /\r\n\r\n$/), /^HTTP\/1\.1 201 /, 'HEAD');
  t.match(
    await got('GET /trailers HTTP/1.1\r\nHost: orders\r\n\r\n', /\r\n\r\n$/),
    /\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nx-sum: abc\r\n\r\n$/,
    'trailers',
  );
  t.match(
    await got('GET /hints HTTP/1.1\r\nHost: orders\r\n\r\n', /\}(?:\r\n0\r\n\r\n)?$/),
    /^HTTP\/1\.1 103 Early Hints\r\nlink: [^\r]+\r\n\r\nHTTP\/1\.1 201 /,
  );
  t.match(await got('GET /reset HTTP/1.1\r\nHost: orders\r\n\r\n', /headers$/), /^HTTP\/1\.1 503 /, 'a reset');
  t.match(
    await got(`POST /early HTTP/1.1\r\nHost: orders\r\nContent-Length: 1000000\r\n\r\n${'x'.repeat(1000)}`, /too much/),
    /^HTTP\/1\.1 413 [\s\S]*\r\nConnection: close\r\n/,
    'a response before the end of the body',
  );
  const [record] = (await mesh.records('orders', 7)).filter((one) => one['path'] === '/reset');
  t.match(record, { response_flags: 'UR', code: 'upstream_reset' });
});

t.test('a request in HTTP/2, a response in HTTP/1.1', async (t) => {
  const app = createServer(async (req, res) => {
    const body = await text(req);
    if (req.url === '/trailers') {
      res.writeHead(200, { trailer: 'x-sum' });
      res.write('body');
      res.addTrailers({ 'x-sum': 'abc' });
      return res.end();
    }
    if (req.url === '/cut') return res.writeHead(200, { 'content-length': 100 }).write('part', () => res.destroy());
    res.end(
      JSON.stringify({
        version: req.httpVersion,
        host: req.headers.host,
        url: req.url,
        body,
        te: req.headers.te ?? null,
      }),
    );
  });
  await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve));
  t.teardown(() => app.close());
  const mesh = await startMesh(t, { app: (app.address() as { port: number }).port });
  const session = connect(`http://127.0.0.1:${mesh.outPort}`);
  t.teardown(() => session.destroy());

  t.match(JSON.parse((await ask(session, { ':path': '/x', te: 'trailers' })).body), {
    version: '1.1',
    host: 'orders',
    url: '/x',
    te: null,
  });
  t.match(JSON.parse((await ask(session, { ':method': 'PUT', ':path': '/' }, 'sent')).body), { body: 'sent' });
  t.match(await ask(session, { ':path': '/trailers' }), { body: 'body', trailers: { 'x-sum': 'abc' } });
  t.test('a truncated response is reset', async (t) => {
    const stream = session.request({ ':authority': 'orders', ':path': '/cut' });
    stream.resume();
    const [error] = (await once(stream, 'error')) as [Error];
    t.match(error.message, /INTERNAL_ERROR/);
  });
  t.test('an unknown host is refused', async (t) => {
    t.match(await ask(session, { ':authority': 'nobody', ':path': '/' }), { status: 404 });
  });
});

const has = (tool: string): string | false =>
  spawnSync(tool, ['--version']).status === 0 ? false : `${tool} is not installed`;

t.test('curl and nghttp use HTTP/2 on the plain port', async (t) => {
  const backend = await startBackend(t, (socket) =>
    socket.end('HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello'),
  );
  const mesh = await startMesh(t, { app: backend.port });
  const url = `http://127.0.0.1:${mesh.fixedPort}/greeting`;
  t.test('curl', { skip: has('curl') }, async (t) => {
    const child = startProcess(t, 'curl', [
      '-s',
      '--http2-prior-knowledge',
      '-w',
      ' %{http_version} %{http_code}',
      url,
    ]);
    t.equal(await child.exited, 0);
    t.equal(child.stdout(), 'hello 2 200');
  });
  t.test('nghttp', { skip: has('nghttp') }, async (t) => {
    const child = startProcess(t, 'nghttp', ['-v', '-H', ':authority: orders', url]);
    t.equal(await child.exited, 0);
    t.match(child.stdout(), /:status: 200[\s\S]*hello/);
  });
});
