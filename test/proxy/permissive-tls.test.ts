// A PERMISSIVE port before an app that speaks TLS itself: TLS with the mesh's ALPN is mutual TLS, all other TLS is the
// app's own. The cases of Istio's sidecar_simulation_test.go ("tls to tcp", "https to tcp", "tls to auto port", "https
// to auto port", and their counterparts for mTLS and plaintext), on real sockets.

import { connect as connectTls } from 'node:tls';
import t from 'tap';
import { meshAlpn, meshAlpns } from '../../sidecar/policy/mtls.ts';
import { allowAll, exchangeBytes, type Mesh, startMesh } from '../fixtures/mesh.ts';
import { askAsPeer } from '../fixtures/peer.ts';
import { createCredential } from '../fixtures/pki.ts';
import { askTls, startTlsApp, type TlsApp } from '../fixtures/tls-app.ts';

const mode = (of: string): string =>
  `---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: { name: shop, namespace: shop }\nspec: { mtls: { mode: ${of} } }\n`;

const request = 'GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n';
const web = 'spiffe://demo.test/ns/shop/sa/web';

const strictReport = async (mesh: Mesh): Promise<Record<string, unknown> | undefined> =>
  ((await (await fetch(`http://127.0.0.1:${mesh.inAdmin}/strict-report`)).json()) as Record<string, unknown>[])[0];

// Never offered alone: if agreed on, it announces bytes of Istio's own.
const alone = meshAlpns.filter((one) => one !== 'istio-peer-exchange');

/** By mutual TLS, as a peer that offers `alpn`. */
async function asPeer(mesh: Mesh, alpn: readonly string[], bytes = request): Promise<string> {
  const peer = await createCredential(mesh.authority, web);
  const { text, error } = await askAsPeer(mesh.inPort, mesh.authority, peer, bytes, {
    ALPNProtocols: [...alpn],
    done: /(?:plain|tls|echo)$/,
  });
  return error === undefined ? text : `${error} ${text}`;
}

function start(t: Parameters<typeof startMesh>[0], app: TlsApp, protocol: 'http' | 'tcp'): Promise<Mesh> {
  return startMesh(t, { app: app.port, protocol, policy: `${allowAll}${mode('PERMISSIVE')}` });
}

for (const protocol of ['tcp', 'http'] as const) {
  t.test(`${protocol}: the app's own TLS and HTTPS reach the app unchanged`, async (t) => {
    const app = await startTlsApp(t);
    const mesh = await start(t, app, protocol);
    for (const [name, options] of [
      ['without ALPN', {}],
      ['HTTPS', { ALPNProtocols: ['h2', 'http/1.1'] }],
      ['with a server name, TLS 1.2', { servername: 'Shop.Example.com', maxVersion: 'TLSv1.2' }],
    ] as const)
      t.match(
        await askTls(mesh.inPort, request, {
          ...options,
          ...('ALPNProtocols' in options ? { ALPNProtocols: [...options.ALPNProtocols] } : {}),
          ca: app.authority,
        }),
        /^HTTP\/1\.1 200 [\s\S]*tls$/,
        name,
      );
    t.strictSame(app.first, [22, 22, 22]);
    t.match(await mesh.records('orders', 3), [
      { method: null, peer_id: null, tls_version: null, decision: 'allow', requested_server_name: null },
      { method: null, peer_id: null, tls_version: null, decision: 'allow', requested_server_name: null },
      { method: null, peer_id: null, tls_version: null, requested_server_name: 'shop.example.com' },
    ]);
    t.match(
      await strictReport(mesh),
      { plaintextConnections: 3, plaintextPeers: [{ connections: 3 }] },
      'no client that STRICT would admit',
    );
  });

  t.test(`${protocol}: plaintext, our own sidecars and Istio's are served as before`, async (t) => {
    const app = await startTlsApp(t);
    const mesh = await start(t, app, protocol);
    t.match(await exchangeBytes(mesh.inPort, request), /^HTTP\/1\.1 200 [\s\S]*plain$/);
    t.match(await exchangeBytes(mesh.outPort, request), /^HTTP\/1\.1 200 [\s\S]*plain$/);
    for (const offered of [
      ...alone.map((one) => [one]),
      ['istio-http/1.1', meshAlpn, 'http/1.1'],
      ['istio-peer-exchange', meshAlpn],
      ['istio-peer-exchange', 'h2', 'http/1.1'].filter((one) => one !== 'h2' || protocol === 'tcp'),
    ])
      t.match(await asPeer(mesh, offered), /^HTTP\/1\.1 200 [\s\S]*plain$/, offered.join(' '));
    const records = await mesh.records('orders', 2 + alone.length + 3);
    t.strictSame(
      records.map((one) => one['peer_id']),
      [null, ...Array.from({ length: alone.length + 4 }, () => web)],
    );
    t.match(await strictReport(mesh), { plaintextConnections: 1 });
  });
}

t.test("the app's own TLS inside the mesh's TLS", async (t) => {
  const app = await startTlsApp(t);
  const mesh = await start(t, app, 'tcp');
  t.match(await askTls(mesh.outPort, request, { ca: app.authority }), /^HTTP\/1\.1 200 [\s\S]*tls$/);
  t.match((await mesh.records('orders', 1))[0], { peer_id: web, tls_version: 'TLSv1.3' });
});

t.test('HTTP/2 between sidecars, and from peers that offer the ALPN mark first', async (t) => {
  const app = await startTlsApp(t);
  const mesh = await start(t, app, 'http');
  t.match(await exchangeBytes(mesh.outPort, request), /^HTTP\/1\.1 200 /);
  t.match(await mesh.records('orders', 1), [{ protocol: 'HTTP/2', peer_id: web }]);
  const peer = await createCredential(mesh.authority, web);
  for (const [offered, agreed] of [
    [['h2', 'http/1.1', meshAlpn], 'h2'],
    [['istio-h2', meshAlpn, 'h2'], 'h2'],
    [['http/1.1', meshAlpn], 'http/1.1'],
    [[meshAlpn, 'http/1.1'], meshAlpn],
    [['istio-http/1.1', meshAlpn], 'istio-http/1.1'],
  ] as const) {
    const socket = connectTls({
      ...{ host: '127.0.0.1', port: mesh.inPort, ca: mesh.authority.bundlePem, ALPNProtocols: [...offered] },
      ...{ cert: peer.chainPem, key: peer.keyPem, checkServerIdentity: () => undefined },
    });
    await new Promise((resolve, reject) => socket.once('secureConnect', resolve).once('error', reject));
    t.equal(socket.alpnProtocol, agreed, offered.join(' '));
    socket.destroy();
  }
});

t.test('a change of mode: connections with the app’s own TLS end with STRICT, and stay with DISABLE', async (t) => {
  const app = await startTlsApp(t, { echo: true });
  const mesh = await start(t, app, 'http');
  const open = async (): Promise<import('node:tls').TLSSocket> => {
    const socket = connectTls({
      ...{ host: '127.0.0.1', port: mesh.inPort, ca: app.authority, checkServerIdentity: () => undefined },
    });
    socket.on('error', () => {});
    await new Promise((resolve) => socket.once('secureConnect', resolve));
    return socket;
  };
  const echoed = async (socket: import('node:tls').TLSSocket): Promise<string> => {
    socket.write('echo');
    return String(await new Promise<Buffer>((resolve) => socket.once('data', resolve)));
  };
  const socket = await open();
  await mesh.setPolicy(`${allowAll}${mode('DISABLE')}`);
  t.equal(await echoed(socket), 'echo');
  const closed = new Promise((resolve) => socket.once('close', resolve));
  await mesh.setPolicy(`${allowAll}${mode('STRICT')}`);
  await closed;
  t.match((await mesh.records('orders', 1))[0], { code: 'plaintext_refused' });
});

t.test('STRICT requires no ALPN mark', async (t) => {
  const app = await startTlsApp(t);
  const mesh = await startMesh(t, { app: app.port });
  for (const offered of [[], ['http/1.1'], ['http/1.1', meshAlpn]])
    t.match(await asPeer(mesh, offered), /^HTTP\/1\.1 200 [\s\S]*plain$/, offered.join(' ') || 'no ALPN');
  t.notMatch(await askTls(mesh.inPort, request, { ca: app.authority }), /HTTP/, "the app's own TLS gets no byte");
  t.notOk(app.first.includes(22));
});
