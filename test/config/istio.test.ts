// Policy documents that are wrong, each with its place; and the one that must work as it stands.

import t from 'tap';
import { formatProblem, SallyportError } from '../../cert-agent/base/errors.ts';
import { parseIstio } from '../../sidecar/config/istio.ts';
import { judge, scope, show } from '../fixtures/policy.ts';

const head = 'apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: p, namespace: shop }\n';
const problemsOf = (...texts: string[]): string[] => {
  try {
    parseIstio(texts.map((text, index) => ({ file: `${'abc'[index]}.yaml`, text })));
    return [];
  } catch (error) {
    if (!(error instanceof SallyportError)) throw error;
    t.equal(error.code, 'config_invalid');
    return error.problems.map(formatProblem);
  }
};

t.test("Istio's own example works as it stands", async (t) => {
  const { authorizationPolicies: policies } = parseIstio([
    {
      file: 'payment.yaml',
      text: `apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: { name: payment-access, namespace: default }
spec:
  selector: { matchLabels: { app: payment-gateway } }
  action: ALLOW
  rules:
  - from: [{ source: { principals: ["cluster.local/ns/default/sa/order-processing"] } }]
    to: [{ operation: { methods: ["POST"], ports: ["8080"] } }]
`,
    },
  ]);
  const where = {
    ...scope,
    workload: { namespace: 'default', serviceAccount: 'payment', labels: { app: 'payment-gateway' } },
  };
  const ask = (principal: string, method: string, port: number): string =>
    show(
      judge(policies, where, { principal, facts: { protocol: 'http', method, path: '/pay', host: 'payment', port } }),
    );
  t.equal(
    ask('spiffe://demo.test/ns/default/sa/order-processing', 'POST', 8080),
    'allow ns[default]-policy[payment-access]-rule[0]',
  );
  t.equal(ask('spiffe://demo.test/ns/default/sa/order-processing', 'GET', 8080), 'none');
  t.equal(ask('spiffe://demo.test/ns/default/sa/order-processing', 'POST', 8081), 'none');
  t.equal(ask('spiffe://demo.test/ns/default/sa/other', 'POST', 8080), 'none');
});

const wrong: [string, string, string[]][] = [
  ['an unknown key', `${head}spec: { acton: ALLOW }\n`, ["a.yaml:4:9: unknown key 'acton' (did you mean 'action'?)"]],
  [
    'an unknown key in an operation',
    `${head}spec: { rules: [{ to: [{ operation: { method: [GET] } }] }] }\n`,
    ["a.yaml:4:39: unknown key 'method' (did you mean 'methods'?)"],
  ],
  [
    'a wrong type',
    `${head}spec:\n  rules:\n    - to: [{ operation: { methods: GET } }]\n`,
    ['a.yaml:6:36: spec.rules[0].to[0].operation.methods: invalid input: expected array, received string'],
  ],
  [
    'AUDIT',
    `${head}spec: { action: AUDIT }\n`,
    ['a.yaml:4:17: spec.action: action AUDIT is not supported by this build'],
  ],
  [
    'no action at all',
    `${head}spec: { action: allow }\n`,
    ["a.yaml:4:17: spec.action: 'allow' is not an action: ALLOW or DENY"],
  ],
  [
    'when',
    `${head}spec: { rules: [{ when: [{ key: source.ip, values: [10.0.0.1] }] }] }\n`,
    ["a.yaml:4:19: 'when' is not supported by this build"],
  ],
  [
    'ipBlocks',
    `${head}spec: { rules: [{ from: [{ source: { ipBlocks: [10.0.0.0/8] } }] }] }\n`,
    ["a.yaml:4:38: 'ipBlocks' is not supported by this build"],
  ],
  ['targetRefs', `${head}spec: { targetRefs: [] }\n`, ["a.yaml:4:9: 'targetRefs' is not supported by this build"]],
  [
    'a template',
    `${head}spec: { rules: [{ to: [{ operation: { paths: ["/a/{*}"] } }] }] }\n`,
    ["a.yaml:4:47: spec.rules[0].to[0].operation.paths[0]: '/a/{*}': path templates are not supported by this build"],
  ],
  [
    'a dry run',
    `${head.replace('shop }', 'shop, annotations: { istio.io/dry-run: "true" } }')}spec: {}\n`,
    ["a.yaml:3:54: 'istio.io/dry-run' is not supported by this build"],
  ],
  [
    'an empty list',
    `${head}spec: { rules: [{ to: [{ operation: { methods: [] } }] }] }\n`,
    ['a.yaml:4:48: spec.rules[0].to[0].operation.methods: an empty list matches nothing: leave the field out'],
  ],
  [
    'an empty value',
    `${head}spec: { rules: [{ to: [{ operation: { methods: [""] } }] }] }\n`,
    ['a.yaml:4:49: spec.rules[0].to[0].operation.methods[0]: an empty value matches nothing: leave it out'],
  ],
  [
    'an empty source',
    `${head}spec: { rules: [{ from: [{ source: {} }] }] }\n`,
    ["a.yaml:4:36: spec.rules[0].from[0].source: 'source' is empty: leave 'from' out to mean any source"],
  ],
  [
    'an empty from',
    `${head}spec: { rules: [{ from: [] }] }\n`,
    ["a.yaml:4:25: spec.rules[0].from: 'from' is empty: leave it out to mean any source"],
  ],
  [
    'a port that is no number',
    `${head}spec: { rules: [{ to: [{ operation: { ports: [http] } }] }] }\n`,
    ['a.yaml:4:47: spec.rules[0].to[0].operation.ports[0]: a port is written as a string of digits'],
  ],
  [
    'a port out of range',
    `${head}spec: { rules: [{ to: [{ operation: { ports: ["65536"] } }] }] }\n`,
    ['a.yaml:4:47: spec.rules[0].to[0].operation.ports[0]: a port is at most 65535'],
  ],
  [
    'a principal that can never match',
    `${head}spec: { rules: [{ from: [{ source: { principals: ["spiffe://demo.test/a"] } }] }] }\n`,
    [
      "a.yaml:4:51: spec.rules[0].from[0].source.principals[0]: 'spiffe://demo.test/a' can never match: principals are written without 'spiffe://'",
    ],
  ],
  [
    'another kind',
    'apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: { name: p }\nspec: {}\n',
    ['a.yaml:2:7: kind RequestAuthentication is not supported by this build'],
  ],
  [
    'a misspelt kind',
    `${head.replace('AuthorizationPolicy', 'AuthorisationPolicy')}spec: {}\n`,
    ["a.yaml:2:7: kind AuthorisationPolicy is not supported by this build (did you mean 'AuthorizationPolicy'?)"],
  ],
  ['no kind', 'a: 1\n', ["a.yaml:1:1: this is not an Istio document: it has no 'kind'"]],
  [
    'another version',
    `${head.replace('/v1', '/v2')}spec: {}\n`,
    ['a.yaml:1:13: apiVersion: invalid option: expected one of "security.istio.io/v1"|"security.istio.io/v1beta1"'],
  ],
  [
    'several at once',
    `${head}spec: { acton: ALLOW, rules: [{ when: [] }, { to: [{ operation: { ports: [x] } }] }] }\n`,
    [
      "a.yaml:4:33: 'when' is not supported by this build",
      'a.yaml:4:75: spec.rules[1].to[0].operation.ports[0]: a port is written as a string of digits',
      "a.yaml:4:9: unknown key 'acton' (did you mean 'action'?)",
    ],
  ],
];

for (const [name, text, expected] of wrong) {
  t.test(name, async (t) => {
    t.strictSame(problemsOf(text), expected);
  });
}

t.test('malformed YAML', async (t) => {
  const [problem] = problemsOf(`${head}spec: { action: ALLOW\n`);
  t.match(problem, /^a\.yaml:\d+:\d+: Flow map/);
});

t.test('one name twice, in two files, names both places', async (t) => {
  t.strictSame(problemsOf(`${head}spec: {}\n`, `${head}spec: {}\n`), [
    'b.yaml:3:19: the policy shop/p already stands in a.yaml:3',
  ]);
});

t.test('more rules than Istio takes', async (t) => {
  const [problem] = problemsOf(`${head}spec:\n  rules:\n${'    - {}\n'.repeat(513)}`);
  t.equal(problem, 'a.yaml:6:5: spec.rules: a policy has at most 512 rules');
});

t.test('a bomb of aliases is refused, not unfolded', async (t) => {
  const lines = [
    'a0: &a0 [x,x,x,x,x,x,x,x,x,x]',
    ...Array.from({ length: 9 }, (_, i) => `a${i + 1}: &a${i + 1} [${Array(10).fill(`*a${i}`).join(',')}]`),
  ];
  const [problem] = problemsOf(lines.join('\n'));
  t.match(problem, /Excessive alias count/);
});

t.test('what Kubernetes adds to metadata and status is taken', async (t) => {
  t.strictSame(
    problemsOf(
      `${head.replace('shop }', 'shop, uid: x, resourceVersion: "1", labels: { a: b } }')}spec: {}\nstatus: { conditions: [] }\n`,
    ),
    [],
  );
});
