// CRLs without a CA: what is signed is read again, by us and by pkijs, and what is wrong with one is named.

import { randomBytes } from 'node:crypto';
import { CertificateRevocationList } from 'pkijs';
import t from 'tap';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import {
  type CrlSpec,
  formatCrlPem,
  maxCrlBytes,
  parseCrl,
  parseCrls,
  reasonNamed,
  signCrl,
  verifyCrl,
} from '../../cert-agent/identity/crl.ts';
import { DerReader } from '../../cert-agent/identity/der.ts';
import {
  element,
  extension,
  octets,
  oid,
  sequence,
  tagged,
  time,
  wholeNumber,
} from '../../cert-agent/identity/der-write.ts';
import { algorithmOf, readIssuer } from '../../cert-agent/identity/issuer.ts';
import { createAuthority } from '../fixtures/pki.ts';

const now = Math.floor(Date.now() / 1000) * 1000;
const day = 86_400_000;
const authority = await createAuthority('demo.test');
const other = await createAuthority('demo.test');
const signer = { key: authority.issuerKey, certificate: authority.issuer };
const issuer = readIssuer(authority.issuer);
const serials = ['4a3f', '7f00000000000000000000000000000001', '41'.repeat(16)];
const spec: CrlSpec = {
  number: now,
  thisUpdate: now - 1000,
  nextUpdate: now + day,
  entries: serials.map((serial, index) => ({
    serial,
    at: now - index * 1000,
    reason: (['keyCompromise', 'unspecified', 'superseded'] as const)[index]!,
  })),
};
const der = await signCrl(spec, signer);
const refused = (work: () => unknown): string => {
  try {
    work();
    return 'accepted';
  } catch (error) {
    return error instanceof SallyportError ? `${error.code}: ${error.message}` : String(error);
  }
};

t.test('a signed list is read back unchanged', async (t) => {
  const crl = parseCrl(der, 'x');
  t.match(crl, { number: BigInt(now), thisUpdate: now - 1000, nextUpdate: now + day, issuer: issuer.subject });
  t.same([...crl.serials], serials);
  t.same(crl.issuerKeyId, issuer.keyId);
  t.equal(verifyCrl(crl, [readIssuer(other.issuer), issuer], now, 'x'), issuer);
});

t.test('pkijs reads the same list', async (t) => {
  const crl = CertificateRevocationList.fromBER(new Uint8Array(der).buffer);
  t.equal(crl.version, 1);
  const read = (crl.revokedCertificates ?? []).map((one) => ({
    serial: Buffer.from(one.userCertificate.valueBlock.valueHexView).toString('hex'),
    at: one.revocationDate.value.getTime(),
    reason: one.crlEntryExtensions?.extensions[0]?.extnID,
  }));
  t.same(
    read,
    spec.entries.map(({ serial, at, reason }) => ({
      ...{ serial, at },
      reason: reason === 'unspecified' ? undefined : '2.5.29.21',
    })),
  );
});

t.test('an empty list has no revokedCertificates', async (t) => {
  const empty = parseCrl(await signCrl({ ...spec, entries: [] }, signer), 'x');
  t.equal(empty.serials.size, 0);
  t.equal(verifyCrl(empty, [issuer], now, 'x'), issuer);
});

t.test('a PEM file may contain several lists', async (t) => {
  const text = `a comment\n${formatCrlPem(der)}${formatCrlPem(der)}`;
  t.equal(parseCrls(Buffer.from(text), 'x').length, 2);
  t.equal(parseCrls(der, 'x').length, 1);
});

t.test('the year 2050 is written in four digits', async (t) => {
  const late = Date.UTC(2051, 0, 1);
  t.equal(parseCrl(await signCrl({ ...spec, nextUpdate: late }, signer), 'x').nextUpdate, late);
});

t.test('a list of another issuer, a modified one and an old one are refused', async (t) => {
  const foreign = parseCrl(await signCrl(spec, { key: other.issuerKey, certificate: other.issuer }), 'x');
  t.match(
    refused(() => verifyCrl(foreign, [issuer], now, 'x')),
    /^crl_untrusted: x: no issuer that we trust/,
  );
  const changed = Buffer.from(der);
  changed[der.indexOf(Buffer.from('4a3f', 'hex'))]! ^= 1;
  t.match(
    refused(() => verifyCrl(parseCrl(changed, 'x'), [issuer], now, 'x')),
    /^crl_untrusted/,
  );
  t.match(
    refused(() => verifyCrl(parseCrl(der, 'x'), [issuer], now + 2 * day, 'x')),
    /^crl_expired: x: the CRL was to/,
  );
  const { mayCrl: _, ...rest } = issuer;
  t.match(
    refused(() => verifyCrl(parseCrl(der, 'x'), [{ ...rest, mayCrl: false }], now, 'x')),
    /^crl_untrusted/,
  );
});

/** A list that is signed, of our own making. */
function forged(parts: { entry?: Buffer; extensions?: Buffer[]; nextUpdate?: boolean; version?: number }): Buffer {
  const { algorithm, sign } = algorithmOf(authority.issuerKey);
  const body = sequence(
    wholeNumber(parts.version ?? 1),
    algorithm,
    issuer.subject,
    time(now),
    ...(parts.nextUpdate === false ? [] : [time(now + day)]),
    ...(parts.entry === undefined ? [] : [sequence(parts.entry)]),
    ...(parts.extensions === undefined ? [] : [tagged(0, sequence(...parts.extensions))]),
  );
  return sequence(body, algorithm, element(3, Buffer.from([0]), sign(body)));
}

t.test('an extension that would change the meaning of a list is refused', async (t) => {
  const critical = (id: string) => sequence(oid(id), element(1, Buffer.from([0xff])), octets(sequence()));
  const entry = (...more: Buffer[]) => sequence(wholeNumber(5), time(now), ...more);
  for (const [name, list, expected] of [
    ['a delta list', forged({ extensions: [critical('2.5.29.27')] }), /a delta list/],
    [
      'a delta list without the critical extension',
      forged({ extensions: [sequence(oid('2.5.29.27'), octets(sequence()))] }),
      /a delta list/,
    ],
    ['a partial list', forged({ extensions: [critical('2.5.29.28')] }), /the list of a part/],
    ['an entry of another issuer', forged({ entry: entry(sequence(critical('2.5.29.29'))) }), /2.5.29.29/],
    ['no end', forged({ nextUpdate: false }), /no nextUpdate/],
    ['version 3', forged({ version: 2 }), /unknown version/],
    ['a broken entry', forged({ entry: sequence(wholeNumber(5)) }), /unexpected end/],
    [
      'a number of 30 octets',
      forged({ extensions: [extension('2.5.29.20', element(2, Buffer.alloc(30, 1)))] }),
      /number/,
    ],
  ] as const) {
    t.match(
      refused(() => parseCrl(list, 'x')),
      new RegExp(`^crl_invalid: x is not a CRL: .*${expected.source}`),
      name,
    );
  }
  t.equal(
    refused(() => parseCrl(forged({ entry: entry() }), 'x')),
    'accepted',
    'the same list without it',
  );
});

t.test('a list that is cut anywhere, and garbage, are refused', async (t) => {
  for (let at = 0; at < der.length; at++)
    t.match(
      refused(() => parseCrls(der.subarray(0, at), 'x')),
      /^crl_invalid/,
      `${at} bytes`,
    );
  t.match(
    refused(() => parseCrl(Buffer.concat([der, Buffer.from([0])]), 'x')),
    /^crl_invalid: x is not a CRL: unexpected/,
  );
  const pem = formatCrlPem(der);
  for (let at = 0; at < pem.length - 1; at += 7)
    t.match(
      refused(() => parseCrls(Buffer.from(pem.slice(0, at)), 'x')),
      /^crl_invalid/,
      `PEM, ${at} characters`,
    );
  t.match(
    refused(() => parseCrls(Buffer.from(formatCrlPem(der) + pem.slice(0, 80)), 'x')),
    /^crl_invalid/,
    'the second list',
  );
  for (let round = 0; round < 500; round++) {
    const garbage = Buffer.from(der);
    for (let i = 0; i < 5; i++) garbage[Math.floor(Math.random() * der.length)] = randomBytes(1)[0]!;
    const outcome = refused(() => verifyCrl(parseCrl(garbage, 'x'), [issuer], now, 'x'));
    t.ok(garbage.equals(der) || /^crl_/.test(outcome), outcome);
  }
  t.match(
    refused(() => parseCrl(Buffer.alloc(maxCrlBytes + 1), 'x')),
    /^crl_invalid: x is not a CRL: larger than/,
  );
});

t.test('100,000 entries are signed, parsed and verified within seconds', async (t) => {
  const entries = Array.from({ length: 100_000 }, () => ({
    ...{ serial: `41${randomBytes(15).toString('hex')}`, at: now },
    reason: 'keyCompromise' as const,
  }));
  let turns = 0;
  const count = setInterval(() => turns++, 1);
  const began = performance.now();
  const large = await signCrl({ ...spec, entries }, signer);
  const made = performance.now();
  clearInterval(count);
  const crl = parseCrl(large, 'x');
  verifyCrl(crl, [issuer], now, 'x');
  const done = performance.now();
  t.equal(crl.serials.size, 100_000);
  t.ok(turns > 3, 'other work was done meanwhile');
  // A second or two on a quiet machine. With a square in it, it would be minutes on any.
  t.ok(done - began < 30_000, `${Math.round(made - began)} ms to sign, ${Math.round(done - made)} ms to read`);
  t.comment(`${large.length} bytes, ${Math.round(made - began)} ms to sign, ${Math.round(done - made)} ms to read`);
});

t.test("an operator's reason names a standard reason if it begins with one", async (t) => {
  for (const [text, reason] of [
    ['keyCompromise', 'keyCompromise'],
    ['KeyCompromise: stolen laptop', 'keyCompromise'],
    ['superseded by another', 'superseded'],
    ['cessationOfOperation', 'cessationOfOperation'],
    ['affiliationChanged, see ticket', 'affiliationChanged'],
    ['keyCompromised', 'unspecified'],
    ['stolen: keyCompromise', 'unspecified'],
    ['cACompromise', 'unspecified'],
    ['', 'unspecified'],
  ] as const)
    t.equal(reasonNamed(text), reason, text);
});

t.test("the reader reads the writer's DER", async (t) => {
  for (const size of [0, 1, 127, 128, 255, 256, 70_000]) {
    const one = octets(Buffer.alloc(size));
    t.equal(new DerReader(one).read(4).body.length, size);
  }
  t.same(wholeNumber(0), Buffer.from([2, 1, 0]));
  t.same(wholeNumber(128), Buffer.from([2, 2, 0, 128]));
  t.same(oid('2.16.840.1.101.3.4.2.1').toString('hex'), '0609608648016503040201');
});
