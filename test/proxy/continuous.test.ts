// Open streams live as long as their permission: policy, deny list, bundle and certificates are re-evaluated, and
// streams that are now refused end as their protocol requires, with the reason on record.

import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { connect as connectHttp2 } from 'node:http2';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from 'node:tls';
import t from 'tap';
import { acceptOf } from '../../sidecar/protocol/websocket.ts';
import { allowAll, type Mesh, startBackend, startMesh } from '../fixtures/mesh.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { type Owner, until } from '../fixtures/process.ts';

const peerId = 'spiffe://demo.test/ns/shop/sa/peer';
const key = 'dGhlIHNhbXBsZSBub25jZQ==';
const denyAll = allowAll.replace('action: ALLOW', 'action: DENY');

/** Answers a head with what its path requests, and ends nothing. */
const openEndedApp = (t: Owner) =>
  startBackend(t, (socket, soFar) => {
    if (!soFar.endsWith('\r\n\r\n')) return;
    if (soFar.includes('GET /ws'))
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${acceptOf(key)}\r\n\r\n`,
      );
    else if (soFar.includes('GET /begun'))
      socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n');
  });

/** A peer's own connection to `orders`, and everything received on it. */
async function asPeer(
  t: Owner,
  mesh: Mesh,
  alpn: string[],
  credential = createCredential(mesh.authority, peerId),
): Promise<{ socket: TLSSocket; got: () => Buffer; closed: Promise<unknown> }> {
  const { chainPem: cert, keyPem } = await credential;
  const options: ConnectionOptions = {
    cert,
    key: keyPem,
    ca: mesh.authority.bundlePem,
    checkServerIdentity: () => undefined,
  };
  const socket = connectTls({
    ...options,
    port: mesh.inPort,
    host: '127.0.0.1',
    ...(alpn.length > 0 && { ALPNProtocols: alpn }),
  });
  t.teardown(() => socket.destroy());
  const parts: Buffer[] = [];
  socket.on('error', () => {});
  socket.on('data', (part: Buffer) => parts.push(part));
  const closed = once(socket, 'close').catch(() => {});
  await once(socket, 'secureConnect');
  return { socket, got: () => Buffer.concat(parts), closed };
}

const arrived = (backend: { received: Buffer[] }, what: string): Promise<unknown> =>
  until(() => backend.received.join('').includes(what), what);

const request = (path: string): string => `GET ${path} HTTP/1.1\r\nHost: orders\r\n\r\n`;
const upgrade = `GET /ws HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${key}\r\n\r\n`;

const changes: Record<string, { change: (mesh: Mesh) => unknown; code: string; details: RegExp }> = {
  'a policy': {
    change: (mesh) => mesh.setPolicy(denyAll),
    code: 'policy_denied',
    details: /^rbac_access_denied_matched_policy\[ns\[shop\]-policy\[allow-all\]-rule\[0\]\]$/,
  },
  'the deny-list': {
    change: (mesh) => deny(mesh, { ids: [peerId] }),
    code: 'svid_denied',
    details: /^peer_certificate_revoked$/,
  },
  'the bundle': {
    change: async (mesh) => writeFileSync(join(mesh.dir, 'bundle.pem'), (await createAuthority('demo.test')).bundlePem),
    code: 'svid_untrusted',
    details: /^peer_certificate_untrusted$/,
  },
};

function deny(mesh: Mesh, what: { ids?: string[]; serials?: string[] }): void {
  const list = { sequence: 2, time: new Date().toISOString(), serials: [], ids: [], ...what };
  writeFileSync(join(mesh.dir, 'denied.json'), JSON.stringify(list));
}

for (const [name, { change, code, details }] of Object.entries(changes)) {
  t.test(`${name} changes`, async (t) => {
    const app = await openEndedApp(t);
    const mesh = await startMesh(t, { app: app.port });
    const waiting = await asPeer(t, mesh, ['http/1.1']);
    const begun = await asPeer(t, mesh, ['http/1.1']);
    const socket = await asPeer(t, mesh, ['http/1.1']);
    const { chainPem: cert, keyPem } = await createCredential(mesh.authority, peerId);
    const session = connectHttp2(`https://127.0.0.1:${mesh.inPort}`, {
      ...{ cert, key: keyPem, ca: mesh.authority.bundlePem, checkServerIdentity: () => undefined },
    });
    t.teardown(() => session.destroy());
    session.on('error', () => {});
    waiting.socket.write(request('/waiting'));
    begun.socket.write(request('/begun'));
    socket.socket.write(upgrade);
    const stream = session.request({ ':authority': 'orders', ':path': '/begun' });
    stream.on('error', () => {});
    stream.resume();
    const reset = new Promise((resolve) => stream.on('close', resolve));
    await once(stream, 'response');
    await arrived(app, '/waiting');
    await until(() => begun.got().includes('half') && socket.got().includes('101'), 'both responses');

    await change(mesh);
    await Promise.all([waiting.closed, begun.closed, socket.closed, reset]);

    t.match(
      String(waiting.got()),
      /^HTTP\/1\.1 403 [\s\S]*\r\nConnection: close\r\n/,
      'a request without a response is refused',
    );
    t.match(String(begun.got()), /\r\n4\r\nhalf\r\n$/, 'a response that has begun is cut without its last chunk');
    t.equal(stream.rstCode, 12, 'a stream is reset: INADEQUATE_SECURITY, which gRPC reads as PERMISSION_DENIED');
    const frame = socket.got().subarray(socket.got().indexOf('\r\n\r\n') + 4);
    t.same([...frame.subarray(0, 4)], [0x88, code.length + 2, 0x03, 0xf0], 'a WebSocket gets a close frame, 1008');
    t.equal(frame.subarray(4).toString(), code);
    const toApp = app.received.find((one) => one.includes('GET /ws'))!;
    const masked = toApp.subarray(toApp.indexOf('\r\n\r\n') + 4);
    t.same([...masked.subarray(0, 2)], [0x88, 0x80 | (code.length + 2)], 'the app gets one, too, masked');
    const records = await mesh.records('orders', 4);
    t.same([...new Set(records.map((one) => one['code']))], [code], 'each record has the reason');
    for (const record of records) t.match(record['response_code_details'], details);
    const metrics = await (await fetch(`http://127.0.0.1:${mesh.inAdmin}/stats/prometheus`)).text();
    t.match(metrics, new RegExp(`sallyport_exchanges_cut_total\\{code="${code}",kind="http"\\} 3`));
    t.match(metrics, new RegExp(`sallyport_exchanges_cut_total\\{code="${code}",kind="websocket"\\} 1`));
  });
}

t.test('a TCP stream: half-close, then close, and no byte after it', async (t) => {
  const app = await startBackend(t, (socket, soFar) => socket.write(soFar));
  const mesh = await startMesh(t, { app: app.port, protocol: 'tcp' });
  const peer = await asPeer(t, mesh, []);
  peer.socket.write('x');
  await until(() => peer.got().length > 0, 'the echo');
  const ended = once(peer.socket, 'end');
  await mesh.setPolicy(denyAll);
  await ended;
  await peer.closed;
  t.match(await mesh.records('orders', 1), [
    { decision: 'deny', code: 'policy_denied', connection_termination_details: /^rbac_access_denied/ },
  ]);
});

t.test('a denied serial ends only the connections of that peer', async (t) => {
  const app = await openEndedApp(t);
  const mesh = await startMesh(t, { app: app.port });
  const denied = await createCredential(mesh.authority, peerId);
  const [first, second] = [
    await asPeer(t, mesh, ['http/1.1'], Promise.resolve(denied)),
    await asPeer(t, mesh, ['http/1.1']),
  ];
  for (const one of [first, second]) one.socket.write(request('/begun'));
  await until(() => first.got().includes('half') && second.got().includes('half'), 'both responses');
  deny(mesh, { serials: [new X509Certificate(denied.chainPem).serialNumber.toLowerCase()] });
  await first.closed;
  t.equal(second.socket.closed, false);
});

t.test("the expiry of a peer's certificate ends the peer's open streams", async (t) => {
  const app = await openEndedApp(t);
  const mesh = await startMesh(t, { app: app.port });
  const brief = await createCredential(mesh.authority, peerId, { notAfter: Date.now() + 2000 });
  const peer = await asPeer(t, mesh, ['http/1.1'], Promise.resolve(brief));
  peer.socket.write(upgrade);
  await until(() => peer.got().includes('101'), 'the tunnel');
  await peer.closed;
  t.match(await mesh.records('orders', 1), [{ code: 'svid_expired', decision: 'allow' }]);
  const metrics = await (await fetch(`http://127.0.0.1:${mesh.inAdmin}/stats/prometheus`)).text();
  t.match(metrics, /sallyport_exchanges_cut_total\{code="svid_expired",kind="websocket"\} 1$/m, 'it is counted once');
  t.equal(mesh.lines.filter((one) => one['code'] === 'svid_expired').length, 1, 'and logged once');
});

t.test('outbound requests are re-evaluated', async (t) => {
  const app = await openEndedApp(t);
  const mesh = await startMesh(t, { app: app.port });
  const open = async (): Promise<Socket> => {
    const socket = connect(mesh.outPort, '127.0.0.1', () => socket.write(upgrade));
    socket.on('error', () => {});
    t.teardown(() => socket.destroy());
    await once(socket, 'data');
    socket.resume();
    return socket;
  };
  const denied = await open();
  const closed = once(denied, 'close');
  deny(mesh, { ids: ['spiffe://demo.test/ns/shop/sa/orders'] });
  await closed;
  t.match(
    (await mesh.records('web', 1)).at(-1),
    { code: 'upstream_identity', decision: 'allow' },
    'the upstream is denied',
  );
});

t.test('eight hundred open streams are re-evaluated, each of them', async (t) => {
  let answers = 0;
  const app = createServer((_req, res) => {
    answers++;
    res.writeHead(200);
    res.write('begun');
  });
  await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    app.closeAllConnections();
    app.close();
  });
  const mesh = await startMesh(t, { app: (app.address() as { port: number }).port });
  const { chainPem: cert, keyPem } = await createCredential(mesh.authority, peerId);
  const sessions = Array.from({ length: 4 }, () =>
    connectHttp2(`https://127.0.0.1:${mesh.inPort}`, {
      ...{ cert, key: keyPem, ca: mesh.authority.bundlePem, checkServerIdentity: () => undefined },
    }),
  );
  let over = 0;
  for (const session of sessions) {
    session.on('error', () => {});
    t.teardown(() => session.destroy());
    for (let i = 0; i < 200; i++) {
      const stream = session.request({ ':authority': 'orders', ':path': '/open' });
      stream.on('error', () => {});
      stream.on('close', () => over++);
      stream.resume();
    }
  }
  await until(() => answers === 800, 'eight hundred responses');
  await mesh.setPolicy(denyAll);
  await until(() => over === 800, 'all of them to end');
  t.equal((await mesh.records('orders', 800)).filter((one) => one['code'] === 'policy_denied').length, 800);
});
