// Which verdict on a chain counts: ours, the same in both directions, and never that of a pool of roots. No listener of
// the mesh has `ca`: with the roots of two domains in one pool OpenSSL accepts forged chains and refuses good ones.

import { createHash, X509Certificate } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { connect as connectTls, createServer, type TLSSocket } from 'node:tls';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { LiveCell } from '../../cert-agent/base/live.ts';
import { formatPem, onlyBundle } from '../../cert-agent/identity/bundle.ts';
import { emptyDenyList } from '../../cert-agent/identity/denied.ts';
import type { Identity } from '../../cert-agent/identity/identity.ts';
import { formatKey } from '../../cert-agent/identity/keys.ts';
import { verifyChain } from '../../cert-agent/identity/verify.ts';
import { contextOptions } from '../../sidecar/protocol/tls.ts';
import { createPeerDial } from '../../sidecar/upstream/dial.ts';
import { createServerTlsDial } from '../../sidecar/upstream/server-tls.ts';
import {
  alternativeNames,
  authorityKeyId,
  basicConstraints,
  caExtensions,
  clientAuth,
  dnsName,
  emailName,
  extendedUsage,
  extension,
  forge,
  keyId,
  keyUsage,
  leafExtensions,
  type MethodName,
  nameConstraints,
  newKey,
  serverAuth,
  uriName,
} from '../fixtures/forge.ts';
import { startStrangeClient } from '../fixtures/hostile.ts';
import { startBackend, startMesh } from '../fixtures/mesh.ts';
import { askAsPeer } from '../fixtures/peer.ts';
import { type Authority, createAuthority, createCredential, createSvid, publicKeyOf } from '../fixtures/pki.ts';
import { tempDir, until } from '../fixtures/process.ts';
import { startGatewayTarget } from '../fixtures/under-attack.ts';

const uri = 'spiffe://demo.test/ns/shop/sa/orders';
const request = 'GET / HTTP/1.1\r\nHost: orders\r\n\r\n';
const ok = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';
const settings = { minVersion: 'TLSv1.3', groups: ['X25519'] } as const;
const key = newKey();
const caKey = newKey();

interface Parts {
  readonly leaf: Buffer;
  readonly ca: Buffer;
  readonly authority: Authority;
  readonly stranger: Authority;
}

interface Case {
  readonly name: string;
  readonly good: boolean;
  readonly leaf?: readonly Buffer[];
  readonly leafMethod?: MethodName;
  readonly ca?: readonly Buffer[];
  readonly caMethod?: MethodName;
  readonly order?: (parts: Parts) => Buffer[];
}

const unknown = extension('1.3.6.1.4.1.99999.1', true, Buffer.from([5, 0]));
const withNames = (...names: Buffer[]): Buffer[] => [
  ...leafExtensions(uri).slice(0, 3),
  alternativeNames([uriName(uri), ...names], true),
];

const cases: readonly Case[] = [
  { name: 'the valid chain', good: true },
  {
    name: 'an unrelated certificate between',
    good: true,
    order: ({ leaf, stranger, ca }) => [leaf, stranger.issuer, ca],
  },
  {
    name: 'the root before its intermediate',
    good: true,
    order: ({ leaf, authority, ca }) => [leaf, authority.root, ca],
  },
  { name: 'everything twice', good: true, order: ({ leaf, ca }) => [leaf, leaf, ca, ca] },
  {
    name: 'a look-alike before the intermediate, which OpenSSL mistakes for it',
    good: false,
    order: ({ leaf, ca }) => [
      leaf,
      forge({ subject: 'ca', issuer: 'nobody', key: newKey(), by: key, extensions: caExtensions }),
      ca,
    ],
  },
  { name: 'without its intermediate', good: false, order: ({ leaf }) => [leaf] },
  {
    name: 'nine certificates',
    good: false,
    order: ({ leaf, ca, stranger, authority }) => [
      leaf,
      ca,
      stranger.issuer,
      stranger.root,
      authority.root,
      ...Array.from({ length: 4 }, () => forge({ subject: 'x', issuer: 'y', key, by: key, extensions: caExtensions })),
    ],
  },
  { name: 'a leaf signed with SHA-1', good: false, leafMethod: 'ecdsa-sha1' },
  { name: 'an intermediate signed with SHA-1', good: false, caMethod: 'ecdsa-sha1' },
  { name: 'an unknown critical extension in the leaf', good: false, leaf: [...leafExtensions(uri), unknown] },
  { name: 'an unknown critical extension in the intermediate', good: false, ca: [...caExtensions, unknown] },
  { name: 'an intermediate for clients only', good: false, ca: [...caExtensions, extendedUsage(clientAuth)] },
  { name: 'an intermediate for both sides', good: true, ca: [...caExtensions, extendedUsage(serverAuth, clientAuth)] },
  { name: 'an intermediate that is not a CA', good: false, ca: [basicConstraints(false), keyUsage(0x06)] },
  { name: 'an intermediate that may not sign', good: false, ca: [basicConstraints(true), keyUsage(0x80)] },
  { name: 'constrained to our host', good: true, ca: [...caExtensions, nameConstraints([uriName('demo.test')], [])] },
  {
    name: 'constrained to another host',
    good: false,
    ca: [...caExtensions, nameConstraints([uriName('bank.test')], [])],
  },
  { name: 'excluded from our host', good: false, ca: [...caExtensions, nameConstraints([], [uriName('demo.test')])] },
  {
    name: 'excluded from our host, not critical',
    good: false,
    ca: [...caExtensions, nameConstraints([], [uriName('demo.test')], false)],
  },
  {
    name: 'constrained to other DNS names, and the leaf has one',
    good: false,
    leaf: withNames(dnsName('orders.shop')),
    ca: [...caExtensions, nameConstraints([dnsName('bank.test')], [])],
  },
  {
    name: 'constrained to other DNS names, and the leaf has none',
    good: true,
    ca: [...caExtensions, nameConstraints([dnsName('bank.test')], [])],
  },
  {
    name: 'constraints on addresses, which are not compared here',
    good: false,
    leaf: withNames(emailName('a@demo.test')),
    ca: [...caExtensions, nameConstraints([emailName('demo.test')], [])],
  },
  {
    name: 'unreadable constraints',
    good: false,
    ca: [...caExtensions, extension('2.5.29.30', false, Buffer.from('300b'.padEnd(26, '0'), 'hex'))],
  },
  {
    name: 'two signature algorithms',
    good: false,
    order: ({ ca, authority }) =>
      [
        forge({
          subject: '',
          issuer: 'ca',
          key,
          by: caKey,
          method: 'ecdsa-sha256',
          inner: 'ecdsa-sha384',
          extensions: leafExtensions(uri),
        }),
        ca,
        authority.root,
      ].slice(0, 2),
  },
];

function chainOf(one: Case, authority: Authority, stranger: Authority): Buffer[] {
  const leaf = forge({
    ...{ subject: '', issuer: 'ca', key, by: caKey, method: one.leafMethod ?? 'ecdsa-sha256' },
    extensions: one.leaf ?? leafExtensions(uri),
  });
  const ca = forge({
    ...{ subject: 'ca', issuer: 'demo.test root', key: caKey, by: authority.rootKey },
    ...{ method: one.caMethod ?? 'ecdsa-sha256', extensions: one.ca ?? caExtensions },
  });
  return one.order?.({ leaf, ca, authority, stranger }) ?? [leaf, ca];
}

t.test("no TLS context of the mesh trusts public roots, not even Node's", async (t) => {
  const svid = await createSvid(await createAuthority('demo.test'), uri);
  t.same(contextOptions(svid, settings).ca, []);
});

t.test('both directions reach the same verdict', async (t) => {
  const backend = await startBackend(t, (socket) => socket.write(ok));
  const mesh = await startMesh(t, { app: backend.port });
  const { authority } = mesh;
  const stranger = await createAuthority('stranger.test');
  const ours: Identity = {
    svid: await createSvid(authority, 'spiffe://demo.test/ns/shop/sa/web'),
    bundles: authority.bundles,
    denied: emptyDenyList,
  } as Identity;
  for (const one of cases) {
    const chain = chainOf(one, authority, stranger);
    const shown = { chainPem: formatPem(chain), keyPem: formatKey(key) };
    const { text } = await askAsPeer(mesh.inPort, authority, shown, request, {
      done: /ok$/,
      rejectUnauthorized: false,
      // What it presents would be too weak for a client of Node itself.
      ciphers: 'DEFAULT@SECLEVEL=0',
    });
    const dialed = await dial(shown, ours);
    t.same({ in: text !== '', out: dialed === '' }, { in: one.good, out: one.good }, `${one.name}: ${dialed}`);
    if (!one.good)
      t.match(dialed, /^upstream_identity: the upstream's certificate is refused: ./, 'the log has the reason');
  }
});

/** The result of dialing a server that presents this: nothing, or the refusal. */
async function dial(shown: { chainPem: string; keyPem: string }, ours: Identity): Promise<string> {
  const sockets = new Set<TLSSocket>();
  const server = createServer(
    {
      cert: shown.chainPem,
      key: shown.keyPem,
      requestCert: true,
      rejectUnauthorized: false,
      ciphers: 'DEFAULT@SECLEVEL=0',
    },
    (socket) => {
      sockets.add(socket.on('error', () => {}));
    },
  );
  server.on('tlsClientError', () => {});
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const port = (server.address() as { port: number }).port;
  const dialPeer = createPeerDial({
    ...{ identity: new LiveCell<Identity | undefined>(ours), expected: [uri] },
    ...{ tls: settings, serverName: undefined, dialed: () => {} },
  });
  try {
    const { socket } = await dialPeer({ host: '127.0.0.1', port }, 5000, []);
    socket.destroy();
    return '';
  } catch (error) {
    return `${(error as { code: string }).code}: ${(error as Error).message}`;
  } finally {
    for (const socket of sockets) socket.destroy();
    server.close();
  }
}

t.test("a federated root with our root's name and key identifier affects none of our peers", async (t) => {
  const rootKey = newKey();
  const backend = await startBackend(t, (socket) => socket.write(ok));
  const file = join(tempDir(t), 'other.pem');
  // Written once the mesh has its root; a readable bundle must exist at the start.
  writeFileSync(file, (await createAuthority('other.test')).bundlePem);
  const mesh = await startMesh(t, { app: backend.port, ordersYaml: `federatedBundles: { other.test: ${file} }\n` });
  const own = createHash('sha1').update(publicKeyOf(mesh.authority.rootKey).subarray(-65)).digest();
  t.ok(mesh.authority.root.includes(own), 'the key identifier of our root is known');
  const twin = forge({
    ...{ subject: 'demo.test root', issuer: 'demo.test root', key: rootKey, by: rootKey },
    extensions: [...caExtensions, keyId(own)],
  });
  const good = await createCredential(mesh.authority, uri);
  t.equal(
    await authorizedByPool(good, [twin, mesh.authority.root]),
    false,
    'OpenSSL, with one pool, refuses a good peer',
  );
  const before = mesh.lines.length;
  writeFileSync(file, formatPem([twin]));
  await until(() => mesh.lines.slice(before).some(({ code }) => code === 'bundle_loaded'), 'the twin to be loaded');
  for (let i = 0; i < 12; i++) {
    const peer = await createCredential(mesh.authority, uri);
    const { text } = await askAsPeer(mesh.inPort, mesh.authority, peer, request, { done: /ok$/ });
    t.match(text, /^HTTP\/1\.1 200 /, `peer ${i + 1}`);
  }
  // And the twin's CA speaks for its own domain only.
  const theirs = forge({
    ...{ subject: '', issuer: 'demo.test root', key, by: rootKey },
    extensions: [...leafExtensions(uri), authorityKeyId(own)],
  });
  const shown = { chainPem: formatPem([theirs]), keyPem: formatKey(key) };
  t.equal((await askAsPeer(mesh.inPort, mesh.authority, shown, request)).text, '', 'one of our peers under their CA');
});

/** OpenSSL's verdict with all roots in one pool. */
async function authorizedByPool(
  shown: { chainPem: string; keyPem: string },
  roots: readonly Buffer[],
): Promise<boolean> {
  const mine = { cert: shown.chainPem, key: shown.keyPem, rejectUnauthorized: false };
  const server = createServer({ ...mine, ca: roots.map((root) => formatPem([root])), requestCert: true });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const client = connectTls({ ...mine, port: (server.address() as { port: number }).port, host: '127.0.0.1' });
  client.on('error', () => {});
  const authorized = await new Promise<boolean>((resolve) =>
    server.once('secureConnection', (socket) => {
      resolve(socket.authorized);
      socket.destroy();
    }),
  );
  client.destroy();
  server.close();
  return authorized;
}

t.test('an intermediate as the trust anchor', async (t) => {
  t.test('in a bundle', async (t) => {
    const authority = await createAuthority('demo.test');
    const { chain } = await createCredential(authority, uri);
    const bundles = onlyBundle({ ...authority.bundle, roots: [authority.issuer] });
    t.equal(verifyChain(chain, bundles, emptyDenyList, Date.now()).id.uri, uri);
    t.equal(verifyChain(chain.slice(0, 1), bundles, emptyDenyList, Date.now()).id.uri, uri);
  });

  t.test('for the clients of a gateway', async (t) => {
    const target = await startGatewayTarget(t, ({ issuer }) => formatPem([issuer]));
    const client = await startStrangeClient(t);
    const buyer = await createCredential(target.authority, target.uri);
    const got = await client.present(target.port, { name: 'a buyer', ...buyer }, target.text, target.servername);
    t.match(got, /^HTTP\/1\.1 200 /);
  });

  t.test('for a server outside the mesh', async (t) => {
    const authority = await createAuthority('backend.test');
    const server = await createCredential(authority, 'spiffe://backend.test/x', { dns: ['pay.test'] });
    const listening = createServer({ cert: server.chainPem, key: server.keyPem }, (socket) =>
      socket.on('error', () => {}),
    );
    await new Promise<void>((resolve) => listening.listen(0, '127.0.0.1', resolve));
    t.teardown(() => listening.close());
    const port = (listening.address() as { port: number }).port;
    const dialServer = createServerTlsDial({ hostname: 'pay.test', ca: formatPem([authority.issuer]), tls: settings });
    const { socket } = await dialServer({ host: '127.0.0.1', port }, 5000, []);
    t.equal((socket as TLSSocket).authorized, true);
    socket.destroy();
  });
});

t.test('an unreadable root is named and affects no other root', async (t) => {
  const authority = await createAuthority('demo.test');
  const odd = forge({ subject: 'odd', issuer: 'odd', key, by: key, extensions: [...caExtensions, ...caExtensions] });
  t.ok(new X509Certificate(odd), 'OpenSSL reads it');
  const bundles = (roots: readonly Buffer[]) => onlyBundle({ ...authority.bundle, roots });
  const { chain } = await createCredential(authority, uri);
  t.equal(verifyChain(chain, bundles([odd, authority.root]), emptyDenyList, Date.now()).id.uri, uri);
  t.throws(() => verifyChain(chain, bundles([odd]), emptyDenyList, Date.now()), {
    code: 'svid_untrusted',
    message: `no valid path leads from ${uri} to a root of demo.test; of its 1 roots 1 are not used (unreadable)`,
  });
});

t.test('the required Node version is the same everywhere', (t) => {
  const root = fileURLToPath(new URL('../..', import.meta.url));
  const read = (file: string): string => readFileSync(join(root, file), 'utf8');
  const { engines } = JSON.parse(read('package.json')) as { engines: { node: string } };
  const least = engines.node.replace('>=', '');
  t.match(engines.node, /^>=\d+\.\d+$/, 'there is no upper bound: 24.21 and 26 work');
  t.match(read('README.md'), `Node ${least} or later`);
  t.match(read('setup.mjs'), `Node ${least} or later`);
  t.match(read('sidecar/bin.mjs'), 'or later is required');
  t.match(read('Dockerfile'), /^FROM node:24\.\d+\.\d+-/m);
  t.notMatch(
    read('cert-agent/identity/own-handshake.ts'),
    /24\.20\.0/,
    'the start check requires no particular version',
  );
  t.end();
});
