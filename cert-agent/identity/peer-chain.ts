// The certificates that the other side of a TLS connection presented, as DER.

import type { X509Certificate } from 'node:crypto';
import type { DetailedPeerCertificate, PeerCertificate } from 'node:tls';

/** What both of Node's forms have. */
interface Linked {
  readonly raw?: Uint8Array;
  readonly issuerCertificate?: Linked | undefined;
}

/** Twice what verifyChain takes, so that it and not this decides what is too long. */
const maxWalk = 16;

/**
 * The chain, leaf first, of what `getPeerCertificate(true)` or `getPeerX509Certificate()` gave. Ask one of them, first and
 * once: Node 24.18 to 24.20 give the chain to the first question only. The links between them are by name alone and prove nothing; verifyChain does.
 */
export function readPeerChain(peer: PeerCertificate | DetailedPeerCertificate | X509Certificate): Buffer[] {
  const chain: Buffer[] = [];
  let one: Linked | undefined = peer;
  // Node gives {} where there is no certificate, and lets a self-signed one be its own issuer.
  while (one?.raw !== undefined && chain.length < maxWalk && !chain.some((der) => der.equals(one!.raw!))) {
    chain.push(Buffer.from(one.raw));
    one = one.issuerCertificate;
  }
  return chain;
}
