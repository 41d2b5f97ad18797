// Reads certificate requests, PKCS#10 (RFC 2986). A CSR contributes its public key and nothing else, and proves that
// the client has the private one. Clients may be strangers with a token, so it is read like a certificate: strictly,
// and in linear time.

import { createPublicKey, type KeyObject, verify } from 'node:crypto';
import { reasonOf, SallyportError } from '../base/errors.ts';
import { type DerElement, DerReader, derTag, readOid, readSmallInteger } from './der.ts';
import { weaknessOf } from './key-strength.ts';

/** Signature algorithms by OID: the type of key that they are for, and their hash. */
const algorithms: ReadonlyMap<string, readonly ['ec' | 'rsa', string]> = new Map([
  ['1.2.840.10045.4.3.2', ['ec', 'sha256']],
  ['1.2.840.10045.4.3.3', ['ec', 'sha384']],
  ['1.2.840.10045.4.3.4', ['ec', 'sha512']],
  ['1.2.840.113549.1.1.11', ['rsa', 'sha256']],
  ['1.2.840.113549.1.1.12', ['rsa', 'sha384']],
  ['1.2.840.113549.1.1.13', ['rsa', 'sha512']],
]);

/**
 * The public key (SPKI, DER) of a request with a valid signature. Keys that TLS peers cannot use, or that are too weak,
 * are refused. @throws SallyportError `csr_invalid`.
 */
export function readCsr(der: Uint8Array): Buffer {
  const { info, publicKey, algorithm, signature } = readParts(der);
  const key = readKey(publicKey);
  const [type, hash] = algorithms.get(algorithm) ?? [];
  if (hash === undefined || type !== key.asymmetricKeyType)
    throw invalid(`the CSR is signed with ${algorithm}, which is not accepted for its key`);
  if (!isSignedBy(key, hash, info, signature)) throw invalid('the CSR is not signed by its own key');
  // The certificate repeats these bytes: other encodings of the same key would carry what the client wants.
  if (!isUsual(key, publicKey)) throw invalid("the CSR's public key is not in its usual encoding");
  return publicKey;
}

function isUsual(key: KeyObject, publicKey: Buffer): boolean {
  if (!key.export({ type: 'spki', format: 'der' }).equals(publicKey)) return false;
  if (key.asymmetricKeyType !== 'ec') return true;
  // RFC 5480 section 2.2: an uncompressed point begins with 4. Not all peers read the other forms.
  const info = new DerReader(publicKey).enter();
  info.read(derTag.sequence);
  return info.read(derTag.bitString).body[1] === 4;
}

interface CsrParts {
  /** What is signed. */
  readonly info: Buffer;
  readonly publicKey: Buffer;
  readonly algorithm: string;
  readonly signature: Buffer;
}

/** RFC 2986 section 4. Names and attributes are skipped. */
function readParts(der: Uint8Array): CsrParts {
  try {
    const outer = new DerReader(Buffer.from(der.buffer, der.byteOffset, der.byteLength));
    const request = outer.enter();
    outer.end();
    const info = request.read(derTag.sequence);
    const algorithm = new DerReader(request.read(derTag.sequence).body);
    const signature = request.read(derTag.bitString);
    request.end();
    const body = new DerReader(info.body);
    if (readSmallInteger(body.read(derTag.integer)) !== 0) throw new TypeError('its version is not 1');
    body.read(derTag.sequence);
    const publicKey = body.read(derTag.sequence);
    // OpenSSL leaves the empty set out on request.
    body.readIf(0xa0);
    body.end();
    return {
      info: info.whole,
      publicKey: publicKey.whole,
      algorithm: readOid(algorithm.read(derTag.oid)),
      signature: wholeBytes(signature),
    };
  } catch (error) {
    throw new SallyportError('csr_invalid', `the CSR is not PKCS#10 DER: ${reasonOf(error)}`);
  }
}

function wholeBytes({ body }: DerElement): Buffer {
  if (body[0] !== 0) throw new TypeError('a signature that does not end with a byte');
  return body.subarray(1);
}

function readKey(spki: Buffer): KeyObject {
  let key: KeyObject;
  try {
    key = createPublicKey({ key: spki, format: 'der', type: 'spki' });
  } catch (error) {
    throw new SallyportError('csr_invalid', `the CSR's public key cannot be read: ${reasonOf(error)}`);
  }
  const { namedCurve, modulusLength = 0 } = key.asymmetricKeyDetails ?? {};
  // Of the keys that every peer accepts, those that can also sign transaction tokens.
  const usable =
    key.asymmetricKeyType === 'rsa' ||
    (key.asymmetricKeyType === 'ec' && (namedCurve === 'prime256v1' || namedCurve === 'secp384r1'));
  const weakness = weaknessOf(key);
  if (usable && weakness === undefined) return key;
  const why = weakness === undefined ? '' : `: ${weakness}`;
  throw new SallyportError(
    'csr_invalid',
    `the CSR's key (${key.asymmetricKeyType} ${namedCurve ?? modulusLength}) is not accepted${why}`,
    { hint: 'use EC P-256 or P-384, or RSA of 2048 to 4096 bits' },
  );
}

function isSignedBy(key: KeyObject, hash: string, info: Buffer, signature: Buffer): boolean {
  try {
    return verify(hash, info, key, signature);
  } catch {
    return false;
  }
}

function invalid(message: string): SallyportError {
  return new SallyportError('csr_invalid', message);
}
