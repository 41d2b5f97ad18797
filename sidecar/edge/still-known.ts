// Is a caller who is in already still who they were, when the policy has changed? Their credential is gone from the request, so
// what is kept of it is compared: a client's key or password must be the same that it was, and a user's claims must be those
// that the new policy would take.

import type { Exchange } from '../exchange/exchange.ts';
import type { RequestAuth } from '../policy/facts.ts';

/** What stands for the credential of each client, and changes when that does. */
export type Credentials = ReadonlyMap<string, string>;

/** Whether the client has a credential now, and had the same one before. */
export function hasSameCredential({ clientId }: Exchange, now: Credentials, before: Credentials | undefined): boolean {
  const credential = clientId === undefined ? undefined : now.get(clientId);
  return credential !== undefined && before?.get(clientId!) === credential;
}

/** Whether the claims are for one of `audiences`; an empty list takes all. */
export function isFor({ claims }: RequestAuth, audiences: readonly string[]): boolean {
  return audiences.length === 0 || [claims['aud']].flat().some((one) => audiences.includes(one as string));
}
