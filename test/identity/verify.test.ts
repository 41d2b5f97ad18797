// Verification of a chain: each way in which it can be wrong, with code and message.

import { AsnConvert } from '@peculiar/asn1-schema';
import { Certificate } from '@peculiar/asn1-x509';
import t from 'tap';
import type { TrustBundles } from '../../cert-agent/identity/bundle.ts';
import { readCertificateFacts } from '../../cert-agent/identity/certificate.ts';
import { emptyDenyList } from '../../cert-agent/identity/denied.ts';
import { generateKey } from '../../cert-agent/identity/keys.ts';
import { type PeerIdentity, verifyChain } from '../../cert-agent/identity/verify.ts';
import { type CertificateSpec, randomSerial, type Signer, signCertificate } from '../../cert-agent/identity/x509.ts';
import { type Authority, createAuthority, createCredential, publicKeyOf } from '../fixtures/pki.ts';

const hour = 3_600_000;
const now = Date.now();
const web = 'spiffe://demo.test/ns/shop/sa/web';

const demo = await createAuthority('demo.test');
const other = await createAuthority('other.test');
const both: TrustBundles = new Map([...demo.bundles, ...other.bundles]);

const verify = (chain: readonly Buffer[], bundles = both, denied = emptyDenyList, at = now): PeerIdentity =>
  verifyChain(chain, bundles, denied, at);

/** A CA of any kind, as a signer. */
async function makeIssuer(
  signer: Signer,
  changes: Partial<CertificateSpec> = {},
): Promise<{ der: Buffer; signer: Signer }> {
  const key = generateKey();
  const der = await signCertificate(
    {
      subject: 'CN=made issuer',
      publicKey: publicKeyOf(key),
      serial: randomSerial(),
      notBefore: now - hour,
      notAfter: now + hour,
      keyUsage: ['keyCertSign', 'cRLSign'],
      ca: { pathLength: 0 },
      ...changes,
    },
    signer,
  );
  return { der, signer: { key, certificate: der } };
}

/** A leaf of `signer` for `uri`. */
async function makeLeaf(signer: Signer, uri = web, changes: Partial<CertificateSpec> = {}): Promise<Buffer> {
  const key = generateKey();
  return signCertificate(
    {
      subject: '',
      publicKey: publicKeyOf(key),
      serial: randomSerial(),
      notBefore: now - 60_000,
      notAfter: now + hour / 2,
      uris: [uri],
      keyUsage: ['digitalSignature'],
      tlsUsage: ['serverAuth', 'clientAuth'],
      ...changes,
    },
    signer,
  );
}

const rootOf = (authority: Authority): Signer => ({ key: authority.rootKey, certificate: authority.root });
const noPath = { code: 'svid_untrusted', message: `no valid path leads from ${web} to a root of demo.test` };

t.test('a valid chain is accepted', async (t) => {
  const { chain } = await createCredential(demo, web);
  const peer = verify(chain);
  t.equal(peer.id.uri, web);
  t.match(peer.serial, /^[0-9a-f]{32}$/);
  t.match(peer.fingerprint, /^[0-9a-f]{64}$/);
  t.equal(peer.validUntil, peer.notAfter, 'the leaf expires first');
  t.ok(Object.isFrozen(peer));

  t.test('intermediates in any order, with unrelated ones among them', async (t) => {
    t.equal(verify([chain[0]!, other.issuer, demo.issuer]).id.uri, web);
  });
  t.test('a leaf directly below the root', async (t) => {
    t.equal(verify([await makeLeaf(rootOf(demo))]).id.uri, web);
  });
  t.test('a chain is valid until the earliest expiry on its path', async (t) => {
    const issuer = await makeIssuer(rootOf(demo), { notAfter: now + 60_000 });
    t.equal(verify([await makeLeaf(issuer.signer), issuer.der]).validUntil, Math.floor((now + 60_000) / 1000) * 1000);
  });
  t.test('an issuer without a SPIFFE ID', async (t) => {
    const issuer = await makeIssuer(rootOf(demo));
    t.equal(verify([await makeLeaf(issuer.signer), issuer.der]).id.uri, web);
  });
});

t.test('a forged link: an issuer of another domain with the name of ours', async (t) => {
  // conventions: OpenSSL with both roots in one list calls this chain authorized. `demo` never signed any of it.
  const impostor = await makeIssuer(rootOf(other), { subject: 'CN=demo.test issuer' });
  const leaf = await makeLeaf(impostor.signer);
  t.throws(() => verify([leaf, impostor.der]), noPath);
  t.throws(
    () => verify([leaf, demo.issuer]),
    noPath,
    'with our own intermediate beside it, linked by name and not by key',
  );
  t.throws(() => verify([leaf, impostor.der, demo.issuer, demo.root, other.root]), noPath);
  t.throws(() => verify([leaf, impostor.der], other.bundles), {
    code: 'svid_untrusted',
    message: `no bundle for the trust domain of ${web}`,
  });
});

t.test('issuers that must not issue', async (t) => {
  const cases: readonly (readonly [name: string, changes: Partial<CertificateSpec>])[] = [
    ['expired', { notBefore: now - 2 * hour, notAfter: now - hour }],
    ['not valid yet', { notBefore: now + hour, notAfter: now + 2 * hour }],
    ['without keyCertSign', { keyUsage: ['cRLSign'] }],
    ["with another trust domain's SPIFFE ID", { uris: ['spiffe://other.test'] }],
    ['with a SPIFFE ID that has a path', { uris: ['spiffe://demo.test/ca'] }],
    ['with two URIs', { uris: ['spiffe://demo.test', 'spiffe://demo.test'] }],
    ['constrained to another host', { permittedUriHost: 'other.test' }],
    ['constrained to hosts below ours', { permittedUriHost: '.demo.test' }],
  ];
  for (const [name, changes] of cases) {
    const issuer = await makeIssuer(rootOf(demo), changes);
    const leaf = await makeLeaf(issuer.signer);
    t.throws(() => verify([leaf, issuer.der]), noPath, name);
  }
  const constrained = await makeIssuer(rootOf(demo), { permittedUriHost: 'demo.test' });
  t.equal(verify([await makeLeaf(constrained.signer), constrained.der]).id.uri, web, 'constrained to our host');

  t.test('a leaf is not an issuer', async (t) => {
    const { key, chain } = await createCredential(demo, web);
    const below = await makeLeaf({ key, certificate: chain[0]! });
    t.throws(() => verify([below, ...chain]), noPath);
  });
  t.test('a path longer than its root or issuer allows', async (t) => {
    const first = await makeIssuer(rootOf(demo), { subject: 'CN=first' });
    const second = await makeIssuer(first.signer, { subject: 'CN=second' });
    const leaf = await makeLeaf(second.signer);
    t.throws(() => verify([leaf, second.der, first.der]), noPath);
    const wide = await makeIssuer(rootOf(demo), { subject: 'CN=wide', ca: { pathLength: 1 } });
    const below = await makeIssuer(wide.signer, { subject: 'CN=below' });
    t.throws(
      () => verify([first.der, below.der, wide.der]),
      { code: 'svid_invalid' },
      'a CA is not accepted as a leaf anyway',
    );
  });
  t.test('issuers that signed each other: there is no path, and the search ends', async (t) => {
    const first = await makeIssuer(rootOf(other), { subject: 'CN=one', ca: {} });
    const two = await makeIssuer(first.signer, { subject: 'CN=two', ca: {} });
    const one = await makeIssuer(two.signer, { subject: 'CN=one', ca: {}, publicKey: publicKeyOf(first.signer.key) });
    const leaf = await makeLeaf(two.signer);
    t.throws(() => verify([leaf, two.der, one.der, two.der, one.der]), noPath);
  });
});

t.test('leaves are checked', async (t) => {
  const leafOf = async (uri: string, changes: Partial<CertificateSpec>): Promise<readonly Buffer[]> =>
    (await createCredential(demo, uri, changes)).chain;
  const cases: readonly (readonly [name: string, chain: readonly Buffer[], code: string, message: RegExp])[] = [
    ['nothing', [], 'svid_missing', /^the peer presented no certificate$/],
    [
      'too many',
      Array.from({ length: 9 }, () => demo.issuer),
      'svid_invalid',
      /presented 9 certificates; 8 are the limit/,
    ],
    [
      'two URIs',
      await leafOf(web, { uris: [web, 'spiffe://demo.test/b'] }),
      'svid_invalid',
      /exactly one URI name, found 2/,
    ],
    ['no URI', await leafOf(web, { uris: [], dns: ['web'] }), 'svid_invalid', /exactly one URI name, found 0/],
    ['another scheme', await leafOf('https://demo.test/a', {}), 'svid_invalid', /is a SPIFFE ID, found https/],
    ['no path', await leafOf('spiffe://demo.test', {}), 'svid_invalid', /has a path/],
    ['a dot segment', await leafOf('spiffe://demo.test/a/../b', {}), 'svid_invalid', /is a SPIFFE ID/],
    ['a CA', await leafOf(web, { ca: {} }), 'svid_invalid', /not a CA/],
    ['a signer', await leafOf(web, { keyUsage: ['digitalSignature', 'keyCertSign'] }), 'svid_invalid', /signs neither/],
    ['uncritical usage', await leafOf(web, { keyUsageCritical: false }), 'svid_invalid', /present and critical/],
    ['no signatures', await leafOf(web, { keyUsage: ['keyEncipherment'] }), 'svid_invalid', /digital signatures/],
    ['servers only', await leafOf(web, { tlsUsage: ['serverAuth'] }), 'svid_invalid', /server and client/],
    ['an unknown domain', await leafOf('spiffe://third.test/a', {}), 'svid_untrusted', /no bundle/],
  ];
  for (const [name, chain, code, message] of cases) t.throws(() => verify(chain), { code, message }, name);
});

t.test('validity periods are checked', async (t) => {
  const { chain } = await createCredential(demo, web, { notBefore: now - hour, notAfter: now + hour });
  const facts = verify(chain);
  t.throws(() => verify(chain, both, emptyDenyList, facts.notAfter + 61_000), {
    code: 'svid_expired',
    message: /^the certificate of .*\/web expired at .*Z; now it is .*Z; off by 1m 1s: clock skew\?$/,
  });
  t.throws(() => verify(chain, both, emptyDenyList, facts.notAfter + hour), {
    code: 'svid_expired',
    message: /it is [^;]*Z$/,
  });
  t.throws(() => verify(chain, both, emptyDenyList, facts.notBefore - 2000), {
    code: 'svid_not_yet_valid',
    message: /is not valid before .*; off by 2s: clock skew\?$/,
  });
  t.equal(verify(chain, both, emptyDenyList, facts.notAfter).id.uri, web, 'the last millisecond counts');
});

t.test('the deny list applies', async (t) => {
  const { chain } = await createCredential(demo, web);
  const { serial } = verify(chain);
  t.throws(() => verify(chain, both, { ...emptyDenyList, serials: new Set([serial]) }), {
    code: 'svid_denied',
    message: `certificate ${serial} of ${web} is revoked`,
  });
  t.throws(() => verify(chain, both, { ...emptyDenyList, ids: new Set([web]) }), {
    code: 'svid_denied',
    message: `${web} is on the deny list`,
  });
});

t.test('two extensions of one kind are refused: parsers disagree on which one counts', async (t) => {
  const { chain } = await createCredential(demo, web);
  const certificate = AsnConvert.parse(chain[0]!, Certificate);
  const { extensions } = certificate.tbsCertificate;
  extensions?.push(extensions.at(-1)!);
  t.throws(() => readCertificateFacts(Buffer.from(AsnConvert.serialize(certificate))), {
    code: 'certificate_unreadable',
    message: 'cannot parse the certificate: extension 2.5.29.17 occurs twice',
  });
});
