// A resumed TLS session presents no certificate, so nothing can be checked: a client whose certificate has expired, was
// revoked, or lost its root would come in on its old ticket. Sessions are not resumed, either way; each of the three
// bypasses is tried.

import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type ConnectionOptions, connect, createServer, type TLSSocket } from 'node:tls';
import t from 'tap';
import { exchangeBytes, type Mesh, startBackend, startMesh } from '../fixtures/mesh.ts';
import { askAsPeer } from '../fixtures/peer.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { type Owner, until } from '../fixtures/process.ts';

const id = 'spiffe://demo.test/ns/shop/sa/peer';
const get = 'GET / HTTP/1.1\r\nHost: orders\r\n\r\n';

const bypasses: [string, (mesh: Mesh) => unknown][] = [
  ['its certificate has expired', () => {}],
  [
    'its root is no longer trusted',
    async ({ dir }) => writeFileSync(join(dir, 'bundle.pem'), (await createAuthority('demo.test')).bundlePem),
  ],
  [
    'it is revoked',
    ({ dir }) =>
      writeFileSync(
        join(dir, 'denied.json'),
        JSON.stringify({ sequence: 2, time: new Date().toISOString(), serials: [], ids: [id] }),
      ),
  ],
];

for (const version of ['TLSv1.3', 'TLSv1.2'] as const) {
  for (const [name, change] of bypasses) {
    t.test(`${version}: ${name}`, async (t) => {
      const backend = await startBackend(t, (socket) => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'));
      const ordersYaml = version === 'TLSv1.2' ? "tls: { minVersion: '1.2' }\n" : '';
      const mesh = await startMesh(t, { app: backend.port, ordersYaml });
      // Long enough to connect once on a slow machine, and soon over.
      const peer = await createCredential(mesh.authority, id, {
        notAfter: Date.now() + (name.includes('expired') ? 2500 : 3_600_000),
      });
      const tls = { minVersion: version, maxVersion: version } as const;
      const sessions: Buffer[] = [];
      const first = connect({
        ...{
          port: mesh.inPort,
          host: '127.0.0.1',
          cert: peer.chainPem,
          key: peer.keyPem,
          ca: mesh.authority.bundlePem,
        },
        ...{ checkServerIdentity: () => undefined, ...tls },
      });
      first.on('session', (session: Buffer) => sessions.push(session));
      first.on('error', () => {});
      await once(first, 'secureConnect');
      const held = first.getSession();
      if (held !== undefined) sessions.push(held);
      first.write(get);
      await once(first, 'data');
      await change(mesh);
      // The open connection ends, which also shows that the change is in force.
      if (!first.closed) await once(first, 'close');
      t.not(sessions.length, 0, 'the client has a session to offer');
      for (const session of sessions) {
        const again = await askAsPeer(mesh.inPort, mesh.authority, peer, get, { session, ...tls });
        t.match(again, { text: '', reused: false }, 'the session is not used');
      }
    });
  }
}

/** A server that issues tickets and reports how each client connected. */
async function startTicketServer(t: Owner, mesh: Mesh): Promise<{ port: number; resumed: boolean[] }> {
  const resumed: boolean[] = [];
  const { chainPem: cert, keyPem: key } = mesh.orders;
  const server = createServer({ cert, key, requestCert: true, rejectUnauthorized: false }, (socket: TLSSocket) => {
    resumed.push(socket.isSessionReused());
    socket.on('error', () => {});
    socket.on('data', () => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok'));
  });
  await new Promise<void>((resolve) => server.listen(mesh.inPort, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  return { port: mesh.inPort, resumed };
}

t.test('an upstream connection does not use an offered ticket', async (t) => {
  const backend = await startBackend(t, () => {});
  const mesh = await startMesh(t, { app: backend.port });
  await mesh.inbound.drain();
  const server = await startTicketServer(t, mesh);
  const request = 'GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n';
  for (let i = 0; i < 3; i++) {
    const answer = await exchangeBytes(mesh.outPort, request);
    t.match(answer, /^HTTP\/1\.1 200 /);
  }
  t.ok(server.resumed.length >= 3);
  t.notOk(server.resumed.includes(true), 'each handshake was a full one');
});

t.test('negotiated TLS parameters are in the log and the metrics, and are never guessed', async (t) => {
  const backend = await startBackend(t, (socket) =>
    socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok'),
  );
  const mesh = await startMesh(t, { app: backend.port, ordersYaml: 'tls: { groups: [X25519] }\n' });
  await exchangeBytes(mesh.outPort, 'GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n');
  const agreed = {
    tls_version: 'TLSv1.3',
    tls_cipher: 'TLS_AES_128_GCM_SHA256',
    tls_group: 'X25519',
    tls_resumed: false,
  };
  t.match((await mesh.records('orders', 1)).at(-1), agreed, 'inbound, where only one group is allowed');
  t.match(
    (await mesh.records('web', 1)).at(-1),
    { ...agreed, peer_id: 'spiffe://demo.test/ns/shop/sa/orders' },
    'dialing',
  );
  const metrics = async (port: number): Promise<string> =>
    (await fetch(`http://127.0.0.1:${port}/stats/prometheus`)).text();
  const labels = 'version="TLSv1.3",cipher="TLS_AES_128_GCM_SHA256",group="X25519"';
  t.match(await metrics(mesh.inAdmin), `sallyport_tls_handshakes_total{side="accepted",${labels}} `);
  t.match(await metrics(mesh.outAdmin), `sallyport_tls_handshakes_total{side="dialed",${labels}} `);
  const connections = (await (await fetch(`http://127.0.0.1:${mesh.inAdmin}/connections`)).json()) as object[];
  t.match(connections[0], { tlsVersion: 'TLSv1.3', tlsCipher: 'TLS_AES_128_GCM_SHA256', tlsGroup: 'X25519' });
});

t.test('a client that offers none of our groups, and one that offers TLS 1.2 with CBC', async (t) => {
  const backend = await startBackend(t, () => {});
  const mesh = await startMesh(t, { app: backend.port, ordersYaml: "tls: { minVersion: '1.2' }\n" });
  const peer = await createCredential(mesh.authority, id);
  const attempts: ConnectionOptions[] = [
    { ecdhCurve: 'P-521' },
    { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES128-SHA256' },
    { maxVersion: 'TLSv1.2', ciphers: 'AES128-GCM-SHA256' },
  ];
  for (const options of attempts) {
    const { error, text } = await askAsPeer(mesh.inPort, mesh.authority, peer, get, options);
    t.ok(error, JSON.stringify(options));
    t.equal(text, '');
  }
  await until(() => mesh.lines.filter((one) => one['code'] === 'tls_handshake_failed').length >= 3, 'three lines');
});
