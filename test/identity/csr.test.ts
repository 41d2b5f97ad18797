// Certificate requests: what a request contributes to the certificate is its key in the usual encoding, and nothing that
// the client could choose beside it.

import { createPublicKey, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import t from 'tap';
import { readCsr } from '../../cert-agent/identity/csr.ts';
import { derTag } from '../../cert-agent/identity/der.ts';
import { bitString, element, oid, sequence, tagged, wholeNumber } from '../../cert-agent/identity/der-write.ts';
import { generateKey } from '../../cert-agent/identity/keys.ts';
import { createCsr } from '../../cert-agent/identity/x509.ts';
import { publicKeyOf } from '../fixtures/pki.ts';

const ecdsa = { sha256: '1.2.840.10045.4.3.2', sha384: '1.2.840.10045.4.3.3', sha512: '1.2.840.10045.4.3.4' };
const rsa = { sha256: '1.2.840.113549.1.1.11', sha1: '1.2.840.113549.1.1.5' };

/** A request whose parts are chosen. */
function request(
  key: KeyObject,
  { spki = publicKeyOf(key), hash = 'sha256', algorithm = ecdsa.sha256, more = [] as Buffer[] } = {},
) {
  const info = sequence(wholeNumber(0), sequence(), spki, tagged(0), ...more);
  return sequence(info, sequence(oid(algorithm)), bitString(sign(hash, info, key)));
}

const p256 = generateKey();
const p384 = generateKeyPairSync('ec', { namedCurve: 'P-384' }).privateKey;
const rsaKey = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey;

t.test('requests with every accepted kind of key are read', async (t) => {
  for (const key of [p256, p384, rsaKey]) t.same(readCsr(await createCsr(key)), publicKeyOf(key));
  for (const [hash, algorithm] of Object.entries(ecdsa))
    t.same(readCsr(request(p256, { hash, algorithm })), publicKeyOf(p256), hash);
  t.same(readCsr(request(rsaKey, { algorithm: rsa.sha256 })), publicKeyOf(rsaKey));
});

t.test('invalid requests are refused', (t) => {
  const spki = publicKeyOf(p256);
  const other = generateKey();
  const broken = request(p256);
  broken[broken.length - 1]! ^= 1;
  const table: [name: string, der: Buffer, message: RegExp][] = [
    ['SHA-1', request(rsaKey, { hash: 'sha1', algorithm: rsa.sha1 }), /signed with 1\.2\.840\.113549\.1\.1\.5/],
    ["RSA's algorithm for an EC key", request(p256, { algorithm: rsa.sha256 }), /not accepted for its key/],
    ["another key's signature", request(other, { spki }), /not signed by its own key/],
    ['a broken signature', broken, /not signed by its own key/],
    ['bytes after the request', Buffer.concat([request(p256), Buffer.from([0])]), /not PKCS#10 DER/],
    ['one more field', request(p256, { more: [sequence()] }), /not PKCS#10 DER/],
    ['nothing', Buffer.alloc(0), /not PKCS#10 DER/],
    ['P-521', request(generateKeyPairSync('ec', { namedCurve: 'P-521' }).privateKey), /is not accepted/],
  ];
  for (const [name, der, message] of table) t.throws(() => readCsr(der), { code: 'csr_invalid', message }, name);
  t.end();
});

t.test('other encodings of the same key are refused: a client could hide bytes of its choice in them', (t) => {
  const { n, e } = createPublicKey(rsaKey).export({ format: 'jwk' });
  const numbers = [n!, e!].map((one) => element(derTag.integer, Buffer.from([0]), Buffer.from(one, 'base64url')));
  // The exponent has a zero in front that DER does not allow.
  const padded = bitString(sequence(...numbers));
  const parameters = element(derTag.octetString, Buffer.alloc(3000, 'x'));
  const rsaBits = bitString(createPublicKey(rsaKey).export({ type: 'pkcs1', format: 'der' }));
  const ecBits = publicKeyOf(p256).subarray(-68);
  const explicit = createPublicKey({ key: publicKeyOf(p256), format: 'der', type: 'spki' });
  const algorithm = rsa.sha256;
  for (const [name, der] of [
    [
      'parameters of 3,000 bytes',
      request(rsaKey, { algorithm, spki: sequence(sequence(oid('1.2.840.113549.1.1.1'), parameters), rsaBits) }),
    ],
    ['no parameters', request(rsaKey, { algorithm, spki: sequence(sequence(oid('1.2.840.113549.1.1.1')), rsaBits) })],
    [
      'an exponent with a leading zero',
      request(rsaKey, { algorithm, spki: sequence(sequence(oid('1.2.840.113549.1.1.1'), element(5)), padded) }),
    ],
    ['a compressed point', request(p256, { spki: compressed(explicit) })],
    [
      'a curve with one more field',
      request(p256, {
        spki: sequence(sequence(oid('1.2.840.10045.2.1'), oid('1.2.840.10045.3.1.7'), element(5)), ecBits),
      }),
    ],
  ] as const)
    t.throws(() => readCsr(der), { code: 'csr_invalid' }, name);
  t.end();
});

function compressed(key: KeyObject): Buffer {
  const { x, y } = key.export({ format: 'jwk' });
  const sign = (Buffer.from(y!, 'base64url').at(-1)! & 1) === 0 ? 2 : 3;
  const point = Buffer.concat([Buffer.from([sign]), Buffer.from(x!, 'base64url')]);
  return sequence(sequence(oid('1.2.840.10045.2.1'), oid('1.2.840.10045.3.1.7')), bitString(point));
}
