// Who may pass a gateway: the rules of a SecurityPolicy in their order, the first that matches decides, and where none does
// the default action, which is Deny. Compiled once; nothing is made for a request but what a header needs.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { ConnectionFacts } from '../../exchange/connection-facts.ts';
import { allow, deny } from '../../exchange/decision.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import { headerOf, isSpelledTwice, pathWithoutQuery } from '../../exchange/facts.ts';
import { compileIpBlocks } from '../../policy/ip.ts';
import { compileStrings } from '../../policy/match.ts';
import { vouchesFor } from '../vouch.ts';
import type { AuthorizationPlan } from './schema.ts';

type EdgeRule = AuthorizationPlan['rules'][number];
type ClaimTest = NonNullable<EdgeRule['jwt']>['claims'][number];

type Test = (exchange: Exchange, connection: ConnectionFacts) => boolean;

interface CompiledRule {
  readonly name: string;
  readonly action: EdgeRule['action'];
  readonly tests: readonly Test[];
}

/** Decides about an exchange whose caller is known. @throws SallyportError `policy_denied`. */
export type EdgeAuthorization = (exchange: Exchange, connection: ConnectionFacts) => void;

/** `of` is the policy's `namespace/name`, for the record. */
export function compileEdgeAuthorization(policy: AuthorizationPlan, of: string): EdgeAuthorization {
  const rules = policy.rules.map(compileRule);
  const byDefault: CompiledRule = {
    name: `securitypolicy/${of}/authorization/default`,
    action: policy.defaultAction,
    tests: [],
  };
  return function authorizeAtEdge(exchange, connection) {
    const rule = rules.find(({ tests }) => tests.every((test) => test(exchange, connection))) ?? byDefault;
    if (rule.action === 'Allow') return allow(exchange, rule.name);
    // Without the query, in which credentials may stand: reasons are logged.
    const what = `${exchange.method} ${pathWithoutQuery(exchange.path)}`;
    const matched = `rbac_access_denied_matched_policy[${rule === byDefault ? 'none' : rule.name}]`;
    throw deny(exchange, new SallyportError('policy_denied', `${what}: ${rule.name} denies it`), {
      policy: rule.name,
      details: matched.replace(/\s/g, '_'),
    });
  };
}

function compileRule({ name, action, ...said }: EdgeRule): CompiledRule {
  const tests: Test[] = [];
  if (said.methods.length > 0) {
    const methods = new Set(said.methods);
    tests.push(({ method }) => methods.has(method));
  }
  if (said.paths.length > 0) {
    const match = compileStrings(said.paths);
    tests.push(({ path }) => match(pathWithoutQuery(path)));
  }
  if (said.spiffeIds.length > 0) {
    const match = compileStrings(said.spiffeIds);
    // An absent identity is '' and matches nothing: the reader takes no lone star.
    // Its listener has verified the certificate against the authorities that it was given.
    tests.push((_, { client }) => client?.uri !== undefined && match(client.uri));
  }
  if (said.clientIds.length > 0) {
    const clients = new Set(said.clientIds);
    tests.push(({ clientId }) => clientId !== undefined && clients.has(clientId));
  }
  if (said.clientCidrs.length > 0) {
    const match = compileIpBlocks(said.clientCidrs);
    tests.push(({ clientIp, rules }, { remoteIp }) => {
      // Behind proxies whoever connects is not the client: one whose address cannot be read is in no block.
      const ip = clientIp ?? (rules?.numTrustedProxies ? undefined : remoteIp);
      return ip !== undefined && match(ip);
    });
  }
  for (const { name: header, values } of said.headers) {
    const wanted = new Set(values);
    // What an app may read in either of two ways is allowed by neither, and denied by both.
    tests.push((exchange) =>
      isSpelledTwice(exchange.fields, header) ? action === 'Deny' : wanted.has(headerOf(exchange, header) ?? '\0'),
    );
  }
  if (said.jwt !== undefined) tests.push(compileJwt(said.jwt));
  return { name, action, tests };
}

function compileJwt({ provider, scopes, claims }: NonNullable<EdgeRule['jwt']>): Test {
  const tests = claims.map(compileClaim);
  return function matchJwt({ auth }) {
    if (auth === undefined || !vouchesFor(provider, auth)) return false;
    const granted = auth.claims['scope'];
    if (scopes.length > 0 && !(Array.isArray(granted) && scopes.every((one) => granted.includes(one)))) return false;
    return tests.every((test) => test(auth.claims));
  };
}

function compileClaim({ name, valueType, values }: ClaimTest): (claims: Readonly<Record<string, unknown>>) => boolean {
  const steps = name.split('.');
  const wanted = new Set<unknown>(values);
  return function matchClaim(claims) {
    // A name with dots of its own, as URLs are that some providers use, is found whole.
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
