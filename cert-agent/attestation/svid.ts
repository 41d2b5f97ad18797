// An SVID is evidence by itself, over mTLS, also for some time after its expiry.

import { SallyportError } from '../base/errors.ts';
import type { TrustBundles } from '../identity/bundle.ts';
import { emptyDenyList } from '../identity/denied.ts';
import { checkChainSize, readLink } from '../identity/path.ts';
import { checkComplaint, type Presented } from '../identity/peer-chain.ts';
import { verifyChain } from '../identity/verify.ts';
import type { GatheredKind, SvidEvidence } from './contract.ts';

export const heldSvid: GatheredKind = {
  gather: ({ svid }) => (svid === undefined ? undefined : { kind: 'svid', svid }),
};

/**
 * Verifies the SVID that a client presented. One that expired at most `graceMs` ago is evidence too: no peer accepts it
 * any more, but the client has proved its key in the handshake. Whether it was revoked is on record, even when the deny
 * list has dropped it, and the store checks that. A leaf with more than `mostNames` DNS names is not of ours.
 * @throws SallyportError as verifyChain does, but `svid_invalid` when it cannot be parsed: no error of the CA.
 */
export function verifySvid(
  presented: Presented,
  bundles: TrustBundles,
  { now, graceMs, mostNames }: { readonly now: number; readonly graceMs: number; readonly mostNames: number },
): SvidEvidence {
  try {
    const expiredAt = expiryOf(presented.chain);
    const expired = expiredAt !== undefined && expiredAt < now && now - expiredAt <= graceMs;
    // Its issuers may have expired with it.
    const { id, serial, notBefore, notAfter } = verifyChain(
      presented.chain,
      bundles,
      emptyDenyList,
      expired ? expiredAt : now,
    );
    checkComplaint(presented, id.uri, true);
    return { kind: 'svid', id, serial, names: dnsOf(presented.chain, mostNames), expired, notBefore, notAfter };
  } catch (error) {
    if (!(error instanceof SallyportError)) throw error;
    if (error.code === 'certificate_unreadable') throw new SallyportError('svid_invalid', error.message);
    throw error;
  }
}

/** The expiry of a chain's leaf, milliseconds since 1970; undefined without one. */
function expiryOf(chain: readonly Buffer[]): number | undefined {
  checkChainSize(chain);
  const [leaf] = chain;
  return leaf === undefined ? undefined : readLink(leaf).notAfter;
}

function dnsOf([leaf]: readonly Buffer[], mostNames: number): readonly string[] {
  const names = leaf === undefined ? [] : readLink(leaf).facts.dns;
  return names.length > mostNames ? [] : names;
}
