// DNS names in certificates are for clients that know nothing else. A peer whose names fit and whose SPIFFE ID does not
// is refused everywhere in the mesh, and nobody chooses the names of a certificate but the operator: no CSR, no renewal.

import { createPublicKey, sign, X509Certificate } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createServer, type TLSSocket } from 'node:tls';
import t from 'tap';
import { systemClock } from '../../cert-agent/base/clock.ts';
import { caFilesOf } from '../../cert-agent/ca/directory.ts';
import { createCaClient } from '../../cert-agent/fetch.ts';
import { formatPem } from '../../cert-agent/identity/bundle.ts';
import { emptyDenyList } from '../../cert-agent/identity/denied.ts';
import { formatKey, parseKey } from '../../cert-agent/identity/keys.ts';
import { signLeaf } from '../../cert-agent/identity/leaf.ts';
import { randomSerial } from '../../cert-agent/identity/x509.ts';
import { ask, firstPem, leafOf, makeCa, newKey, startTestCa, svidOf } from '../fixtures/ca.ts';
import { startFakeCa } from '../fixtures/fake-ca.ts';
import { alternativeNames, dnsName, integer, methods, name, oid, seq, tlv, uriName } from '../fixtures/forge.ts';
import { exchangeBytes, readState, startBackend, startMesh } from '../fixtures/mesh.ts';
import { askAsPeer } from '../fixtures/peer.ts';
import { createAuthority, createCredential, publicKeyOf } from '../fixtures/pki.ts';
import { until } from '../fixtures/process.ts';

const web = 'spiffe://demo.test/ns/shop/sa/web';
const mallory = 'spiffe://demo.test/ns/shop/sa/mallory';
const ok = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';
const get = 'GET / HTTP/1.1\r\nHost: orders.shop.svc\r\nConnection: close\r\n\r\n';
/** Every name under which something knows `orders` or `web`. */
const fitting = [
  ...['orders', 'orders.shop.svc', 'localhost', 'demo.test', '*.shop.svc', 'web', 'ns.shop.sa.web.demo.test'],
  ...['spiffe://demo.test/ns/shop/sa/web', 'spiffe://demo.test/ns/shop/sa/orders'],
];

const onlyWeb = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: only-web, namespace: shop }
spec: { action: ALLOW, rules: [{ from: [{ source: { principals: [demo.test/ns/shop/sa/web] } }] }] }
`;

t.test('sidecars ignore DNS names', async (t) => {
  const backend = await startBackend(t, (socket) => socket.end(ok));
  const mesh = await startMesh(t, { app: backend.port, policy: onlyWeb });
  const { authority, dir } = mesh;

  t.test('a client with the DNS names of another identity keeps its own identity', async (t) => {
    const named = await createCredential(authority, mallory, { dns: fitting });
    const got = await askAsPeer(mesh.inPort, authority, named, get, { done: /denied$/ });
    t.match(got.text, /^HTTP\/1\.1 403 [\s\S]*RBAC: access denied$/);
    const [record] = await mesh.records('orders', 1);
    t.match(record, { peer_id: mallory });
    const own = await createCredential(authority, web, { dns: ['mallory.test'] });
    t.match((await askAsPeer(mesh.inPort, authority, own, get, { done: /ok$/ })).text, /^HTTP\/1\.1 200 /);
  });

  t.test('a client with names and no SPIFFE ID is no peer', async (t) => {
    const named = await createCredential(authority, web, { uris: [], dns: fitting });
    t.equal((await askAsPeer(mesh.inPort, authority, named, get)).text, '');
    t.match(mesh.lines.at(-1), { code: 'svid_invalid', msg: /rule one-uri/ });
  });

  t.test('a server with the name of the upstream and another SPIFFE ID gets no request', async (t) => {
    const named = await createCredential(authority, mallory, { dns: fitting });
    let got = '';
    const sockets = new Set<TLSSocket>();
    const server = createServer({
      cert: named.chainPem,
      key: named.keyPem,
      requestCert: true,
      rejectUnauthorized: false,
    });
    server.on('secureConnection', (socket: TLSSocket) => {
      sockets.add(socket);
      socket.on('error', () => {});
      socket.on('data', (chunk) => {
        got += chunk.toString('latin1');
        socket.end(ok);
      });
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    t.teardown(() => {
      for (const socket of sockets) socket.destroy();
      server.close();
    });
    const { port } = server.address() as { port: number };
    t.match(await exchangeBytes(mesh.fixedPort, get), /^HTTP\/1\.1 200 /);
    const [file, generation] = [join(dir, 'web.yaml'), (await readState(mesh.outAdmin))['generation']];
    writeFileSync(file, readFileSync(file, 'utf8').replace(`127.0.0.1:${mesh.inPort}`, `localhost:${port}`));
    mesh.outbound.reload();
    await until(async () => (await readState(mesh.outAdmin))['generation'] !== generation, 'the new upstream');
    t.match(await exchangeBytes(mesh.fixedPort, get), /^HTTP\/1\.1 503 /);
    const refused = { code: 'upstream_identity', msg: new RegExp(`${mallory}`) };
    t.match(await until(() => mesh.lines.find((one) => one['code'] === refused.code), 'the refusal'), refused);
    t.equal(got, '', 'the server received no byte');
  });
});

t.test('a server with the name of the CA and another SPIFFE ID gets no token', async (t) => {
  const authority = await createAuthority('demo.test');
  const fake = await startFakeCa(t, { authority, clock: systemClock, caId: mallory, caDns: ['localhost', 'ca.test'] });
  const url = new URL(fake.url.replace('127.0.0.1', 'localhost'));
  const { key } = await newKey();
  const trust = { bundle: authority.bundle, denied: emptyDenyList };
  const evidence = { kind: 'token', token: 'join-me', file: 'web.token' } as const;
  await t.rejects(createCaClient({ url, clock: systemClock }).fetchSvid({ trust, evidence, key }), {
    code: 'svid_untrusted',
    message: `${url.origin} is ${mallory}, not the CA spiffe://demo.test/sallyport/ca`,
  });
  t.equal(fake.requests.length, 0);
});

/** A CSR for `key` that asks for names (RFC 2985 section 5.4.2: extensionRequest). */
function greedyCsr(key: Awaited<ReturnType<typeof newKey>>['key']): string {
  const names = alternativeNames([uriName(mallory), ...fitting.slice(0, 7).map(dnsName), dnsName('pay.test')]);
  const request = seq(oid('1.2.840.113549.1.9.14'), tlv(0x31, seq(names)));
  const spki = createPublicKey(key).export({ type: 'spki', format: 'der' });
  const body = seq(integer(Buffer.from([0])), name('pay.test'), spki, tlv(0xa0, request));
  const signature = tlv(0x03, Buffer.alloc(1), sign('sha256', body, key));
  return seq(body, methods['ecdsa-sha256'].identifier, signature).toString('base64');
}

t.test('which DNS names a certificate gets', async (t) => {
  const ca = await startTestCa(t, { dir: await makeCa(t) });
  const root = readFileSync(join(ca.dir, 'bundle.pem'), 'utf8');
  for (const one of ['pay.test', 'web.test']) await ca.operator.dns.allow(one);
  const call = (path: string, body: object, svid?: { cert: string; key: string }) =>
    ask(ca.address.port, root, { path, body, ...(svid === undefined ? {} : { svid }) });

  t.test('the names of a CSR are ignored, also if they are allowed to others', async (t) => {
    const { token } = await ca.operator.createToken(web, 600_000, ['web.test']);
    const key = await newKey();
    const first = await call('/v1/svid', { csr: greedyCsr(key.key), token });
    t.equal(leafOf(first).subjectAltName, `URI:${web}, DNS:web.test`, first.text);
    const next = await newKey();
    const second = await call('/v1/svid/renew', { csr: greedyCsr(next.key) }, svidOf(first, key));
    t.equal(leafOf(second).subjectAltName, `URI:${web}, DNS:web.test`);
  });

  t.test('a request has no field for names', async (t) => {
    const { token } = await ca.operator.createToken(web, 600_000);
    const { csr } = await newKey();
    for (const field of ['dns', 'names'])
      t.match(await call('/v1/svid', { csr, token, [field]: ['pay.test'] }), { json: { code: 'body_invalid' } });
  });

  t.test('the names of an SVID that this CA has not recorded are ignored', async (t) => {
    // Of another issuer below the same root, say, or of a leaked key.
    const files = caFilesOf(ca.dir);
    const certificate = firstPem(readFileSync(files.intermediate, 'utf8'));
    const signer = { certificate, key: parseKey(readFileSync(files.intermediateKey, 'utf8'), 'key') };
    const key = await newKey();
    const span = { notBefore: Date.now() - 60_000, notAfter: Date.now() + 600_000, serial: randomSerial() };
    const leaf = signLeaf({ uri: web, dns: ['pay.test'], publicKey: publicKeyOf(key.key), ...span }, signer);
    t.ok(new X509Certificate(leaf).checkHost('pay.test'));
    const svid = { cert: formatPem([leaf, certificate]), key: formatKey(key.key) };
    const renewed = await call('/v1/svid/renew', { csr: (await newKey()).csr }, svid);
    t.equal(leafOf(renewed).subjectAltName, `URI:${web}`, 'the SVID is renewed without the names');
    t.match(ca.logged.join(''), `"code":"dns_names_left_out","id":"${web}","names":["pay.test"]`);
  });

  t.test('names belong to one token, not to all tokens of the identity', async (t) => {
    await ca.operator.createToken(web, 600_000, ['pay.test']);
    const { token } = await ca.operator.createToken(web, 600_000);
    const key = await newKey();
    const first = await call('/v1/svid', { csr: key.csr, token });
    t.equal(leafOf(first).subjectAltName, `URI:${web}`);
    const second = await call('/v1/svid/renew', { csr: (await newKey()).csr }, svidOf(first, key));
    t.equal(leafOf(second).subjectAltName, `URI:${web}`);
  });
});
