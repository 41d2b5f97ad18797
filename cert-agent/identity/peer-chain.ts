// The certificates that the other side of a TLS connection presented, as DER.

import type { DetailedPeerCertificate, PeerCertificate } from 'node:tls';

/** Twice what verifyChain takes, so that it and not this decides what is too long. */
const maxWalk = 16;

/**
 * The chain, leaf first, of what `getPeerCertificate(true)` gave. Read it first and once: Node 24.18 to 24.20 give the
 * chain to the first question only. The links between them are by name alone and prove nothing; verifyChain does.
 */
export function readPeerChain(peer: PeerCertificate | DetailedPeerCertificate): Buffer[] {
  const chain: Buffer[] = [];
  let one: Partial<DetailedPeerCertificate> | undefined = peer;
  // Node gives {} where there is no certificate, and lets a self-signed one be its own issuer.
  while (one?.raw !== undefined && chain.length < maxWalk && !chain.some((der) => der.equals(one!.raw!))) {
    chain.push(one.raw);
    one = one.issuerCertificate;
  }
  return chain;
}
