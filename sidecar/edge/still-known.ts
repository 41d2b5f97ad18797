// Re-checks an accepted caller after a policy change. Its credential has been removed from the request, so what is kept
// of it is compared: a client's key or password must be unchanged, and a user's claims must satisfy the new policy.

import type { Exchange } from '../exchange/exchange.ts';
import type { RequestAuth } from '../policy/facts.ts';

/** Represents each client's credential, and changes with it. */
export type Credentials = ReadonlyMap<string, string>;

/** True if the client has a credential now, and had the same one before. */
export function hasSameCredential({ clientId }: Exchange, now: Credentials, before: Credentials | undefined): boolean {
  const credential = clientId === undefined ? undefined : now.get(clientId);
  return credential !== undefined && before?.get(clientId!) === credential;
}

/** True if the claims are for one of `audiences`; an empty list accepts all. */
export function isFor({ claims }: RequestAuth, audiences: readonly string[]): boolean {
  return audiences.length === 0 || [claims['aud']].flat().some((one) => audiences.includes(one as string));
}
