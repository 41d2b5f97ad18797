// Certificates are signed: whatever is changed in a leaf, nobody may believe it.

import assert from 'node:assert/strict';
import { AsnConvert } from '@peculiar/asn1-schema';
import { Certificate, id_ce_subjectAltName, SubjectAlternativeName } from '@peculiar/asn1-x509';
import t from 'tap';
import { readCertificateFacts } from '../../cert-agent/identity/certificate.ts';
import { emptyDenyList } from '../../cert-agent/identity/denied.ts';
import { generateKey } from '../../cert-agent/identity/keys.ts';
import { verifyChain } from '../../cert-agent/identity/verify.ts';
import { createCsr, readCsr } from '../../cert-agent/identity/x509.ts';
import { fuzz, mutate } from '../fixtures/fuzz.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import type { Random } from '../fixtures/random.ts';

const authority = await createAuthority('demo.test');
const { chain } = await createCredential(authority, 'spiffe://demo.test/ns/shop/sa/web');
const [leaf, issuer] = chain as [Buffer, Buffer];
const csr = await createCsr(generateKey());

/** `der` as it is at first and at every fiftieth time, so that what is right is seen to pass; changed otherwise. */
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
    // What stands behind the certificate is not part of it.
    assert.ok(der.subarray(0, leaf.length).equals(leaf), `${id.uri} was believed`);
  },
  [...['certificate_unreadable', 'svid_invalid', 'svid_untrusted', 'svid_expired', 'svid_not_yet_valid']],
);

fuzz(
  t,
  'an intermediate with any change vouches for nobody',
  mostlyChanged(issuer),
  (der) => {
    verifyChain([leaf, der], authority.bundles, emptyDenyList, Date.now());
    assert.ok(der.subarray(0, issuer.length).equals(issuer), 'a changed intermediate was believed');
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
      // Ours reads what it needs; whether the rest is right is for OpenSSL to say, which parses it as well.
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
    const spki = await readCsr(der);
    assert.ok(csr.includes(spki), 'a key that was never asked for');
  },
  ['csr_invalid'],
);
