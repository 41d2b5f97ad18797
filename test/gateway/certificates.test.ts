// What a listener shows and speaks, by what the client can: of an ECDSA and an RSA certificate the one whose signatures
// it takes, and HTTP/1.0 where it offers nothing else.

import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls';
import t from 'tap';
import { formatPem } from '../../cert-agent/identity/bundle.ts';
import { formatKey } from '../../cert-agent/identity/keys.ts';
import { startEcho } from '../fixtures/echo.ts';
import { newKey } from '../fixtures/forge.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { type Credential, createAuthority, createCredential, publicKeyOf } from '../fixtures/pki.ts';
import { documentOf } from '../fixtures/plan.ts';
import { until } from '../fixtures/process.ts';

const authority = await createAuthority('outside.test');
const app = await startEcho(t, 'a');
const rsa = newKey(2048);
const ecdsaFor = (...dns: string[]): Promise<Credential> =>
  createCredential(authority, 'spiffe://outside.test/front', { dns });
const rsaFor = async (...dns: string[]): Promise<Credential> => ({
  ...(await createCredential(authority, 'spiffe://outside.test/front', { dns, publicKey: publicKeyOf(rsa) })),
  keyPem: formatKey(rsa),
});
const [bothEcdsa, bothRsa, mixedEcdsa, mixedRsa] = await Promise.all([
  ecdsaFor('both.test'),
  rsaFor('both.test'),
  ecdsaFor('one.mixed.test'),
  rsaFor('*.mixed.test'),
]);

const indent = (text: string): string => text.replace(/^(?=.)/gm, '    ');
const secret = (name: string, { chainPem, keyPem }: Credential): string =>
  `---\napiVersion: v1\nkind: Secret\nmetadata: { name: ${name}, namespace: shop }\nstringData:\n  tls.crt: |\n${indent(chainPem)}\n  tls.key: |\n${indent(keyPem)}\n`;
const https = (name: string, hostname: string, refs: string, port = 443): string =>
  `{ name: ${name}, port: ${port}, protocol: HTTPS${hostname === '' ? '' : `, hostname: "${hostname}"`}, tls: { certificateRefs: [${refs}] } }`;

const gateway = await startTestGateway(t, {
  listeners: ['shop/g:443', 'shop/g:444', 'shop/g:445'],
  yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a }\n`,
  documents: {
    'gateway.yaml':
      documentOf(
        'Gateway',
        'g',
        `{ gatewayClassName: x, listeners: [
          ${https('both', 'both.test', '{ name: both-rsa }, { name: both-ecdsa }')},
          ${https('mixed', '*.mixed.test', '{ name: mixed-rsa }, { name: mixed-ecdsa }')},
          ${https('any', '', '{ name: both-ecdsa }, { name: both-rsa }', 444)},
          ${https('anchored', '', '{ name: both-ecdsa }', 445)}],
          tls: { frontend: { default: {}, perPort: [{ port: 445, tls: { validation: { caCertificateRefs: [{ group: "", kind: ConfigMap, name: issuer }] } } }, { port: 444, tls: { validation: { mode: AllowInsecureFallback, caCertificateRefs: [{ group: "", kind: ConfigMap, name: ca }] } } }] } } }`,
      ) +
      `---\napiVersion: v1\nkind: ConfigMap\nmetadata: { name: ca, namespace: shop }\ndata:\n  ca.crt: |\n${indent(authority.bundlePem)}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: { name: issuer, namespace: shop }\ndata:\n  ca.crt: |\n${indent(formatPem([authority.issuer]))}\n`,
    'route.yaml': documentOf(
      'HTTPRoute',
      'r',
      '{ parentRefs: [{ name: g }], rules: [{ backendRefs: [{ name: a, port: 80 }] }] }',
    ),
    'secrets.yaml': secret('mixed-rsa', mixedRsa) + secret('mixed-ecdsa', mixedEcdsa) + secret('both-ecdsa', bothEcdsa),
    'rotated.yaml': secret('both-rsa', bothRsa),
  },
});

function shake(servername: string, options: ConnectionOptions, key = 'shop/g:443'): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const socket = connect({
      ...{ host: '127.0.0.1', port: gateway.port(key), ca: authority.bundlePem, checkServerIdentity: () => undefined },
      ...(servername === '' ? {} : { servername }),
      ...options,
    });
    t.teardown(() => socket.destroy());
    socket.once('secureConnect', () => resolve(socket));
    socket.once('error', reject);
  });
}

/** The type of the key that was shown, and its names. */
function shown(socket: TLSSocket): string {
  // Node gives it once.
  const leaf = socket.getPeerX509Certificate()!;
  const names = leaf.subjectAltName ?? '';
  return `${leaf.publicKey.asymmetricKeyType} ${names.split(', ').filter((one) => one.startsWith('DNS:'))}`;
}

const onlyRsa = { sigalgs: 'rsa_pss_rsae_sha256' };
const onlyEcdsa = { sigalgs: 'ecdsa_secp256r1_sha256' };
const oldRsa = { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-RSA-AES128-GCM-SHA256' } as const;
const oldEcdsa = { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES128-GCM-SHA256' } as const;

t.test('the client chooses between an ECDSA and an RSA certificate', async (t) => {
  const cases: [name: string, key: string, options: ConnectionOptions, expected: string][] = [
    ['both.test', 'shop/g:443', onlyRsa, 'rsa DNS:both.test'],
    ['both.test', 'shop/g:443', onlyEcdsa, 'ec DNS:both.test'],
    ['both.test', 'shop/g:443', oldRsa, 'rsa DNS:both.test'],
    ['both.test', 'shop/g:443', oldEcdsa, 'ec DNS:both.test'],
    // Where clients may show a certificate, each name has a context of its own.
    ['both.test', 'shop/g:444', onlyRsa, 'rsa DNS:both.test'],
    ['both.test', 'shop/g:444', onlyEcdsa, 'ec DNS:both.test'],
    ['', 'shop/g:444', onlyRsa, 'rsa DNS:both.test'],
    ['', 'shop/g:444', onlyEcdsa, 'ec DNS:both.test'],
    ['one.mixed.test', 'shop/g:443', onlyRsa, 'rsa DNS:*.mixed.test'],
    ['one.mixed.test', 'shop/g:443', onlyEcdsa, 'ec DNS:one.mixed.test'],
    ['two.mixed.test', 'shop/g:443', {}, 'rsa DNS:*.mixed.test'],
  ];
  for (const [name, key, options, expected] of cases)
    t.equal(shown(await shake(name, options, key)), expected, `${name} ${JSON.stringify(options)}`);
  await t.rejects(shake('two.mixed.test', onlyEcdsa), 'no certificate with that name can be presented to it');

  const next = await rsaFor('both.test', 'more.test');
  await gateway.write('rotated.yaml', secret('both-rsa', next));
  await until(async () => /more\.test/.test(shown(await shake('both.test', onlyRsa))), 'the new certificate');
  t.equal(shown(await shake('both.test', onlyEcdsa)), 'ec DNS:both.test', 'the other connection continues');
});

t.test('a client that offers only HTTP/1.0 by ALPN is served', async (t) => {
  for (const [offered, agreed] of [
    [['http/1.0'], 'http/1.0'],
    [['http/1.0', 'http/1.1'], 'http/1.1'],
    [['http/1.0', 'h2'], 'h2'],
  ] as const)
    t.equal((await shake('both.test', { ALPNProtocols: [...offered] })).alpnProtocol, agreed);
  const socket = await shake('both.test', { ALPNProtocols: ['http/1.0'] });
  socket.write('GET / HTTP/1.0\r\nHost: both.test\r\n\r\n');
  let said = '';
  for await (const part of socket) said += String(part);
  t.match(said, /^HTTP\/1\.[01] 200 /);
});

t.test('an intermediate as the trust anchor for clients, with and without a server name', async (t) => {
  const buyer = await createCredential(authority, 'spiffe://outside.test/buyer');
  for (const name of ['', 'both.test']) {
    const socket = await shake(name, { cert: buyer.chainPem, key: buyer.keyPem }, 'shop/g:445');
    socket.write('GET / HTTP/1.1\r\nHost: x.test\r\nConnection: close\r\n\r\n');
    let said = '';
    for await (const part of socket) said += String(part);
    t.match(said, /^HTTP\/1\.1 200 /, name);
  }
});

t.test('a certificate that OpenSSL refuses is left out, and a request for it ends no other connection', async (t) => {
  const weak = newKey(1024);
  const weakFor = async (...dns: string[]): Promise<Credential> => ({
    ...(await createCredential(authority, 'spiffe://outside.test/front', { dns, publicKey: publicKeyOf(weak) })),
    keyPem: formatKey(weak),
  });
  const [good, bad, same] = await Promise.all([ecdsaFor('good.test'), weakFor('bad.test'), weakFor('good.test')]);
  const other = await startTestGateway(t, {
    listeners: ['shop/g:443', 'shop/g:444'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a }\n`,
    documents: {
      'g.yaml':
        documentOf(
          'Gateway',
          'g',
          `{ gatewayClassName: x, listeners: [${https('two', '', '{ name: good }, { name: bad }')}, ${https('same', '', '{ name: same }, { name: good }', 444)}] }`,
        ) +
        secret('good', good) +
        secret('bad', bad) +
        secret('same', same),
      'r.yaml': documentOf(
        'HTTPRoute',
        'r',
        '{ parentRefs: [{ name: g }], rules: [{ backendRefs: [{ name: a, port: 80 }] }] }',
      ),
    },
  });
  const shakeAt = (key: string, servername: string): Promise<string> =>
    new Promise((resolve, reject) => {
      const socket = connect({
        ...{ host: '127.0.0.1', port: other.port(key), servername, ca: authority.bundlePem },
        checkServerIdentity: () => undefined,
      });
      t.teardown(() => socket.destroy());
      socket.once('secureConnect', () => resolve(shown(socket)));
      socket.once('error', reject);
    });
  for (const name of ['bad.test', 'good.test', 'bad.test'])
    t.equal(
      await shakeAt('shop/g:443', name),
      'ec DNS:good.test',
      `a client that asks for ${name} gets the available certificate`,
    );
  t.equal(
    await shakeAt('shop/g:444', 'good.test'),
    'ec DNS:good.test',
    'the valid certificate of the same name serves',
  );
  const said = other.lines.filter((one) =>
    /cannot be served: .*key of the certificate is too short/.test(String(one['msg'])),
  );
  t.ok(said.length >= 2, 'each certificate that is left out is reported');
});
