// Signed heads of the ledger: the intermediate's signature over the hash of one record, and so over all before it. A
// verifier needs the CA's roots and no key.

import { type KeyObject, sign, verify, X509Certificate } from 'node:crypto';
import { formatTime } from '../../base/clock.ts';
import type { LedgerEnd, LedgerHead } from './table.ts';

/**
 * The signed text. Its first line separates it from everything else that the key signs: a certificate or a CRL begins
 * with a DER SEQUENCE.
 */
function textOf(trustDomain: string, { sequence, hash }: LedgerEnd, time: number): string {
  return `sallyport ledger head 1\n${trustDomain}\n${sequence}\n${hash}\n${formatTime(time)}\n`;
}

/** Signs the end of the ledger. `time` is in milliseconds since 1970; `chain` is the signer and CAs above it, DER. */
export function signHead(
  trustDomain: string,
  end: LedgerEnd,
  time: number,
  { key, chain }: { readonly key: KeyObject; readonly chain: readonly Uint8Array[] },
): LedgerHead {
  const signature = sign('sha256', Buffer.from(textOf(trustDomain, end, time)), key).toString('base64');
  return { ...end, time, signature, issuer: formatCertificates(chain) };
}

/**
 * Why a head's signature is invalid, as a sentence; undefined if it is valid. Whether the issuer belongs to the CA
 * is another question: see `isIssued`. The issuer may have expired since: it must have been valid when it signed.
 */
export function whyUnsigned(trustDomain: string, head: LedgerHead): string | undefined {
  try {
    const issuer = chainOf(head.issuer)[0]!;
    if (!issuer.ca) return notAnIssuer;
    if (head.time < issuer.validFromDate.getTime() || head.time > issuer.validToDate.getTime())
      return 'its signer was not valid at that time';
    const text = Buffer.from(textOf(trustDomain, head, head.time));
    const isGood = verify('sha256', text, issuer.publicKey, Buffer.from(head.signature, 'base64'));
    return isGood ? undefined : 'its signature does not match';
  } catch {
    return 'it cannot be read';
  }
}

export const notAnIssuer = 'its signer is not an issuer of this CA';

/** True if the issuer of a head, by the CAs that are given with it, leads to one of `roots` (DER). */
export function isIssued(issuer: string, roots: readonly Uint8Array[]): boolean {
  try {
    const chain = chainOf(issuer);
    const anchors = roots.map((root) => new X509Certificate(root));
    return chain.every((one, i) => {
      const above = chain[i + 1];
      return one.ca && (above === undefined ? anchors : [above]).some((by) => isSignedBy(one, by));
    });
  } catch {
    return false;
  }
}

/** @throws TypeError for bytes after a certificate: OpenSSL ignores them, and no signature covers them. */
function chainOf(issuer: string): readonly X509Certificate[] {
  return parseCertificates(issuer).map((der) => {
    const certificate = new X509Certificate(der);
    if (!certificate.raw.equals(der)) throw new TypeError('bytes after a certificate');
    return certificate;
  });
}

function isSignedBy(certificate: X509Certificate, by: X509Certificate): boolean {
  return certificate.checkIssued(by) && certificate.verify(by.publicKey);
}

/**
 * Certificates (DER) as base64, separated by spaces: the chain of a head's issuer, and the roots in records of starts
 * and rotations, by which later heads confirm earlier ones.
 */
export function formatCertificates(certificates: readonly Uint8Array[]): string {
  return certificates.map((one) => Buffer.from(one).toString('base64')).join(' ');
}

/** Reads the text of `formatCertificates`. */
export function parseCertificates(text: string): readonly Buffer[] {
  return text.split(' ').map((one) => Buffer.from(one, 'base64'));
}
