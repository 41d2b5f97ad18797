// HTTP/2 with foreign implementations: Node's own client and server, and curl. And between two sidecars: many requests
// at once on one connection, none held up by another's body.

import { spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { createServer, request } from 'node:http';
import { type ClientHttp2Session, connect, createSecureServer, type ServerHttp2Stream } from 'node:http2';
import { createServer as createTlsServer } from 'node:https';
import { join } from 'node:path';
import t from 'tap';
import { exchangeBytes, readState, startBackend, startMesh } from '../fixtures/mesh.ts';
import { createCredential } from '../fixtures/pki.ts';
import { type Owner, startProcess, until } from '../fixtures/process.ts';

const hash = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

/** An app that reports its request: method, path, length and hash of the body; `/big` responds with 5 MB. */
async function startApp(t: Owner): Promise<number> {
  const big = Buffer.alloc(5 * 1024 * 1024, 'x');
  const app = createServer(async (req, res) => {
    const body = Buffer.concat(await req.toArray());
    if (req.url === '/slow') return;
    if (req.url === '/big') res.end(big);
    else if (req.url === '/trailers') {
      res.writeHead(200, { trailer: 'x-sum' });
      res.write('body');
      res.addTrailers({ 'x-sum': hash(Buffer.from('body')) });
      res.end();
    } else
      res.end(
        JSON.stringify({ method: req.method, url: req.url, size: body.length, hash: hash(body), headers: req.headers }),
      );
  });
  await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve));
  t.teardown(() => app.close());
  return (app.address() as { port: number }).port;
}

async function readUpstreams(adminPort: number): Promise<{ connections: number }[]> {
  const answer = await fetch(`http://127.0.0.1:${adminPort}/upstreams`);
  return (await answer.json()) as { connections: number }[];
}

interface Answer {
  readonly status: number;
  readonly body: Buffer;
  readonly trailers: Record<string, unknown>;
}

async function ask(session: ClientHttp2Session, fields: Record<string, string>, body?: Buffer): Promise<Answer> {
  const stream = session.request({ ':authority': 'orders', ...fields }, { endStream: body === undefined });
  let trailers: Record<string, unknown> = {};
  stream.on('trailers', (found) => {
    trailers = found;
  });
  if (body !== undefined) stream.end(body);
  const [head] = (await once(stream, 'response')) as [Record<string, unknown>];
  const parts: Buffer[] = [];
  for await (const part of stream) parts.push(part as Buffer);
  return { status: Number(head[':status']), body: Buffer.concat(parts), trailers };
}

t.test("Node's client is served", async (t) => {
  const mesh = await startMesh(t, { app: await startApp(t) });
  const peer = await createCredential(mesh.authority, 'spiffe://demo.test/ns/shop/sa/peer');
  const session = connect(`https://127.0.0.1:${mesh.inPort}`, {
    ...{ cert: peer.chainPem, key: peer.keyPem, ca: mesh.authority.bundlePem, checkServerIdentity: () => undefined },
  });
  t.teardown(() => session.destroy());

  t.test("GET works with the peer's fields", async (t) => {
    const { status, body } = await ask(session, {
      ':path': '/a?b=c',
      cookie: 'a=1',
      'x-forwarded-client-cert': 'By=forged',
    });
    t.equal(status, 200);
    const seen = JSON.parse(body.toString()) as Record<string, unknown>;
    t.match(seen, { method: 'GET', url: '/a?b=c', headers: { host: 'orders', cookie: 'a=1' } });
    t.match(
      (seen['headers'] as Record<string, string>)['x-forwarded-client-cert'],
      /URI=spiffe:\/\/demo.test\/ns\/shop\/sa\/peer$/,
    );
  });
  t.test('bodies both ways, larger than every window', async (t) => {
    const sent = randomBytes(3 * 1024 * 1024);
    const { body } = await ask(session, { ':method': 'POST', ':path': '/up' }, sent);
    t.match(JSON.parse(body.toString()), { method: 'POST', size: sent.length, hash: hash(sent) });
    t.equal((await ask(session, { ':path': '/big' })).body.length, 5 * 1024 * 1024);
    t.match(
      JSON.parse((await ask(session, { ':method': 'POST', ':path': '/' }, Buffer.from('small'))).body.toString()),
      {
        size: 5,
        headers: { 'content-length': '5' },
      },
    );
  });
  t.test('HEAD, and trailers', async (t) => {
    t.match(await ask(session, { ':method': 'HEAD', ':path': '/big' }), { status: 200, body: Buffer.alloc(0) });
    const { body, trailers } = await ask(session, { ':path': '/trailers' });
    t.equal(body.toString(), 'body');
    t.match(trailers, { 'x-sum': hash(body) });
  });
  t.test('two hundred requests at once', async (t) => {
    const answers = await Promise.all(
      Array.from({ length: 200 }, (_, i) =>
        ask(session, { ':method': 'PUT', ':path': `/${i}` }, Buffer.from(String(i))),
      ),
    );
    for (const [i, { body }] of answers.entries())
      if (!body.includes(`"url":"/${i}","size":${String(i).length},"hash":"${hash(Buffer.from(String(i)))}"`))
        t.fail(`answer ${i}`);
    t.equal(answers.length, 200);
  });
  t.test('policy is evaluated for each stream, and a new denial ends them all', async (t) => {
    await mesh.setPolicy(
      'apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: reads, namespace: shop }\nspec: { rules: [{ to: [{ operation: { methods: [GET] } }] }] }\n',
    );
    t.match(await ask(session, { ':path': '/' }), { status: 200 });
    const { status, body } = await ask(session, { ':method': 'DELETE', ':path': '/' });
    t.equal(`${status} ${body}`, '403 RBAC: access denied');
    const denied = await until(
      async () => (await mesh.records('orders', 1)).find((one) => one['decision'] === 'deny'),
      'the record',
    );
    t.match(denied, { protocol: 'HTTP/2', method: 'DELETE', response_code: 403 });
  });
  t.test('a drain sends GOAWAY and finishes the requests in flight', async (t) => {
    const gone = once(session, 'goaway');
    const draining = mesh.inbound.drain();
    await gone;
    t.same((await draining).cut, []);
  });
});

t.test('a denied peer loses its connection, and each of its requests has the reason', async (t) => {
  const mesh = await startMesh(t, { app: await startApp(t) });
  const id = 'spiffe://demo.test/ns/shop/sa/peer';
  const peer = await createCredential(mesh.authority, id);
  const session = connect(`https://127.0.0.1:${mesh.inPort}`, {
    ...{ cert: peer.chainPem, key: peer.keyPem, ca: mesh.authority.bundlePem, checkServerIdentity: () => undefined },
  });
  session.on('error', () => {});
  const streams = [1, 2].map(() => session.request({ ':authority': 'orders', ':path': '/slow' }));
  for (const stream of streams) stream.on('error', () => {});
  await until(
    async () => (await readUpstreams(mesh.inAdmin)).some(({ connections }) => connections === 2),
    'both requests in flight',
  );
  const denied = { sequence: 2, time: new Date().toISOString(), serials: [], ids: [id] };
  writeFileSync(join(mesh.dir, 'denied.json'), JSON.stringify(denied));
  const [code, , reason] = (await once(session, 'goaway')) as [number, number, Buffer];
  t.equal(`${code} ${reason}`, '12 svid_denied', 'GOAWAY has the reason');
  t.match(await mesh.records('orders', 2), [
    { response_code: 403, response_code_details: 'peer_certificate_revoked', code: 'svid_denied', peer_id: id },
    { response_code: 403, response_code_details: 'peer_certificate_revoked', code: 'svid_denied', peer_id: id },
  ]);
});

t.test("Node's server is the upstream", async (t) => {
  const mesh = await startMesh(t, { app: 1 });
  await mesh.inbound.drain();
  const { chainPem, keyPem } = mesh.orders;
  const server = createSecureServer({
    ...{ cert: chainPem, key: keyPem, ca: mesh.authority.bundlePem, requestCert: true, rejectUnauthorized: true },
    settings: { maxConcurrentStreams: 10 },
  });
  let away = false;
  server.on('stream', (stream: ServerHttp2Stream, head) => {
    stream.on('error', () => {});
    const path = String(head[':path']);
    if (path === '/reset') return stream.close(2);
    if (path === '/goaway' && !away) {
      away = true;
      stream.session?.goaway(0, 0);
      return stream.close(7);
    }
    void stream.toArray().then((parts) => {
      const body = Buffer.concat(parts);
      stream.respond({ ':status': 200, 'x-a': '1' }, { waitForTrailers: true });
      stream.on('wantTrailers', () => stream.sendTrailers({ 'x-sum': String(body.length) }));
      stream.end(`${head[':method']} ${path} ${head[':authority']} ${body.length}`);
    });
  });
  await new Promise<void>((resolve) => server.listen(mesh.inPort, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  const go = (line: string, fields = '', body = ''): Promise<string> =>
    exchangeBytes(mesh.outPort, `${line} HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n${fields}\r\n${body}`);

  t.match(await go('GET /a'), /^HTTP\/1\.1 200 OK\r\nx-a: 1\r\n[\s\S]*GET \/a orders 0\r\n0\r\nx-sum: 0\r\n\r\n$/);
  t.match(await go('POST /b', 'Content-Length: 3\r\n', 'abc'), /POST \/b orders 3\r\n0\r\nx-sum: 3/);
  t.match(await go('POST /c', 'Transfer-Encoding: chunked\r\n', '2\r\nab\r\n0\r\n\r\n'), /POST \/c orders 2\r\n/);
  const big = 'x'.repeat(2_000_000);
  t.match(await go('POST /d', `Content-Length: ${big.length}\r\n`, big), /POST \/d orders 2000000\r\n/);
  t.match(await go('GET /reset'), /^HTTP\/1\.1 503 /);
  t.match((await mesh.records('web', 5)).at(-1), { response_flags: 'UR', code: 'upstream_reset' });
  t.match(await go('GET /goaway'), /^HTTP\/1\.1 200 /, 'an unprocessed request is sent again');
  const many = await Promise.all(Array.from({ length: 40 }, (_, i) => go(`GET /${i}`)));
  t.equal(
    many.filter((one) => one.startsWith('HTTP/1.1 200 ')).length,
    40,
    'more than the peer accepts on one connection',
  );
});

t.test('a peer that speaks HTTP/1.1 only', async (t) => {
  const mesh = await startMesh(t, { app: 1 });
  await mesh.inbound.drain();
  const { chainPem, keyPem } = mesh.orders;
  const server = createTlsServer(
    { cert: chainPem, key: keyPem, ca: mesh.authority.bundlePem, requestCert: true },
    (req, res) => res.end(`${req.method} ${req.url} ${req.httpVersion}`),
  );
  await new Promise<void>((resolve) => server.listen(mesh.inPort, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  const answers = await Promise.all(
    Array.from({ length: 20 }, (_, i) =>
      exchangeBytes(mesh.outPort, `GET /${i} HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n`),
    ),
  );
  for (const [i, answer] of answers.entries()) t.match(answer, new RegExp(`GET /${i} 1\\.1`));
});

t.test('one connection carries all requests, and a long body does not hold up the others', async (t) => {
  let finish: () => void = () => {};
  const backend = await startBackend(t, (socket, soFar) => {
    if (soFar.includes('GET /slow ')) {
      socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${64 * 1024 * 1024}\r\n\r\n`);
      const chunk = Buffer.alloc(1024 * 1024);
      let left = 64;
      const more = (): void => {
        while (left > 0 && !socket.destroyed) {
          left--;
          if (!socket.write(chunk)) return void socket.once('drain', more);
        }
      };
      more();
      finish = () => socket.destroy();
    } else if (soFar.endsWith('\r\n\r\n')) socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok');
  });
  const mesh = await startMesh(t, { app: backend.port });
  // This response is not read: it fills its window and stays there.
  const slow = request({ port: mesh.outPort, path: '/slow', headers: { host: 'orders' } });
  slow.on('error', () => {});
  slow.end();
  const [answer] = (await once(slow, 'response')) as [NodeJS.ReadableStream];
  const answers = await Promise.all(
    Array.from({ length: 50 }, () =>
      exchangeBytes(mesh.outPort, 'GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n'),
    ),
  );
  t.equal(answers.filter((one) => one.endsWith('ok')).length, 50);
  t.match(await readUpstreams(mesh.outAdmin), [{ connections: 1 }]);
  t.equal((await readState(mesh.inAdmin))['connections'], 1);
  slow.destroy();
  finish();
  void answer;
});

const curl = spawnSync('curl', ['--version'], { encoding: 'utf8' });
const skip = /\bHTTP2\b/.test(curl.stdout ?? '') ? false : 'there is no curl with HTTP/2 here';

t.test('curl is served', { skip }, async (t) => {
  const mesh = await startMesh(t, { app: await startApp(t) });
  const file = (name: string): string => join(mesh.dir, name);
  const child = startProcess(t, 'curl', [
    ...['-sv', '--http2', '--insecure', '--cert', file('web.pem'), '--key', file('web.key')],
    ...['-w', '%{http_version} %{http_code}', '--data', 'hello', `https://127.0.0.1:${mesh.inPort}/c`],
  ]);
  t.equal(await child.exited, 0, child.stderr());
  t.match(child.stdout(), /"method":"POST","url":"\/c","size":5.*2 200$/);
});
