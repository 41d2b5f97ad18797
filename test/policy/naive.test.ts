// The indexed evaluator against a naive one that is written straight from the semantics: the same verdict, and the same
// rule, on random policies and requests.

import t from 'tap';
import { decide, policiesFor } from '../../sidecar/policy/decide.ts';
import {
  type AuthorizationPolicy,
  compilePolicies,
  isPermit,
  type Operation,
  type RequestFacts,
  type Rule,
  type Source,
} from '../../sidecar/policy/policy.ts';
import { scope } from '../fixtures/policy.ts';
import { createRandom } from '../fixtures/random.ts';

/** The string rule, as a regular expression over the whole value. */
function stringRule(pattern: string, value: string): boolean {
  if (pattern === '*') return value !== '';
  const literal = (text: string): string => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
  if (pattern.startsWith('*')) return new RegExp(`${literal(pattern.slice(1))}$`, 's').test(value);
  if (pattern.endsWith('*')) return new RegExp(`^${literal(pattern.slice(0, -1))}`, 's').test(value);
  return pattern === value;
}

const any = (patterns: readonly string[], test: (pattern: string) => boolean): boolean => patterns.some(test);

function matchSource(source: Source, principal: string | null): boolean {
  const uri = principal ?? '';
  const isPrincipal = (pattern: string): boolean => {
    const local = pattern.replace(/^cluster\.local/, 'demo.test');
    if (local === '*') return uri !== '';
    return local.startsWith('*')
      ? new RegExp(`^spiffe://.*${local.slice(1).replace(/[.*+?^${}()|[\]\\]/g, '\\$&')}$`).test(uri)
      : stringRule(`spiffe://${local}`, uri);
  };
  const isNamespace = (pattern: string): boolean =>
    new RegExp(`^.*/ns/${pattern.replaceAll('.', '\\.').replaceAll('*', '.*')}/.*$`).test(uri);
  return (
    (source.principals === undefined || any(source.principals, isPrincipal)) &&
    !(source.notPrincipals !== undefined && any(source.notPrincipals, isPrincipal)) &&
    (source.namespaces === undefined || any(source.namespaces, isNamespace)) &&
    !(source.notNamespaces !== undefined && any(source.notNamespaces, isNamespace))
  );
}

function matchOperation(one: Operation, facts: RequestFacts): boolean {
  const tcp = facts.protocol === 'tcp';
  const holds = (
    yes: readonly string[] | undefined,
    no: readonly string[] | undefined,
    test: (pattern: string) => boolean,
  ): boolean => (yes === undefined || any(yes, test)) && !(no !== undefined && any(no, test));
  if (!holds(one.ports, one.notPorts, (port) => Number(port) === facts.port)) return false;
  if (tcp) return true;
  return (
    holds(one.methods, one.notMethods, (pattern) => stringRule(pattern, facts.method)) &&
    holds(one.paths, one.notPaths, (pattern) => stringRule(pattern, facts.path)) &&
    holds(one.hosts, one.notHosts, (pattern) => stringRule(pattern.toLowerCase(), facts.host.toLowerCase()))
  );
}

function matchRule(rule: Rule, action: 'ALLOW' | 'DENY', principal: string | null, facts: RequestFacts): boolean {
  const hasHttp = rule.to?.some((one) => Object.keys(one).some((key) => !/ports$/i.test(key)));
  if (facts.protocol === 'tcp' && action === 'ALLOW' && hasHttp) return false;
  const from = rule.from === undefined || rule.from.some((source) => matchSource(source, principal));
  return from && (rule.to === undefined || rule.to.some((one) => matchOperation(one, facts)));
}

function naive(policies: readonly AuthorizationPolicy[], principal: string | null, facts: RequestFacts): string {
  for (const action of ['DENY', 'ALLOW'] as const) {
    for (const policy of policies.filter((one) => one.action === action)) {
      const index = policy.rules.findIndex((rule) => matchRule(rule, action, principal, facts));
      if (index !== -1) return `${action} ns[${policy.namespace}]-policy[${policy.name}]-rule[${index}]`;
    }
  }
  return 'DENY none';
}

const { seed, next: random, pick } = createRandom();
const some = <T>(list: readonly T[]): T[] => Array.from({ length: 1 + Math.floor(random() * 2) }, () => pick(list));
const maybe = <K extends string>(key: K, list: readonly string[], chance = 0.35): Partial<Record<K, string[]>> =>
  random() < chance ? ({ [key]: some(list) } as Record<K, string[]>) : {};

const principals = [
  'demo.test/ns/shop/sa/web',
  'cluster.local/ns/shop/sa/cron',
  'demo.test/ns/*',
  '*/sa/web',
  '*',
  'cluster.local/*',
  'other.test/a',
];
const namespaces = ['shop', 'jobs', 'sh*', '*s', '*'];
const paths = ['/', '/a', '/a/b', '/a*', '*b', '*', '*a*', '/a/*'];
const methods = ['GET', 'PUT', 'P*', '*T', '*'];
const hosts = ['a', 'A.test', '*.test', 'a*', '*'];
const ports = ['8080', '9090'];
const peers = [
  null,
  'spiffe://demo.test/ns/shop/sa/web',
  'spiffe://demo.test/ns/shop/sa/cron',
  'spiffe://demo.test/ns/jobs/sa/web',
  'spiffe://other.test/a',
];

function randomRule(): Rule {
  const source = (): Source => ({
    ...maybe('principals', principals),
    ...maybe('notPrincipals', principals, 0.15),
    ...maybe('namespaces', namespaces),
    ...maybe('notNamespaces', namespaces, 0.15),
  });
  const operation = (): Operation => ({
    ...maybe('methods', methods),
    ...maybe('notMethods', methods, 0.15),
    ...maybe('paths', paths, 0.6),
    ...maybe('notPaths', paths, 0.15),
    ...maybe('hosts', hosts),
    ...maybe('notHosts', hosts, 0.15),
    ...maybe('ports', ports),
    ...maybe('notPorts', ports, 0.15),
  });
  const list = <T>(make: () => T): T[] => Array.from({ length: 1 + Math.floor(random() * 2) }, make);
  return { ...(random() < 0.6 ? { from: list(source) } : {}), ...(random() < 0.7 ? { to: list(operation) } : {}) };
}

t.test(`2,000 random pairs (SEED=${seed})`, async (t) => {
  let differences = 0;
  for (let round = 0; round < 200; round++) {
    const policies: AuthorizationPolicy[] = Array.from({ length: 1 + Math.floor(random() * 4) }, (_, index) => ({
      name: `p${index}`,
      namespace: 'shop',
      action: random() < 0.3 ? 'DENY' : 'ALLOW',
      rules: Array.from({ length: Math.floor(random() * 4) }, randomRule),
      file: 'x.yaml',
      line: 1,
    }));
    const set = compilePolicies(policies, scope);
    for (let i = 0; i < 10; i++) {
      const principal = pick(peers);
      const protocol = random() < 0.2 ? 'tcp' : 'http';
      const facts: RequestFacts = {
        protocol,
        method: protocol === 'tcp' ? '' : pick(['GET', 'PUT', 'POST']),
        path: protocol === 'tcp' ? '' : pick(['/', '/a', '/a/b', '/b', '/xa*']),
        host: protocol === 'tcp' ? '' : pick(['a', 'a.TEST', 'b']),
        port: Number(pick(ports)),
      };
      const decision = decide(policiesFor(set, principal), facts);
      const got = `${isPermit(decision) ? 'ALLOW' : 'DENY'} ${decision.policy}`;
      const wanted = naive(policies, principal, facts);
      if (got === wanted) continue;
      differences++;
      t.fail(`${got} instead of ${wanted}: ${JSON.stringify({ policies, principal, facts })}`);
    }
  }
  t.equal(differences, 0);
});
