// The indexed evaluator against a naive one written directly from the semantics: the same decision, and the same rule,
// on random policies and requests. PAIRS=100000 for a night.

import t from 'tap';
import { compilePolicies } from '../../sidecar/policy/compile.ts';
import { decide, policiesFor, rulesOf } from '../../sidecar/policy/decide.ts';
import { createFacts, type RequestFacts, readClaims } from '../../sidecar/policy/facts.ts';
import { matches } from '../../sidecar/policy/index-rules.ts';
import { parseIp } from '../../sidecar/policy/ip.ts';
import type { AuthorizationPolicy, Condition, FieldValues, PolicyScope, Rule } from '../../sidecar/policy/policy.ts';
import { decideNaively } from '../fixtures/naive.ts';
import { scope, show } from '../fixtures/policy.ts';
import { createRandom } from '../fixtures/random.ts';

const pairs = Number(process.env['PAIRS'] ?? 2000);
const { seed, next: random, pick } = createRandom();
const some = <T>(list: readonly T[]): T[] => Array.from({ length: 1 + Math.floor(random() * 2) }, () => pick(list));
const several = <T>(make: () => T, atLeast: number, atMost: number): T[] =>
  Array.from({ length: atLeast + Math.floor(random() * (atMost - atLeast + 1)) }, make);

/** Relevant values of each field, which the requests below can match. */
const values: Readonly<Record<string, readonly string[]>> = {
  principals: [
    'demo.test/ns/shop/sa/web',
    'cluster.local/ns/shop/sa/cron',
    'old.test/ns/shop/sa/web',
    'demo.test/ns/*',
    'cluster.local/ns/shop/sa/*',
    'cluster.local/*',
    '*/sa/web',
    '*',
    'other.test/a',
  ],
  namespaces: ['shop', 'jobs', 'sh*', '*s', '*'],
  serviceAccounts: ['web', 'shop/cron', 'jobs/web'],
  trustDomains: ['demo.test', 'old.test', 'other.*', '*.test', '*'],
  ipBlocks: ['10.0.0.0/8', '10.1.2.3', '192.168.0.0/30', 'fd00::/8', '::/0', '0.0.0.0/0'],
  remoteIpBlocks: ['10.0.0.0/8', 'fd00::/8', '192.168.0.4'],
  requestPrincipals: ['*', 'iss.test/*', '*/ann', 'iss.test/ann', '*nn', 'iss*', '*.test/ann', 'iss.test/a*'],
  hosts: ['a', 'A.test', '*.test', 'a*', '*'],
  methods: ['GET', 'PUT', 'P*', '*T', '*'],
  paths: ['/', '/a', '/a/b', '/a*', '*b', '*', '*a*', '/a/*', '/a/{*}', '/{*}/b', '/a/{**}', '/{*}/{**}/c', '/a/{**}/'],
  ports: ['8080', '9090'],
};

const keys: readonly [string, readonly string[]][] = [
  ['source.principal', values['principals']!],
  ['source.namespace', values['namespaces']!],
  ['source.serviceAccount', values['serviceAccounts']!],
  ['source.trustDomain', values['trustDomains']!],
  ['source.ip', values['ipBlocks']!],
  ['remote.ip', values['ipBlocks']!],
  ['destination.ip', values['ipBlocks']!],
  ['destination.port', values['ports']!],
  ['connection.sni', values['hosts']!],
  ['request.auth.principal', values['requestPrincipals']!],
  ['request.auth.audiences', ['orders', 'or*', '*']],
  ['request.auth.presenter', ['app', '*']],
  ['request.auth.claims[groups]', ['clerks', '*s', '*']],
  ['request.auth.claims[realm][roles]', ['admin', '*']],
  ['request.auth.claims[scope]', ['read', 'read write', '*']],
  ['request.headers[X-Tenant]', ['one', 'o*', '*e', '*']],
];

function randomFields(kind: 'source' | 'operation'): FieldValues {
  const names =
    kind === 'source'
      ? [
          'principals',
          'namespaces',
          'serviceAccounts',
          'trustDomains',
          'ipBlocks',
          'remoteIpBlocks',
          'requestPrincipals',
        ]
      : ['hosts', 'methods', 'paths', 'ports'];
  const chance = kind === 'source' ? 0.2 : 0.35;
  const made: Record<string, readonly string[]> = {};
  for (const name of names) {
    if (random() < chance) made[name] = some(values[name]!);
    if (random() < chance / 3) made[`not${name[0]!.toUpperCase()}${name.slice(1)}`] = some(values[name]!);
  }
  if (Object.keys(made).length > 0) return made;
  return kind === 'source' ? { namespaces: ['shop'] } : { methods: ['GET'] };
}

function randomCondition(): Condition {
  const [key, list] = pick(keys);
  const kind = random();
  return {
    key,
    ...(kind < 0.75 ? { values: some(list) } : {}),
    ...(kind >= 0.65 ? { notValues: some(list) } : {}),
  };
}

function randomRule(): Rule {
  return {
    ...(random() < 0.6 ? { from: several(() => randomFields('source'), 1, 2) } : {}),
    ...(random() < 0.7 ? { to: several(() => randomFields('operation'), 1, 2) } : {}),
    ...(random() < 0.3 ? { when: several(randomCondition, 1, 2) } : {}),
  };
}

function randomPolicy(_: unknown, index: number): AuthorizationPolicy {
  return {
    name: `p${index}`,
    namespace: pick(['shop', 'shop', 'istio-system', 'other']),
    action: random() < 0.3 ? 'DENY' : 'ALLOW',
    dryRun: false,
    ...(random() < 0.1 ? { matchLabels: { app: pick(['orders', 'web']) } } : {}),
    rules: several(randomRule, 0, 3),
    file: 'x.yaml',
    line: 1,
  };
}

const principals = [
  '',
  'spiffe://demo.test/ns/shop/sa/web',
  'spiffe://demo.test/ns/shop/sa/cron',
  'spiffe://old.test/ns/shop/sa/web',
  'spiffe://demo.test/ns/jobs/sa/web',
  'spiffe://demo.test/ns/jobs/ns/shop/sa/web/x',
  'spiffe://other.test/a',
  'spiffe://cluster.local/ns/shop/sa/web',
];
const ips = ['10.1.2.3', '192.168.0.3', '192.168.0.4', 'fd00::1', '2001:db8::1', undefined];
const tokens = [
  undefined,
  { iss: 'iss.test', sub: 'ann', aud: 'orders', groups: ['clerks', 'x'], scope: 'read write' },
  { iss: 'iss.test', sub: 'bob', aud: ['x', 'orders'], azp: 'app', realm: { roles: ['admin'] }, groups: 7 },
  { iss: 'b', sub: 'ann' },
  { sub: 'ann' },
];

function randomFacts(): RequestFacts {
  const http = random() >= 0.2;
  const ip = (): ReturnType<typeof parseIp> => {
    const text = pick(ips);
    return text === undefined ? undefined : parseIp(text);
  };
  const claims = http ? pick(tokens) : undefined;
  return createFacts({
    protocol: http ? 'http' : 'tcp',
    principal: pick(principals),
    method: http ? pick(['GET', 'PUT', 'POST']) : '',
    path: http ? pick(['/', '/a', '/a/b', '/b', '/xa*', '/a/', '/a/b/c', '/a//', '/x/c']) : '',
    host: http ? pick(['a', 'a.TEST', 'b']) : '',
    port: Number(pick(values['ports']!)),
    sni: pick(['', 'a', 'x.test']),
    sourceIp: ip(),
    remoteIp: ip(),
    destinationIp: ip(),
    auth: claims === undefined ? undefined : readClaims(claims),
    headers: http ? pick<Record<string, string>>([{}, { 'X-Tenant': 'one' }, { 'x-tenant': '' }]) : {},
  });
}

t.test(`${pairs} random pairs (SEED=${seed})`, async (t) => {
  const verdicts = { allowed: 0, denied: 0, none: 0 };
  for (let done = 0; done < pairs; done += 10) {
    const policies = Array.from({ length: 1 + Math.floor(random() * 4) }, randomPolicy);
    const where: PolicyScope = {
      ...scope,
      trustDomainAliases: random() < 0.5 ? ['old.test'] : [],
      defaultAction: pick(['deny', 'allow']),
    };
    const set = compilePolicies(policies, where);
    for (let i = 0; i < 10; i++) {
      const facts = randomFacts();
      const got = show(decide(policiesFor(set, facts.principal === '' ? null : facts.principal), facts));
      const wanted = decideNaively(policies, where, facts);
      verdicts[wanted === 'none' ? 'none' : wanted.startsWith('allow') ? 'allowed' : 'denied']++;
      if (got !== wanted) return t.fail(`${got} instead of ${wanted}: ${JSON.stringify({ policies, where, facts })}`);
      // An observer sees every check, and changes no decision.
      for (const action of ['DENY', 'ALLOW'] as const)
        for (const { http, tcp } of rulesOf(set, action)) {
          const shape = facts.protocol === 'tcp' ? tcp : http;
          if (shape !== null && matches(shape, facts, () => {}) !== matches(shape, facts, undefined))
            return t.fail('an observer changed a verdict');
        }
    }
  }
  // A generator that produced only one kind of decision would prove little.
  for (const [verdict, count] of Object.entries(verdicts)) t.ok(count > pairs / 50, `${verdict}: ${count}`);
});
