// `sallyport openapi check`: what routes serve compared with what a document describes.

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { runCommand } from '../fixtures/command.ts';
import { documentOf, serviceOf, webGateway } from '../fixtures/plan.ts';
import { tempDir } from '../fixtures/process.ts';

const rule = (path: string, name: string, more = ''): string =>
  `{ name: ${name}, matches: [{ path: { value: ${path} }${more} }], backendRefs: [{ name: a, port: 80 }] }`;
const route = documentOf(
  'HTTPRoute',
  'r',
  `{ parentRefs: [{ name: g }], hostnames: [a.test], rules: [${rule('/orders', 'orders')}, ${rule('/old', 'old')}, ${rule('/hooks', 'hooks', ', method: POST')}] }`,
);
const other = documentOf(
  'HTTPRoute',
  'other',
  `{ parentRefs: [{ name: g }], hostnames: [a.test], rules: [${rule('/orders/exports', 'exports')}] }`,
);
const own = (kind: string, group: string, name: string, spec: string, section = ''): string =>
  `---\napiVersion: ${group}/v1alpha1\nkind: ${kind}\nmetadata: { name: ${name}, namespace: shop }\nspec: { targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r${section} }], ${spec} }\n`;
const validation = (paths: string, more = ''): string =>
  own(
    'RequestValidation',
    'sallyport.dev',
    'v',
    `openapi: { openapi: 3.1.0, ${more}paths: ${paths}, components: { securitySchemes: { bearer: { type: http, scheme: bearer }, key: { type: apiKey, in: header, name: x-key } } } }`,
  );
const jwt = own(
  'SecurityPolicy',
  'gateway.envoyproxy.io',
  'p',
  `jwt: { providers: [{ name: p, issuer: i, localJWKS: { inline: '{"keys":[]}' } }] }`,
  ', sectionName: orders',
);

async function check(documents: string, ...args: string[]) {
  const dir = tempDir(t);
  mkdirSync(join(dir, 'documents'));
  writeFileSync(join(dir, 'documents', 'all.yaml'), webGateway + serviceOf('a') + documents);
  return runCommand(t, ['openapi', 'check', '--config', join(dir, 'documents'), ...args]);
}

t.test('documents that do not fit are reported', async (t) => {
  const paths =
    '{ /orders: { get: { security: [{ bearer: [] }] }, post: { security: [{ key: [] }] }, delete: {} }, "/orders/{id}": { parameters: [{ in: path, name: id, schema: {} }], get: { security: [{ bearer: [] }, {}] } }, /orders/exports: { get: {} }, /hooks: { get: {}, post: { security: [{ key: [] }] } }, /gone: { get: {} } }';
  const { code, stdout, stderr } = await check(route + other + validation(paths) + jwt);
  t.equal(code, 1);
  const line = (webGateway + serviceOf('a') + route + other).split('\n').length + 3;
  const lines = stdout.trimEnd().split('\n');
  for (const one of lines) t.match(one, `documents/all.yaml:${line}: RequestValidation`);
  t.strictSame(
    lines.map((one) => one.slice(one.indexOf(': ') + 2)),
    [
      'RequestValidation shop/v: POST /orders: its security needs key (apiKey header x-key), and SecurityPolicy shop/p asks for jwt (security_differs)',
      'RequestValidation shop/v: DELETE /orders: SecurityPolicy shop/p asks for jwt, and its security is empty (security_not_described)',
      'RequestValidation shop/v: GET /orders/exports: httproute/shop/other/rule/0 serves it, and is not under this document (operation_not_compared)',
      'RequestValidation shop/v: GET /hooks, GET /gone: no route serves it (operation_not_served)',
      'RequestValidation shop/v: POST /hooks: its security needs key (apiKey header x-key), and no SecurityPolicy asks for anything (security_not_asked)',
      'RequestValidation shop/v: httproute/shop/r/rule/1: no operation describes what it serves (rule_not_described)',
    ],
  );
  t.match(stderr, /7 findings in 8 operations/);
});

t.test('documents that fit are accepted', async (t) => {
  const paths = '{ /orders: { get: { security: [{ bearer: [] }] } }, /old/x: { get: {} }, /hooks: { post: {} } }';
  const { code, stdout, stderr } = await check(route + validation(paths) + jwt);
  t.strictSame([code, stdout], [0, '']);
  t.match(stderr, /3 operations of 1 document: all are served as described/);
  const json = await check(route + validation('{ /gone: { get: { operationId: lost } } }'), '--json');
  t.equal(json.code, 1);
  t.match(JSON.parse(json.stdout), {
    ok: false,
    documents: 1,
    operations: 1,
    findings: [
      { code: 'operation_not_served', method: 'GET', path: '/gone', operationId: 'lost', line: Number },
      ...[{}, {}, {}],
    ],
  });
});

t.test('one line for many operations, and the positions in an invalid document', async (t) => {
  const paths = Array.from({ length: 14 }, (_, i) => `/orders/${i}: { get: { security: [{ bearer: [] }] } }`).join();
  const { stdout } = await check(route + validation(`{ ${paths} }`));
  t.match(
    stdout,
    /v: GET \/orders\/0, GET \/orders\/1, GET \/orders\/2 and 11 more: its security needs bearer \(http bearer\), and no Sec/,
  );
  const invalid = await check(route + validation('{ /a: { pst: {} } }'));
  t.equal(invalid.code, 2);
  t.match(invalid.stderr, /all\.yaml:\d+:\d+: spec\.openapi\.paths\.\/a\.pst: unknown field 'pst'/);
});

t.test('an OpenAPI document alone', async (t) => {
  const file = join(tempDir(t), 'petstore.yaml');
  writeFileSync(file, 'openapi: 3.1.0\npaths: {}\n');
  for (const args of [
    ['openapi', 'check', '--config', file],
    ['check', file],
  ])
    t.match((await runCommand(t, args)).stderr, /under 'spec\.openapi' of a RequestValidation/);
});

t.test('wrong usage is refused', async (t) => {
  const { code, stderr } = await check(route);
  t.equal(code, 2);
  t.match(stderr, /no RequestValidation with an OpenAPI document is in force/);
  t.equal((await runCommand(t, ['openapi', 'check'])).code, 2);
});
