// The client's evidence, which alone decides its identity, against what the CA knows. Each kind is verified by its file
// in attestation/. Clients see these messages, so they mention only the client's own token or SVID.

import type { Evidence } from '../attestation/contract.ts';
import { SallyportError } from '../base/errors.ts';
import { type DenyList, isSerialDenied } from '../identity/denied.ts';

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
