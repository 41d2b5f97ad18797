// Is somebody who is in already still who he was, under a policy that has changed meanwhile? His credential is gone from the
// request, so the policies are compared: what he was known by must be what the new one takes, and a client's key or password
// must be the same that it was.

import type { Exchange } from '../exchange.ts';
import type { SecurityPolicy } from './security-policy.ts';

/** What stands for the credential of a client, and changes when that does; undefined for one who is nobody's client. */
export type CredentialOf = (clientId: string) => string | undefined;

/** `before` is that of the policy under which he came in; undefined where there was none. */
export type StillKnows = (exchange: Exchange, before: CredentialOf | undefined) => boolean;

/** `credentialOf` is the new policy's. */
export function compileStillKnown(policy: SecurityPolicy, credentialOf: CredentialOf): StillKnows {
  const asksClient = policy.apiKeyAuth !== undefined || policy.basicAuth !== undefined;
  return function stillKnows(exchange, before) {
    if (!asksClient) return knowsUser(exchange, policy);
    const { clientId } = exchange;
    const now = clientId === undefined ? undefined : credentialOf(clientId);
    return now !== undefined && before?.(clientId!) === now && knowsUser(exchange, policy);
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
