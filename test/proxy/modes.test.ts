// STRICT, PERMISSIVE and DISABLE on real ports: which clients are admitted, with which identity, and what the operator
// sees.

import { once } from 'node:events';
import { connect as connectHttp2 } from 'node:http2';
import { connect } from 'node:net';
import { connect as connectTls } from 'node:tls';
import t from 'tap';
import { meshAlpn } from '../../sidecar/policy/mtls.ts';
import { sniff } from '../../sidecar/protocol/sniff.ts';
import { runCommand } from '../fixtures/command.ts';
import { allowAll, exchangeBytes, type Mesh, startBackend, startMesh } from '../fixtures/mesh.ts';
import { createCredential } from '../fixtures/pki.ts';
import { type Owner, until } from '../fixtures/process.ts';

const mode = (of: string): string =>
  `---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: { name: shop, namespace: shop }\nspec: { mtls: { mode: ${of} } }\n`;

const app = (t: Owner) =>
  startBackend(t, (socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok'));

const plain = (mesh: Mesh, fields = ''): Promise<string> =>
  exchangeBytes(mesh.inPort, `GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n${fields}\r\n`);

const viaMtls = (mesh: Mesh): Promise<string> =>
  exchangeBytes(mesh.outPort, 'GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n');

t.test('STRICT without any document: plaintext gets no byte', async (t) => {
  const backend = await app(t);
  const mesh = await startMesh(t, { app: backend.port });
  t.notMatch(await plain(mesh), /HTTP/);
  t.match(await viaMtls(mesh), /^HTTP\/1\.1 200 /);
  t.equal(backend.received.length, 1);
});

t.test('PERMISSIVE accepts both, and policy sees plaintext without an identity', async (t) => {
  const backend = await app(t);
  const mesh = await startMesh(t, { app: backend.port, policy: `${allowAll}${mode('PERMISSIVE')}` });
  t.match(await plain(mesh, 'X-Forwarded-Client-Cert: By=forged\r\n'), /^HTTP\/1\.1 200 /);
  t.notMatch(backend.received.join(''), /forged|client-cert/i, 'a plaintext peer cannot assert an identity');
  t.match(await viaMtls(mesh), /^HTTP\/1\.1 200 /);
  t.match(
    backend.received.join(''),
    /x-forwarded-client-cert: By=[^\r]+URI=spiffe:\/\/demo.test\/ns\/shop\/sa\/web\r\n/,
  );
  t.match(await mesh.records('orders', 2), [
    { peer_id: null, tls_version: null, tls_resumed: null, protocol: 'HTTP/1.1' },
    { peer_id: 'spiffe://demo.test/ns/shop/sa/web', tls_version: 'TLSv1.3' },
  ]);

  t.test('PERMISSIVE accepts both in HTTP/2 as well', async (t) => {
    const session = connectHttp2(`http://127.0.0.1:${mesh.inPort}`);
    t.teardown(() => session.destroy());
    const stream = session.request({ ':authority': 'orders', ':path': '/' });
    const [head] = (await once(stream, 'response')) as [Record<string, unknown>];
    t.equal(head[':status'], 200);
    stream.close();
  });
  t.test('bytes may arrive one at a time', async (t) => {
    const socket = connect({ port: mesh.inPort, host: '127.0.0.1', noDelay: true });
    t.teardown(() => socket.destroy());
    const text = 'GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n';
    for (const byte of text) {
      socket.write(byte);
      await new Promise((resolve) => setImmediate(resolve));
    }
    const [answer] = (await once(socket, 'data')) as [Buffer];
    t.match(answer.toString(), /^HTTP\/1\.1 200 /);
  });
  t.test('the report shows plaintext clients, how often, and since when STRICT would have refused none', async (t) => {
    const admin = `http://127.0.0.1:${mesh.inAdmin}`;
    const [port] = (await (await fetch(`${admin}/strict-report`)).json()) as Record<string, unknown>[];
    const peers = port?.['plaintextPeers'] as Record<string, unknown>[];
    t.match(port, { mode: 'PERMISSIVE', from: 'shop/shop', plaintextConnections: 3 });
    t.match(peers, [{ address: /127\.0\.0\.1$/, connections: 3 }]);
    t.equal(port?.['strictPossibleSince'], peers[0]?.['lastSeen']);
    const told = await runCommand(t, ['status', '--strict-report', '--admin', admin]);
    t.equal(told.code, 1, 'a client still uses plaintext');
    t.match(told.stdout, /PERMISSIVE +shop\/shop +\d+ +3 /);
    t.match(told.stdout, /127\.0\.0\.1 +3 +20/);
    const state = await runCommand(t, ['status', '--admin', admin]);
    t.equal(state.code, 0);
    t.match(state.stdout, /^ready\ngeneration 1, /);
  });
  t.test('a policy that requires an identity refuses plaintext', async (t) => {
    await mesh.setPolicy(
      `${allowAll.replace('rules: [{}]', 'rules: [{ from: [{ source: { principals: ["*"] } }] }]')}${mode('PERMISSIVE')}`,
    );
    t.match(await plain(mesh), /^HTTP\/1\.1 403 [\s\S]*RBAC: access denied$/);
    t.match(await viaMtls(mesh), /^HTTP\/1\.1 200 /);
  });
  t.test('open plaintext connections end when the port becomes STRICT', async (t) => {
    const socket = connect(mesh.inPort, '127.0.0.1', () => socket.write('GET / HT'));
    t.teardown(() => socket.destroy());
    await once(socket, 'connect');
    const closed = once(socket.resume(), 'close');
    await mesh.setPolicy(`${allowAll}${mode('STRICT')}`);
    await closed;
    t.notMatch(await plain(mesh), /HTTP/);
    t.match(await viaMtls(mesh), /^HTTP\/1\.1 200 /);
  });
});

t.test('a refused client is no evidence for STRICT', async (t) => {
  const backend = await app(t);
  const mesh = await startMesh(t, { app: backend.port, policy: `${allowAll}${mode('PERMISSIVE')}` });
  const seen = async (): Promise<unknown[]> => {
    const report = await fetch(`http://127.0.0.1:${mesh.inAdmin}/strict-report`);
    const [port] = (await report.json()) as Record<string, unknown>[];
    return [port?.['mtlsConnections'], port?.['plaintextConnections']];
  };
  const before = await seen();
  const socket = connectTls({
    ...{ port: mesh.inPort, host: '127.0.0.1', rejectUnauthorized: false, ALPNProtocols: [meshAlpn] },
  });
  socket.on('error', () => {}).resume();
  await once(socket, 'close');
  await until(() => mesh.lines.find((one) => one['code'] === 'svid_missing'), 'the refusal');
  t.strictSame(await seen(), before);
});

t.test('DISABLE accepts plaintext only', async (t) => {
  const mesh = await startMesh(t, { app: (await app(t)).port });
  await mesh.setPolicy(`${allowAll}${mode('DISABLE')}`);
  t.match(await plain(mesh), /^HTTP\/1\.1 200 /);
  const tls = connectTls({ port: mesh.inPort, host: '127.0.0.1', rejectUnauthorized: false });
  const [error] = (await once(tls, 'error')) as [Error];
  t.ok(error, 'a handshake gets no TLS response');
});

t.test('PERMISSIVE on a tcp port: a silent client is one whose server speaks first', async (t) => {
  const backend = await startBackend(t, (socket, soFar) => socket.write(`echo ${soFar}`));
  backend.server.on('connection', (socket) => socket.write('220 ready\r\n'));
  const mesh = await startMesh(t, {
    app: backend.port,
    protocol: 'tcp',
    policy: `${allowAll}${mode('PERMISSIVE')}`,
    limits: '{ protocolDetection: 100ms }',
  });
  t.match(await exchangeBytes(mesh.inPort, '', /220 ready/), /220 ready/, 'server first, plaintext');
  t.match(await exchangeBytes(mesh.inPort, 'hello', /echo hello/), /echo hello/, 'client first, plaintext');
  t.match(await exchangeBytes(mesh.outPort, '', /220 ready/), /220 ready/, 'by mutual TLS');
  const peer = await createCredential(mesh.authority, 'spiffe://demo.test/ns/shop/sa/peer');
  const slow = connect(mesh.inPort, '127.0.0.1');
  await once(slow, 'connect');
  const tls = connectTls({
    ...{ socket: slow, cert: peer.chainPem, key: peer.keyPem, ca: mesh.authority.bundlePem, ALPNProtocols: [meshAlpn] },
    checkServerIdentity: () => undefined,
  });
  t.teardown(() => tls.destroy());
  const [greeting] = (await once(tls, 'data')) as [Buffer];
  t.equal(greeting.toString(), '220 ready\r\n', 'a handshake within the time is accepted');
});

t.test('a silent client on a port of requests is closed in time', async (t) => {
  const mesh = await startMesh(t, {
    app: (await app(t)).port,
    policy: `${allowAll}${mode('PERMISSIVE')}`,
    limits: '{ handshake: 200ms }',
  });
  const socket = connect(mesh.inPort, '127.0.0.1');
  await once(socket.resume(), 'close');
  t.pass('it was closed');
  await until(
    async () =>
      ((await (await fetch(`http://127.0.0.1:${mesh.inAdmin}/state`)).json()) as { connections: number }).connections <=
      1,
    'it to be forgotten',
  );
});

t.test('the first bytes determine the protocol', async (t) => {
  const preface = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n';
  const cases: [string, string, string | undefined][] = [
    ['nothing', '', undefined],
    ['a ClientHello', '\x16\x03\x01\x02\x00\x01', 'tls'],
    ['the beginning of a ClientHello', '\x16\x03\x01', undefined],
    ['a handshake message other than ClientHello', '\x16\x03\x01\x02\x00\x02', 'other'],
    ['a record of an unknown version', '\x16\x02', 'other'],
    ['SSL 2', '\x80\x2e\x01', 'other'],
    ['the preface', preface, 'http2'],
    ['with frames after it', `${preface}\x00\x00`, 'http2'],
    ['half of the preface', preface.slice(0, 10), undefined],
    ['POST', 'P', undefined],
    ['POST, further', 'PO', 'other'],
    ['PRI in HTTP/1.1', 'PRI / HTTP/1.1\r\n', 'other'],
    ['GET', 'GET / HTTP/1.1', 'other'],
  ];
  for (const [name, bytes, expected] of cases) t.equal(sniff(Buffer.from(bytes, 'latin1')), expected, name);
  for (const [name, bytes, expected] of cases) {
    // However the packets are cut, the result is the same once there is one.
    const steps = Array.from(bytes, (_, index) => sniff(Buffer.from(bytes.slice(0, index + 1), 'latin1')));
    const first = steps.find((one) => one !== undefined);
    t.equal(first, expected, `${name}, byte by byte`);
  }
});
