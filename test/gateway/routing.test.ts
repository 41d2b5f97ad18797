// Requests through a running gateway: which rule gets them, and what becomes of them on their way.

import t from 'tap';
import { ask, startEcho } from '../fixtures/echo.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { asArrived, exchangeBytes, startBackend } from '../fixtures/mesh.ts';
import { markedRule, routeOf, webGateway } from '../fixtures/plan.ts';

const ok = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-From: app\r\n\r\nok';

t.test("the README's document works unchanged", async (t) => {
  const app = await startBackend(t, (socket, soFar) => soFar.endsWith('\r\n\r\n') && socket.write(ok));
  const gateway = await startTestGateway(t, {
    listeners: ['default/my-api-gateway:80'],
    yaml: `upstreams: { users: { endpoints: ["127.0.0.1:${app.port}"] } }\nbackends: { default/user-service:80: users }\n`,
    documents: `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: my-api-gateway }
spec: { gatewayClassName: x, listeners: [{ name: http, port: 80, protocol: HTTP }] }
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: HTTPRoute
metadata: { name: public-api-route }
spec:
  parentRefs: [{ name: my-api-gateway }]
  hostnames: ["api.obsqura.com"]
  rules:
  - matches: [{ path: { type: Prefix, value: /users } }]
    filters:
    - type: RequestHeader
      requestHeader: { add: { X-Auth-Verified: "true" } }
    - type: RequestRateLimit
      requestRateLimit: { rules: [{ limit: 100, period: 60s, burst: 20 }] }
    backendRefs: [{ name: user-service, port: 80 }]
`,
  });
  const port = gateway.port('default/my-api-gateway:80');
  const answer = await exchangeBytes(
    port,
    'GET /users/1?x=2 HTTP/1.1\r\nHost: api.obsqura.com\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n',
    /ok$/,
  );
  t.match(answer, /^HTTP\/1\.1 200 OK\r\n/);
  t.match(answer, /RateLimit-Limit: 100\r\n/i);
  t.equal(
    asArrived(app.received),
    'GET /users/1?x=2 HTTP/1.1\r\nHost: api.obsqura.com\r\nx-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\nx-forwarded-host: api.obsqura.com\r\nX-Auth-Verified: true\r\nx-request-id: *\r\n\r\n',
  );
  const refused = await exchangeBytes(
    port,
    'GET /userss HTTP/1.1\r\nHost: api.obsqura.com\r\nConnection: close\r\n\r\n',
  );
  t.match(refused, /^HTTP\/1\.1 404 /);
});

const yamlFor = (app: number, more = ''): string =>
  `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a, others/a:80: a }\n${more}`;

t.test('paths are routed as the app gets them: normalized first', async (t) => {
  const app = await startEcho(t, 'a');
  const cases: Readonly<Record<string, readonly [asked: string, mark: string, path: string][]>> = {
    BASE: [
      ['/admin', 'admin', '/admin'],
      ['/a/../admin', 'admin', '/admin'],
      ['/./admin/./x', 'admin', '/admin/x'],
      ['/%61dmin', 'admin', '/admin'],
      ['/x/%2e%2e/admin', 'admin', '/admin'],
      ['/x\\..\\admin', 'admin', '/admin'],
      ['/admin?x=/../y', 'admin', '/admin?x=/../y'],
      ['/admin%2Fx', 'any', '/admin%2Fx'],
      ['/ADMIN', 'any', '/ADMIN'],
      ['/admin/../x', 'any', '/x'],
    ],
    MERGE_SLASHES: [
      ['//admin', 'admin', '/admin'],
      ['/a/..//admin', 'admin', '/admin'],
      ['///admin//x', 'admin', '/admin/x'],
    ],
    DECODE_AND_MERGE_SLASHES: [
      ['/%2fadmin', 'admin', '/admin'],
      ['/x%2f..%2fadmin', 'admin', '/admin'],
    ],
  };
  const check = async (normalization: string, list: (typeof cases)[string]): Promise<void> => {
    const gateway = await startTestGateway(t, {
      listeners: ['shop/g:80'],
      yaml: yamlFor(app, `pathNormalization: { normalization: ${normalization} }\n`),
      documents:
        webGateway +
        routeOf('r', markedRule('{ path: { value: /admin } }', 'admin'), markedRule('{ path: { value: / } }', 'any')),
    });
    const port = gateway.port('shop/g:80');
    for (const [asked, mark, path] of list) {
      const answer = await exchangeBytes(port, `GET ${asked} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n`);
      t.match(answer, `"x-mark":"${mark}"`, `${normalization} ${asked}`);
      t.match(answer, `"path":"${path.replaceAll('\\', '\\\\')}"`, asked);
    }
    for (const bad of ['/a/../../admin', '/%00', '/%', '/a#b'])
      t.match(await exchangeBytes(port, `GET ${bad} HTTP/1.1\r\nHost: a\r\n\r\n`, /\r\n\r\n/), /^HTTP\/1\.1 400 /, bad);
  };
  await Promise.all(Object.entries(cases).map(([normalization, list]) => check(normalization, list!)));
});

/** Headers in which clients state who they are and where they come from. */
const lies = {
  host: 'a.test',
  'x-forwarded-for': '6.6.6.6, 7.7.7.7',
  'x-forwarded-proto': 'https',
  'x-forwarded-host': 'inside.test',
  'x-forwarded-port': '1',
  forwarded: 'for=6.6.6.6',
  'x-real-ip': '6.6.6.6',
  'x-request-id': 'mine',
  'x-forwarded-client-cert': 'URI=spiffe://demo.test/ns/shop/sa/admin',
  x_forwarded_client_cert: 'URI=spiffe://demo.test/ns/shop/sa/admin',
  'txn-token': 'a.b.c',
  'x-envoy-internal': 'true',
  'x-envoy-original-path': '/lie',
  'x-forwarded-user': 'admin',
  'x-remote-user': 'admin',
};

t.test('claims of a client about itself are not believed', async (t) => {
  const app = await startEcho(t, 'a');
  const documents =
    webGateway +
    routeOf(
      'r',
      markedRule('{ headers: [{ name: x-envoy-internal, value: "true" }] }', 'internal'),
      markedRule('{ headers: [{ name: x-forwarded-proto, value: https }] }', 'https'),
      markedRule('{ headers: [{ name: x-forwarded-client-cert, type: RegularExpression, value: ".+" }] }', 'proved'),
      markedRule('{ headers: [{ name: x-forwarded-user, value: admin }] }', 'user'),
      markedRule('{ path: { value: / } }', 'nobody'),
    );
  const start = async (hops: number): Promise<number> =>
    (
      await startTestGateway(t, {
        listeners: ['shop/g:80'],
        yaml: yamlFor(app, `gatewayTopology: { numTrustedProxies: ${hops} }\n`),
        documents,
      })
    ).port('shop/g:80');

  const [first, second] = await Promise.all([start(0), start(1)]);
  const alone = await ask(first, '/', { headers: lies });
  t.match(alone.echo.headers, {
    'x-mark': 'nobody',
    'x-forwarded-for': '127.0.0.1',
    'x-forwarded-proto': 'http',
    'x-forwarded-host': 'a.test',
  });
  t.match(alone.echo.headers['x-request-id'], /^[0-9a-f-]{36}$/, "the client's request ID is replaced");
  const behind = await ask(second, '/', { headers: lies });
  t.match(behind.echo.headers, {
    'x-mark': 'https',
    'x-forwarded-for': '6.6.6.6, 7.7.7.7, 127.0.0.1',
    'x-forwarded-proto': 'https',
    'x-forwarded-host': 'a.test',
    'x-request-id': 'mine',
  });
  for (const { headers } of [alone.echo, behind.echo]) {
    for (const name of [
      'forwarded',
      'x-real-ip',
      'x-forwarded-port',
      'x-forwarded-client-cert',
      'x_forwarded_client_cert',
      'txn-token',
      'x-envoy-internal',
      'x-envoy-original-path',
      'x-forwarded-user',
      'x-remote-user',
    ])
      t.equal(headers[name], undefined, name);
  }
});

t.test('a redirect behind a proxy that terminates TLS goes to the scheme, host and port of the client', async (t) => {
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: 'gatewayTopology: { numTrustedProxies: 1 }\n',
    documents:
      webGateway +
      routeOf(
        'r',
        '{ matches: [{ path: { value: /old } }], filters: [{ type: RequestRedirect, requestRedirect: { path: { type: ReplaceFullPath, replaceFullPath: /new } } }] }',
        '{ filters: [{ type: RequestRedirect, requestRedirect: { scheme: https } }] }',
      ),
  });
  const at = (path: string, proto: string): ReturnType<typeof ask> =>
    ask(gateway.port('shop/g:80'), path, { headers: { host: 'a.test', 'x-forwarded-proto': proto } });
  t.equal((await at('/old', 'https')).headers.location, 'https://a.test/new');
  t.equal((await at('/old', 'http')).headers.location, 'http://a.test/new');
  t.equal((await at('/', 'http')).headers.location, 'https://a.test/');
  t.match(await at('/', 'https'), { status: 500, text: 'redirect loop' });
});

t.test('regular expressions cost little, for any pattern and request', async (t) => {
  const app = await startEcho(t, 'a');
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: yamlFor(app),
    documents:
      webGateway +
      routeOf(
        'r',
        markedRule('{ path: { type: RegularExpression, value: "/(a+)+$" } }', 'evil'),
        markedRule('{ path: { type: RegularExpression, value: "/v[0-9]+/[^/]+" } }', 'version'),
        markedRule('{ headers: [{ name: x-a, type: RegularExpression, value: "(a|aa)+" }] }', 'header'),
        markedRule('{ queryParams: [{ name: q, type: RegularExpression, value: "[0-9]{3}" }] }', 'query'),
      ),
  });
  const at = (path: string, headers = {}): ReturnType<typeof ask> =>
    ask(gateway.port('shop/g:80'), path, { headers: { host: 'a.test', ...headers } });
  const long = 'a'.repeat(50_000);
  const started = performance.now();
  t.equal((await at(`/${long}!`)).status, 404);
  t.equal((await at('/x', { 'x-a': `${long}!` })).status, 404);
  t.ok(
    performance.now() - started < 1000,
    `${Math.round(performance.now() - started)} ms for two that go back for ever elsewhere`,
  );
  t.equal((await at(`/${'a'.repeat(9000)}`)).echo.headers['x-mark'], 'evil');
  t.equal((await at('/v12/x')).echo.headers['x-mark'], 'version');
  t.equal((await at('/x/v12/x')).status, 404, 'the whole path matches');
  t.equal((await at('/x', { 'x-a': 'aaa' })).echo.headers['x-mark'], 'header');
  t.equal((await at('/x?q=123')).echo.headers['x-mark'], 'query');
  t.equal((await at('/x?q=1234')).status, 404);
});
