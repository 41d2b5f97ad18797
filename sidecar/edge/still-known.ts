// Is a caller who is in already still who they were, under a policy that has changed meanwhile? Their credential is gone from
// the request, so the policies are compared: what they were known by must be what the new one takes, a client's key or
// password must be the same that it was, and a part that knows its callers by nothing that is kept must not have changed.

import type { Exchange } from '../exchange/exchange.ts';
import { sayingsOf } from './policy-parts.ts';
import type { SecurityPolicy } from './security-policy.ts';

/** What stands for the credential of a client, and changes when that does; undefined for one who is no client of ours. */
export type CredentialOf = (clientId: string) => string | undefined;

/** What of a policy is compared with the next one. */
export interface Known {
  readonly credentialOf: CredentialOf;
  /** `sayingsOf` of policy-parts.ts. */
  readonly sayings: ReadonlyMap<string, string>;
}

/** `before` is that of the policy under which they came in; undefined where there was none. */
export type StillKnows = (exchange: Exchange, before: Known | undefined) => boolean;

/** What is compared of `policy`. `resolveSecret` gives the data of a Secret by its name and the part that names it. */
export function knownBy(
  policy: SecurityPolicy,
  credentialOf: CredentialOf,
  resolveSecret: (name: string, part: string) => object | undefined,
): Known {
  return { credentialOf, sayings: sayingsOf(policy, resolveSecret) };
}

/** `now` is the new policy's. */
export function compileStillKnown(policy: SecurityPolicy, now: Known): StillKnows {
  const asksClient = policy.apiKeyAuth !== undefined || policy.basicAuth !== undefined;
  return function stillKnows(exchange, before) {
    for (const [part, saying] of now.sayings) if (before?.sayings.get(part) !== saying) return false;
    if (!asksClient) return knowsUser(exchange, policy);
    const { clientId } = exchange;
    const credential = clientId === undefined ? undefined : now.credentialOf(clientId);
    return credential !== undefined && before?.credentialOf(clientId!) === credential && knowsUser(exchange, policy);
  };
}

function knowsUser({ auth, authMethod }: Exchange, { jwt, oidc, introspection }: SecurityPolicy): boolean {
  if (jwt === undefined && oidc === undefined && introspection === undefined) return true;
  if (auth === undefined) return jwt?.optional === true && oidc === undefined;
  const { issuer, claims } = auth;
  const isFor = (audiences: readonly string[]): boolean =>
    audiences.length === 0 || [claims['aud']].flat().some((one) => audiences.includes(one as string));
  if (authMethod === 'oidc') return oidc !== undefined && issuer === oidc.issuer && isFor([oidc.clientId]);
  if (authMethod === 'introspection') return introspection !== undefined && isFor(introspection.audiences);
  return jwt?.providers.some(({ rule }) => rule.issuer === issuer && isFor(rule.audiences)) === true;
}
