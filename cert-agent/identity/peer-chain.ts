// The certificates that the other side of a TLS connection presented, as DER, and what OpenSSL found wrong with them. No TLS
// context of the mesh has `ca`: OpenSSL would look for a path among the roots of all trust domains at once, and refuse good
// peers where two roots bear one name; and Node 24.21 hides what a client presented once OpenSSL likes it.

import type { X509Certificate } from 'node:crypto';
import type { TLSSocket } from 'node:tls';
import { SallyportError } from '../base/errors.ts';

/** Twice what verifyChain takes, so that it and not this decides what is too long. */
const maxWalk = 16;

/** What OpenSSL says of every chain when it has no roots, a good one included. */
const withoutRoots: ReadonlySet<string> = new Set([
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
]);

const ofTime: ReadonlySet<string> = new Set(['CERT_HAS_EXPIRED', 'CERT_NOT_YET_VALID']);

/** What a handshake brought. Nothing of it is verified: verifyChain does that, and then checkComplaint. */
export interface Presented {
  /** Leaf first, the others in the order in which they came; empty without a certificate. */
  readonly chain: readonly Buffer[];
  /** OpenSSL's word for what is wrong beside the missing root (a weak digest, a bad signature); undefined for nothing. */
  readonly complaint: string | undefined;
}

/**
 * What the other side of `socket` presented, the same on the accepting and on the dialing side. Ask once, and before anything
 * else asks for the peer's certificate: Node 24.18 to 24.20 show the chain to the first question only.
 */
export function readPresented(socket: TLSSocket): Presented {
  const leaf = socket.getPeerX509Certificate();
  // Whatever its type says, Node gives a code here on both sides, and null for nothing.
  const error = socket.authorizationError as unknown;
  const said = error === undefined || error === null ? undefined : String(error);
  return {
    chain: leaf === undefined ? [] : readPeerChain(leaf),
    complaint: said === undefined || withoutRoots.has(said) ? undefined : said,
  };
}

/**
 * OpenSSL has the second word: what it finds wrong is refused, whatever we found. It knows the machine's clock only; a caller that goes by
 * another says so, and has judged time already. @throws SallyportError `svid_untrusted`.
 */
export function checkComplaint({ complaint }: Presented, who: string, byOurClock = false): void {
  if (complaint !== undefined && !(byOurClock && ofTime.has(complaint)))
    throw new SallyportError('svid_untrusted', `OpenSSL refuses the chain of ${who}: ${complaint}`);
}

/** The chain of what `getPeerX509Certificate()` gave, without what stands there twice. */
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
