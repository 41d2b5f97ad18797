// Evaluates the authorization rules of a SecurityPolicy in order. The first rule that matches decides; without a match
// the default action applies, which is Deny. Rules are compiled once; a request allocates only what a header needs.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { ConnectionFacts } from '../../exchange/connection-facts.ts';
import { allow, deny } from '../../exchange/decision.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import { headerOf, isSpelledTwice, pathWithoutQuery } from '../../exchange/facts.ts';
import { translatedPath } from '../../exchange/translated.ts';
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

/** Authorizes an exchange whose caller is known. @throws SallyportError `policy_denied`. */
export type EdgeAuthorization = (exchange: Exchange, connection: ConnectionFacts) => void;

/** `of` is the policy's `namespace/name`, for the access log. */
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
    // Without the query, which may hold credentials: reasons are logged.
    const what = `${exchange.method} ${pathWithoutQuery(exchange.path)}`;
    const matched = `rbac_access_denied_matched_policy[${rule === byDefault ? 'none' : rule.name}]`;
    throw deny(exchange, new SallyportError('policy_denied', `${what}: ${rule.name} denies it`), {
      policy: rule.name,
      details: matched.replace(/\s/g, '_'),
    });
  };
}

function compileRule({ name, action, ...conditions }: EdgeRule): CompiledRule {
  const tests: Test[] = [];
  if (conditions.methods.length > 0 || conditions.paths.length > 0) tests.push(compileOperation(action, conditions));
  if (conditions.spiffeIds.length > 0) {
    const match = compileStrings(conditions.spiffeIds);
    // A client without an identity matches nothing: the schema accepts no lone star.
    // The listener has verified the certificate against its configured authorities.
    tests.push((_, { client }) => client?.uri !== undefined && match(client.uri));
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
  if (conditions.jwt !== undefined) tests.push(compileJwt(conditions.jwt));
  return { name, action, tests };
}

/** A Deny rule also holds for the call that a request is translated to: see exchange/translated.ts. */
function compileOperation(action: EdgeRule['action'], { methods, paths }: Pick<EdgeRule, 'methods' | 'paths'>): Test {
  const names = new Set(methods);
  const isMethod = (method: string): boolean => names.size === 0 || names.has(method);
  if (paths.length === 0) return ({ method }) => isMethod(method);
  const match = compileStrings(paths);
  const asSent: Test = ({ method, path }) => isMethod(method) && match(pathWithoutQuery(path));
  if (action !== 'Deny' || !isMethod('POST')) return asSent;
  return (exchange, connection) => {
    const translated = translatedPath.get(exchange);
    return asSent(exchange, connection) || (translated !== undefined && match(translated));
  };
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
