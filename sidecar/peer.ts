// Step: who is the peer? Its chain is verified once per connection and cached by the leaf's fingerprint; whether it
// still holds - not expired, not denied, its root still trusted - is checked on every request.

import { TLSSocket } from 'node:tls';
import { SallyportError } from '../cert-agent/base/errors.ts';
import type { Live } from '../cert-agent/base/live.ts';
import type { TrustBundles } from '../cert-agent/identity/bundle.ts';
import { emptyDenyList } from '../cert-agent/identity/denied.ts';
import type { Identity } from '../cert-agent/identity/identity.ts';
import { checkComplaint, type Presented, readPresented } from '../cert-agent/identity/peer-chain.ts';
import {
  checkDenied,
  checkValidity,
  fingerprintOf,
  type PeerIdentity,
  verifyChain,
} from '../cert-agent/identity/verify.ts';
import type { Connection } from './connection.ts';

/**
 * Throws if the connection's peer is not (or no longer) valid: a `svid_*` code, or `not_ready` while we have no bundle.
 */
export type PeerCheck = (connection: Connection) => void;

/**
 * How many verdicts are cached; a mesh has fewer workloads than this, and a stranger's chain is never cached. The
 * oldest is dropped first, so that renewals do not fill the memory for good.
 */
const maxVerdicts = 4096;

interface Verdict {
  readonly peer: PeerIdentity;
  readonly chain: readonly Buffer[];
}

/** The check that all inbound connections of a process share. */
export function createPeerCheck(identity: Live<Identity | undefined>, limit = maxVerdicts): PeerCheck {
  const verdicts = new Map<string, Verdict>();
  let verdictsUnder: TrustBundles | undefined;

  return function checkPeer(connection: Connection): void {
    // A plaintext peer has no identity, which policy sees; whether plaintext is allowed is the port's setting.
    if (!(connection.socket instanceof TLSSocket)) return checkPlaintext(connection);
    const ours = identity.current();
    if (ours === undefined) throw new SallyportError('not_ready', 'there is no trust bundle to verify a peer with');
    if (connection.verifiedUnder !== ours) {
      if (verdictsUnder !== ours.bundles) {
        verdicts.clear();
        verdictsUnder = ours.bundles;
      }
      const { peer, chain } =
        connection.peer === undefined
          ? meet(connection, ours)
          : verify(connection.peer.fingerprint, connection.chain, ours);
      connection.peer = peer;
      connection.chain = chain;
      connection.verifiedUnder = ours;
      connection.clientCert = describeForApp(ours, peer);
    }
    const { id, notBefore, validUntil } = connection.peer!;
    const now = Date.now();
    if (now < notBefore || now > validUntil)
      checkValidity({ notBefore, notAfter: validUntil }, `the certificate of ${id.uri}`, now);
    checkDenied(connection.peer!, ours.denied);
  };

  /**
   * The first check of a connection: our verdict with its reason, and OpenSSL's objections other than the missing root.
   */
  function meet(connection: Connection, ours: Identity): Verdict {
    const presented = readPeer(connection);
    const verdict = verify(fingerprintOf(presented.chain[0]!), presented.chain, ours);
    checkComplaint(presented, verdict.peer.id.uri);
    return verdict;
  }

  function verify(fingerprint: string, chain: readonly Buffer[], ours: Identity): Verdict {
    const known = verdicts.get(fingerprint);
    if (known !== undefined) return known;
    const verdict = { peer: verifyChain(chain, ours.bundles, emptyDenyList, Date.now()), chain };
    const [oldest] = verdicts.keys();
    if (oldest !== undefined && verdicts.size >= limit) verdicts.delete(oldest);
    verdicts.set(fingerprint, verdict);
    return verdict;
  }
}

function checkPlaintext({ port, remoteAddress }: Connection): void {
  const { mtls } = port.rules.current();
  if (mtls === undefined || mtls.mode === 'STRICT')
    throw new SallyportError(
      'plaintext_refused',
      `plaintext from ${remoteAddress}: ${port.key} accepts mutual TLS only`,
    );
}

/** The certificates that the peer presented: a leaf at least. */
function readPeer({ socket }: Connection): Presented {
  const presented = socket instanceof TLSSocket ? readPresented(socket) : undefined;
  if (presented === undefined || presented.chain.length === 0)
    throw new SallyportError('svid_missing', 'the peer presented no certificate');
  return presented;
}

/** `x-forwarded-client-cert` as Istio's inbound sidecar sets it: By, Hash, Subject (always quoted), URI. */
function describeForApp(ours: Identity, peer: PeerIdentity): string {
  const subject = peer.subject.replace(/[^\x20-\x7e]/g, '?').replace(/[\\"]/g, '\\$&');
  return `By=${ours.svid.id.uri};Hash=${peer.fingerprint};Subject="${subject}";URI=${peer.id.uri}`;
}
