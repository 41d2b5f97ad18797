// Who vouches for a caller's claims: authentication notes it, authorization asks. Claims are remembered with their token, so the
// note goes with them.

import type { RequestAuth } from '../policy/facts.ts';

const vouched = new WeakMap<RequestAuth, readonly string[]>();

/** Notes which providers of a policy vouch for these claims, by the names that `principal.jwt.provider` has for them. */
export function vouchFor(auth: RequestAuth, providers: readonly string[]): void {
  if (vouched.get(auth) === undefined) vouched.set(auth, providers);
}

/** Whether this provider vouches for these claims. */
export function vouchesFor(provider: string, auth: RequestAuth): boolean {
  return vouched.get(auth)?.includes(provider) === true;
}
