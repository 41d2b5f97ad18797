// The certificates of the CA itself: roots for ten years, intermediates for one, and the cross certificate that makes a
// new root acceptable to peers that only have the old one. Decides nothing; init and rotation do.

import { createPublicKey, type KeyObject } from 'node:crypto';
import { readCertificateFacts } from '../identity/certificate.ts';
import { signCrl } from '../identity/crl.ts';
import { randomSerial, type Signer, signCertificate } from '../identity/x509.ts';

const dayMs = 86_400_000;
/** How long a root is valid: ten years. */
export const rootLifeMs = 3650 * dayMs;
/** How long an intermediate is valid: one year. */
export const intermediateLifeMs = 365 * dayMs;
const backdateMs = 60_000;

/** The names of a signing certificate. */
export interface CaNames {
  readonly trustDomain: string;
  /** Milliseconds since 1970. */
  readonly now: number;
}

/** A root for `key`, DER. All roots of a trust domain have the same name, so that one can certify the next. */
export function signRoot({ trustDomain, now }: CaNames, key: KeyObject): Promise<Buffer> {
  return signCertificate(
    {
      ...spanOf(now, now + rootLifeMs),
      ...namesOf(trustDomain, 'root'),
      publicKey: publicHalf(key),
      // One CA may follow below the root, and none below that one.
      ca: { pathLength: 1 },
    },
    { key },
  );
}

/** An intermediate for `publicKey` (SPKI, DER), DER; `constrained` restricts it to its trust domain. */
export function signIntermediate(
  { trustDomain, now }: CaNames,
  publicKey: Buffer,
  root: Signer,
  constrained: boolean,
): Promise<Buffer> {
  return signCertificate(
    {
      ...spanOf(now, now + intermediateLifeMs),
      ...namesOf(trustDomain, 'intermediate'),
      publicKey,
      ca: { pathLength: 0 },
      ...(constrained ? { permittedUriHost: trustDomain } : {}),
    },
    root,
  );
}

/**
 * `newKey` with the name of a root, certified by the old root: RFC 4210 section 4.4, new with old. Subject and issuer
 * are the same name, so that path lengths do not count it (RFC 5280 section 4.2.1.9).
 */
export function signCross(
  { trustDomain, now }: CaNames,
  newKey: KeyObject,
  old: Signer,
  until: number,
): Promise<Buffer> {
  return signCertificate(
    {
      ...spanOf(now, until),
      ...namesOf(trustDomain, 'root'),
      publicKey: publicHalf(newKey),
      ca: { pathLength: 1 },
    },
    old,
  );
}

/**
 * The root's own CRL, DER, for verifiers that want one of every CA in the chain, as nginx does. It revokes nothing, and
 * lasts as long as an intermediate: a new one of each comes from the same use of the root's key.
 */
export function signRootCrl(now: number, root: Signer & { readonly certificate: Uint8Array }): Promise<Buffer> {
  return signCrl(
    { number: now, thisUpdate: now - backdateMs, nextUpdate: now + intermediateLifeMs, entries: [] },
    root,
  );
}

/** X509-SVID section 3: a signing certificate may have the ID of its trust domain, without a path. */
export function namesOf(trustDomain: string, role: string): { subject: string; uris: string[] } {
  // RFC 5280, appendix A.1: a common name has at most 64 characters, a trust domain up to 255.
  return { subject: `CN=${trustDomain.slice(0, 63 - role.length)} ${role}`, uris: [`spiffe://${trustDomain}`] };
}

/** True if an intermediate (DER) is restricted to names. */
export function isConstrained(intermediate: Uint8Array): boolean {
  return readCertificateFacts(intermediate).nameConstraints !== undefined;
}

/** The public key of a key, SPKI DER. */
export function publicHalf(key: KeyObject): Buffer {
  return createPublicKey(key).export({ type: 'spki', format: 'der' });
}

function spanOf(now: number, notAfter: number) {
  return {
    ...{ serial: randomSerial(), notBefore: now - backdateMs, notAfter },
    keyUsage: ['keyCertSign', 'cRLSign'] as const,
  };
}
