// Evaluates the authorization rules of a SecurityPolicy in order. The first rule that matches decides; without a match
// the default action applies, which is Deny. Rules are compiled once; a request allocates only what a header needs.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { ConnectionFacts } from '../../exchange/connection-facts.ts';
import { allow, deny } from '../../exchange/decision.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import { pathWithoutQuery } from '../../exchange/facts.ts';
import { translatedPath } from '../../exchange/translated.ts';
import { compileStrings } from '../../policy/match.ts';
import { compilePrincipal, type Test } from '../principal.ts';
import type { AuthorizationPlan } from './schema.ts';

type EdgeRule = AuthorizationPlan['rules'][number];

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
  tests.push(...compilePrincipal(conditions, action));
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
