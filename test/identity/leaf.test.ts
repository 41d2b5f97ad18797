// The leaf's writer beside the library, byte by byte: all but the signature, which is different each time.

import { spawnSync } from 'node:child_process';
import { generateKeyPairSync, type KeyObject, X509Certificate } from 'node:crypto';
import t from 'tap';
import { formatPem } from '../../cert-agent/identity/bundle.ts';
import { readCertificateFacts } from '../../cert-agent/identity/certificate.ts';
import { DerReader } from '../../cert-agent/identity/der.ts';
import { generateKey } from '../../cert-agent/identity/keys.ts';
import { type LeafSpec, signLeaf } from '../../cert-agent/identity/leaf.ts';
import { type CertificateSpec, randomSerial, signCertificate } from '../../cert-agent/identity/x509.ts';
import { type CaSpec, publicKeyOf, writeCa } from '../fixtures/pki.ts';
import { haveCommand } from '../fixtures/tools.ts';

const keys: readonly (readonly [string, () => KeyObject])[] = [
  ['P-256', generateKey],
  ['P-384', () => generateKeyPairSync('ec', { namedCurve: 'P-384' }).privateKey],
  ['RSA', () => generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey],
];
const uri = 'spiffe://demo.test/ns/shop/sa/web';

async function issuerOf(key: KeyObject, changes: Partial<CertificateSpec> = {}) {
  const span = { notBefore: Date.now() - 1000, notAfter: Date.now() + 3_600_000 };
  const certificate = await signCertificate(
    {
      ...{ subject: 'CN=Ex\\,ample issuer,O=Ünïcode', publicKey: publicKeyOf(key), serial: randomSerial(), ...span },
      ...{ ca: { pathLength: 0 }, keyUsage: ['keyCertSign', 'cRLSign'] },
      ...changes,
    },
    { key },
  );
  return { key, certificate };
}

/** The part that is signed, and the algorithm. */
function signedPart(certificate: Buffer): readonly string[] {
  const outer = new DerReader(certificate).enter();
  return [outer.read().whole.toString('hex'), outer.read().whole.toString('hex')];
}

/** The same by the library. */
const byLibrary = (spec: LeafSpec): CertificateSpec => ({
  ...{ subject: '', uris: [spec.uri], dns: spec.dns ?? [], publicKey: spec.publicKey, serial: spec.serial },
  ...{ notBefore: spec.notBefore, notAfter: spec.notAfter },
  ...{ keyUsage: ['digitalSignature'], tlsUsage: ['serverAuth', 'clientAuth'] },
});

for (const [signerName, makeSigner] of keys)
  t.test(`signed by ${signerName}`, async (t) => {
    const signer = await issuerOf(makeSigner());
    for (const [name, make] of keys)
      for (const changes of [
        {},
        { dns: ['web.example.test', '*.web.example.test'] },
        { notAfter: 2_600_000_000_000 },
      ]) {
        const order: LeafSpec = {
          ...{ uri, publicKey: publicKeyOf(make()), serial: randomSerial() },
          ...{ notBefore: Date.now(), notAfter: Date.now() + 3_600_123, ...changes },
        };
        const leaf = signLeaf(order, signer);
        const other = await signCertificate(byLibrary(order), signer);
        t.strictSame(signedPart(leaf), signedPart(other), `${name} ${Object.keys(changes)}`);
        const opened = new X509Certificate(leaf);
        t.ok(opened.verify(new X509Certificate(signer.certificate).publicKey));
        t.ok(opened.checkIssued(new X509Certificate(signer.certificate)));
      }
  });

t.test('the CAs of other tests are those of the library', async (t) => {
  const [rootKey, issuerKey] = [generateKey(), generateKey()];
  const order = (name: string, key: KeyObject, pathLength: number): CaSpec => ({
    ...{ subject: `CN=demo-1.test ${name}`, publicKey: publicKeyOf(key), serial: randomSerial() },
    ...{ notBefore: Date.now(), notAfter: Date.now() + 3_600_123, keyUsage: ['keyCertSign', 'cRLSign'] },
    ...{ uris: ['spiffe://demo-1.test'], ca: { pathLength } },
  });
  const [rootOrder, issuerOrder] = [order('root', rootKey, 1), order('issuer', issuerKey, 0)];
  const root = writeCa(rootOrder, { key: rootKey });
  const issuer = writeCa(issuerOrder, { key: rootKey, certificate: root });
  t.strictSame(signedPart(root), signedPart(await signCertificate(rootOrder, { key: rootKey })));
  const signer = { key: rootKey, certificate: root };
  t.strictSame(signedPart(issuer), signedPart(await signCertificate(issuerOrder, signer)));
  for (const one of [root, issuer])
    t.ok(new X509Certificate(one).verify(new X509Certificate(root).publicKey), 'its signature is good');
});

t.test('serials with a high bit, and with leading zeros', async (t) => {
  const signer = await issuerOf(generateKey());
  const span = { notBefore: Date.now(), notAfter: Date.now() + 60_000 };
  const publicKey = publicKeyOf(generateKey());
  for (const serial of ['ff00', '0001', '7f', '80']) {
    const leaf = new X509Certificate(signLeaf({ uri, publicKey, serial, ...span }, signer));
    t.equal(BigInt(`0x${leaf.serialNumber}`), BigInt(`0x${serial}`), serial);
  }
});

t.test('an issuer without a key identifier is identified by its key', async (t) => {
  const signer = await issuerOf(generateKey());
  // The library always adds one, so that it is renamed to an unknown extension, 2.5.29.114.
  const id = Buffer.from('0603551d0e', 'hex');
  const at = signer.certificate.indexOf(id);
  const bare = Buffer.from(signer.certificate);
  bare[at + 4] = 0x72;
  const span = { notBefore: Date.now(), notAfter: Date.now() + 60_000 };
  const order = { uri, publicKey: publicKeyOf(generateKey()), serial: '41', ...span };
  const signed = [signer, { key: signer.key, certificate: bare }].map((one) => signedPart(signLeaf(order, one)));
  t.strictSame(signed[0], signed[1]);
});

t.test('Node and OpenSSL read the names and addresses', async (t) => {
  const signer = await issuerOf(generateKey());
  const ips = ['127.0.0.1', '::1', '2001:db8::7', 'fe80:1:2:3:4:5:6:7', '::', '1::', '::ffff:10.0.0.1'];
  const span = { notBefore: Date.now() - 1000, notAfter: Date.now() + 60_000 };
  const order = { uri, dns: ['web.test'], ips, publicKey: publicKeyOf(generateKey()), serial: '41', ...span };
  const leaf = signLeaf(order, signer);
  const opened = new X509Certificate(leaf);
  for (const ip of ips) t.ok(opened.checkIP(ip), ip);
  t.notOk(opened.checkIP('127.0.0.2'));
  t.equal(opened.checkHost('web.test'), 'web.test');
  t.match(readCertificateFacts(leaf), { uris: [uri], dns: ['web.test'], sanCritical: true, unknownCritical: [] });
});

t.test(
  'openssl accepts a leaf in strict mode',
  { skip: haveCommand('openssl') ? false : 'openssl is not installed' },
  async (t) => {
    const signer = await issuerOf(generateKey());
    const span = { notBefore: Date.now() - 1000, notAfter: Date.now() + 60_000 };
    const order = { uri, dns: ['web.test'], publicKey: publicKeyOf(generateKey()), serial: randomSerial(), ...span };
    const [leaf, issuer] = [formatPem([signLeaf(order, signer)]), formatPem([signer.certificate])];
    const script =
      'cat >"$0/both.pem"; openssl verify -x509_strict -purpose sslserver -CAfile "$0/both.pem" "$0/both.pem"';
    const input = leaf + issuer;
    const { stdout, stderr } = spawnSync('sh', ['-c', script, t.testdir()], { input, encoding: 'utf8' });
    t.match(stdout, /both\.pem: OK/, stderr);
  },
);
