// Which peers are admitted: those with the right certificate, and no others. A refused peer gets no byte; the log and a
// metric give the reason.

import { X509Certificate } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { exchangeBytes, startBackend, startMesh, writeCredential } from '../fixtures/mesh.ts';
import { askAsPeer } from '../fixtures/peer.ts';
import { type Credential, createAuthority, createCredential } from '../fixtures/pki.ts';
import { until } from '../fixtures/process.ts';

const hour = 3_600_000;
const id = 'spiffe://demo.test/ns/shop/sa/peer';
const get = 'GET / HTTP/1.1\r\nHost: orders\r\n\r\n';
const ok = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';

t.test('peers', async (t) => {
  const backend = await startBackend(t, (socket) => socket.write(ok));
  const mesh = await startMesh(t, { app: backend.port });
  const { authority } = mesh;
  const now = Date.now();

  t.test('the right peer is served', async (t) => {
    const got = await askAsPeer(mesh.inPort, authority, await createCredential(authority, id), get, { done: /ok$/ });
    t.match(got, { text: /^HTTP\/1\.1 200 /, protocol: 'TLSv1.3', error: undefined });
  });

  const namesake = await createAuthority('demo.test');
  const elsewhere = await createAuthority('other.test');
  const wrong: [string, Credential | undefined, string, RegExp][] = [
    ['none', undefined, 'svid_missing', /presented no certificate/],
    [
      'expired',
      await createCredential(authority, id, { notBefore: now - 2 * hour, notAfter: now - hour }),
      'svid_expired',
      /expired at .*; now it is /,
    ],
    [
      'just expired',
      await createCredential(authority, id, { notBefore: now - hour, notAfter: now - 60_000 }),
      'svid_expired',
      /clock skew\?/,
    ],
    [
      'not yet valid',
      await createCredential(authority, id, { notBefore: now + hour, notAfter: now + 2 * hour }),
      'svid_not_yet_valid',
      /is not valid before /,
    ],
    [
      'foreign: a CA of the same name',
      await createCredential(namesake, id),
      'svid_untrusted',
      /no valid path leads from/,
    ],
    [
      'foreign: another trust domain',
      await createCredential(elsewhere, 'spiffe://other.test/ns/shop/sa/peer'),
      'svid_untrusted',
      /no bundle for the trust domain/,
    ],
    [
      'foreign: another domain named by our CA',
      await createCredential(authority, 'spiffe://other.test/ns/shop/sa/peer'),
      'svid_untrusted',
      /no bundle for the trust domain/,
    ],
    ['CA-flagged', await createCredential(authority, id, { ca: {} }), 'svid_invalid', /rule not-a-ca/],
    ['two URIs', await createCredential(authority, id, { uris: [id, `${id}2`] }), 'svid_invalid', /rule one-uri/],
    ['no path', await createCredential(authority, 'spiffe://demo.test'), 'svid_invalid', /rule id-path/],
    [
      'a path with a dot segment',
      await createCredential(authority, 'spiffe://demo.test/a/../b'),
      'svid_invalid',
      /rule spiffe-id/,
    ],
    ['not SPIFFE', await createCredential(authority, 'https://demo.test/a'), 'svid_invalid', /rule spiffe-id/],
    ['no URI', await createCredential(authority, id, { uris: [], dns: ['peer.test'] }), 'svid_invalid', /rule one-uri/],
    [
      'may sign certificates',
      await createCredential(authority, id, { keyUsage: ['digitalSignature', 'keyCertSign'] }),
      'svid_invalid',
      /rule no-signing/,
    ],
    [
      'for servers only',
      await createCredential(authority, id, { tlsUsage: ['serverAuth'] }),
      'svid_invalid',
      /rule tls-usage/,
    ],
  ];
  for (const [name, credential, code, reason] of wrong) {
    t.test(`refused: ${name}`, async (t) => {
      const before = mesh.lines.length;
      const got = await askAsPeer(mesh.inPort, authority, credential, get);
      t.equal(got.text, '', 'not a byte comes back');
      const line = await until(
        () => mesh.lines.slice(before).find((one) => one['code'] === code),
        `a log line with ${code}`,
      );
      t.match(line['msg'], reason);
    });
  }

  t.test('each refusal is counted by its code', async (t) => {
    const metrics = await (await fetch(`http://127.0.0.1:${mesh.inAdmin}/stats/prometheus`)).text();
    t.match(metrics, /sallyport_connections_refused_total\{code="svid_invalid"\} 8/);
    t.match(metrics, /sallyport_connections_refused_total\{code="svid_missing"\} 1/);
  });

  t.test('a denied ID and a denied serial are refused on open and new connections', async (t) => {
    const peer = await createCredential(authority, id);
    const arrived = (): number => backend.received.reduce((sum, bytes) => sum + bytes.length, 0);
    const before = arrived();
    const open = askAsPeer(mesh.inPort, authority, peer, get);
    await until(() => arrived() > before, 'the request of the connection that stays open');
    writeFileSync(
      join(mesh.dir, 'denied.json'),
      JSON.stringify({ sequence: 2, time: new Date().toISOString(), serials: [], ids: [id] }),
    );
    t.match((await open).text, /200 OK/);
    t.match(
      mesh.lines.find((one) => one['connections'] === 1),
      { code: 'svid_denied', msg: `open connections of ${id} closed: ${id} is on the deny list` },
    );
    const said = mesh.lines.length;
    t.equal((await askAsPeer(mesh.inPort, authority, peer, get)).text, '');
    t.ok(await until(() => mesh.lines.slice(said).find((one) => one['code'] === 'svid_denied'), 'the refusal'));
    writeFileSync(
      join(mesh.dir, 'denied.json'),
      JSON.stringify({ sequence: 3, time: new Date().toISOString(), serials: [], ids: [] }),
    );
    await until(
      async () => (await askAsPeer(mesh.inPort, authority, peer, get, { done: /ok$/ })).text !== '',
      'the peer to be allowed again',
    );
    const serial = new X509Certificate(peer.chain[0]!).serialNumber.toLowerCase();
    writeFileSync(
      join(mesh.dir, 'denied.json'),
      JSON.stringify({ sequence: 4, time: new Date().toISOString(), serials: [serial], ids: [] }),
    );
    await until(
      async () => (await askAsPeer(mesh.inPort, authority, peer, get, { done: /ok$/ })).text === '',
      'the serial to be denied',
    );
    const other = await createCredential(authority, id);
    t.match(
      (await askAsPeer(mesh.inPort, authority, other, get, { done: /ok$/ })).text,
      /200 OK/,
      'no other peer is refused',
    );
  });

  t.test('TLS 1.2 is refused, before and after a rotation, and nothing is resumed', async (t) => {
    const peer = await createCredential(authority, id);
    const old = (): Promise<{ error: string | undefined }> =>
      askAsPeer(mesh.inPort, authority, peer, get, { maxVersion: 'TLSv1.2' });
    t.match((await old()).error, /ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION|ERR_SSL/);
    const loaded = (): number => mesh.lines.filter((one) => one['code'] === 'identity_loaded').length;
    const before = loaded();
    writeCredential(mesh.dir, 'orders', await createCredential(authority, 'spiffe://demo.test/ns/shop/sa/orders'));
    await until(() => loaded() > before, 'the new SVID');
    t.match((await old()).error, /ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION|ERR_SSL/);
    let session: Buffer | undefined;
    const first = await askAsPeer(mesh.inPort, authority, peer, get, { done: /ok$/ });
    t.equal(first.reused, false);
    const { connect: connectTls } = await import('node:tls');
    await new Promise<void>((resolve) => {
      const socket = connectTls(
        {
          host: '127.0.0.1',
          port: mesh.inPort,
          ca: authority.bundlePem,
          cert: peer.chainPem,
          key: peer.keyPem,
          checkServerIdentity: () => undefined,
        },
        () => {
          session = socket.getSession();
          socket.write(get);
        },
      );
      socket.on('session', (ticket) => {
        session = ticket;
      });
      socket.on('data', () => socket.destroy());
      socket.on('close', () => resolve());
    });
    const second = await askAsPeer(mesh.inPort, authority, peer, get, {
      done: /ok$/,
      ...(session === undefined ? {} : { session }),
    });
    t.match(second, { reused: false, text: /200 OK/ });
  });

  t.test('garbage instead of a ClientHello harms no other connection', async (t) => {
    for (const bytes of [
      Buffer.from('GET / HTTP/1.1\r\n\r\n'),
      Buffer.alloc(4096, 0xff),
      Buffer.from([22, 3, 1, 255, 255, 1]),
    ]) {
      const socket = connect(mesh.inPort, '127.0.0.1', () => socket.end(bytes));
      socket.on('error', () => {});
      socket.resume();
      await new Promise((resolve) => socket.once('close', resolve));
    }
    const got = await askAsPeer(mesh.inPort, authority, await createCredential(authority, id), get, { done: /ok$/ });
    t.match(got.text, /200 OK/);
  });
});

t.test('half a ClientHello is cut at the handshake limit', async (t) => {
  const backend = await startBackend(t, (socket) => socket.write(ok));
  const mesh = await startMesh(t, { app: backend.port, limits: '{ handshake: 200ms }' });
  const socket = connect(mesh.inPort, '127.0.0.1', () =>
    socket.write(Buffer.from([22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3])),
  );
  socket.on('error', () => {});
  socket.resume();
  await new Promise((resolve) => socket.once('close', resolve));
  t.ok(await until(() => mesh.lines.find((one) => one['code'] === 'tls_handshake_failed'), 'the log line'));
});

t.test('a server with another identity gets no request', async (t) => {
  const backend = await startBackend(t, (socket) => socket.write(ok));
  const mesh = await startMesh(t, { app: backend.port });
  writeCredential(mesh.dir, 'orders', await createCredential(mesh.authority, 'spiffe://demo.test/ns/shop/sa/impostor'));
  await until(() => mesh.lines.some((one) => String(one['msg']).includes('impostor')), 'the impostor to be loaded');
  // A new SVID of our own makes new connections, and these verify the peer again.
  writeCredential(mesh.dir, 'web', await createCredential(mesh.authority, 'spiffe://demo.test/ns/shop/sa/web'));
  const ask = (): Promise<string> =>
    exchangeBytes(mesh.outPort, 'GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n');
  await until(async () => (await ask()).startsWith('HTTP/1.1 503 '), 'the refusal');
  const before = backend.received.length;
  t.match(await ask(), /^HTTP\/1\.1 503 /);
  const record = (await mesh.records('web', 2)).at(-1);
  t.match(record, {
    response_flags: 'UF',
    code: 'upstream_identity',
    upstream_transport_failure_reason:
      'the upstream is spiffe://demo.test/ns/shop/sa/impostor, expected spiffe://demo.test/ns/shop/sa/orders',
  });
  t.equal(backend.received.length, before);
});
