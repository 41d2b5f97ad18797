// OPTIONS for a server as a whole: RFC 9112 section 3.2.4 and RFC 9110 section 9.3.7.

import t from 'tap';
import { startTestGateway } from '../fixtures/gateway.ts';
import { exchangeBytes, startBackend, startMesh } from '../fixtures/mesh.ts';
import { documentOf } from '../fixtures/plan.ts';

const ok = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok';

t.test('an absolute URI without a path is forwarded as *', async (t) => {
  const app = await startBackend(t, (socket) => socket.end(ok));
  const mesh = await startMesh(t, { app: app.port });
  const cases = [
    ['OPTIONS http://orders', 'OPTIONS *'],
    ['OPTIONS http://orders:80', 'OPTIONS *'],
    ['OPTIONS *', 'OPTIONS *'],
    ['OPTIONS http://orders/', 'OPTIONS /'],
    ['OPTIONS http://orders?a', 'OPTIONS /?a'],
    ['GET http://orders', 'GET /'],
  ] as const;
  for (const [asked, arrives] of cases) {
    const before = app.received.length;
    const answer = await exchangeBytes(mesh.outPort, `${asked} HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n`);
    t.match(answer, /^HTTP\/1\.1 200 /, asked);
    t.match(
      app.received[before],
      new RegExp(`^${arrives.replace(/[*?/]/g, '\\$&')} HTTP/1\\.1\r\n`),
      `${asked} arrives as ${arrives}`,
    );
  }
});

t.test('a gateway responds itself, for hosts that it serves', async (t) => {
  const app = await startBackend(t, (socket) => socket.end(ok));
  const gateway = await startTestGateway(t, {
    documents: {
      'g.yaml': [
        documentOf(
          'Gateway',
          'gw',
          '{ gatewayClassName: x, listeners: [{ name: a, port: 80, protocol: HTTP, hostname: a.test }] }',
        ),
        documentOf(
          'HTTPRoute',
          'r',
          '{ parentRefs: [{ name: gw }], rules: [{ backendRefs: [{ name: app, port: 80 }] }] }',
        ),
      ].join('\n---\n'),
    },
    listeners: ['shop/gw:80'],
    yaml: `upstreams: { app: { endpoints: ["127.0.0.1:${app.port}"] } }\nbackends: { shop/app:80: app }\n`,
  });
  const ask = (target: string, host: string): Promise<string> =>
    exchangeBytes(
      gateway.port('shop/gw:80'),
      `OPTIONS ${target} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`,
    );
  t.match(await ask('*', 'a.test'), /^HTTP\/1\.1 204 /);
  t.match(await ask('http://a.test', 'a.test'), /^HTTP\/1\.1 204 /);
  t.match(await ask('*', 'b.test'), /^HTTP\/1\.1 404 /, 'a host that no listener has');
  t.equal(app.received.length, 0, 'the app gets no request');
});
