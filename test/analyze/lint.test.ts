// Each finding of `policy lint`, with its code, position and fix, and no findings for correct policies.

import { readdirSync, readFileSync } from 'node:fs';
import t from 'tap';
import { lint } from '../../sidecar/analyze/lint.ts';
import { placeDocuments } from '../../sidecar/documents/istio/read.ts';

const head =
  'apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: p, namespace: shop }\nspec: ';

const lintCases: [string, string, string][] = [
  ['deny_wider_on_tcp', '{ action: DENY, rules: [{ to: [{ operation: { methods: [POST] } }] }] }', '4:31'],
  ['literal_star', '{ rules: [{ to: [{ operation: { paths: ["*admin*"] } }] }] }', '4:47'],
  ['http_on_tcp_port', '{ rules: [{ to: [{ operation: { methods: [GET], ports: ["3306"] } }] }] }', '4:17'],
  ['jwt_without_authentication', '{ rules: [{ from: [{ source: { requestPrincipals: ["*"] } }] }] }', '4:16'],
  ['unknown_principal', '{ rules: [{ from: [{ source: { principals: [cluster.local/ns/shop/sa/gone] } }] }] }', '4:51'],
  ['unknown_namespace', '{ rules: [{ from: [{ source: { namespaces: [nowhere] } }] }] }', '4:51'],
  ['principal_with_scheme', '{ rules: [{ from: [{ source: { principals: ["spiffe://td/ns/a/sa/b"] } }] }] }', '4:51'],
  ['principal_not_local', '{ rules: [{ from: [{ source: { principals: ["cluster.local/*"] } }] }] }', '4:51'],
  ['method_never_sent', '{ rules: [{ to: [{ operation: { methods: [get] } }] }] }', '4:49'],
  ['dead_rule', '{ rules: [{ to: [{ operation: { methods: [GET], notMethods: ["G*"] } }] }] }', '4:48'],
  [
    'shadowed_rule',
    '{ rules: [{ to: [{ operation: { paths: ["/a*"] } }] }, { to: [{ operation: { paths: [/ab], methods: [GET] } }] }] }',
    '4:62',
  ],
  ['deny_without_rules', '{ action: DENY }', '4:7'],
  ['not_for_sidecars', '{ targetRefs: [{ kind: Service, name: a }] }', '4:7'],
  [
    'allows_nobody_in_particular',
    '{ rules: [{ from: [{ source: { notPrincipals: [cluster.local/ns/shop/sa/web] } }] }] }',
    '4:36',
  ],
];

const scope = {
  trustDomain: 'demo.test',
  trustDomainAliases: [],
  rootNamespace: 'istio-system',
  workloads: ['spiffe://demo.test/ns/shop/sa/web', 'spiffe://demo.test/ns/jobs/sa/cron'],
  tcpPorts: [5432],
};

const findingsOf = (text: string): ReturnType<typeof lint>['findings'] =>
  lint(placeDocuments([{ file: 'x.yaml', text }]).placed, scope).findings;

for (const [code, spec, place] of lintCases) {
  t.test(code, async (t) => {
    const findings = findingsOf(`${head}${spec}\n`);
    t.match(findings, [{ code, file: 'x.yaml', mend: /\S/ }], 'this is the only finding');
    t.equal(`${findings[0]?.line}:${findings[0]?.column}`, place);
  });
}

t.test("a dash before 'to' makes two rules of one", async (t) => {
  const [from, to] = ['from: [{ source: { namespaces: [shop] } }]', 'to: [{ operation: { ports: ["80"] } }]'];
  const found = (...rules: string[]): unknown =>
    findingsOf(`${head}\n  action: DENY\n  rules:\n${rules.map((one) => `    - ${one}`).join('\n')}\n`).map(
      ({ code, line, column, message }) => `${line}:${column} ${code} ${message}`,
    );
  t.match(found(from, to), [/^8:7 split_rule rule 0 has only 'from' and rule 1 only 'to', so the policy denies every/]);
  t.match(found(`{ ${from}, ${to} }`, from, to), [/^7:7 shadowed_rule/, /^9:7 split_rule rule 1 has/]);
  for (const rules of [
    [`${from}\n      ${to}`],
    [to, from],
    [from, from.replace('shop', 'jobs')],
    [`${from}\n      when: [{ key: destination.port, values: ["1"] }]`, to],
  ])
    t.notMatch(String(found(...rules)), /split_rule/, rules.join());
});

t.test('JWKS fetched without TLS are reported', async (t) => {
  const document = (uri: string): string =>
    `apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: { name: j }\nspec:\n  jwtRules:\n    - { issuer: a, jwksUri: "${uri}" }\n`;
  t.match(findingsOf(document('http://keys.test/jwks')), [{ code: 'jwks_in_the_clear', line: 6, column: 7 }]);
  for (const uri of ['https://keys.test/jwks', 'http://127.0.0.1:8080/jwks'])
    t.strictSame(findingsOf(document(uri)), [], uri);
});

t.test('an unknown extension provider is reported', async (t) => {
  const text = `${head}{ action: CUSTOM, provider: { name: ask }, rules: [{}] }\n`;
  const { placed } = placeDocuments([{ file: 'x.yaml', text }]);
  t.match(lint(placed, { ...scope, providers: ['other'] }).findings, [{ code: 'unknown_provider', line: 4 }]);
  for (const more of [{ providers: ['ask'] }, {}]) t.strictSame(lint(placed, { ...scope, ...more }).findings, []);
});

t.test('a port that the sidecar configures as TCP is reported', async (t) => {
  const rule = '{ rules: [{ to: [{ operation: { methods: [GET], ports: ["5432"] } }] }] }';
  t.match(findingsOf(`${head}${rule}\n`), [{ code: 'http_on_tcp_port' }]);
});

t.test('which rules cover others, and which do not', async (t) => {
  const two = (wide: string, narrow: string): string[] =>
    findingsOf(`${head}{ rules: [{ ${wide} }, { ${narrow} }] }\n`).map(({ code }) => code);
  const operation = (fields: string): string => `to: [{ operation: { ${fields} } }]`;
  t.strictSame(two(operation('paths: ["/a*"]'), operation('paths: ["/a/{*}"]')), ['shadowed_rule']);
  t.strictSame(two(operation('paths: ["*.html"]'), operation('paths: ["*x.html"]')), ['shadowed_rule']);
  t.strictSame(
    two(operation('methods: [GET], notPaths: ["/a*"]'), operation('methods: [GET], notPaths: ["/a*", /b]')),
    ['shadowed_rule'],
  );
  t.strictSame(two(operation('paths: ["/a*"]'), operation('paths: ["/b*"]')), []);
  t.strictSame(two(operation('paths: ["/a*"], methods: [GET]'), operation('paths: [/a]')), []);
  t.strictSame(
    two(operation('methods: [GET], notPaths: ["/a*"]'), operation('methods: [GET]')),
    ['shadowed_rule'],
    'the reverse direction',
  );
  t.strictSame(
    two(
      'when: [{ key: "request.headers[a]", values: [x] }]',
      'when: [{ key: "request.headers[a]", values: [x] }, { key: source.ip, values: [10.0.0.1] }]',
    ),
    ['shadowed_rule'],
  );
});

t.test('the example policies have no findings, except for the denial that is too wide on purpose', async (t) => {
  const root = new URL('../../examples/policies/', import.meta.url);
  for (const entry of readdirSync(root, { withFileTypes: true })) {
    if (!entry.isDirectory()) continue;
    const text = readFileSync(new URL(`${entry.name}/policy.yaml`, root), 'utf8');
    const found = lint(placeDocuments([{ file: 'x.yaml', text }]).placed, { ...scope, workloads: [] }).findings;
    t.strictSame(
      found.map(({ code }) => code).filter((code) => code !== 'deny_wider_on_tcp'),
      [],
      entry.name,
    );
  }
});
