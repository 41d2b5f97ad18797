// Streams through the front door: TLS that passes through or ends here, TCP by weight, WebSockets and gRPC.

import { connect as connectTcp, createServer, type Socket } from 'node:net';
import { connect, createServer as createTlsServer, type TLSSocket } from 'node:tls';
import t from 'tap';
import { startEcho } from '../fixtures/echo.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { grpcClient, Metadata, startGrpcApp, status } from '../fixtures/grpc.ts';
import { exchangeBytes, startBackend } from '../fixtures/mesh.ts';
import { type Credential, createAuthority, createCredential } from '../fixtures/pki.ts';
import { documentOf } from '../fixtures/plan.ts';
import { type Owner, until } from '../fixtures/process.ts';

const authority = await createAuthority('outside.test');
const [inner, front] = await Promise.all(
  ['inner.test', 'front.test'].map((name) =>
    createCredential(authority, 'spiffe://outside.test/x', { dns: [name, `a.${name}`, `b.${name}`] }),
  ),
);

const indent = (text: string): string => text.replace(/^(?=.)/gm, '    ');
const secret = (name: string, { chainPem, keyPem }: Credential): string =>
  `---\napiVersion: v1\nkind: Secret\nmetadata: { name: ${name}, namespace: shop }\nstringData:\n  tls.crt: |\n${indent(chainPem)}\n  tls.key: |\n${indent(keyPem)}\n`;

/** A server that sends its name to each client, and then echoes. */
async function startNamed(t: Owner, name: string, tls?: Credential): Promise<number> {
  const sockets = new Set<Socket>();
  const serve = (socket: Socket): void => {
    sockets.add(socket);
    socket.on('error', () => {}).write(`${name}\n`);
    socket.pipe(socket);
  };
  const server =
    tls === undefined ? createServer(serve) : createTlsServer({ cert: tls.chainPem, key: tls.keyPem }, serve);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const address = server.address();
  return typeof address === 'object' && address !== null ? address.port : 0;
}

/** The first line that comes, or why there is none. */
function firstLine(socket: Socket): Promise<string> {
  return new Promise((resolve) => {
    let text = '';
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString();
      if (text.includes('\n')) resolve(text.slice(0, text.indexOf('\n')));
    });
    socket.on('error', () => {});
    socket.on('close', () => resolve('closed'));
  });
}

const backends = await Promise.all([
  startNamed(t, 'passed', inner),
  startNamed(t, 'ended'),
  startNamed(t, 'one'),
  startNamed(t, 'two'),
]);
const [passed, ended, one, two] = backends;
const weights = (first: number, second: number): string =>
  documentOf(
    'TCPRoute',
    'tcp',
    `{ parentRefs: [{ name: g, sectionName: db }], rules: [{ backendRefs: [{ name: one, port: 80, weight: ${first} }, { name: two, port: 80, weight: ${second} }] }] }`,
  );
const gateway = await startTestGateway(t, {
  listeners: ['shop/g:443', 'shop/g:5432', 'shop/g:5433'],
  yaml: `upstreams:
  passed: { endpoints: ["127.0.0.1:${passed}"] }
  ended: { endpoints: ["127.0.0.1:${ended}"] }
  one: { endpoints: ["127.0.0.1:${one}"] }
  two: { endpoints: ["127.0.0.1:${two}"] }
backends: { shop/passed:80: passed, shop/ended:80: ended, shop/one:80: one, shop/two:80: two }
`,
  documents: {
    'all.yaml':
      documentOf(
        'Gateway',
        'g',
        `{ gatewayClassName: x, listeners: [
          { name: through, port: 443, protocol: TLS, hostname: "*.inner.test", tls: { mode: Passthrough } },
          { name: ends, port: 443, protocol: TLS, hostname: "*.front.test", tls: { certificateRefs: [{ name: front }] } },
          { name: db, port: 5432, protocol: TCP },
          { name: bad, port: 5433, protocol: TCP }] }`,
      ) +
      secret('front', front!) +
      documentOf(
        'TLSRoute',
        'through',
        '{ parentRefs: [{ name: g, sectionName: through }], hostnames: [a.inner.test], rules: [{ backendRefs: [{ name: passed, port: 80 }] }] }',
      ) +
      documentOf(
        'TLSRoute',
        'ends',
        '{ parentRefs: [{ name: g, sectionName: ends }], hostnames: ["*.front.test"], rules: [{ backendRefs: [{ name: ended, port: 80 }] }] }',
      ) +
      documentOf(
        'TCPRoute',
        'bad',
        '{ parentRefs: [{ name: g, sectionName: bad }], rules: [{ backendRefs: [{ name: gone, port: 80 }] }] }',
      ),
    'weights.yaml': weights(3, 1),
  },
});

const dialTls = (servername: string): Promise<{ socket: TLSSocket; line: string }> => {
  const socket = connect({
    ...{ host: '127.0.0.1', port: gateway.port('shop/g:443'), servername },
    ...{ ca: authority.bundlePem, checkServerIdentity: () => undefined },
  });
  t.teardown(() => socket.destroy());
  return firstLine(socket).then((line) => ({ socket, line }));
};
const dialTcp = (key: string): Promise<{ socket: Socket; line: string }> => {
  const socket = connectTcp({ host: '127.0.0.1', port: gateway.port(key) });
  t.teardown(() => socket.destroy());
  return firstLine(socket).then((line) => ({ socket, line }));
};
const nameOf = (socket: TLSSocket): string | undefined => socket.getPeerX509Certificate()?.subjectAltName;

t.test('TLS is passed through by its server name', async (t) => {
  const { socket, line } = await dialTls('a.inner.test');
  t.equal(line, 'passed');
  t.match(nameOf(socket), /DNS:inner\.test/, 'the handshake was with the backend');
  socket.destroy();
  const record = await until(
    async () => (await gateway.records(1)).find((one) => one['requested_server_name'] === 'a.inner.test'),
    'its record',
  );
  t.match(record, { route_name: 'tlsroute/shop/through/rule/0', response_flags: '-' });
});

t.test('TLS is terminated at the gateway', async (t) => {
  const { socket, line } = await dialTls('b.front.test');
  t.equal(line, 'ended');
  t.match(nameOf(socket), /DNS:front\.test/);
  socket.write('more\n');
  t.equal(await firstLine(socket), 'more');
  socket.destroy();
});

t.test('server names that no route accepts', async (t) => {
  for (const name of ['b.inner.test', 'inner.test', 'other.test']) t.equal((await dialTls(name)).line, 'closed', name);
});

t.test('a connection that is not TLS is closed', async (t) => {
  t.equal(await exchangeBytes(gateway.port('shop/g:443'), 'GET / HTTP/1.1\r\nHost: a.inner.test\r\n\r\n'), '');
});

t.test('TCP by weight, and open streams stay while their backend is named', async (t) => {
  const streams = await Promise.all(Array.from({ length: 120 }, () => dialTcp('shop/g:5432')));
  const share = streams.filter(({ line }) => line === 'one').length / streams.length;
  t.ok(Math.abs(share - 0.75) < 6 * Math.sqrt((0.75 * 0.25) / 120), `${share} of them went to one, 0.75 is expected`);
  const [toOne, toTwo] = ['one', 'two'].map((name) => streams.find(({ line }) => line === name)!.socket);
  await gateway.write('weights.yaml', weights(1, 0));
  for (const socket of [toOne!, toTwo!]) {
    socket.write('still\n');
    t.equal(await firstLine(socket), 'still', 'a change of weights cuts no stream');
  }
  t.strictSame(
    new Set((await Promise.all(Array.from({ length: 20 }, () => dialTcp('shop/g:5432')))).map(({ line }) => line)),
    new Set(['one']),
  );
  await gateway.write(
    'weights.yaml',
    documentOf(
      'TCPRoute',
      'tcp',
      '{ parentRefs: [{ name: g, sectionName: db }], rules: [{ backendRefs: [{ name: one, port: 80 }] }] }',
    ),
  );
  await until(() => toTwo!.destroyed || toTwo!.readableEnded, 'the end of what leads where nothing is any more');
  toOne!.write('still\n');
  t.equal(await firstLine(toOne!), 'still');
  for (const { socket } of streams) socket.destroy();
});

t.test('a stream whose backend is unreachable is closed', async (t) => {
  t.equal((await dialTcp('shop/g:5433')).line, 'closed');
  const record = await until(
    async () => (await gateway.records(1)).find((one) => one['route_name'] === 'tcproute/shop/bad/rule/0'),
    'its record',
  );
  t.match(record, { response_flags: 'NC', connection_termination_details: 'cluster_not_found' });
});

const http = (routes: string, ...names: string[]): string =>
  documentOf(
    'Gateway',
    'g',
    `{ gatewayClassName: x, listeners: [${names.map((name, i) => `{ name: ${name}, port: ${80 + i}, protocol: HTTP }`).join()}] }`,
  ) + routes;

t.test('WebSockets', async (t) => {
  const app = await startBackend(t, (socket, soFar) => {
    if (soFar.endsWith('\r\n\r\n'))
      socket.write(
        'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nhello',
      );
    else if (soFar.endsWith('ping')) socket.write('pong');
  });
  const own = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app.port}"] } }\nbackends: { shop/a:80: a }\n`,
    documents: http(
      documentOf(
        'HTTPRoute',
        'r',
        '{ parentRefs: [{ name: g }], rules: [{ matches: [{ path: { value: /ws } }], filters: [{ type: URLRewrite, urlRewrite: { path: { type: ReplacePrefixMatch, replacePrefixMatch: /inner } } }], backendRefs: [{ name: a, port: 80 }] }] }',
      ),
      'web',
    ),
  });
  const upgrade = (path: string): string =>
    `GET ${path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n`;
  const socket = connectTcp({ host: '127.0.0.1', port: own.port('shop/g:80') });
  t.teardown(() => socket.destroy());
  let got = '';
  socket.on('data', (chunk: Buffer) => {
    got += chunk.toString('latin1');
  });
  socket.write(upgrade('/ws/chat'));
  await until(() => /^HTTP\/1\.1 101 [\s\S]*hello$/.test(got), 'the upgrade');
  socket.write('ping');
  await until(() => got.endsWith('pong'), 'what was said');
  t.match(app.received[0]?.toString('latin1'), /^GET \/inner\/chat HTTP\/1\.1\r\n/);
  t.match(await exchangeBytes(own.port('shop/g:80'), upgrade('/other'), /\r\n\r\n/), /^HTTP\/1\.1 404 /);
});

t.test('requests and streams on one port: each listener gets its own', async (t) => {
  const app = await startEcho(t, 'app');
  const host = (name: string): string => `hostname: ${name}`;
  const terminate = 'tls: { certificateRefs: [{ name: front }] }';
  const own = await startTestGateway(t, {
    listeners: ['shop/g:443'],
    yaml: `upstreams:
  app: { endpoints: ["127.0.0.1:${app}"] }
  passed: { endpoints: ["127.0.0.1:${passed}"] }
  ended: { endpoints: ["127.0.0.1:${ended}"] }
backends: { shop/app:80: app, shop/passed:80: passed, shop/ended:80: ended }
`,
    documents:
      documentOf(
        'Gateway',
        'g',
        `{ gatewayClassName: x, listeners: [
          { name: web, port: 443, protocol: HTTPS, ${host('"*.front.test"')}, ${terminate} },
          { name: ends, port: 443, protocol: TLS, ${host('b.front.test')}, ${terminate} },
          { name: through, port: 443, protocol: TLS, ${host('a.inner.test')}, tls: { mode: Passthrough } }] }`,
      ) +
      secret('front', front!) +
      documentOf(
        'HTTPRoute',
        'web',
        '{ parentRefs: [{ name: g, sectionName: web }], rules: [{ backendRefs: [{ name: app, port: 80 }] }] }',
      ) +
      ['ends', 'through']
        .map((name) =>
          documentOf(
            'TLSRoute',
            name,
            `{ parentRefs: [{ name: g, sectionName: ${name} }], hostnames: [${name === 'ends' ? 'b.front.test' : 'a.inner.test'}], rules: [{ backendRefs: [{ name: ${name === 'ends' ? 'ended' : 'passed'}, port: 80 }] }] }`,
          ),
        )
        .join(''),
  });
  const dial = (servername: string): TLSSocket => {
    const socket = connect({
      ...{ host: '127.0.0.1', port: own.port('shop/g:443'), servername },
      ...{ ca: authority.bundlePem, checkServerIdentity: () => undefined },
    });
    t.teardown(() => socket.destroy());
    return socket;
  };
  t.equal(await firstLine(dial('b.front.test')), 'ended');
  const through = dial('a.inner.test');
  t.equal(await firstLine(through), 'passed');
  t.match(nameOf(through), /DNS:inner\.test/, 'the handshake was with the backend');
  const web = dial('a.front.test');
  web.write('GET / HTTP/1.1\r\nHost: a.front.test\r\n\r\n');
  t.match(await firstLine(web), /^HTTP\/1\.1 200 /);
});

t.test('an exact name comes before a wildcard, whichever listener accepts it', async (t) => {
  const routes = (kind: string, name: string, host: string, to: string, date: string): string =>
    documentOf(
      kind,
      name,
      `{ parentRefs: [{ name: g }], hostnames: ["${host}"], rules: [{ backendRefs: [{ name: ${to}, port: 80 }] }] }`,
      `, creationTimestamp: "${date}T00:00:00Z"`,
    );
  const own = await startTestGateway(t, {
    listeners: ['shop/g:443'],
    yaml: `upstreams:
  one: { endpoints: ["127.0.0.1:${one}"] }
  two: { endpoints: ["127.0.0.1:${two}"] }
backends: { shop/one:80: one, shop/two:80: two }
`,
    documents:
      documentOf(
        'Gateway',
        'g',
        '{ gatewayClassName: x, listeners: [{ name: ends, port: 443, protocol: TLS, hostname: b.front.test, tls: { certificateRefs: [{ name: front }] } }] }',
      ) +
      secret('front', front!) +
      routes('TLSRoute', 'older', '*.front.test', 'one', '2026-01-01') +
      routes('TLSRoute', 'newer', 'b.front.test', 'two', '2026-02-01'),
  });
  const socket = connect({
    ...{ host: '127.0.0.1', port: own.port('shop/g:443'), servername: 'b.front.test' },
    ...{ ca: authority.bundlePem, checkServerIdentity: () => undefined },
  });
  t.teardown(() => socket.destroy());
  t.equal(await firstLine(socket), 'two');
});

t.test('gRPC: services, methods, headers, and calls that no rule matches', async (t) => {
  const [main, second] = await Promise.all([startGrpcApp(t), startGrpcApp(t)]);
  const own = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: `upstreams:
  main: { endpoints: ["127.0.0.1:${main.port}"], protocol: http2 }
  second: { endpoints: ["127.0.0.1:${second.port}"], protocol: http2 }
backends: { shop/main:80: main, shop/second:80: second }
`,
    documents: http(
      documentOf(
        'GRPCRoute',
        'r',
        `{ parentRefs: [{ name: g }], rules: [
          { matches: [{ method: { service: shop.Orders, method: Get } }], filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: x-asked, value: " by the gateway" }] } }], backendRefs: [{ name: main, port: 80 }] },
          { matches: [{ method: { service: shop.Orders, method: Put }, headers: [{ name: x-to, value: second }] }], backendRefs: [{ name: second, port: 80 }] },
          { matches: [{ method: { service: shop.Orders, method: Put }, headers: [{ name: x-to, value: gone }] }], backendRefs: [{ name: gone, port: 80 }] },
          { matches: [{ method: { method: Chat } }], backendRefs: [{ name: second, port: 80 }] },
          { matches: [{ method: { type: RegularExpression, service: "shop\\\\.[A-Z].*", method: "Li(s|z)t" } }], backendRefs: [{ name: second, port: 80 }] }] }`,
      ),
      'web',
    ),
  });
  const client = grpcClient(t, own.port('shop/g:80'));
  const call = (method: 'Get', text: string): Promise<string> =>
    new Promise((resolve, reject) => {
      client[method]!(Buffer.from(text), (error: unknown, value: Buffer) =>
        error ? reject(error) : resolve(value.toString()),
      );
    });
  t.equal(
    await call('Get', 'x'),
    'xby the gateway',
    'a unary call, with the metadata of the rule, without spaces around it',
  );
  await t.rejects(call('Get', 'fail'), { code: status.FAILED_PRECONDITION, details: 'not now: 100 %' });
  const put = (to: string): Promise<string> =>
    new Promise((resolve, reject) => {
      const metadata = new Metadata();
      metadata.set('x-to', to);
      const stream = client['Put']!(metadata, (error: unknown, value: Buffer) =>
        error ? reject(error) : resolve(value.toString()),
      );
      stream.write(Buffer.alloc(1000));
      stream.end(Buffer.alloc(234));
    });
  t.equal(await put('second'), '1234');
  await t.rejects(put('main'), { code: status.UNIMPLEMENTED }, 'no rule');
  await t.rejects(put('gone'), { code: status.UNAVAILABLE }, 'a backend that is not there');
  const chat = client['Chat']!();
  chat.on('error', () => {});
  chat.write(Buffer.from('hello'));
  const said = await new Promise<Buffer>((resolve) => chat.once('data', resolve));
  t.equal(said.toString(), 'echo hello', 'both directions');
  chat.end();
  const list = client['List']!(Buffer.from('3'));
  let bytes = 0;
  list.on('data', (part: Buffer) => {
    bytes += part.length;
  });
  await new Promise((resolve) => list.on('end', resolve));
  t.equal(bytes, 3 * 65_536);
  t.ok(second.produced() > 0 && main.produced() === 0, 'the call reached the backend of that rule');
});
