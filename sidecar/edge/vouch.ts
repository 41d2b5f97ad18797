// Which provider vouches for a caller's claims: set by authentication, read by authorization. Claims are cached with
// their token, so the note is cached with them.

import type { RequestAuth } from '../policy/facts.ts';

const vouched = new WeakMap<RequestAuth, readonly string[]>();

/** Notes which providers of a policy vouch for these claims, by their names in `principal.jwt.provider`. */
export function vouchFor(auth: RequestAuth, providers: readonly string[]): void {
  if (vouched.get(auth) === undefined) vouched.set(auth, providers);
}

/** True if this provider vouches for these claims. */
export function vouchesFor(provider: string, auth: RequestAuth): boolean {
  return vouched.get(auth)?.includes(provider) === true;
}
