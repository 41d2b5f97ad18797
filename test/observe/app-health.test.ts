// The health port checks an app's health in the app's own protocol, and returns a status: for a kubelet that cannot
// reach the app itself.

import { writeFileSync } from 'node:fs';
import { createServer, type RequestListener } from 'node:http';
import { createServer as createHttp2Server } from 'node:http2';
import { type AddressInfo, createServer as createNetServer, type Server } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { parseSettings } from '../../sidecar/config/sidecar-settings.ts';
import { startHealthApp } from '../fixtures/health-app.ts';
import { startOne, writeCredential } from '../fixtures/mesh.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { freePort, type Owner, tempDir } from '../fixtures/process.ts';

async function listening(t: Owner, server: Server, path?: string): Promise<number> {
  await new Promise<void>((resolve) =>
    path === undefined ? server.listen(0, '127.0.0.1', resolve) : server.listen(path, resolve),
  );
  t.teardown(() => server.close());
  return path === undefined ? (server.address() as AddressInfo).port : 0;
}

/** `inbound:` entries, each with its policy port, its app, and more YAML. */
async function withPorts(entries: readonly string[]): Promise<string> {
  const ports = await Promise.all(entries.map(() => freePort()));
  return entries.map((one, index) => `{ port: ${ports[index]}, bind: 127.0.0.1, ${one} }`).join(', ');
}

/** Starts a sidecar before apps and returns what its health port answers at a path. */
async function start(
  t: Owner,
  entries: readonly string[],
  more = '',
): Promise<(path: string, method?: string) => Promise<{ status: number; body: string }>> {
  const dir = tempDir(t);
  const authority = await createAuthority('demo.test');
  writeCredential(dir, 'orders', await createCredential(authority, 'spiffe://demo.test/ns/shop/sa/orders'));
  writeFileSync(join(dir, 'bundle.pem'), authority.bundlePem);
  const health = await freePort();
  const file = join(dir, 'orders.yaml');
  writeFileSync(
    file,
    `trustDomain: demo.test
workload: { namespace: shop, serviceAccount: orders }
identity: { files: { svid: orders.pem, key: orders.key, bundle: bundle.pem } }
accessLog: orders.log
limits: { drainMinimum: 0s }
health: 127.0.0.1:${health}
inbound: [${await withPorts(entries)}]
${more}`,
  );
  await startOne(t, file);
  return async (path, method = 'GET') => {
    const answer = await fetch(`http://127.0.0.1:${health}${path}`, { method, redirect: 'manual' });
    return { status: answer.status, body: await answer.text() };
  };
}

t.test("HTTP: only the app's status, separately for each port", async (t) => {
  const seen: string[] = [];
  const app =
    (name: string): RequestListener =>
    (request, response) => {
      seen.push(`${name} ${request.method} ${request.url} ${request.headers.host}`);
      const [, code] = /(\d{3})$/.exec(request.url ?? '') ?? [];
      response.writeHead(Number(code ?? 200), { location: 'http://127.0.0.1:1/', 'x-secret': 'y' }).end('a secret');
    };
  const one = await listening(t, createServer(app('one')));
  const two = await listening(
    t,
    createHttp2Server((request, response) => app('two')(request as never, response as never)),
  );
  const path = join(tempDir(t), 'app.sock');
  await listening(t, createServer(app('three')), path);
  const ask = await start(t, [
    `app: "127.0.0.1:${one}", policyPort: 8080, appHealth: /ready?deep=1`,
    `app: "127.0.0.1:${two}", policyPort: 8081, protocol: http2, appHealth: { httpGet: { path: /live/418 } }`,
    `app: "unix:${path}", policyPort: 8082, appHealth: { httpGet: {} }`,
    `app: "127.0.0.1:${one}", policyPort: 8083, appHealth: /moved/302`,
    `app: "127.0.0.1:${one}", policyPort: 8084, appHealth: /broken/503`,
    `app: "127.0.0.1:1", policyPort: 8085, appHealth: /gone`,
    `app: "127.0.0.1:${one}", policyPort: 8086`,
  ]);
  for (const [page, status] of [
    ['/app-health/8080', 200],
    ['/app-health', 200],
    ['/app-health/8081', 418],
    ['/app-health/8082', 200],
    // As for a kubelet: a status below 400 is good, and redirects are not followed.
    ['/app-health/8083', 200],
    ['/app-health/8084', 503],
    ['/app-health/8085', 503],
  ] as const)
    t.strictSame(await ask(page), { status, body: '' }, page);
  t.strictSame(seen, [
    `one GET /ready?deep=1 127.0.0.1:${one}`,
    `one GET /ready?deep=1 127.0.0.1:${one}`,
    `two GET /live/418 undefined`,
    'three GET / localhost',
    `one GET /moved/302 127.0.0.1:${one}`,
    `one GET /broken/503 127.0.0.1:${one}`,
  ]);
  for (const none of ['/app-health/8086', '/app-health/1', '/app-health/', '/app-health/8080/x', '/app-health/08080'])
    t.equal((await ask(none)).status, 404, none);
});

t.test('gRPC: Health/Check with the name of a service', async (t) => {
  const app = await startHealthApp(t, {
    '': 'SERVING',
    orders: 'SERVING',
    busy: 'NOT_SERVING',
    odd: 'UNKNOWN',
    away: { code: 14 },
    mute: 'silence',
  });
  const without = await startHealthApp(t, {});
  const grpc = (port: number, policyPort: number, service: string, protocol = 'grpc'): string =>
    `app: "127.0.0.1:${port}", policyPort: ${policyPort}, protocol: ${protocol}, appHealth: { grpc: ${service}, timeout: 300ms }`;
  const ask = await start(t, [
    grpc(app.port, 1, '{}'),
    grpc(app.port, 2, '{ service: orders }', 'http2'),
    grpc(app.port, 3, '{ service: busy }'),
    grpc(app.port, 4, '{ service: odd }'),
    grpc(app.port, 5, '{ service: away }'),
    grpc(app.port, 6, '{ service: nobody }'),
    grpc(app.port, 7, '{ service: mute }'),
    grpc(without.port, 8, '{}'),
    grpc(1, 9, '{}'),
    grpc(app.port, 10, '{ service: orders }', 'tcp'),
  ]);
  const expected = [200, 200, 503, 503, 503, 503, 503, 503, 503, 200];
  for (const [index, status] of expected.entries())
    t.strictSame(await ask(`/app-health/${index + 1}`), { status, body: '' }, `/app-health/${index + 1}`);
  t.strictSame(app.asked, ['', 'orders', 'busy', 'odd', 'away', 'nobody', 'mute', 'orders']);
});

t.test('TCP: whether the app accepts a connection', async (t) => {
  const app = await listening(
    t,
    createNetServer((socket) => socket.on('error', () => {})),
  );
  const ask = await start(t, [
    `app: "127.0.0.1:${app}", policyPort: 1, protocol: tcp, appHealth: { tcpSocket: {} }`,
    `app: "127.0.0.1:1", policyPort: 2, protocol: tcp, appHealth: { tcpSocket: {} }`,
  ]);
  t.strictSame(await ask('/app-health/1'), { status: 200, body: '' });
  t.strictSame(await ask('/app-health/2'), { status: 503, body: '' });
});

t.test('one setting for a sidecar with one app still works', async (t) => {
  const app = await listening(
    t,
    createServer((request, response) => response.writeHead(request.url === '/healthz' ? 204 : 500).end()),
  );
  const ask = await start(t, [`app: "127.0.0.1:${app}", policyPort: 8080`], 'appHealth: /healthz\n');
  for (const page of ['/app-health', '/app-health/8080'])
    t.strictSame(await ask(page), { status: 204, body: '' }, page);
});

t.test('without a probe there is no page for it', async (t) => {
  const ask = await start(t, ['app: "127.0.0.1:1", policyPort: 8080']);
  const { status, body } = await ask('/app-health');
  t.equal(status, 404);
  t.match(body, /appHealth/, 'the hint names the setting');
});

t.test('an invalid probe is refused at load', async (t) => {
  const read = (inbound: string, more = ''): string => {
    try {
      parseSettings(
        `trustDomain: demo.test\nworkload: { serviceAccount: s }\nidentity: { files: { svid: a, key: b, bundle: c } }\ninbound: [${inbound}]\n${more}`,
        'x.yaml',
      );
      return 'taken';
    } catch (error) {
      return (error as { problems: { line: number; column: number; message: string }[] }).problems
        .map(({ line, column, message }) => `${line}:${column} ${message}`)
        .join('\n');
    }
  };
  const entry = (more: string, port = 1): string => `{ port: ${port}, app: "127.0.0.1:${port}", ${more} }`;
  t.equal(read(entry('appHealth: /a')), 'taken');
  for (const [inbound, expected, more] of [
    [entry('appHealth: a'), /4:53 inbound\[0\]\.appHealth: .*begins with '\/'/],
    [entry('appHealth: "/a b"'), /begins with '\/'/],
    [entry('appHealth: "/a#b"'), /begins with '\/'/],
    [entry('appHealth: "/a\\r\\nb: c"'), /begins with '\/'/],
    [entry('appHealth: { httpGet: { path: "//other.test/" } }'), 'taken'],
    [entry('appHealth: { httpGet: { path: "http://other.test/" } }'), /begins with '\/'/],
    [entry('appHealth: { httpGet: { port: 80 } }'), /unknown key 'port'/],
    [entry('appHealth: {}'), /needs exactly one of 'httpGet', 'grpc' and 'tcpSocket'/],
    [entry('appHealth: { httpGet: {}, grpc: {} }'), /needs exactly one of/],
    [entry('appHealth: { grpc: {} }'), /4:53 inbound\[0\]\.appHealth: .*gRPC.*'protocol: grpc'/],
    [entry('protocol: http2, appHealth: { grpc: { service: 1 } }'), /expected string/],
    [entry('appHealth: { httpGet: {}, timeout: 0s }'), /timeout/],
    [`${entry('appHealth: /a')}, ${entry('appHealth: /b, policyPort: 1', 2)}`, /\/app-health\/1 .*inbound\[0\]/],
    [entry('appHealth: /a'), /appHealth: .*inbound\[0\]/, 'appHealth: /b\n'],
    ['', /appHealth: .*inbound/, 'outbound: [{ port: 3 }]\nappHealth: /b\n'],
  ] as const) {
    const said = read(inbound, more);
    if (expected === 'taken') t.equal(said, 'taken', inbound);
    else t.match(said, expected, `${inbound} ${more ?? ''}`);
  }
});

t.test('checks with names, for the probes of several containers', async (t) => {
  const seen: string[] = [];
  const app = await listening(
    t,
    createServer((request, response) => {
      seen.push(`${request.url} ${request.headers.host} ${request.headers['x-probe']}`);
      response.writeHead(request.url === '/live' ? 500 : 200).end('a secret');
    }),
  );
  const grpc = await startHealthApp(t, { orders: 'SERVING' });
  const ask = await start(
    t,
    [`app: "127.0.0.1:${app}", policyPort: 8080`],
    `appProbes:
  web/livez: { port: ${app}, httpGet: { path: /live } }
  web/readyz: { port: ${app}, httpGet: { httpHeaders: [{ name: Host, value: web.test }, { name: x-probe, value: y }] } }
  web/startupz: { port: ${app}, tcpSocket: {} }
  b/readyz: { port: ${grpc.port}, grpc: { service: orders } }
  b/livez: { port: ${grpc.port}, grpc: { service: nobody } }
`,
  );
  for (const [page, status] of [
    ['web/livez', 500],
    ['web/readyz', 200],
    ['web/startupz', 200],
    ['b/readyz', 200],
    ['b/livez', 503],
    ['b/startupz', 404],
    ['constructor', 404],
    ['web', 404],
  ] as const) {
    const answer = await ask(`/app-health/${page}`);
    t.equal(answer.status, status, page);
    t.notMatch(answer.body, 'a secret');
  }
  t.strictSame(seen, [`/live 127.0.0.1:${app} undefined`, '/ web.test y']);
});
