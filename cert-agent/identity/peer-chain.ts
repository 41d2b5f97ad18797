// The certificates that a TLS peer presented, as DER, and OpenSSL's complaint about them. No TLS context of the mesh
// has `ca`. With it, OpenSSL would search the roots of all trust domains at once, and refuse good peers where two roots
// have the same name. Also, Node 24.21 hides the client's chain if OpenSSL accepts it.

import type { X509Certificate } from 'node:crypto';
import type { TLSSocket } from 'node:tls';
import { SallyportError } from '../base/errors.ts';

/** Twice the limit of verifyChain, so that verifyChain decides what is too long. */
const maxWalk = 16;

/** OpenSSL's errors for every chain, even a good one, when it has no roots. */
const withoutRoots: ReadonlySet<string> = new Set([
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
]);

const ofTime: ReadonlySet<string> = new Set(['CERT_HAS_EXPIRED', 'CERT_NOT_YET_VALID']);

/** The unverified result of a handshake. verifyChain verifies it, and then checkComplaint. */
export interface Presented {
  /** Leaf first, the others in the order of arrival; empty without a certificate. */
  readonly chain: readonly Buffer[];
  /** OpenSSL's error other than the missing root (a weak digest, a bad signature); undefined without one. */
  readonly complaint: string | undefined;
}

/**
 * What the peer of `socket` presented, on either side. Call it once, before any other code asks for the peer's
 * certificate: Node 24.18 to 24.20 return the chain to the first call only.
 */
export function readPresented(socket: TLSSocket): Presented {
  const leaf = socket.getPeerX509Certificate();
  // Unlike its type says, Node has a code here on both sides, and null for none.
  const error = socket.authorizationError as unknown;
  const code = error === undefined || error === null ? undefined : String(error);
  return {
    chain: leaf === undefined ? [] : readPeerChain(leaf),
    complaint: code === undefined || withoutRoots.has(code) ? undefined : code,
  };
}

/**
 * Refuses what OpenSSL complained about, whatever our own result was. OpenSSL uses the machine's clock only. A caller
 * with another clock says so, and has checked the time itself. @throws SallyportError `svid_untrusted`.
 */
export function checkComplaint({ complaint }: Presented, who: string, byOurClock = false): void {
  if (complaint !== undefined && !(byOurClock && ofTime.has(complaint)))
    throw new SallyportError('svid_untrusted', `OpenSSL refuses the chain of ${who}: ${complaint}`);
}

/** The chain of `getPeerX509Certificate()`, without duplicates. */
export function readPeerChain(leaf: X509Certificate): Buffer[] {
  const chain: Buffer[] = [];
  let one: X509Certificate | undefined = leaf;
  for (let walked = 0; one !== undefined && walked < maxWalk; walked++) {
    const { raw } = one;
    if (!chain.some((der) => der.equals(raw))) chain.push(Buffer.from(raw));
    one = one.issuerCertificate;
  }
  return chain;
}
