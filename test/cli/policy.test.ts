// `sallyport check` and `sallyport policy ...`, as a user or a CI job runs them, without proxy or cluster.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { runCommand } from '../fixtures/command.ts';
import { allowAll } from '../fixtures/mesh.ts';
import { type Owner, tempDir } from '../fixtures/process.ts';
import { createKey, jwksOf, sign } from '../fixtures/tokens.ts';

// Each test starts the program many times, which is slow beside other tests.

const policies = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: orders, namespace: shop }
spec:
  selector: { matchLabels: { app: orders } }
  rules:
    - from: [{ source: { principals: [cluster.local/ns/shop/sa/web] } }]
      to: [{ operation: { methods: [GET], paths: ["/orders/*"] } }]
    - from: [{ source: { namespaces: [jobs] } }]
      to: [{ operation: { methods: [POST], paths: [/batch] } }]
      when: [{ key: "request.headers[x-tenant]", values: [a] }]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: no-admin, namespace: istio-system }
spec:
  action: DENY
  rules: [{ to: [{ operation: { paths: ["/admin*"], ports: ["8080"] } }] }]
`;

const web = 'spiffe://cluster.local/ns/shop/sa/web';

/** Files in a new directory, by name. */
function files(t: Owner, texts: Record<string, string>): (name: string) => string {
  const dir = tempDir(t);
  for (const [name, text] of Object.entries(texts)) writeFileSync(join(dir, name), text);
  return (name) => join(dir, name);
}

t.test('check: good, bad with all positions, standard input, sidecar.yaml, kubectl output', async (t) => {
  const at = files(t, {
    'good.yaml': policies,
    'bad.yaml': policies.replace('methods: [GET]', 'method: [GET]').replace('action: DENY', 'action: REFUSE'),
    'experimental.yaml': policies.replace('request.headers[x-tenant]', 'experimental.envoy.filters.a[b]'),
    'idle.yaml': policies.replace(/ {2}rules: \[\{ to.*\n/, ''),
    'target.yaml': policies.replace(
      'selector: { matchLabels: { app: orders } }',
      'targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: g }]',
    ),
    'sidecar.yaml': 'trustDomain: demo.test\nworkload: { serviceAccount: a }\nidentity: {}\ninbound: []\n',
    'list.yaml': `apiVersion: v1\nkind: List\nitems:\n${policies
      .split('---\n')
      .map((one) => `  - ${one.trimEnd().replaceAll('\n', '\n    ')}`)
      .join('\n')}\n`,
  });
  const check = (...args: string[]): ReturnType<typeof runCommand> => runCommand(t, ['check', ...args]);
  t.match(await check(at('good.yaml')), { code: 0, stdout: '', stderr: '2 documents are valid\n' });
  const bad = await check(at('bad.yaml'), at('good.yaml'));
  t.equal(bad.code, 1);
  t.match(bad.stderr, `${at('bad.yaml')}:8:27: unknown key 'method' (did you mean 'methods'?)`);
  t.match(bad.stderr, `${at('bad.yaml')}:17:11: spec.action: an action must be one of ALLOW, DENY, AUDIT, CUSTOM`);
  const json = await check(at('bad.yaml'), '--json');
  t.equal(json.code, 1);
  t.match(JSON.parse(json.stdout), {
    ok: false,
    documents: 2,
    problems: [{ file: at('bad.yaml'), line: 8, column: 27 }, { line: 17 }],
  });
  t.match(
    await check(at('experimental.yaml'), at('target.yaml').replace('target', 'list')),
    { code: 1 },
    'one name twice',
  );
  t.match(await check(at('experimental.yaml')), { code: 0 }, 'Istio accepts it');
  t.match(await check(at('target.yaml')), { code: 0 }, 'Istio accepts this one, too');
  t.match(await check(at('idle.yaml')), {
    code: 1,
    stderr: /DENY without rules never denies anything \(write rules: \[\{\}\]/,
  });
  t.match(await check(at('list.yaml')), { code: 0, stderr: '2 documents are valid\n' });
  t.match(await check(at('sidecar.yaml')), { code: 1, stderr: /nothing to do/ });
  const piped = await runCommand(t, ['check', '-'], { input: 'kind: AuthorizationPolicy\n' });
  t.match(piped, { code: 1, stderr: /^<stdin>:1:1: apiVersion: / });
  t.match(await check(at('none.yaml')), { code: 2, stderr: /does not exist/ });
});

t.test('eval and explain: one request', async (t) => {
  const at = files(t, { 'p.yaml': policies });
  const run = (command: string, ...args: string[]): ReturnType<typeof runCommand> =>
    runCommand(t, ['policy', command, '--policies', at('p.yaml'), '--to', 'shop/orders:8080', ...args]);
  const good = await run('eval', '--from', web, 'GET', '/orders/../orders/1?a=b', '--json');
  t.equal(good.code, 0);
  t.strictSame(JSON.parse(good.stdout), {
    allowed: true,
    status: 200,
    policy: 'shop/orders',
    rule: 0,
    path: '/orders/1',
  });
  t.match(await run('eval', 'GET', '/orders/1'), { code: 1, stdout: 'denied (403): no ALLOW rule matches\n' });
  t.match(await run('eval', '--from', web, '--tcp'), { code: 1 });
  const near = await run('explain', '--from', web, 'POST', '/orders/1');
  t.equal(near.code, 1);
  t.match(near.stdout, /in shop\/orders: add 'POST' to spec\.rules\[0\]\.to\[0\]\.operation\.methods/);
  const tenant = await run(
    'explain',
    '--from',
    'spiffe://cluster.local/ns/jobs/sa/cron',
    '-H',
    'X-Tenant: b',
    'POST',
    '/batch',
    '--json',
  );
  t.match(JSON.parse(tenant.stdout), {
    allowed: false,
    policy: 'none',
    inScope: { DENY: 1, ALLOW: 2 },
    nearest: [{ policy: 'shop/orders', rule: 1, failed: [{ saw: 'b', wanted: ['a'] }] }, { rule: 0 }],
  });
  const denied = await run('explain', '--from', web, 'GET', '/admin', '--json');
  t.match(JSON.parse(denied.stdout), {
    because: 'the DENY rule ns[istio-system]-policy[no-admin]-rule[0] matches',
    edits: [/narrow spec\.rules\[0\]/],
  });
  t.match(await run('explain', '--from', web, 'GET', '/orders/1'), {
    code: 0,
    stdout: /^allowed: no DENY rule matches, and the ALLOW rule/,
  });
  const asks = files(t, {
    'asks.yaml': `${allowAll}---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: ask, namespace: shop }
spec: { action: CUSTOM, provider: { name: p }, rules: [{}] }
`,
  });
  const silent = await runCommand(t, [
    ...['policy', 'explain', '--policies', asks('asks.yaml'), '--namespace', 'shop', 'GET', '/', '--json'],
  ]);
  t.equal(silent.code, 1);
  t.match(JSON.parse(silent.stdout), {
    allowed: false,
    policy: 'istio-ext-authz-p-ns[shop]-policy[ask]-rule[0]',
    because: /no response denies .*of the other rules: no DENY rule matches, and the ALLOW rule/,
    verdict: { allowed: false, policy: 'shop/ask' },
  });
  t.match(await run('explain', '--from', 'not-an-id', 'GET', '/'), { code: 2, stderr: /not-an-id/ });
  t.match(await run('explain'), { code: 2, stderr: /METHOD and PATH are missing/ });
  t.match(await run('explain', '--from', web, 'GET', '/a%00'), {
    code: 1,
    stdout: /before any policy: .*%00 \[path_invalid\]/,
  });
});

t.test('eval with tokens', async (t) => {
  const key = await createKey('k');
  const at = files(t, {
    'p.yaml': `apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: { name: jwt, namespace: shop }
spec: { jwtRules: [{ issuer: iss.test, audiences: [orders], jwks: '${jwksOf(key)}' }] }
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: clerks, namespace: shop }
spec: { rules: [{ when: [{ key: "request.auth.claims[groups]", values: [clerks] }] }] }
`,
  });
  const rule = { issuer: 'iss.test', audiences: ['orders'], jwks: jwksOf(key) };
  const authentication = {
    apiVersion: 'security.istio.io/v1',
    kind: 'RequestAuthentication',
    metadata: { name: 'jwt', namespace: 'shop' },
  };
  const claims = { iss: 'iss.test', sub: 'ann', groups: ['clerks'] };
  const lines = [
    { jwt: await sign(key, { ...claims, aud: 'orders' }) },
    { jwt: await sign(key, { ...claims, aud: 'x' }) },
    { jwt: 'x.y.z' },
    {},
    { claims },
  ];
  const input = lines.map((one) => JSON.stringify(one)).join('\n');
  const ran = await runCommand(
    t,
    ['policy', 'eval', '--policies', at('p.yaml'), '--namespace', 'shop', '--batch', '-'],
    { input },
  );
  t.match(
    ran.stdout
      .trimEnd()
      .split('\n')
      .map((one) => JSON.parse(one) as object),
    [
      { allowed: true, status: 200, policy: 'shop/clerks' },
      { allowed: false, status: 403, code: 'jwt_audience' },
      { allowed: false, status: 401, code: 'jwt_invalid', policy: null },
      { allowed: false, status: 403, policy: null },
      { allowed: true },
    ],
  );
  const seen = {
    jwt: await sign(key, { ...claims, aud: 'orders' }),
    headers: { 'x-user': 'root' },
    policies: [
      {
        ...authentication,
        spec: { jwtRules: [{ ...rule, outputClaimToHeaders: [{ header: 'x-user', claim: 'sub' }] }] },
      },
      {
        apiVersion: 'security.istio.io/v1',
        kind: 'AuthorizationPolicy',
        metadata: { name: 'seen', namespace: 'shop' },
        spec: {
          rules: [
            {
              when: [
                { key: 'request.headers[x-user]', values: ['ann'] },
                { key: 'request.headers[authorization]', notValues: ['*'] },
              ],
            },
          ],
        },
      },
    ],
  };
  const asProxied = await runCommand(t, ['policy', 'eval', '--namespace', 'shop', '--batch', '-'], {
    input: `${JSON.stringify(seen)}\n${JSON.stringify({ ...seen, jwt: undefined })}\n`,
  });
  t.match(
    asProxied.stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as object),
    [{ allowed: true, policy: 'shop/seen' }, { allowed: false }],
    'headers are those that policies see after the step that verifies tokens',
  );
  const one = await runCommand(t, [
    'policy',
    'eval',
    '--policies',
    at('p.yaml'),
    '--namespace',
    'shop',
    '--claims',
    JSON.stringify(claims),
    'GET',
    '/',
  ]);
  t.equal(one.code, 0);
});

t.test('eval --batch: one line of output per line of input, which may include its own policies', async (t) => {
  const at = files(t, { 'p.yaml': policies });
  const workload = { namespace: 'shop', labels: { app: 'orders' } };
  const own = {
    apiVersion: 'security.istio.io/v1beta1',
    kind: 'AuthorizationPolicy',
    metadata: { name: 'own', namespace: 'x' },
    spec: { action: 'DENY', rules: [{ to: [{ operation: { methods: ['POST'] } }] }] },
  };
  const lines: [unknown, object][] = [
    [
      { id: 1, from: web, method: 'GET', path: '/orders/1', workload },
      { id: 1, allowed: true, status: 200, policy: 'shop/orders', rule: 0, path: '/orders/1' },
    ],
    [
      { id: 'two', from: null, method: 'GET', path: '/admin', port: 8080, workload },
      { id: 'two', allowed: false, status: 403, policy: 'istio-system/no-admin', rule: 0, path: '/admin' },
    ],
    [
      {
        id: 3,
        protocol: 'tcp',
        port: 5,
        workload: { namespace: 'x', labels: {} },
        policies: [own],
        defaultAction: 'allow',
      },
      { id: 3, allowed: false, status: 0, policy: 'x/own', rule: 0, path: null },
    ],
    [
      { id: 4, method: 'GET', workload: { namespace: 'x', labels: {} }, policies: [own], defaultAction: 'allow' },
      { id: 4, allowed: true, policy: null, rule: null },
    ],
    [
      {
        id: 5,
        from: 'spiffe://new.test/ns/jobs/sa/a',
        trustDomain: 'new.test',
        headers: { 'X-Tenant': 'a' },
        method: 'POST',
        path: '/batch',
        workload,
      },
      { id: 5, allowed: true, rule: 1 },
    ],
    [
      {
        id: 6,
        from: 'spiffe://old.test/ns/shop/sa/web',
        trustDomainAliases: ['old.test'],
        path: '/orders/1',
        workload,
      },
      { id: 6, allowed: true },
    ],
    [
      { id: 7, path: '//orders//1', pathNormalization: 'MERGE_SLASHES', from: web, workload },
      { id: 7, allowed: true, path: '/orders/1' },
    ],
    [
      { id: 8, policies: [{ ...own, spec: { action: 'SOME' } }] },
      { id: 8, error: /action/ },
    ],
    [
      { id: 9, method: 7 },
      { id: 9, error: /method/ },
    ],
    [
      { id: 10, form: web },
      { id: 10, error: /form/ },
    ],
    [
      { id: 11, from: web, sourceIp: '300.1.1.1' },
      { id: 11, error: /300\.1\.1\.1/ },
    ],
    [
      {
        id: 12,
        policies: [{ ...own, spec: { action: 'CUSTOM', provider: { name: 'p' }, rules: [{}] } }],
        workload: { namespace: 'x', labels: {} },
        defaultAction: 'allow',
      },
      { id: 12, allowed: false, policy: 'x/own', rule: 0 },
    ],
    [
      {
        id: 13,
        policies: [{ ...own, spec: { action: 'CUSTOM', provider: { name: 'p' }, rules: [{}] } }],
        workload: { namespace: 'x', labels: {} },
        defaultAction: 'allow',
        providers: { p: 'allow' },
      },
      { id: 13, allowed: true },
    ],
    [[], { id: null, error: /object/ }],
    [null, { id: null, error: /object/ }],
  ];
  const input = `${lines.map(([line]) => JSON.stringify(line)).join('\n')}\n{broken\n`;
  const ran = await runCommand(t, ['policy', 'eval', '--policies', at('p.yaml'), '--batch', '-'], { input });
  t.equal(ran.code, 2, 'some lines could not be evaluated');
  const answers = ran.stdout
    .trimEnd()
    .split('\n')
    .map((one) => JSON.parse(one) as object);
  t.equal(answers.length, lines.length + 1);
  for (const [index, [line, expected]] of lines.entries()) t.match(answers[index], expected, JSON.stringify(line));
  t.match(answers.at(-1), { id: null, error: /JSON/ });
});

const fixture = `policies: p.yaml
workload: { namespace: shop, labels: { app: orders } }
requests:
  - { from: "${web}", path: /orders/1, port: 8080, expect: allow }
  - { name: "no <admin>", from: "${web}", path: /admin, port: 8080, expect: { allowed: false, policy: istio-system/no-admin, rule: 0 } }
  - { path: /, port: 8080, expect: 403 }
`;

t.test('test: fixtures, coverage, TAP and JUnit', async (t) => {
  const at = files(t, {
    'p.yaml': policies,
    'good.yaml': fixture,
    'bad.yaml': fixture.replace('expect: allow', 'expect: deny').replace('rule: 0', 'rule: 7'),
    'typo.yaml': fixture.replace('path: /orders', 'pat: /orders'),
  });
  const run = (...args: string[]): ReturnType<typeof runCommand> => runCommand(t, ['policy', 'test', ...args]);
  const good = await run(at('good.yaml'));
  t.match(good, {
    code: 0,
    stdout: 'no request matches ALLOW shop/orders rule 1\n3 passed, 0 failed; 2 of 3 rules matched a request\n',
  });
  t.match(await run(at('good.yaml'), '--min-coverage', '70'), { code: 1 });
  t.match(await run(at('good.yaml'), '--min-coverage', '60'), { code: 0 });
  const bad = await run(at('bad.yaml'));
  t.equal(bad.code, 1);
  t.match(
    bad.stdout,
    `FAILS ${at('bad.yaml')}:4: GET /orders/1 from ${web}\n  expected deny, but it was allowed by shop/orders rule 0\n`,
  );
  t.match(bad.stdout, /expected rule 7, but it was denied \(403\) by istio-system\/no-admin rule 0/);
  t.match(bad.stdout, /1 passed, 2 failed/);
  const tap = await run(at('bad.yaml'), '--format', 'tap');
  t.match(
    tap.stdout,
    /^TAP version 14\n1\.\.3\nnot ok 1 - GET .*\n {2}---\n {2}message: "expected deny[^\n]*\n {2}at: ".*bad\.yaml:4"\n {2}\.\.\.\nnot ok 2 .*\nok 3 /s,
  );
  const junit = await run(at('bad.yaml'), '--format', 'junit');
  t.match(junit.stdout, '<testsuite name="sallyport policy test" tests="3" failures="2">');
  t.match(junit.stdout, 'name="no &lt;admin&gt;"');
  t.match(JSON.parse((await run(at('good.yaml'), '--format', 'json')).stdout), {
    results: [{ passed: true }, { passed: true }, { passed: true }],
    coverage: [{ matched: 1 }, { matched: 1 }, { matched: 0 }],
  });
  t.match(await run(at('typo.yaml')), { code: 2, stderr: /unknown key 'pat' \(did you mean 'path'\?\)/ });
  t.match(await run(at('good.yaml'), '--format', 'xml'), { code: 2 });
});

t.test('diff and replay', async (t) => {
  const record = (path: string, more: object): string =>
    JSON.stringify({
      start_time: '2026-01-01T00:00:00.000Z',
      method: 'GET',
      path,
      protocol: 'HTTP/2',
      authority: 'orders',
      upstream_cluster: 'inbound|8080||',
      downstream_remote_address: '127.0.0.1:1',
      downstream_local_address: '127.0.0.1:2',
      decision: 'allow',
      policy: 'p',
      peer_id: web,
      ...more,
    });
  const at = files(t, {
    'old.yaml': policies,
    'new.yaml': policies
      .replace('methods: [GET]', 'methods: [GET, PUT]')
      .replace('"/admin*"', '"/admin*", "/orders/secret*"'),
    'log.json': `${[
      record('/orders/1', {}),
      record('/orders/secret?x=1', {}),
      record('/orders/secret', {}),
      record('/batch', { method: 'POST', peer_id: 'spiffe://cluster.local/ns/jobs/sa/cron' }),
      record('/x', { decision: '-' }),
      record('/x', { upstream_cluster: 'outbound|1||web' }),
    ].join('\n')}\n`,
    'broken.json': 'nonsense\n',
    'asking.yaml': `${policies}---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: ask, namespace: shop }
spec: { action: CUSTOM, provider: { name: p }, rules: [{ to: [{ operation: { paths: [/orders/1] } }] }] }
`,
    'asked.json': `${record('/orders/2', { decision: 'deny', policy: 'istio-ext-authz-p-ns[shop]-policy[ask]-rule[0]' })}\n${record('/orders/1', {})}\n`,
  });
  const scope = ['--namespace', 'shop', '--label', 'app=orders'];
  const same = await runCommand(t, ['policy', 'diff', at('old.yaml'), at('old.yaml'), ...scope]);
  t.match(same, { code: 0, stdout: 'no decision changes\n' });
  const diff = await runCommand(t, ['policy', 'diff', at('old.yaml'), at('new.yaml'), ...scope, '--json']);
  t.equal(diff.code, 1);
  const { changes } = JSON.parse(diff.stdout) as { changes: { before: string; after: string; request: string }[] };
  t.ok(
    changes.some(
      ({ before, after, request }) =>
        before === 'none' && after === 'allow ns[shop]-policy[orders]-rule[0]' && request.startsWith('PUT /orders/'),
    ),
  );
  t.ok(
    changes.some(
      ({ before, after, request }) =>
        before.startsWith('allow') && after.includes('no-admin') && request.startsWith('GET /orders/secret'),
    ),
  );
  const log = await runCommand(t, [
    'policy',
    'diff',
    at('old.yaml'),
    at('new.yaml'),
    ...scope,
    '--log',
    at('log.json'),
    '--json',
  ]);
  t.match(JSON.parse(log.stdout), {
    compared: 4,
    cannotBeTold: 1,
    changes: [{ request: 'GET /orders/secret (host orders, port 8080)', count: 2 }],
  });
  const asking = await runCommand(t, [
    ...['policy', 'diff', at('old.yaml'), at('asking.yaml'), ...scope, '--log', at('log.json'), '--json'],
  ]);
  t.match(JSON.parse(asking.stdout), {
    changes: [{ request: 'GET /orders/1 (host orders, port 8080)', after: /^ask p, then allow / }],
  });
  const replay = await runCommand(t, [
    'policy',
    'replay',
    '--log',
    at('log.json'),
    '--policies',
    at('new.yaml'),
    ...scope,
    '--json',
  ]);
  t.equal(replay.code, 1);
  t.match(JSON.parse(replay.stdout), {
    compared: 4,
    cannotBeTold: 1,
    changes: [{ before: 'allow p', after: 'ns[istio-system]-policy[no-admin]-rule[0]', from: web, count: 2 }],
  });
  const asked = await runCommand(t, [
    ...['policy', 'replay', '--log', at('asked.json'), '--policies', at('asking.yaml'), ...scope, '--json'],
  ]);
  t.match(JSON.parse(asked.stdout), { compared: 2, cannotBeTold: 2, changes: [] }, 'no authorizer is asked again');
  t.match(
    await runCommand(t, ['policy', 'replay', '--log', at('broken.json'), '--policies', at('new.yaml'), ...scope]),
    {
      code: 1,
      stderr: /broken\.json:1: not a line of an access log/,
    },
  );
  t.match(await runCommand(t, ['policy', 'replay', '--log', at('none.json'), '--policies', at('new.yaml'), ...scope]), {
    code: 2,
    stderr: /cannot be read/,
  });
});

t.test('check and test of no documents fail', async (t) => {
  const at = files(t, { 'empty.yaml': '# nothing\n' });
  t.match(await runCommand(t, ['check', at('empty.yaml')]), { code: 2, stderr: /nothing was checked \[usage\]/ });
  t.match(await runCommand(t, ['policy', 'test', at('empty.yaml')]), {
    code: 2,
    stderr: /nothing was tested \[usage\]/,
  });
});

t.test('requests to which no rule applies are warned of, and cover nothing', async (t) => {
  const at = files(t, { 'requests.yaml': 'requests: [{ method: GET, path: /, expect: deny }]\n' });
  const test = (...args: string[]) => runCommand(t, ['policy', 'test', at('requests.yaml'), ...args]);
  t.match(await test(), { code: 0, stderr: /^warning: no rule applies to any of these requests/ });
  t.match(await test('--min-coverage', '1'), { code: 1 });
});

t.test('diff and replay of no documents fail', async (t) => {
  const at = files(t, {
    'old.yaml': policies,
    'new.yaml': policies.replace('methods: [GET]', 'methods: [GET, PUT]'),
    'root.yaml': policies.split('---\n')[1]!,
    'none.yaml': '# nothing',
    'empty.json': '',
    'outbound.json': '{"decision":"allow","upstream_cluster":"outbound|1||web"}\n',
  });
  const run = (...args: string[]): ReturnType<typeof runCommand> => runCommand(t, ['policy', ...args]);
  const diff = await run('diff', at('old.yaml'), at('new.yaml'));
  t.equal(diff.code, 1, 'without a scope, the workloads are those of the selectors');
  t.match(diff.stdout, /^shop\/app=orders +none +allow ns\[shop\]-policy\[orders\]-rule\[0\] .* PUT \/orders\//m);
  t.match(diff.stderr, /requests compared for shop\/app=orders, shop\n/);
  t.match(await run('diff', at('old.yaml'), at('old.yaml')), { code: 0, stdout: 'no decision changes\n' });
  t.match(
    await run('diff', at('old.yaml'), at('old.yaml'), '--log', at('outbound.json')),
    { code: 2, stderr: /a log belongs to one workload, but the policies apply to shop\/app=orders, shop / },
    'a log does not distinguish several workloads',
  );
  t.match(await run('diff', at('root.yaml'), at('root.yaml')), { code: 0 }, 'policies of the root namespace alone');
  t.match(await run('diff', at('none.yaml'), at('none.yaml')), { code: 2, stderr: /nothing was compared \[usage\]/ });
  t.match(await run('diff', at('old.yaml'), at('new.yaml'), '--namespace', 'shop', '--label', 'app=web'), {
    code: 0,
    stderr: /requests compared/,
  });
  const stranger = ['--root-namespace', 'nowhere', '--namespace', 'other'];
  t.match(await run('diff', at('old.yaml'), at('new.yaml'), ...stranger), {
    code: 2,
    stderr: /no AuthorizationPolicy applies to other: nothing was compared/,
  });
  const scope = ['--policies', at('new.yaml'), '--namespace', 'shop', '--label', 'app=orders'];
  for (const log of ['empty.json', 'outbound.json'])
    t.match(
      await run('replay', '--log', at(log), ...scope),
      { code: 2, stderr: /nothing was compared \[usage\]/ },
      log,
    );
  t.match(await run('replay', '--log', at('empty.json'), '--policies', at('new.yaml'), ...stranger), {
    code: 2,
    stderr: /no AuthorizationPolicy applies to other/,
  });
});

t.test('lint: findings with positions and fixes', async (t) => {
  const at = files(t, {
    'a.yaml': policies,
    'b.yaml': policies
      .split('---\n')[1]!
      .replace('no-admin', 'no-orders')
      .replace('"/admin*"', '"/orders*"')
      .replace(', ports: ["8080"]', ''),
  });
  const run = (...args: string[]): ReturnType<typeof runCommand> => runCommand(t, ['policy', 'lint', ...args]);
  const found = await run(at('a.yaml'), at('b.yaml'));
  t.equal(found.code, 1);
  t.match(
    found.stdout,
    /a\.yaml:7:7: dead_rule: everything that this rule allows is denied by istio-system\/no-orders rule 0\n {2}fix: /,
  );
  t.match(await run(at('a.yaml'), '--json'), { code: 0, stdout: /"findings": \[\]/ });
  t.match(await run(), { code: 2, stderr: /nothing to check/ });
});
