// Verifies the client's evidence, which alone decides its identity; names in a CSR are never read. Clients see these
// messages, so they mention only the client's own token or SVID.

import { createHash } from 'node:crypto';
import { SallyportError } from '../base/errors.ts';
import type { TrustBundles } from '../identity/bundle.ts';
import { type DenyList, emptyDenyList, isSerialDenied } from '../identity/denied.ts';
import { checkChainSize, readLink } from '../identity/path.ts';
import { checkComplaint, type Presented } from '../identity/peer-chain.ts';
import { parseSpiffeId, type SpiffeId } from '../identity/spiffe-id.ts';
import { verifyChain } from '../identity/verify.ts';
import { mostNames } from './dns/name.ts';
import type { StoredToken, TokenStore } from './store/store.ts';

export interface TokenEvidence {
  readonly kind: 'token';
  readonly id: SpiffeId;
  readonly hash: string;
  /** Milliseconds since 1970. */
  readonly expiresAt: number;
  /** The DNS names that it is for; what is allowed now decides. */
  readonly names: readonly string[];
  readonly bound: StoredToken['bound'];
}

export interface SvidEvidence {
  readonly kind: 'svid';
  readonly id: SpiffeId;
  readonly serial: string;
  /** The DNS names in it: a guess at what the next one will have, which the record decides. */
  readonly names: readonly string[];
  /** True if it had expired. */
  readonly expired: boolean;
  /** Milliseconds since 1970. */
  readonly notBefore: number;
  readonly notAfter: number;
}

export type Evidence = TokenEvidence | SvidEvidence;

/** Tokens are stored and looked up only as hashes: neither the store nor the timing of a look-up reveals a token. */
export function hashToken(token: string): string {
  return createHash('sha256').update(token).digest('hex');
}

/** Whether its ID is denied is another question: see `refuseDenied`. @throws SallyportError `token_unknown`. */
export async function readToken(tokens: TokenStore, token: string): Promise<TokenEvidence> {
  const hash = hashToken(token);
  const found = await tokens.findToken(hash);
  if (found === undefined) {
    throw new SallyportError('token_unknown', 'unknown join token', {
      hint: 'copy the whole token, or create one: sallyport ca token create --dir DIR --spiffe-id ID --ttl 10m',
    });
  }
  const { expiresAt, names = [], bound } = found;
  return { kind: 'token', id: parseSpiffeId(found.id), hash, expiresAt, names, bound };
}

/**
 * Verifies the SVID that a client presented. One that expired at most `graceMs` ago is evidence too: no peer accepts it
 * any more, but the client has proved its key in the handshake. Whether it was revoked is on record, even when the deny
 * list has dropped it, and the store checks that. For the deny list see `refuseDenied`.
 * @throws SallyportError as verifyChain does, but `svid_invalid` when it cannot be parsed: no error of the CA.
 */
export function readSvid(
  presented: Presented,
  bundles: TrustBundles,
  { now, graceMs }: { readonly now: number; readonly graceMs: number },
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
    return { kind: 'svid', id, serial, names: dnsOf(presented.chain), expired, notBefore, notAfter };
  } catch (error) {
    if (!(error instanceof SallyportError)) throw error;
    if (error.code === 'certificate_unreadable') throw new SallyportError('svid_invalid', error.message);
    throw error;
  }
}

/**
 * Refuses evidence that is on the deny list. Call it once the ledger knows the identity: the attempts of a denied one
 * are then on record as its own, and do not drown in those of strangers. @throws SallyportError `id_denied`.
 */
export function refuseDenied(evidence: Evidence, denied: DenyList): void {
  const id = evidence.id.uri;
  if (denied.ids.has(id)) throw deniedError(id);
  if (evidence.kind === 'svid' && isSerialDenied(denied, evidence.serial))
    throw revokedError(`certificate ${evidence.serial}`, id);
}

/** The expiry of a chain's leaf, milliseconds since 1970; undefined without one. */
function expiryOf(chain: readonly Buffer[]): number | undefined {
  checkChainSize(chain);
  const [leaf] = chain;
  return leaf === undefined ? undefined : readLink(leaf).notAfter;
}

/** A leaf with more names is not of ours. */
function dnsOf([leaf]: readonly Buffer[]): readonly string[] {
  const names = leaf === undefined ? [] : readLink(leaf).facts.dns;
  return names.length > mostNames ? [] : names;
}

const deniedHint =
  'an operator revoked it; to start again, first run sallyport ca allow --dir DIR ID, then create a new join token';

export function deniedError(id: string): SallyportError {
  return new SallyportError('id_denied', `${id} is on the deny list`, { hint: deniedHint });
}

/** `what` is a certificate of `id` that was revoked; the ID is not on the deny list. */
export function revokedError(what: string, id: string): SallyportError {
  return new SallyportError('id_denied', `${what} of ${id} is revoked`, {
    hint: 'to start again, create a new join token: sallyport ca token create --dir DIR --spiffe-id ID --ttl 10m',
  });
}

export function expiredTokenError(): SallyportError {
  return new SallyportError('token_expired', 'the join token has expired', {
    hint: 'create a new one: sallyport ca token create --dir DIR --spiffe-id ID --ttl 10m',
  });
}
