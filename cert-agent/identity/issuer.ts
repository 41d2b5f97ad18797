// A CA certificate as the issuer of something else: a CRL, an OCSP response, a certificate that is asked about.

import { type KeyObject, sign, verify } from 'node:crypto';
import { openCertificate, readCertificateFacts } from './certificate.ts';
import { DerReader, derTag, readOid } from './der.ts';
import { element, oid, sequence, writeTag } from './der-write.ts';

/** What must be known of a CA to match and verify what it has signed. Nothing says here that it is trusted. */
export interface Issuer {
  /** The subject's Name, DER. */
  readonly subject: Buffer;
  /** The bits of its public key, as hashes of it in RFC 5280 and RFC 6960 mean them. */
  readonly keyBits: Buffer;
  readonly publicKey: KeyObject;
  /** Its subject key identifier; undefined where it has none. */
  readonly keyId: Buffer | undefined;
  /** Its serial number: the content of the INTEGER. */
  readonly serial: Buffer;
  /** RFC 5280 section 4.2.1.3: true unless its key usage excludes CRLs. */
  readonly mayCrl: boolean;
  readonly isCa: boolean;
}

/** @throws SallyportError `certificate_unreadable`, or TypeError. */
export function readIssuer(der: Uint8Array): Issuer {
  const bytes = Buffer.from(der.buffer, der.byteOffset, der.byteLength);
  const { isCa, keyUsage } = readCertificateFacts(bytes);
  const body = new DerReader(bytes).enter().enter();
  body.readIf(0xa0);
  const serial = body.read(derTag.integer).body;
  for (let skipped = 0; skipped < 3; skipped++) body.read(derTag.sequence);
  const subject = body.read(derTag.sequence).whole;
  const key = body.enter();
  key.read(derTag.sequence);
  const keyBits = key.read(derTag.bitString).body.subarray(1);
  body.readIf(0x81);
  body.readIf(0x82);
  const keyId = keyIdOf(body.readIf(0xa3)?.body);
  const mayCrl = isCa && (keyUsage === undefined || keyUsage.includes('cRLSign'));
  return { subject, keyBits, publicKey: openCertificate(bytes).publicKey, keyId, serial, mayCrl, isCa };
}

/** RFC 5280 section 4.2.1.2. */
function keyIdOf(extensions: Buffer | undefined): Buffer | undefined {
  if (extensions === undefined) return undefined;
  for (const list = new DerReader(extensions).enter(); !list.done; ) {
    const one = list.enter();
    const id = readOid(one.read(derTag.oid));
    one.readIf(derTag.boolean);
    if (id === '2.5.29.14') return new DerReader(one.read(derTag.octetString).body).read(derTag.octetString).body;
  }
  return undefined;
}

const algorithms: Readonly<Record<string, { readonly type: 'ec' | 'rsa' | 'ed25519'; readonly hash: string | null }>> =
  Object.freeze({
    '1.2.840.10045.4.3.2': { type: 'ec', hash: 'sha256' },
    '1.2.840.10045.4.3.3': { type: 'ec', hash: 'sha384' },
    '1.2.840.10045.4.3.4': { type: 'ec', hash: 'sha512' },
    '1.2.840.113549.1.1.11': { type: 'rsa', hash: 'sha256' },
    '1.2.840.113549.1.1.12': { type: 'rsa', hash: 'sha384' },
    '1.2.840.113549.1.1.13': { type: 'rsa', hash: 'sha512' },
    '1.3.101.112': { type: 'ed25519', hash: null },
  });

/** Signs with the algorithm of `key`; `algorithm` is the AlgorithmIdentifier, DER, which `body` may contain. */
export function algorithmOf(key: KeyObject): { readonly algorithm: Buffer; sign(body: Uint8Array): Buffer } {
  if (key.asymmetricKeyType === 'rsa') {
    const algorithm = sequence(oid('1.2.840.113549.1.1.11'), element(writeTag.null));
    return { algorithm, sign: (body) => sign('sha256', body, key) };
  }
  const isLarge = key.asymmetricKeyDetails?.namedCurve === 'secp384r1';
  const algorithm = sequence(oid(isLarge ? '1.2.840.10045.4.3.3' : '1.2.840.10045.4.3.2'));
  return { algorithm, sign: (body) => sign(isLarge ? 'sha384' : 'sha256', body, key) };
}

/** True if `signature` over `body` is of `key`; false for an algorithm that is broken or not supported. */
export function isSignedBy(key: KeyObject, algorithm: Buffer, body: Uint8Array, signature: Uint8Array): boolean {
  const known = algorithms[readOid(new DerReader(algorithm).enter().read(derTag.oid))];
  if (known === undefined || known.type !== key.asymmetricKeyType) return false;
  try {
    return verify(known.hash, body, key, signature);
  } catch {
    return false;
  }
}
