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
 * Why a head proves nothing, as a sentence; undefined if one of `roots` (DER) vouches for it. The issuer may have
 * expired since: it must have been valid when it signed.
 */
export function whyUnproved(trustDomain: string, head: LedgerHead, roots: readonly Uint8Array[]): string | undefined {
  try {
    const issuer = new X509Certificate(Buffer.from(head.issuer, 'base64'));
    const anchors = roots.map((root) => new X509Certificate(root));
    const anchor = anchors.find((one) => issuer.checkIssued(one) && issuer.verify(one.publicKey));
    if (!issuer.ca || anchor === undefined) return 'its signer is not an issuer of this CA';
    if (head.time < issuer.validFromDate.getTime() || head.time > issuer.validToDate.getTime())
      return 'its signer was not valid at that time';
    const text = Buffer.from(textOf(trustDomain, head, head.time));
    const isGood = verify('sha256', text, issuer.publicKey, Buffer.from(head.signature, 'base64'));
    return isGood ? undefined : 'its signature does not match';
  } catch {
    return 'it cannot be read';
  }
}
