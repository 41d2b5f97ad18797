// Invalid documents: every field with every wrong type, and excessive sizes. Each is a clear error with its position,
// in bounded time; never a crash, and never a policy with another meaning.

import t from 'tap';
import { formatProblem, SallyportError } from '../../cert-agent/base/errors.ts';
import { parseIstio } from '../../sidecar/documents/istio/read.ts';
import { compilePolicies } from '../../sidecar/policy/compile.ts';
import { decide, policiesFor } from '../../sidecar/policy/decide.ts';
import { createFacts } from '../../sidecar/policy/facts.ts';
import { scope } from '../fixtures/policy.ts';

/** All problems of these documents; an empty list if they are valid. */
function problemsOf(...texts: string[]): string[] {
  try {
    parseIstio(texts.map((text, index) => ({ file: `${index}.yaml`, text })));
    return [];
  } catch (error) {
    if (!(error instanceof SallyportError)) throw error;
    return error.problems.map(formatProblem);
  }
}

const document = (kind: string, spec: unknown, metadata: unknown = { name: 'p', namespace: 'shop' }): string =>
  JSON.stringify({ apiVersion: 'security.istio.io/v1', kind, metadata, spec });

const policy = {
  selector: { matchLabels: { app: 'orders' } },
  action: 'ALLOW',
  rules: [
    {
      from: [
        {
          source: {
            principals: ['a'],
            notPrincipals: ['a'],
            requestPrincipals: ['a'],
            notRequestPrincipals: ['a'],
            namespaces: ['a'],
            notNamespaces: ['a'],
            trustDomains: ['a'],
            notTrustDomains: ['a'],
            ipBlocks: ['10.0.0.1'],
            notIpBlocks: ['10.0.0.1'],
            remoteIpBlocks: ['10.0.0.1'],
            notRemoteIpBlocks: ['10.0.0.1'],
          },
        },
        { source: { serviceAccounts: ['a'], notServiceAccounts: ['b'] } },
      ],
      to: [
        {
          operation: {
            hosts: ['a'],
            notHosts: ['a'],
            ports: ['1'],
            notPorts: ['1'],
            methods: ['GET'],
            notMethods: ['GET'],
            paths: ['/'],
            notPaths: ['/'],
          },
        },
      ],
      when: [{ key: 'source.ip', values: ['10.0.0.1'], notValues: ['10.0.0.2'] }],
    },
  ],
};

const jwt = {
  selector: { matchLabels: { app: 'orders' } },
  jwtRules: [
    {
      issuer: 'iss',
      audiences: ['a'],
      jwksUri: 'https://iss.test/keys',
      fromHeaders: [{ name: 'x', prefix: 'y' }],
      fromParams: ['t'],
      fromCookies: ['c'],
      outputPayloadToHeader: 'x-p',
      outputClaimToHeaders: [{ header: 'x-c', claim: 'c' }],
      forwardOriginalToken: true,
      timeout: '5s',
      spaceDelimitedClaims: ['g'],
    },
  ],
};

const peers = {
  selector: { matchLabels: { app: 'orders' } },
  mtls: { mode: 'STRICT' },
  portLevelMtls: { 8080: { mode: 'DISABLE' } },
};

type Path = readonly (string | number)[];

/** Every path in a value, except the root. */
function* placesIn(value: unknown, path: Path = []): Generator<Path> {
  if (path.length > 0) yield path;
  if (typeof value !== 'object' || value === null) return;
  for (const key of Object.keys(value)) {
    const step = Array.isArray(value) ? Number(key) : key;
    yield* placesIn((value as Record<string, unknown>)[key], [...path, step]);
  }
}

function valueAt(root: unknown, path: Path): unknown {
  return path.reduce<unknown>((value, step) => (value as Record<string | number, unknown>)[step], root);
}

function withValue(root: object, path: Path, value: unknown): object {
  const copy = structuredClone(root);
  const owner = valueAt(copy, path.slice(0, -1)) as Record<string | number, unknown>;
  owner[path.at(-1)!] = value;
  return copy;
}

const wrong: readonly unknown[] = [
  null,
  true,
  7,
  1.5,
  '',
  'some text',
  [],
  {},
  [[]],
  [{}],
  [null],
  [7],
  [''],
  { a: 1 },
];

/** Those of `wrong` that have the type of the original value. */
function isOfItsType(now: unknown, other: unknown, path: Path): boolean {
  const name = String(path.at(-1));
  // An empty rule is valid.
  if (name === 'rules' && JSON.stringify(other) === '[{}]') return true;
  if ((name === 'prefix' || name === 'issuer') && other === '') return true;
  if (JSON.stringify(now) === JSON.stringify(other)) return true;
  if (typeof now === 'string')
    return typeof other === 'string' && other !== ''
      ? !/^(?:action|mode|timeout|jwksUri|key)$/.test(name)
      : name === 'app' && other === '';
  if (typeof now === 'boolean') return typeof other === 'boolean';
  if (Array.isArray(now)) return Array.isArray(other) && other.length === 0 && !/^(?:from|to)$/.test(name);
  // An object whose fields are all optional.
  return JSON.stringify(other) === '{}' && /^(?:selector|matchLabels|mtls|8080|0)$/.test(name);
}

for (const [kind, spec] of [
  ['AuthorizationPolicy', policy],
  ['RequestAuthentication', jwt],
  ['PeerAuthentication', peers],
] as const) {
  t.test(`${kind}: each field with each wrong type is refused`, async (t) => {
    t.strictSame(problemsOf(document(kind, spec)), [], 'unchanged, the document is valid');
    let tried = 0;
    for (const path of placesIn(spec)) {
      for (const value of wrong) {
        if (isOfItsType(valueAt(spec, path), value, path)) continue;
        const problems = problemsOf(document(kind, withValue(spec, path, value)));
        tried++;
        const where = `${path.join('.')} = ${JSON.stringify(value)}`;
        if (problems.length === 0) t.fail(`${where} was accepted`);
        else if (!problems.every((one) => /^0\.yaml:\d+:\d+: \S/.test(one))) t.fail(`${where}: ${problems}`);
      }
    }
    t.ok(tried > 50, `${tried} were tried`);
  });

  t.test(`${kind}: unknown fields at every level are refused`, async (t) => {
    for (const path of [[], ...placesIn(spec)]) {
      const at = valueAt(spec, path);
      if (
        typeof at !== 'object' ||
        at === null ||
        Array.isArray(at) ||
        /matchLabels|portLevel/.test(String(path.at(-1)))
      )
        continue;
      const changed = path.length === 0 ? { ...spec, bogus: 1 } : withValue(spec, path, { ...at, bogus: 1 });
      t.match(problemsOf(document(kind, changed)).join('\n'), /unknown key 'bogus'/, path.join('.') || 'spec');
    }
  });

  t.test(`${kind}: invalid metadata is refused`, async (t) => {
    for (const metadata of [
      null,
      7,
      [],
      {},
      { name: '' },
      { name: 7 },
      { name: 'A' },
      { name: 'a', namespace: '' },
      { name: 'a', annotations: [] },
      { name: 'a', annotations: { b: 1 } },
    ])
      t.ok(problemsOf(document(kind, spec, metadata)).length > 0, JSON.stringify(metadata));
  });
}

t.test('excessive sizes are refused', async (t) => {
  const started = performance.now();
  t.match(problemsOf(document('AuthorizationPolicy', { rules: Array(100_000).fill({}) })), [/at most 512 rules/]);
  t.match(
    problemsOf(
      document('AuthorizationPolicy', { rules: [{ from: Array(513).fill({ source: { namespaces: ['a'] } }) }] }),
    ),
    [/at most 512 sources/],
  );
  t.ok(problemsOf(`${'a: '.repeat(1)}${'['.repeat(20_000)}`).length > 0, 'deep nesting in flow form');
  t.ok(
    problemsOf(Array.from({ length: 3000 }, (_, i) => `${' '.repeat(i)}a:`).join('\n')).length > 0,
    'deep nesting in block form',
  );
  const aliases = `a: &a [x]\nb: [${Array(350_000).fill('*a').join(',')}]\n`;
  t.ok(aliases.length > 1_000_000 && problemsOf(aliases).length > 0, 'a megabyte of aliases');
  t.ok(problemsOf(`x: ${'y'.repeat(1_000_000)}`).length > 0, 'a long value');
  t.comment(`${Math.round(performance.now() - started)} ms`);
});

t.test('100,000 rules are compiled into an index, not a linear search', async (t) => {
  const rules = (from: number): object[] =>
    Array.from({ length: 500 }, (_, i) => ({
      from: [{ principals: [`demo.test/ns/shop/sa/p${from + i}`] }],
      to: [{ paths: [`/${from + i}`] }],
    }));
  const policies = Array.from({ length: 200 }, (_, p) => ({
    name: `p${p}`,
    namespace: 'shop',
    action: 'ALLOW' as const,
    dryRun: false,
    rules: rules(p * 500) as never,
    file: 'x.yaml',
    line: 1,
  }));
  const set = compilePolicies(policies, scope);
  const principal = 'spiffe://demo.test/ns/shop/sa/p77777';
  const peer = policiesFor(set, principal);
  t.equal(peer.allow.own?.all.length, 1);
  t.equal(
    decide(peer, createFacts({ principal, method: 'GET', path: '/77777' })).policy,
    'ns[shop]-policy[p155]-rule[277]',
  );
  t.equal(decide(peer, createFacts({ principal, method: 'GET', path: '/77776' })).policy, 'none');
});

t.test('patterns that would be catastrophic as regular expressions are refused', async (t) => {
  const stars = `${'*a'.repeat(50)}*`;
  const { authorizationPolicies } = parseIstio([
    {
      file: 'x.yaml',
      text: document('AuthorizationPolicy', {
        rules: [
          { from: [{ source: { namespaces: [stars] } }] },
          { to: [{ operation: { paths: [`/${'{*}/'.repeat(40)}{**}/x`], hosts: [stars], methods: [stars] } }] },
        ],
      }),
    },
  ]);
  const set = compilePolicies(authorizationPolicies, scope);
  const principal = `spiffe://demo.test/ns/${'a'.repeat(2000)}/sa/x`;
  const facts = createFacts({ principal, method: 'G', host: 'a'.repeat(5000), path: `/${'a/'.repeat(30_000)}` });
  const started = performance.now();
  for (let i = 0; i < 100; i++) decide(policiesFor(set, principal), facts);
  t.comment(`${Math.round(performance.now() - started)} ms for 100 decisions`);
  t.equal(decide(policiesFor(set, 'spiffe://demo.test/b'), facts).policy, 'none');
});

t.test('one name in two files: the problem names both positions, in either order', async (t) => {
  const one = document('RequestAuthentication', {});
  t.strictSame(problemsOf(one, one), ['1.yaml:1:88: the RequestAuthentication shop/p is already defined in 0.yaml:1']);
  t.strictSame(problemsOf(one, document('AuthorizationPolicy', {})), [], 'two kinds may share a name');
});
