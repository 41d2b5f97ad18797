// Policy documents that are wrong, each with its place; and the one that must work as it stands.

import t from 'tap';
import { formatProblem, SallyportError } from '../../../cert-agent/base/errors.ts';
import { fieldsOfSidecars, parseIstio } from '../../../sidecar/documents/istio/read.ts';
import { fieldsOf, ownKindsOf } from '../../../sidecar/edge/capabilities.ts';
import { createFacts } from '../../../sidecar/policy/facts.ts';
import { judge, scope, show } from '../../fixtures/policy.ts';

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
      judge(policies, where, {
        principal,
        facts: createFacts({ principal, protocol: 'http', method, path: '/pay', host: 'payment', port }),
      }),
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
    'no action at all',
    `${head}spec: { action: allow }\n`,
    ['a.yaml:4:17: spec.action: an action must be one of ALLOW, DENY, AUDIT, CUSTOM'],
  ],
  [
    'a key of when that does not exist',
    `${head}spec: { rules: [{ when: [{ key: source.ips, values: [10.0.0.1] }] }] }\n`,
    ["a.yaml:4:33: spec.rules[0].when[0].key: 'source.ips' is not an attribute: did you mean 'source.ip'?"],
  ],
  [
    'a key of the first version of Istio',
    `${head}spec: { rules: [{ when: [{ key: "destination.labels[app]", values: [a] }] }] }\n`,
    [
      "a.yaml:4:33: spec.rules[0].when[0].key: 'destination.labels[app]' is not an attribute: the policy's selector determines it",
    ],
  ],
  [
    'a key with empty brackets',
    `${head}spec: { rules: [{ when: [{ key: "request.headers[]", values: [a] }] }] }\n`,
    [
      "a.yaml:4:33: spec.rules[0].when[0].key: 'request.headers[]' is not an attribute: did you mean 'request.headers[...]'?",
    ],
  ],
  [
    'a condition without values',
    `${head}spec: { rules: [{ when: [{ key: source.ip }] }] }\n`,
    ["a.yaml:4:26: spec.rules[0].when[0]: 'source.ip' has neither 'values' nor 'notValues'"],
  ],
  [
    'an impossible block',
    `${head}spec: { rules: [{ from: [{ source: { ipBlocks: [10.0.0.0/33, 10.0.0.256, "::/129", 10.0.0.0/08] } }] }] }\n`,
    [
      "a.yaml:4:49: spec.rules[0].from[0].source.ipBlocks[0]: '10.0.0.0/33' is neither an address nor a CIDR block",
      "a.yaml:4:62: spec.rules[0].from[0].source.ipBlocks[1]: '10.0.0.256' is neither an address nor a CIDR block",
      "a.yaml:4:74: spec.rules[0].from[0].source.ipBlocks[2]: '::/129' is neither an address nor a CIDR block",
      "a.yaml:4:84: spec.rules[0].from[0].source.ipBlocks[3]: '10.0.0.0/08' is neither an address nor a CIDR block",
    ],
  ],
  [
    'an impossible block in a condition',
    `${head}spec: { rules: [{ when: [{ key: remote.ip, notValues: [10.0.0.0/33] }] }] }\n`,
    ["a.yaml:4:56: spec.rules[0].when[0].notValues[0]: '10.0.0.0/33' is neither an address nor a CIDR block"],
  ],
  [
    'a port in a condition',
    `${head}spec: { rules: [{ when: [{ key: destination.port, values: ["65536"] }] }] }\n`,
    ['a.yaml:4:60: spec.rules[0].when[0].values[0]: a port is at most 65535'],
  ],
  [
    'targets',
    `${head}spec: { targetRefs: [{ kind: Service, name: a }] }\n`,
    [
      "a.yaml:4:9: 'targetRefs' is for gateways and waypoints: a sidecar would not enforce this policy (attach it by 'selector', or keep it out of this directory)",
    ],
  ],
  [
    'a target and a selector',
    `${head}spec: { selector: { matchLabels: { a: b } }, targetRefs: [{ kind: Service, name: a }] }\n`,
    ["a.yaml:4:58: spec.targetRefs: only one of 'selector', 'targetRef' and 'targetRefs' can be set"],
  ],
  [
    'a target of another kind',
    `${head}spec: { targetRefs: [{ kind: Pod, name: a }] }\n`,
    [
      "a.yaml:4:30: spec.targetRefs[0].kind: 'Pod' is not a target: Service, networking.istio.io/ServiceEntry, gateway.networking.k8s.io/Gateway, gateway.networking.k8s.io/GatewayClass",
    ],
  ],
  [
    'a wildcard in a selector',
    `${head}spec: { selector: { matchLabels: { app: "a*" } } }\n`,
    ['a.yaml:4:41: spec.selector.matchLabels.app: a selector has no wildcards'],
  ],
  [
    'templates that Istio refuses',
    `${head}spec: { rules: [{ to: [{ operation: { paths: ["/a/{*}.txt", "/*/x/{*}", "/{**}/foo/{*}", "/{name}"] } }] }] }\n`,
    [
      "a.yaml:4:47: spec.rules[0].to[0].operation.paths[0]: '/a/{*}.txt': '{*}.txt' is not a valid template segment: only {*} and {**} may contain braces, each as a whole segment",
      "a.yaml:4:61: spec.rules[0].to[0].operation.paths[1]: '/*/x/{*}': '*' is not allowed in a template: the only wildcards are {*} and {**}",
      "a.yaml:4:73: spec.rules[0].to[0].operation.paths[2]: '/{**}/foo/{*}': '{**}' must be the last operator of a template",
      "a.yaml:4:90: spec.rules[0].to[0].operation.paths[3]: '/{name}': '{name}' is not a valid template segment: only {*} and {**} may contain braces, each as a whole segment",
    ],
  ],
  [
    'service accounts beside namespaces',
    `${head}spec: { rules: [{ from: [{ source: { serviceAccounts: [a], namespaces: [b] } }] }] }\n`,
    [
      'a.yaml:4:55: spec.rules[0].from[0].source.serviceAccounts: service accounts cannot be combined with principals or namespaces in one source',
    ],
  ],
  [
    'service accounts that are none',
    `${head}spec: { rules: [{ from: [{ source: { serviceAccounts: ["a*", a/b/c, ${'x'.repeat(321)}] } }] }] }\n`,
    [
      "a.yaml:4:56: spec.rules[0].from[0].source.serviceAccounts[0]: 'a*': service accounts have no wildcards",
      "a.yaml:4:62: spec.rules[0].from[0].source.serviceAccounts[1]: 'a/b/c' is neither <account> nor <namespace>/<account>",
      'a.yaml:4:69: spec.rules[0].from[0].source.serviceAccounts[2]: a service account has at most 320 characters',
    ],
  ],
  [
    'seventeen service accounts',
    `${head}spec: { rules: [{ from: [{ source: { serviceAccounts: [${Array(17).fill('a')}] } }] }] }\n`,
    ['a.yaml:4:55: spec.rules[0].from[0].source.serviceAccounts: a source has at most 16 service accounts'],
  ],
  [
    'trust domains with a star inside',
    `${head}spec: { rules: [{ from: [{ source: { trustDomains: ["a*b", "a/b"] } }] }] }\n`,
    [
      "a.yaml:4:53: spec.rules[0].from[0].source.trustDomains[0]: 'a*b': a trust domain has at most one star, at an end",
      "a.yaml:4:60: spec.rules[0].from[0].source.trustDomains[1]: 'a/b': a trust domain has no scheme or path",
    ],
  ],
  [
    'a dry run that is neither',
    `${head.replace('shop }', 'shop, annotations: { istio.io/dry-run: "yes" } }')}spec: {}\n`,
    ['a.yaml:3:72: istio.io/dry-run must be "true" or "false", not \'yes\''],
  ],
  [
    'CUSTOM without provider',
    `${head}spec: { action: CUSTOM, rules: [{}] }\n`,
    ["a.yaml:4:7: spec.provider: CUSTOM needs 'provider.name'"],
  ],
  [
    'CUSTOM without rules',
    `${head}spec: { action: CUSTOM, provider: { name: p } }\n`,
    [
      'a.yaml:4:17: spec.action: CUSTOM without rules never asks the authorizer: write rules: [{}] to ask it for every request',
    ],
  ],
  [
    'a provider without CUSTOM',
    `${head}spec: { provider: { name: p } }\n`,
    ["a.yaml:4:19: spec.provider: 'provider' is for CUSTOM policies, not ALLOW"],
  ],
  [
    'CUSTOM that asks who it is',
    `${head}spec: { action: CUSTOM, provider: { name: p }, rules: [{ from: [{ source: { principals: [a] } }], when: [{ key: request.auth.principal, values: [a] }] }] }\n`,
    [
      "a.yaml:4:89: spec.rules[0].from[0].source.principals: a CUSTOM policy cannot use 'principals'",
      "a.yaml:4:113: spec.rules[0].when[0].key: a CUSTOM policy cannot use 'request.auth.principal'",
    ],
  ],
  [
    "Envoy's own metadata",
    `${head}spec: { rules: [{ when: [{ key: "experimental.envoy.filters.a[b]", values: [c] }] }] }\n`,
    ["a.yaml:4:33: 'experimental.envoy.filters.a[b]' is Envoy's own metadata, which does not exist here"],
  ],
  [
    'an operation of empty lists',
    `${head}spec: { rules: [{ to: [{ operation: { methods: [] } }] }] }\n`,
    ["a.yaml:4:37: spec.rules[0].to[0].operation: 'operation' is empty: omit 'to' to match any operation"],
  ],
  [
    'an empty value',
    `${head}spec: { rules: [{ to: [{ operation: { methods: [""] } }] }] }\n`,
    ['a.yaml:4:49: spec.rules[0].to[0].operation.methods[0]: an empty value matches nothing: omit it'],
  ],
  [
    'an empty source',
    `${head}spec: { rules: [{ from: [{ source: {} }] }] }\n`,
    ["a.yaml:4:36: spec.rules[0].from[0].source: 'source' is empty: omit 'from' to match any source"],
  ],
  [
    'an empty from',
    `${head}spec: { rules: [{ from: [] }] }\n`,
    ["a.yaml:4:25: spec.rules[0].from: 'from' is empty: leave it out to mean any source"],
  ],
  [
    'a port that is no number',
    `${head}spec: { rules: [{ to: [{ operation: { ports: [http] } }] }] }\n`,
    ['a.yaml:4:47: spec.rules[0].to[0].operation.ports[0]: a port must be a string of digits'],
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
    'apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: { name: p }\nspec: {}\n',
    ['a.yaml:2:7: kind VirtualService is not supported by this build'],
  ],
  [
    'our own kinds that a sidecar has as a field',
    'apiVersion: sallyport.dev/v1alpha1\nkind: RequestValidation\nmetadata: { name: p }\nspec: {}\n',
    [
      "a.yaml:2:7: kind RequestValidation is not supported by this build (at a sidecar, write its spec without targetRefs as 'requestValidation' of sidecar.yaml)",
    ],
  ],
  [
    'our own kinds of gateways',
    'apiVersion: sallyport.dev/v1alpha1\nkind: HTTPCache\nmetadata: { name: p }\nspec: {}\n',
    ['a.yaml:2:7: kind HTTPCache is not supported by this build (it works at a gateway only)'],
  ],
  [
    'a misspelt kind',
    `${head.replace('AuthorizationPolicy', 'AuthorisationPolicy')}spec: {}\n`,
    ["a.yaml:2:7: kind AuthorisationPolicy is not supported by this build (did you mean 'AuthorizationPolicy'?)"],
  ],
  [
    'a claim in a header of the hop',
    'apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: { name: p }\nspec: { jwtRules: [{ issuer: a, outputPayloadToHeader: content-length }] }\n',
    ["a.yaml:4:56: 'content-length' cannot carry a claim: it belongs to one hop"],
  ],
  [
    'a rule without issuer, and without keys that could stand for it',
    'apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: { name: p }\nspec: { jwtRules: [{ jwks: "{\\"keys\\":[]}" }] }\n',
    ["a.yaml:4:20: spec.jwtRules[0].issuer: issuer is not empty, unless 'jwksUri' says whose keys verify"],
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
      'a.yaml:4:75: spec.rules[1].to[0].operation.ports[0]: a port must be a string of digits',
      "a.yaml:4:9: unknown key 'acton' (did you mean 'action'?)",
    ],
  ],
];

for (const [name, text, expected] of wrong) {
  t.test(name, async (t) => {
    t.strictSame(problemsOf(text), expected);
  });
}

t.test('a dry run is for AuthorizationPolicies, in the spellings of Istio', async (t) => {
  const annotated = (value: string): string =>
    `${head.replace('shop }', `shop, annotations: { istio.io/dry-run: "${value}" } }`)}spec: {}\n`;
  for (const [value, dryRun] of [
    ['true', true],
    ['True', true],
    ['1', true],
    ['FALSE', false],
    ['0', false],
  ] as const)
    t.match(parseIstio([{ file: 'a.yaml', text: annotated(value) }]).authorizationPolicies, [{ dryRun }], value);
  // Another kind with it would be in force, and its author would believe that it is not.
  for (const kind of ['RequestAuthentication', 'PeerAuthentication'])
    t.match(problemsOf(annotated('true').replace('AuthorizationPolicy', kind)), [
      /^a\.yaml:3:72: metadata\.annotations.*: only an AuthorizationPolicy has a dry run/,
    ]);
  const rule = 'apiVersion: networking.istio.io/v1\nkind: DestinationRule\n';
  t.match(problemsOf(`${rule}metadata: { name: a, annotations: { istio.io/dry-run: "false" } }\nspec: { host: a }\n`), [
    /only an AuthorizationPolicy has a dry run/,
  ]);
});

t.test('malformed YAML', async (t) => {
  const [problem] = problemsOf(`${head}spec: { action: ALLOW\n`);
  t.match(problem, /^a\.yaml:\d+:\d+: Flow map/);
});

t.test('one name twice, in two files, names both places', async (t) => {
  t.strictSame(problemsOf(`${head}spec: {}\n`, `${head}spec: {}\n`), [
    'b.yaml:3:19: the policy shop/p is already defined in a.yaml:3',
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

t.test('each kind of ours that a sidecar has as a field is named in the hint', async (t) => {
  const table = [...fieldsOf('sidecar.yaml')].flatMap(([name, { capability }]) =>
    ownKindsOf([capability]).map((kind) => [kind, name]),
  );
  t.strictSame([...fieldsOfSidecars].sort(), table.sort());
});
