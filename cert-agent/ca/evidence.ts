// What a caller proves, and so who it is. Only this decides an identity; what a CSR asks for is never read. The
// sentences here reach clients: they speak of the caller's own token or SVID and of nobody else.

import { createHash } from 'node:crypto';
import { SallyportError } from '../base/errors.ts';
import type { TrustBundles } from '../identity/bundle.ts';
import type { DenyList } from '../identity/denied.ts';
import { checkComplaint, type Presented } from '../identity/peer-chain.ts';
import { parseSpiffeId, type SpiffeId } from '../identity/spiffe-id.ts';
import { verifyChain } from '../identity/verify.ts';
import type { StoredToken, TokenStore } from './store/store.ts';

export type Evidence =
  | { readonly kind: 'token'; readonly id: SpiffeId; readonly hash: string; readonly bound: StoredToken['bound'] }
  | { readonly kind: 'svid'; readonly id: SpiffeId; readonly serial: string };

/** The only form in which a token is stored or looked for: who reads the store, or times the look-up, learns no token. */
export function hashToken(token: string): string {
  return createHash('sha256').update(token).digest('hex');
}

/** @throws SallyportError `token_unknown`, `token_expired` or `id_denied`. */
export async function readToken(tokens: TokenStore, token: string, denied: DenyList, now: number): Promise<Evidence> {
  const hash = hashToken(token);
  const found = await tokens.findToken(hash);
  if (found === undefined) {
    throw new SallyportError('token_unknown', 'this CA does not know the join token', {
      hint: 'copy the whole token, or make one: sallyport ca token create --spiffe-id ID --ttl 10m',
    });
  }
  if (denied.ids.has(found.id)) throw deniedError(found.id);
  if (found.expiresAt <= now) throw expiredTokenError();
  return { kind: 'token', id: parseSpiffeId(found.id), hash, bound: found.bound };
}

/**
 * @throws SallyportError what verifyChain throws, but `id_denied` when the SVID or its ID is on the deny-list and
 * `svid_invalid` when it cannot be read: neither is a fault of the CA.
 */
export function readSvid(presented: Presented, bundles: TrustBundles, denied: DenyList, now: number): Evidence {
  try {
    const { id, serial } = verifyChain(presented.chain, bundles, denied, now);
    checkComplaint(presented, id.uri, true);
    return { kind: 'svid', id, serial };
  } catch (error) {
    if (!(error instanceof SallyportError)) throw error;
    if (error.code === 'svid_denied') throw new SallyportError('id_denied', error.message, { hint: deniedHint });
    if (error.code === 'certificate_unreadable') throw new SallyportError('svid_invalid', error.message);
    throw error;
  }
}

const deniedHint = 'an operator revoked it; to begin again it takes both: sallyport ca allow ID, then a new join token';

export function deniedError(id: string): SallyportError {
  return new SallyportError('id_denied', `${id} is on the deny-list`, { hint: deniedHint });
}

export function expiredTokenError(): SallyportError {
  return new SallyportError('token_expired', 'the join token has expired', {
    hint: 'make a new one: sallyport ca token create --spiffe-id ID --ttl 10m',
  });
}
