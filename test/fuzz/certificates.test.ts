// Certificates are signed: a leaf with any change must be refused.

import assert from 'node:assert/strict';
import { AsnConvert } from '@peculiar/asn1-schema';
import { Certificate, id_ce_subjectAltName, SubjectAlternativeName } from '@peculiar/asn1-x509';
import t from 'tap';
import { readCertificateFacts } from '../../cert-agent/identity/certificate.ts';
import { readCsr } from '../../cert-agent/identity/csr.ts';
import { emptyDenyList } from '../../cert-agent/identity/denied.ts';
import { generateKey } from '../../cert-agent/identity/keys.ts';
import { verifyChain } from '../../cert-agent/identity/verify.ts';
import { createCsr } from '../../cert-agent/identity/x509.ts';
import { fuzz, mutate } from '../fixtures/fuzz.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import type { Random } from '../fixtures/random.ts';

const authority = await createAuthority('demo.test');
const { chain } = await createCredential(authority, 'spiffe://demo.test/ns/shop/sa/web');
const [leaf, issuer] = chain as [Buffer, Buffer];
const csr = await createCsr(generateKey());

/** `der` unchanged at first and every fiftieth time, so that a valid one is seen to pass; otherwise changed. */
function mostlyChanged(der: Buffer): (random: Random) => Buffer {
  let made = 0;
  return (random) => (made++ % 50 === 0 ? der : mutate(random, der));
}

fuzz(
  t,
  'a leaf with any change is refused',
  mostlyChanged(leaf),
  (der) => {
    const { id } = verifyChain([der, issuer], authority.bundles, emptyDenyList, Date.now());
    // Bytes after the certificate are not part of it.
    assert.ok(der.subarray(0, leaf.length).equals(leaf), `${id.uri} was accepted`);
  },
  [...['certificate_unreadable', 'svid_invalid', 'svid_untrusted', 'svid_expired', 'svid_not_yet_valid']],
);

fuzz(
  t,
  'an intermediate with any change verifies no leaf',
  mostlyChanged(issuer),
  (der) => {
    verifyChain([leaf, der], authority.bundles, emptyDenyList, Date.now());
    assert.ok(der.subarray(0, issuer.length).equals(issuer), 'a changed intermediate was accepted');
  },
  ['certificate_unreadable', 'svid_untrusted'],
);

fuzz(
  t,
  'facts or a refusal',
  (random) => mutate(random, random.pick(chain)),
  (der) => {
    assert.ok(Array.isArray(readCertificateFacts(der).uris));
  },
  ['certificate_unreadable'],
);

fuzz(
  t,
  'two readers read the same, or one refuses',
  (random) => mutate(random, random.pick(chain)),
  (der) => {
    const facts = readCertificateFacts(der);
    let other: { readonly uris: readonly string[]; readonly subjectEmpty: boolean };
    try {
      const { extensions = [], subject } = AsnConvert.parse(der, Certificate).tbsCertificate;
      const found = extensions.find(({ extnID }) => extnID === id_ce_subjectAltName)?.extnValue.buffer;
      const names = found === undefined ? [] : [...AsnConvert.parse(found, SubjectAlternativeName)];
      other = {
        uris: names.flatMap((one) => one.uniformResourceIdentifier ?? []),
        subjectEmpty: subject.length === 0,
      };
    } catch {
      // Ours parses only what it needs; OpenSSL, which parses it too, checks the rest.
      return;
    }
    assert.deepEqual({ uris: facts.uris, subjectEmpty: facts.subjectEmpty }, other);
  },
  ['certificate_unreadable'],
);

fuzz(
  t,
  'a request with any change gives no other key',
  mostlyChanged(csr),
  async (der) => {
    const spki = readCsr(der);
    assert.ok(csr.includes(spki), 'a key that was never in a request');
    // A second reader agrees with whatever ours accepts.
    const { Pkcs10CertificateRequest } = await import('@peculiar/x509');
    const other = new Pkcs10CertificateRequest(Buffer.from(der));
    assert.ok(Buffer.from(other.publicKey.rawData).equals(spki));
    assert.ok(await other.verify());
  },
  ['csr_invalid'],
);
