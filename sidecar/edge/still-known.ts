// Is a caller who is in already still who they were, under a policy that has changed meanwhile? Their credential is gone from
// the request, so the policies are compared: what they were known by must be what the new one takes, and a client's key or
// password must be the same that it was.

import type { Exchange } from '../exchange/exchange.ts';
import type { OidcPlan } from './oidc/schema.ts';
import type { IntrospectionPlan, JwtPlan } from './token/schema.ts';

/** What stands for the credential of a client, and changes when that does; undefined for one who is no client of ours. */
export type Known = (clientId: string) => string | undefined;

interface Plans {
  readonly jwt?: JwtPlan;
  readonly oidc?: OidcPlan;
  readonly introspection?: IntrospectionPlan;
  readonly apiKeyAuth?: unknown;
  readonly basicAuth?: unknown;
}

/** `before` is that of the policy under which they came in; undefined where there was none. */
export function compileStillKnown(plans: Plans, now: Known): (exchange: Exchange, before: unknown) => boolean {
  const asksClient = plans.apiKeyAuth !== undefined || plans.basicAuth !== undefined;
  return function stillKnows(exchange, before) {
    if (!asksClient) return knowsUser(exchange, plans);
    const { clientId } = exchange;
    const credential = clientId === undefined ? undefined : now(clientId);
    return (
      credential !== undefined &&
      (before as Known | undefined)?.(clientId!) === credential &&
      knowsUser(exchange, plans)
    );
  };
}

function knowsUser({ auth, authMethod }: Exchange, { jwt, oidc, introspection }: Plans): boolean {
  if (jwt === undefined && oidc === undefined && introspection === undefined) return true;
  if (auth === undefined) return jwt?.optional === true && oidc === undefined;
  const { issuer, claims } = auth;
  const isFor = (audiences: readonly string[]): boolean =>
    audiences.length === 0 || [claims['aud']].flat().some((one) => audiences.includes(one as string));
  if (authMethod === 'oidc') return oidc !== undefined && issuer === oidc.issuer && isFor([oidc.clientId]);
  if (authMethod === 'introspection') return introspection !== undefined && isFor(introspection.audiences);
  return jwt?.providers.some(({ rule }) => rule.issuer === issuer && isFor(rule.audiences)) === true;
}
