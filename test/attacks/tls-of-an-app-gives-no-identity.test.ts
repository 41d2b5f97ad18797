// Kinds 2, 6 and 11: on a PERMISSIVE port a client chooses whose TLS it speaks, and must gain nothing by it. A
// connection that is passed on unread is a TCP connection without an identity: no certificate inside it counts, every
// rule that would have to read a request refuses or is no permission, and a connection with the mesh's ALPN is never
// passed on as plaintext.

import { once } from 'node:events';
import { connect } from 'node:net';
import { type ConnectionOptions, connect as connectTls } from 'node:tls';
import t from 'tap';
import { meshAlpn } from '../../sidecar/policy/mtls.ts';
import { startHttpAuthorizer } from '../fixtures/authorizer.ts';
import { allowAll, type Mesh, type MeshOptions, startMesh } from '../fixtures/mesh.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import type { Owner } from '../fixtures/process.ts';
import { askTls, helloOf, startTlsApp, type TlsApp } from '../fixtures/tls-app.ts';

const permissive =
  '---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: { name: shop, namespace: shop }\nspec: { mtls: { mode: PERMISSIVE } }\n';

const policy = (action: string, rule: string, more = ''): string => `---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: ${action.toLowerCase()}, namespace: shop }
spec: { action: ${action}, ${more}rules: [${rule}] }
`;

const request = 'GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n';

interface Started {
  readonly app: TlsApp;
  readonly mesh: Mesh;
  /** What a client of the app's own TLS gets. */
  ask(options?: ConnectionOptions): Promise<string>;
}

async function start(t: Owner, policies: string, more: Partial<MeshOptions> = {}): Promise<Started> {
  const app = await startTlsApp(t);
  const mesh = await startMesh(t, { app: app.port, policy: `${policies}${permissive}`, ...more });
  return { app, mesh, ask: (options = {}) => askTls(mesh.inPort, request, { ca: app.authority, ...options }) };
}

t.test('a mesh certificate inside of the app’s own TLS is not an identity', async (t) => {
  const { app, mesh, ask } = await start(
    t,
    policy('ALLOW', '{ from: [{ source: { principals: ["demo.test/ns/shop/sa/web"] } }] }'),
  );
  const web = await createCredential(mesh.authority, 'spiffe://demo.test/ns/shop/sa/web');
  const shown = { cert: web.chainPem, key: web.keyPem };
  for (const alpn of [[], ['h2', 'http/1.1'], ['http/1.1'], ['ISTIO'], ['istio-http/1.1x']])
    t.notMatch(
      await ask({ ...shown, ...(alpn.length === 0 ? {} : { ALPNProtocols: alpn }) }),
      /HTTP/,
      alpn.join(' ') || 'no ALPN',
    );
  t.equal(app.first.length, 0, 'the app sees no client identity');
  const [record] = await mesh.records('orders', 5);
  t.match(record, { peer_id: null, decision: 'deny', policy: 'none', code: 'policy_denied' });
});

t.test('a client that offers the mesh protocol must present a mesh certificate', async (t) => {
  const { app, mesh, ask } = await start(t, allowAll);
  const stranger = await createCredential(await createAuthority('demo.test'), 'spiffe://demo.test/ns/shop/sa/web');
  for (const [name, shown] of [
    ['no certificate', {}],
    ['a certificate of another CA', { cert: stranger.chainPem, key: stranger.keyPem }],
  ] as const)
    t.notMatch(
      await ask({ ...shown, ALPNProtocols: ['http/1.1', meshAlpn], ca: mesh.authority.bundlePem }),
      /HTTP/,
      name,
    );
  t.equal(app.first.length, 0, 'and is not treated as plaintext instead');
});

for (const [name, policies] of [
  ['DENY by path', `${allowAll}${policy('DENY', '{ to: [{ operation: { paths: [/admin] } }] }')}`],
  ['DENY by method', `${allowAll}${policy('DENY', '{ to: [{ operation: { methods: [DELETE] } }] }')}`],
  ['DENY without a token', `${allowAll}${policy('DENY', '{ from: [{ source: { notRequestPrincipals: ["*"] } }] }')}`],
  [
    'DENY of clients without an identity',
    `${allowAll}${policy('DENY', '{ from: [{ source: { notPrincipals: ["*"] } }] }')}`,
  ],
  ['ALLOW by path', policy('ALLOW', '{ to: [{ operation: { paths: ["/*"] } }] }')],
  ['ALLOW by token', policy('ALLOW', '{ from: [{ source: { requestPrincipals: ["*"] } }] }')],
  ['ALLOW by host', policy('ALLOW', '{ to: [{ operation: { hosts: ["*"] } }] }')],
] as const)
  t.test(`${name}: nothing passes unread`, async (t) => {
    const { app, ask } = await start(t, policies);
    t.notMatch(await ask(), /HTTP/);
    t.equal(app.first.length, 0);
  });

t.test('a DENY of a server name applies to every spelling and any split into records', async (t) => {
  const { app, mesh, ask } = await start(
    t,
    `${allowAll}${policy('DENY', '{ when: [{ key: connection.sni, values: [secret.test] }] }')}`,
    { limits: '{ handshake: 300ms }' },
  );
  t.match(await ask({ servername: 'open.test' }), /^HTTP\/1\.1 200 /);
  t.notMatch(await ask({ servername: 'secret.test' }), /HTTP/);
  t.notMatch(await ask({ servername: 'Secret.TEST' }), /HTTP/);
  t.equal(app.first.length, 1);

  const hello = await helloOf({ servername: 'secret.test' });
  const at = hello.indexOf('secret.test');
  const dotted = Buffer.from(hello);
  dotted.write('.ecret.test', at, 'latin1');
  const pieces: Buffer[] = [];
  for (const byte of hello.subarray(5)) pieces.push(Buffer.from([22, 3, 1, 0, 1, byte]));
  for (const [name, bytes] of [
    ['an invalid server name', dotted],
    ['a record for each byte', Buffer.concat(pieces)],
    ['half of a hello', hello.subarray(0, at + 3)],
    ['a hello that never ends', Buffer.concat(Array.from({ length: 400 }, () => Buffer.from([22, 3, 1, 0, 1, 1])))],
  ] as const) {
    const socket = connect(mesh.inPort, '127.0.0.1', () => socket.write(bytes));
    let got = 0;
    socket.on('data', (chunk: Buffer) => {
      got += chunk.length;
    });
    socket.on('error', () => {});
    await once(socket, 'close');
    t.equal(got, 0, name);
  }
  t.equal(app.first.length, 1, 'the app saw the allowed one');
});

t.test('an HTTP authorizer cannot check a stream, so the stream is refused', async (t) => {
  const authorizer = await startHttpAuthorizer(t, (_, response) => response.writeHead(200).end());
  const ordersYaml = `extensionProviders:\n  - { name: ask, envoyExtAuthzHttp: { service: 127.0.0.1, port: ${authorizer.port} } }\n`;
  const custom = `${allowAll}${policy('CUSTOM', '{}', 'provider: { name: ask }, ')}`;
  await t.test("the app's own TLS on an HTTP port", async (t) => {
    const { app, mesh, ask } = await start(t, custom, { ordersYaml });
    t.notMatch(await ask(), /HTTP/);
    t.equal(app.first.length, 0);
    t.match((await mesh.records('orders', 1))[0], { decision: 'deny', reason: /which are inside the app's own TLS/ });
  });
  await t.test("the app's own TLS is not accepted on a port that is declared tcp, as in Istio", async (t) => {
    const { ask } = await start(t, custom, { ordersYaml, protocol: 'tcp' });
    t.match(await ask(), /^HTTP\/1\.1 200 /);
  });
  t.equal(authorizer.asked.length, 0);
});

t.test('open connections are re-evaluated', async (t) => {
  const app = await startTlsApp(t, { echo: true });
  const mesh = await startMesh(t, { app: app.port, policy: `${allowAll}${permissive}` });
  const socket = connectTls({
    ...{ host: '127.0.0.1', port: mesh.inPort, ca: app.authority, checkServerIdentity: () => undefined },
  });
  socket.on('error', () => {});
  await once(socket, 'secureConnect');
  socket.write('echo');
  await once(socket, 'data');
  const closed = once(socket.resume(), 'close');
  await mesh.setPolicy(`${allowAll}${policy('DENY', '{ to: [{ operation: { paths: [/admin] } }] }')}${permissive}`);
  await closed;
  t.match((await mesh.records('orders', 1))[0], { decision: 'deny', peer_id: null, code: 'policy_denied' });
});
