// Which public keys are acceptable, for chains, requests and key sets. A key that is too weak proves nothing. One that
// is too large costs minutes of verification (a 3072-bit RSA exponent costs sixty times the usual one).

import { createPublicKey, type JsonWebKey, type KeyObject } from 'node:crypto';
import { reasonOf } from '../base/errors.ts';

/** ECDSA curves, by OpenSSL's names. */
const curves: ReadonlySet<string> = new Set(['prime256v1', 'secp384r1', 'secp521r1']);
const leastRsaBits = 2048;
const mostRsaBits = 4096;
/** With exponent 1, the signature is the message. */
const leastExponent = 3n;
/** 65537 is usual. NIST SP 800-56B allows 256 bits, which cost eight times as much. */
const exponentLimit = 2n ** 33n;

/**
 * Why `key` is not acceptable, as a phrase (`RSA of 1024 bits`); undefined for P-256, P-384, P-521, Ed25519 and RSA of
 * 2048 to 4096 bits.
 */
export function weaknessOf(key: KeyObject): string | undefined {
  const { namedCurve } = key.asymmetricKeyDetails ?? {};
  switch (key.asymmetricKeyType) {
    case 'ed25519':
      return undefined;
    case 'ec':
      return curves.has(namedCurve ?? '') ? undefined : `EC on ${namedCurve ?? 'a custom curve'}`;
    case 'rsa':
    case 'rsa-pss':
      return weaknessOfRsa(key);
    default:
      return key.asymmetricKeyType ?? 'of an unknown type';
  }
}

/** The same for a JWK, which may not be a key at all. */
export function weaknessOfJwk(jwk: JsonWebKey): string | undefined {
  try {
    return weaknessOf(createPublicKey({ key: jwk, format: 'jwk' }));
  } catch (error) {
    return `unreadable: ${reasonOf(error)}`;
  }
}

function weaknessOfRsa(key: KeyObject): string | undefined {
  const { modulusLength = 0, publicExponent = 0n } = key.asymmetricKeyDetails ?? {};
  if (modulusLength < leastRsaBits || modulusLength > mostRsaBits) return `RSA of ${modulusLength} bits`;
  if (publicExponent >= exponentLimit) return 'RSA with an exponent of 2^33 or more';
  if (publicExponent < leastExponent || publicExponent % 2n === 0n) return `RSA with the exponent ${publicExponent}`;
  // Node cannot export an RSA-PSS key as JWK, and the chips with the flaw below made no such keys.
  if (key.asymmetricKeyType !== 'rsa') return undefined;
  const { n = '' } = key.export({ format: 'jwk' });
  return hasRocaPrint(BigInt(`0x0${Buffer.from(n, 'base64url').toString('hex')}`))
    ? 'RSA from a chip with the ROCA flaw, which can be factored (CVE-2017-15361)'
    : undefined;
}

/** The primes of ROCA's fingerprint. Of other moduli, one in 2^27 matches all of them. */
const rocaPrimes: readonly bigint[] = [
  ...[3n, 5n, 7n, 11n, 13n, 17n, 19n, 23n, 29n, 31n, 37n, 41n, 43n, 47n, 53n, 59n, 61n, 67n, 71n, 73n, 79n, 83n, 89n],
  ...[97n, 101n, 103n, 107n, 109n, 113n, 127n, 131n, 137n, 139n, 149n, 151n, 157n, 163n, 167n],
];
const rocaProduct = rocaPrimes.reduce((product, prime) => product * prime, 1n);

/** For each prime, the remainders of powers of 65537. */
const rocaRemainders: ReadonlyMap<bigint, ReadonlySet<bigint>> = new Map(
  rocaPrimes.map((prime) => {
    const powers = new Set<bigint>();
    for (let power = 1n; !powers.has(power); power = (power * 65537n) % prime) powers.add(power);
    return [prime, powers];
  }),
);

/**
 * Nemec et al., The Return of Coppersmith's Attack, section 2: the primes of such a key, and so its modulus, are powers
 * of 65537 modulo these.
 */
function hasRocaPrint(modulus: bigint): boolean {
  const rest = modulus % rocaProduct;
  return rocaPrimes.every((prime) => rocaRemainders.get(prime)!.has(rest % prime));
}
