// Two trust domains, each vouched for by its own bundle only: merging the bundles would let each CA speak for the
// other.

import { once } from 'node:events';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { connect, createServer } from 'node:tls';
import t from 'tap';
import { formatPem } from '../../cert-agent/identity/bundle.ts';
import { generateKey } from '../../cert-agent/identity/keys.ts';
import { randomSerial, signCertificate } from '../../cert-agent/identity/x509.ts';
import { exchangeBytes, startBackend, startMesh, startOne } from '../fixtures/mesh.ts';
import { askAsPeer } from '../fixtures/peer.ts';
import { type Authority, type Credential, createAuthority, createCredential, publicKeyOf } from '../fixtures/pki.ts';
import { freePort, tempDir, until } from '../fixtures/process.ts';

const get = 'GET / HTTP/1.1\r\nHost: orders\r\n\r\n';
const theirs = 'spiffe://other.test/ns/bank/sa/teller';
const ours = 'spiffe://demo.test/ns/shop/sa/peer';

/** An intermediate of `by` with another domain's name, and a leaf under it. */
async function impostor(by: Authority, named: string, uri: string): Promise<Credential> {
  const key = generateKey();
  const now = Date.now();
  const der = await signCertificate(
    {
      ...{ subject: `CN=${named} issuer`, publicKey: publicKeyOf(key), serial: randomSerial(), uris: [] },
      ...{ notBefore: now - 60_000, notAfter: now + 3_600_000, keyUsage: ['keyCertSign'], ca: { pathLength: 0 } },
    },
    { key: by.rootKey, certificate: by.root },
  );
  return createCredential({ ...by, issuerKey: key, issuer: der }, uri);
}

t.test('peers of two trust domains are served', async (t) => {
  const other = await createAuthority('other.test');
  const bundleFile = join(tempDir(t), 'other.pem');
  writeFileSync(bundleFile, other.bundlePem);
  const backend = await startBackend(t, (socket) => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'));
  const mesh = await startMesh(t, {
    app: backend.port,
    ordersYaml: `federatedBundles: { other.test: ${bundleFile} }\n`,
  });
  const ask = (credential: Credential): Promise<{ text: string }> =>
    askAsPeer(mesh.inPort, mesh.authority, credential, get, { done: /ok$/ });

  t.test("each domain's peers are verified by its own CA", async (t) => {
    t.match((await ask(await createCredential(mesh.authority, ours))).text, /^HTTP\/1\.1 200 /);
    t.match((await ask(await createCredential(other, theirs))).text, /^HTTP\/1\.1 200 /);
    t.match(backend.received.at(-1)!.toString(), /URI=spiffe:\/\/other.test\/ns\/bank\/sa\/teller\r\n/);
  });

  const wrong: [string, Credential][] = [
    ['their peer under our CA', await createCredential(mesh.authority, theirs)],
    ['our peer under their CA', await createCredential(other, ours)],
    [
      'their peer under our CA, with an intermediate of their name',
      await impostor(mesh.authority, 'other.test', theirs),
    ],
    ['our peer under their CA, with an intermediate of our name', await impostor(other, 'demo.test', ours)],
  ];
  for (const [name, credential] of wrong) {
    t.test(`refused: ${name}`, async (t) => {
      t.equal(
        await authorizedByOpenSsl(credential, [mesh.authority, other]),
        true,
        'OpenSSL, with one pool of roots, would let it in',
      );
      const before = mesh.lines.length;
      t.equal((await ask(credential)).text, '');
      const line = await until(
        () => mesh.lines.slice(before).find((one) => one['code'] === 'svid_untrusted'),
        'the reason',
      );
      t.match(line['msg'], /no valid path leads from/);
    });
  }

  t.test('a broken bundle keeps the last good one; a new root ends connections of the old one', async (t) => {
    const peer = await createCredential(other, theirs);
    const socket = connect({
      ...{ port: mesh.inPort, host: '127.0.0.1', cert: peer.chainPem, key: peer.keyPem, ca: mesh.authority.bundlePem },
      checkServerIdentity: () => undefined,
    });
    socket.on('error', () => {});
    socket.write(get);
    await once(socket, 'data');
    writeFileSync(bundleFile, 'nothing');
    await until(() => mesh.lines.find((one) => one['code'] === 'bundle_empty'), 'the complaint');
    t.match((await ask(peer)).text, /^HTTP\/1\.1 200 /);
    const closed = once(socket, 'close');
    writeFileSync(bundleFile, (await createAuthority('other.test')).bundlePem);
    await closed;
    t.equal((await ask(peer)).text, '');
  });
});

t.test('upstreams of another trust domain, and a bundle that is missing at first', async (t) => {
  const other = await createAuthority('other.test');
  const authority = await createAuthority('demo.test');
  const dir = tempDir(t);
  const web = await createCredential(authority, 'spiffe://demo.test/ns/shop/sa/web');
  for (const [name, text] of Object.entries({
    'web.pem': web.chainPem,
    'web.key': web.keyPem,
    'bundle.pem': authority.bundlePem,
  }))
    writeFileSync(join(dir, name), text, { mode: 0o600 });
  const teller = await createCredential(other, theirs);
  const server = createServer(
    { cert: teller.chainPem, key: teller.keyPem, requestCert: true, rejectUnauthorized: false },
    (socket) => {
      socket.on('error', () => {});
      socket.on('data', () => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok'));
    },
  );
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  const port = await freePort();
  const yaml = (identity: string): string =>
    `trustDomain: demo.test\nworkload: { namespace: shop, serviceAccount: web }\nidentity: { files: { svid: web.pem, key: web.key, bundle: bundle.pem } }\naccessLog: web.log\nfederatedBundles: { other.test: other.pem }\noutbound: [{ port: ${port} }]\nupstreams: { bank: { endpoints: ["127.0.0.1:${(server.address() as { port: number }).port}"], identity: ${identity} } }\n`;
  writeFileSync(join(dir, 'web.yaml'), yaml(theirs));
  const starting = startOne(t, join(dir, 'web.yaml'));
  setTimeout(() => writeFileSync(join(dir, 'other.pem'), other.bundlePem), 300);
  const sidecar = await starting;
  t.ok(sidecar.readiness().ready, 'the sidecar is ready once the bundle is there');
  const bank = 'GET / HTTP/1.1\r\nHost: bank\r\nConnection: close\r\n\r\n';
  t.match(await exchangeBytes(port, bank), /^HTTP\/1\.1 200 /);
  writeFileSync(join(dir, 'web.yaml'), yaml('spiffe://other.test/ns/bank/sa/boss'));
  await until(
    async () => (await exchangeBytes(port, bank)).startsWith('HTTP/1.1 503 '),
    'another identity to be expected',
  );
  rmSync(join(dir, 'other.pem'));
});

/** The verdict of Node's own server on a client when all roots are in one list. */
async function authorizedByOpenSsl(credential: Credential, authorities: Authority[]): Promise<boolean> {
  const [own] = authorities;
  const { chainPem, keyPem } = await createCredential(own!, ours);
  const ca = formatPem(authorities.map(({ root }) => root));
  const server = createServer({ cert: chainPem, key: keyPem, ca, requestCert: true, rejectUnauthorized: false });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const client = connect({
    ...{ port: (server.address() as { port: number }).port, host: '127.0.0.1', rejectUnauthorized: false },
    ...{ cert: credential.chainPem, key: credential.keyPem },
  });
  client.on('error', () => {});
  const [socket] = (await once(server, 'secureConnection')) as [{ authorized: boolean }];
  client.destroy();
  server.close();
  return socket.authorized;
}
