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

/** Signs the end of the ledger. `time` is in milliseconds since 1970; `certificate` is the signer's, DER. */
export function signHead(
  trustDomain: string,
  end: LedgerEnd,
  time: number,
  { key, certificate }: { readonly key: KeyObject; readonly certificate: Uint8Array },
): LedgerHead {
  const signature = sign('sha256', Buffer.from(textOf(trustDomain, end, time)), key).toString('base64');
  return { ...end, time, signature, issuer: Buffer.from(certificate).toString('base64') };
}

/**
 * Why a head is not what its own issuer signed, as a sentence; undefined if it is. Whether that issuer is one of the CA
 * is another question: see `isIssued`. The issuer may have expired since: it must have been valid when it signed.
 */
export function whyUnsigned(trustDomain: string, head: LedgerHead): string | undefined {
  try {
    const issuer = new X509Certificate(Buffer.from(head.issuer, 'base64'));
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

/** True if one of `roots` (DER) signed the issuer of a head (base64 DER). */
export function isIssued(issuer: string, roots: readonly Uint8Array[]): boolean {
  try {
    const certificate = new X509Certificate(Buffer.from(issuer, 'base64'));
    return roots.some((root) => {
      const anchor = new X509Certificate(root);
      return certificate.checkIssued(anchor) && certificate.verify(anchor.publicKey);
    });
  } catch {
    return false;
  }
}

/** The CA's roots (DER), as `start` and `rotate` record them: later heads vouch for the roots of earlier ones. */
export function formatRoots(roots: readonly Uint8Array[]): string {
  return roots.map((root) => Buffer.from(root).toString('base64')).join(' ');
}

/** Reads what `formatRoots` wrote; what cannot be read vouches for nothing. */
export function parseRoots(text: string): readonly Buffer[] {
  return text.split(' ').map((root) => Buffer.from(root, 'base64'));
}
