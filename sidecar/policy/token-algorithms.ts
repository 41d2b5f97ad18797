// How a key signs and verifies, by the kind of key alone: a token has no influence, so no key can be made to pass for
// one of another kind (RFC 8725 section 3.1).

import { constants, type KeyObject, sign, verify } from 'node:crypto';

/** One row of RFC 7518 section 3.1, or of RFC 8037. */
export interface TokenAlgorithm {
  /** `alg` of the token's header. */
  readonly name: string;
  /** Null if the algorithm does its own hashing. */
  readonly digest: string | null;
  readonly padding?: number;
  readonly saltLength?: number;
}

const byCurve: Readonly<Record<string, TokenAlgorithm>> = {
  prime256v1: { name: 'ES256', digest: 'sha256' },
  secp384r1: { name: 'ES384', digest: 'sha384' },
};
const edwards: TokenAlgorithm = { name: 'EdDSA', digest: null };
const rsa: TokenAlgorithm = { name: 'RS256', digest: 'sha256', padding: constants.RSA_PKCS1_PADDING };
const rsaPss: TokenAlgorithm = {
  name: 'PS256',
  digest: 'sha256',
  padding: constants.RSA_PKCS1_PSS_PADDING,
  // RFC 7518 section 3.5: as long as the hash.
  saltLength: constants.RSA_PSS_SALTLEN_DIGEST,
};

/** RFC 7518 section 3.3: shorter RSA keys must not be used. */
const leastRsaBits = 2048;

/** The one algorithm of a private or public key; undefined for a key that signs no tokens here. */
export function algorithmOf(key: KeyObject): TokenAlgorithm | undefined {
  const { namedCurve = '', modulusLength = 0 } = key.asymmetricKeyDetails ?? {};
  switch (key.asymmetricKeyType) {
    case 'ec':
      return Object.hasOwn(byCurve, namedCurve) ? byCurve[namedCurve] : undefined;
    case 'ed25519':
      return edwards;
    case 'rsa':
      return modulusLength >= leastRsaBits ? rsa : undefined;
    case 'rsa-pss':
      return modulusLength >= leastRsaBits ? rsaPss : undefined;
    default:
      return undefined;
  }
}

/** The signature over `text` in JWS format: for ECDSA both numbers side by side, not DER (RFC 7518 section 3.4). */
export function signText(text: string, key: KeyObject, { digest, name, ...padding }: TokenAlgorithm): Buffer {
  return sign(digest, Buffer.from(text, 'latin1'), { key, dsaEncoding: 'ieee-p1363', ...padding });
}

/** Is this `key`'s signature over `text`? False for anything else. */
export function isSignedBy(
  text: string,
  signature: Buffer,
  key: KeyObject,
  { digest, name, ...padding }: TokenAlgorithm,
): boolean {
  try {
    return verify(digest, Buffer.from(text, 'latin1'), { key, dsaEncoding: 'ieee-p1363', ...padding }, signature);
  } catch {
    return false;
  }
}
