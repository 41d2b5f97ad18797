// `sallyport gateway` as a command: its reports on documents without serving them, its refusals, and its exit codes.

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { runCommand } from '../fixtures/command.ts';
import { writeCredential } from '../fixtures/mesh.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { documentOf, webGateway as gateway, webRoute as route, serviceOf } from '../fixtures/plan.ts';
import { type Owner, tempDir } from '../fixtures/process.ts';

const bad = documentOf('HTTPRoute', 'bad', '{ parentRefs: [{ name: g }], hostnames: [A.test] }');
const lost = documentOf('HTTPRoute', 'lost', '{ parentRefs: [{ name: gone }] }');
const identity =
  'trustDomain: demo.test\nworkload: { serviceAccount: gateway }\nidentity: { files: { svid: gateway.pem, key: gateway.key, bundle: bundle.pem } }\n';
const authority = await createAuthority('demo.test');
const credential = await createCredential(authority, 'spiffe://demo.test/ns/default/sa/gateway');

/** A directory of documents, with a gateway.yaml beside it. */
function makeFiles(t: Owner, documents: string, yaml = ''): { dir: string; documents: string; config: string } {
  const dir = tempDir(t);
  mkdirSync(join(dir, 'documents'));
  writeCredential(dir, 'gateway', credential);
  writeFileSync(join(dir, 'bundle.pem'), authority.bundlePem);
  writeFileSync(join(dir, 'documents', 'all.yaml'), documents);
  writeFileSync(join(dir, 'gateway.yaml'), `${identity}documents: documents/\n${yaml}`);
  return { dir, documents: join(dir, 'documents'), config: join(dir, 'gateway.yaml') };
}

const run = (t: Owner, ...args: string[]): ReturnType<typeof runCommand> => runCommand(t, ['gateway', ...args]);

const informal = documentOf(
  'HTTPRoute',
  'r',
  '{ parentRefs: [{ name: g }], rules: [{ matches: [{ path: { type: Prefix, value: /a } }], backendRefs: [{ name: a, port: 80 }] }] }',
);

t.test('status of a directory of documents, as a table', async (t) => {
  const { documents } = makeFiles(t, gateway + serviceOf('a') + informal + bad + lost);
  const { code, stdout, stderr } = await run(t, 'status', '--config', documents);
  t.match(stderr, /^warning: .*all\.yaml:15:\d+: 'Prefix' is read as PathPrefix \(write type: PathPrefix\)\n$/);
  t.equal(code, 0, 'it only shows the status; --check evaluates it');
  const rows = stdout
    .trimEnd()
    .split('\n')
    .map((line) => line.trim().split(/ {2,}/));
  t.strictSame(rows, [
    ['KIND', 'NAME', 'SECTION', 'CONDITION', 'REASON', 'MESSAGE'],
    ['Gateway', 'shop/g', 'ok'],
    ['Gateway', 'shop/g', 'web', 'ok', '2 routes'],
    [
      ...['HTTPRoute', 'shop/bad', 'g', 'Accepted=False', 'UnsupportedValue'],
      `${join(documents, 'all.yaml')}:20:48: spec.hostnames[0]: 'A.test' is not a host name (every request that it may be for gets 500)`,
    ],
    [
      ...['HTTPRoute', 'shop/lost', 'gone', 'Accepted=False', 'NoMatchingParent'],
      'Gateway shop/gone does not exist or has no such listener',
    ],
    ['HTTPRoute', 'shop/r', 'g', 'ok'],
  ]);
});

t.test('status as JSON, of gateway.yaml', async (t) => {
  const { config } = makeFiles(
    t,
    gateway + route,
    'upstreams: { a: { endpoints: ["127.0.0.1:1"] } }\nbackends: { shop/a:80: a }\n',
  );
  {
    const { code, stdout } = await run(t, 'status', '--config', config, '-o', 'json');
    t.equal(code, 0);
    const list = JSON.parse(stdout) as { apiVersion: string; kind: string; items: { kind: string; status: object }[] };
    t.match(list, { apiVersion: 'v1', kind: 'List' });
    t.match(list.items, [
      {
        apiVersion: 'gateway.networking.k8s.io/v1',
        kind: 'Gateway',
        metadata: { name: 'g', namespace: 'shop', generation: 1 },
        status: {
          conditions: [
            { type: 'Accepted', status: 'True' },
            { type: 'Programmed', status: 'True' },
          ],
          listeners: [
            {
              name: 'web',
              attachedRoutes: 1,
              supportedKinds: [
                { group: 'gateway.networking.k8s.io', kind: 'HTTPRoute' },
                { group: 'gateway.networking.k8s.io', kind: 'GRPCRoute' },
              ],
              conditions: [
                { type: 'Accepted', status: 'True', reason: 'Accepted', observedGeneration: 1 },
                { type: 'Conflicted', status: 'False', reason: 'NoConflicts' },
                { type: 'ResolvedRefs', status: 'True', reason: 'ResolvedRefs' },
                { type: 'Programmed', status: 'True', reason: 'Programmed' },
              ],
            },
          ],
        },
      },
      {
        kind: 'HTTPRoute',
        status: {
          parents: [
            {
              parentRef: { group: 'gateway.networking.k8s.io', kind: 'Gateway', name: 'g' },
              controllerName: 'sallyport.dev/gateway-controller',
              conditions: [
                { type: 'Accepted', status: 'True' },
                { type: 'ResolvedRefs', status: 'True' },
              ],
            },
          ],
        },
      },
    ]);
  }
});

t.test('--check succeeds, or says what is wrong', async (t) => {
  const good = makeFiles(
    t,
    gateway + serviceOf('a') + route,
    'upstreams: { a: { endpoints: ["127.0.0.1:1"] } }\nbackends: { shop/a:80: a }\n',
  );
  t.match(await run(t, '--config', good.config, '--check'), {
    code: 0,
    stdout: '',
    stderr: `${good.config} is valid: 2 documents with a status, all accepted and resolved\n`,
  });
  t.match(
    (await run(t, '--config', good.config, '--check')).stderr,
    "Service shop/a:80 (upstream 'a'): HTTP/1.1 without TLS\n",
  );
  const lacking = makeFiles(t, gateway + route);
  const { code, stdout } = await run(t, '--config', lacking.config, '--check');
  t.equal(code, 1);
  t.match(stdout, /HTTPRoute +shop\/r +g +ResolvedRefs=False +BackendNotFound +there is no Service shop\/a/);
  const unattached = makeFiles(t, gateway + documentOf('HTTPRoute', 'r', '{ parentRef: [{ name: g }] }'));
  const lost = await run(t, '--config', unattached.config, '--check');
  t.equal(lost.code, 1);
  t.match(
    lost.stdout,
    /HTTPRoute +shop\/r +g +Accepted=False +UnsupportedValue .*unknown key 'parentRef' \(did you mean 'parentRefs'\?\)/,
  );
  t.match(lost.stderr, /unknown key 'parentRef' \(did you mean 'parentRefs'\?\)/);
  const slip = makeFiles(t, `${gateway}---\napiVersion: v1\nkind: Servise\nmetadata: { name: a, namespace: shop }\n`);
  const slipped = await run(t, '--config', slip.config, '--check');
  t.equal(slipped.code, 1);
  t.match(slipped.stdout, /Servise +shop\/a +Accepted=False +UnsupportedKind +.*did you mean 'Service'\?/);
  const others = makeFiles(
    t,
    `${gateway}---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyProxy\nmetadata: { name: a, namespace: shop }\n`,
  );
  const passed = await run(t, '--config', others.config, '--check');
  t.equal(passed.code, 0, 'a kind that we do not use is not an error');
  t.match(passed.stderr, /warning: .*kind EnvoyProxy does not concern a gateway: skipped/);
});

t.test('every problem is reported with its position', async (t) => {
  const { config, documents } = makeFiles(
    t,
    'apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurtyPolicy\nmetadata: { name: a }\n',
    'admin: 15000\n',
  );
  const { code, stderr } = await run(t, '--config', config, '--check');
  t.equal(code, 1, 'a finding');
  t.match(
    stderr,
    `${join(documents, 'all.yaml')}:2:7: kind SecurtyPolicy is not served by a gateway (did you mean 'SecurityPolicy'?)`,
  );
  t.match(stderr, /\[config_invalid\]$/m);
  const json = await run(t, '--config', config, '--check', '--json');
  t.equal(json.code, 1);
  t.match(JSON.parse(json.stdout), { ok: false, problems: [{ line: 2, column: 7, message: /SecurtyPolicy/ }] });
});

t.test('the other kind of file is refused with a hint', async (t) => {
  const { config, dir } = makeFiles(t, gateway);
  const sidecar = join(dir, 'sidecar.yaml');
  writeFileSync(sidecar, `${identity}inbound: [{ port: 15006, app: 127.0.0.1:1 }]\n`);
  const asGateway = await Promise.all([
    run(t, '--config', sidecar),
    run(t, '--config', sidecar, '--check'),
    run(t, 'status', '--config', sidecar),
  ]);
  for (const { code, stderr } of asGateway) {
    t.equal(code, 2);
    t.match(stderr, /configures a sidecar, not a gateway \[usage\]\n.*run 'sallyport sidecar'/);
  }
  const asSidecar = await Promise.all([
    runCommand(t, ['sidecar', '--config', config]),
    runCommand(t, ['sidecar', '--config', config, '--check']),
  ]);
  for (const { code, stderr } of asSidecar) {
    t.equal(code, 2);
    t.match(stderr, /configures a gateway, not a sidecar \[usage\]\n.*run 'sallyport gateway'/);
  }
});

t.test('missing arguments are reported', async (t) => {
  const cases: [args: string[], expected: RegExp][] = [
    [[], /no gateway\.yaml given \[usage\]\n.*give its path with --config/],
    [['status'], /no gateway or directory given \[usage\]/],
    [['status', '--config', '/', '-o', 'yaml'], /-o must be 'json' or 'table', not 'yaml' \[usage\]/],
    [['status', '--config', '/nowhere'], /\/nowhere cannot be read: it does not exist \[config_unreadable\]/],
  ];
  for (const { expected, answer } of await Promise.all(
    cases.map(async ([args, expected]) => ({ expected, answer: await run(t, ...args) })),
  )) {
    t.equal(answer.code, 2);
    t.match(answer.stderr, expected);
  }
});

t.test('hash-key prints the hash of a key', async (t) => {
  const hashKey = (input: string): ReturnType<typeof runCommand> => runCommand(t, ['gateway', 'hash-key'], { input });
  const [good, none] = await Promise.all([hashKey('secret\n'), hashKey('\n')]);
  // sha256 of `secret`.
  t.match(good, {
    code: 0,
    stdout: 'sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b\n',
    stderr: '',
  });
  t.match(none, { code: 2, stdout: '', stderr: /no key on standard input \[usage\]/ });
});

t.test('one condition does not hide another', async (t) => {
  const two = documentOf(
    'HTTPRoute',
    'r',
    '{ parentRefs: [{ name: g }], rules: [{ matches: [{ path: { type: RegularExpression, value: "/bad([" } }], backendRefs: [{ name: a, port: 80 }] }, { backendRefs: [{ name: none, port: 80 }] }] }',
  );
  const { config } = makeFiles(
    t,
    gateway + serviceOf('a') + two,
    'upstreams: { a: { endpoints: ["127.0.0.1:1"] } }\nbackends: { shop/a:80: a }\n',
  );
  const { code, stdout } = await run(t, '--config', config, '--check');
  t.equal(code, 1);
  t.match(stdout, /HTTPRoute +shop\/r +g +PartiallyInvalid=True +UnsupportedValue +Dropped Rule 0/);
  t.match(stdout, /HTTPRoute +shop\/r +g +ResolvedRefs=False +BackendNotFound/);
});

t.test('--check warns of parts that a RequestValidation does not compare, with their lines', async (t) => {
  const policy = `---
apiVersion: sallyport.dev/v1alpha1
kind: RequestValidation
metadata: { name: v, namespace: shop }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }]
  openapi:
    openapi: 3.1.0
    paths:
      /a: { post: { requestBody: { content: { text/plain: { schema: { format: phone } } } } } }
      /b: { post: { requestBody: { content: { text/plain: { schema: { format: phone } } } } } }
`;
  const { config, documents } = makeFiles(
    t,
    gateway + route + policy,
    'upstreams: { a: { endpoints: ["127.0.0.1:1"] } }\nbackends: { shop/a:80: a }\n',
  );
  const { code, stderr } = await run(t, '--config', config, '--check');
  t.equal(code, 0);
  const line = (gateway + route + policy).split('\n').findIndex((one) => one.includes('/a: {')) + 1;
  t.match(stderr, `warning: ${join(documents, 'all.yaml')}:${line}:`);
  t.match(stderr, /: the format 'phone' is unknown, and not compared \(places: 2\)\n/);
});

t.test('--check warns of a cache that is less than its document says', async (t) => {
  const cache = documentOf(
    'HTTPCache',
    'c',
    '{ targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }], store: Redis, memory: 4Mi, maxEntry: 3Mi }',
  ).replace('gateway.networking.k8s.io/v1', 'sallyport.dev/v1alpha1');
  const { config } = makeFiles(
    t,
    gateway + route + cache,
    'upstreams: { a: { endpoints: ["127.0.0.1:1"] } }\nbackends: { shop/a:80: a }\n',
  );
  const { code, stderr } = await run(t, '--config', config, '--check');
  t.match(stderr, /^warning: HTTPCache shop\/c: 'store: Redis' needs 'redis' in gateway\.yaml; responses are kept in/m);
  t.match(stderr, /^warning: HTTPCache shop\/c: 'maxEntry' is more than half of the memory of one worker \(4194304 /m);
  t.equal(code, 0);
});
