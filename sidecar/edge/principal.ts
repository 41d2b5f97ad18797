// The callers that a rule of authorization is about, compiled. Several capabilities have such rules.

import type { ConnectionFacts } from '../exchange/connection-facts.ts';
import type { Exchange } from '../exchange/exchange.ts';
import { headerOf, isSpelledTwice } from '../exchange/facts.ts';
import type { RequestAuth } from '../policy/facts.ts';
import { compileIpBlocks } from '../policy/ip.ts';
import { compileStrings } from '../policy/match.ts';
import type { PrincipalPlan } from './principal-schema.ts';
import { vouchesFor } from './vouch.ts';

/** One condition of a rule. */
export type Test = (exchange: Exchange, connection: ConnectionFacts) => boolean;

type ClaimTest = NonNullable<PrincipalPlan['jwt']>['claims'][number];

/** Whether a provider vouches for these claims. */
export type Vouches = (provider: string, auth: RequestAuth) => boolean;

/** The conditions on the caller: all must hold. Without any, the rule is about every caller. */
export function compilePrincipal(
  conditions: PrincipalPlan,
  action: 'Allow' | 'Deny',
  vouches: Vouches = vouchesFor,
): readonly Test[] {
  const tests: Test[] = [];
  if (conditions.spiffeIds.length > 0) {
    const match = compileStrings(conditions.spiffeIds);
    // A client without an identity matches nothing: the schema accepts no lone star.
    // The listener has verified the certificate against its configured authorities.
    // In a sidecar the peer is the client.
    tests.push((_, { client, peer }) => {
      const uri = client === undefined ? peer?.id.uri : client.uri;
      return uri !== undefined && match(uri);
    });
  }
  if (conditions.clientIds.length > 0) {
    const clients = new Set(conditions.clientIds);
    tests.push(({ clientId }) => clientId !== undefined && clients.has(clientId));
  }
  if (conditions.clientCidrs.length > 0) {
    const match = compileIpBlocks(conditions.clientCidrs);
    tests.push(({ clientIp, rules }, { remoteIp }) => {
      // Behind trusted proxies the peer is not the client. A client whose address is unknown is in no block.
      const ip = clientIp ?? (rules?.numTrustedProxies ? undefined : remoteIp);
      return ip !== undefined && match(ip);
    });
  }
  for (const { name: header, values } of conditions.headers) {
    const wanted = new Set(values);
    // An app may read either spelling, so an Allow rule matches neither and a Deny rule matches both.
    tests.push((exchange) =>
      isSpelledTwice(exchange.fields, header) ? action === 'Deny' : wanted.has(headerOf(exchange, header) ?? '\0'),
    );
  }
  if (conditions.jwt !== undefined) tests.push(compileJwt(conditions.jwt, vouches));
  return tests;
}

function compileJwt({ provider, scopes, claims }: NonNullable<PrincipalPlan['jwt']>, vouches: Vouches): Test {
  const tests = claims.map(compileClaim);
  return function matchJwt({ auth }) {
    if (auth === undefined || !vouches(provider, auth)) return false;
    const granted = auth.claims['scope'];
    if (scopes.length > 0 && !(Array.isArray(granted) && scopes.every((one) => granted.includes(one)))) return false;
    return tests.every((test) => test(auth.claims));
  };
}

function compileClaim({ name, valueType, values }: ClaimTest): (claims: Readonly<Record<string, unknown>>) => boolean {
  const steps = name.split('.');
  const wanted = new Set<unknown>(values);
  return function matchClaim(claims) {
    // A name may itself contain dots, such as the URLs that some providers use: the whole name is tried first.
    const value = Object.hasOwn(claims, name) ? claims[name] : valueAt(claims, steps);
    if (valueType === 'String') return typeof value === 'string' && wanted.has(value);
    return Array.isArray(value) && value.some((one) => wanted.has(one));
  };
}

function valueAt(claims: Readonly<Record<string, unknown>>, steps: readonly string[]): unknown {
  let value: unknown = claims;
  for (const step of steps) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, step)) return undefined;
    value = (value as Record<string, unknown>)[step];
  }
  return value;
}
