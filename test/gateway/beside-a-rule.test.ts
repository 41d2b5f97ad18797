// The requests beside a rule belong to it: the preflight of a rule that matches by method, and the way back from a
// login.

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { readStatus } from '../../sidecar/process/dry-run.ts';
import { isBad, sectionsOf } from '../../sidecar/routing/status.ts';
import { ask, startEcho } from '../fixtures/echo.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { documentOf, routeOf, webGateway } from '../fixtures/plan.ts';
import { type Owner, tempDir } from '../fixtures/process.ts';

const toA = 'backendRefs: [{ name: a, port: 80 }]';
const cors = (origin: string): string =>
  `filters: [{ type: CORS, cors: { allowOrigins: ["${origin}"], allowMethods: ["*"] } }], ${toA}`;
const at = (path: string, method?: string): string =>
  `matches: [{ path: { value: ${path} }${method === undefined ? '' : `, method: ${method}`} }]`;

t.test('a preflight is routed to the rule of the method that it asks for', async (t) => {
  const app = await startEcho(t, 'a');
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a }\n`,
    documents:
      webGateway +
      routeOf(
        'r',
        `{ ${at('/one', 'POST')}, ${cors('https://post.test')} }`,
        `{ ${at('/two', 'POST')}, ${cors('https://post.test')} }`,
        `{ ${at('/two', 'DELETE')}, ${cors('https://delete.test')} }`,
        `{ ${at('/two')}, ${cors('https://any.test')} }`,
        `{ ${at('/own', 'PUT')}, ${cors('https://put.test')} }`,
        `{ ${at('/own', 'OPTIONS')}, ${toA} }`,
        `{ ${at('/app', 'PUT')}, ${toA} }`,
      ),
  });
  const preflight = async (path: string, method: string, headers: Record<string, string> = {}): Promise<string> => {
    const asked = { host: 'a', origin: 'https://x.test', 'access-control-request-method': method, ...headers };
    const {
      status,
      echo,
      headers: told,
    } = await ask(gateway.port('shop/g:80'), path, {
      method: 'OPTIONS',
      headers: asked,
    });
    return `${status} ${echo.method ?? ''}${String(told['access-control-allow-origin'] ?? '')}`.trim();
  };
  const from = (one: string): Record<string, string> => ({ origin: `https://${one}.test` });
  t.equal(await preflight('/one', 'POST', from('post')), '204 https://post.test');
  t.equal(await preflight('/one', 'PUT', from('post')), '404', 'a method that no rule accepts');
  t.equal(await preflight('/two', 'POST', from('post')), '204 https://post.test');
  t.equal(await preflight('/two', 'POST', from('any')), '204', 'not the rule of other methods');
  t.equal(await preflight('/two', 'DELETE', from('delete')), '204 https://delete.test');
  t.equal(await preflight('/two', 'PATCH', from('any')), '204 https://any.test');
  t.equal(await preflight('/own', 'PUT', from('put')), '200 OPTIONS', 'a rule for OPTIONS gets the preflight');
  t.equal(await preflight('/app', 'PUT'), '200 OPTIONS', 'an app that answers preflights itself gets it');
  const plain = await ask(gateway.port('shop/g:80'), '/one', { method: 'OPTIONS', headers: { host: 'a' } });
  t.equal(plain.status, 404, 'OPTIONS that is not a preflight does not use that rule');
});

t.test('a preflight is routed to the rule of the headers that it announces, if all candidates agree', async (t) => {
  const app = await startEcho(t, 'a');
  const having = (path: string, value: string): string =>
    `matches: [{ path: { value: ${path} }, headers: [{ name: X-Tenant, value: ${value} }] }]`;
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a }\n`,
    documents:
      webGateway +
      routeOf(
        'r',
        `{ ${having('/one', 'a')}, ${cors('https://a.test')} }`,
        `{ ${having('/same', 'a')}, ${cors('https://a.test')} }`,
        `{ ${having('/same', 'b')}, ${cors('https://a.test')} }`,
        `{ ${at('/same')}, ${cors('https://a.test')} }`,
        `{ ${having('/other', 'a')}, ${cors('https://a.test')} }`,
        `{ ${having('/other', 'b')}, ${cors('https://b.test')} }`,
        `{ ${having('/inner/canary', 'a')}, ${cors('https://b.test')} }`,
        `{ ${at('/inner')}, ${cors('https://a.test')} }`,
      ),
  });
  const preflight = async (path: string, announced: string, origin = 'https://a.test'): Promise<string> => {
    const { status, headers } = await ask(gateway.port('shop/g:80'), path, {
      method: 'OPTIONS',
      headers: {
        ...{ host: 'a', origin, 'access-control-request-method': 'DELETE' },
        ...(announced === '' ? {} : { 'access-control-request-headers': announced }),
      },
    });
    return `${status} ${String(headers['access-control-allow-origin'] ?? '')}`.trim();
  };
  t.equal(await preflight('/one', 'content-type, X-TENANT'), '204 https://a.test');
  t.equal(await preflight('/one', 'content-type'), '404', 'a request without that header does not use that rule');
  t.equal(await preflight('/same', 'x-tenant'), '204 https://a.test');
  t.equal(await preflight('/same', ''), '204 https://a.test');
  t.equal(
    await preflight('/other', 'x-tenant'),
    '404',
    "one of them does not allow this origin, and the header's value is not known yet",
  );
  t.equal(await preflight('/other', 'x-tenant', 'https://c.test'), '204', 'both refuse');
  t.equal(await preflight('/inner/canary', ''), '204 https://a.test');
  t.equal(await preflight('/inner/canary', 'x-tenant'), '404', 'the rule of the request does not answer either');
});

async function complaints(t: Owner, documents: string): Promise<string[]> {
  const dir = tempDir(t);
  mkdirSync(join(dir, 'documents'));
  writeFileSync(join(dir, 'documents', 'all.yaml'), documents);
  writeFileSync(
    join(dir, 'gateway.yaml'),
    'trustDomain: demo.test\nworkload: { serviceAccount: gateway }\nidentity: { files: { svid: x, key: x, bundle: x } }\ndocuments: documents/\nupstreams: { a: { endpoints: ["127.0.0.1:1"] } }\nbackends: { shop/a:80: a }\n',
  );
  return (await readStatus(join(dir, 'gateway.yaml'), Date.now())).list.items.flatMap((item) =>
    sectionsOf(item).flatMap(({ conditions }) =>
      conditions
        .filter(isBad)
        .map((one) => `${item.metadata.name} ${one.type}=${one.status} ${one.reason}: ${one.message}`),
    ),
  );
}

/** What is only warned of. */
async function warnings(t: Owner, documents: string): Promise<readonly string[]> {
  const dir = tempDir(t);
  mkdirSync(join(dir, 'documents'));
  writeFileSync(join(dir, 'documents', 'all.yaml'), documents);
  writeFileSync(
    join(dir, 'gateway.yaml'),
    'trustDomain: demo.test\nworkload: { serviceAccount: gateway }\nidentity: { files: { svid: x, key: x, bundle: x } }\ndocuments: documents/\nupstreams: { a: { endpoints: ["127.0.0.1:1"] } }\nbackends: { shop/a:80: a }\n',
  );
  return (await readStatus(join(dir, 'gateway.yaml'), Date.now())).warnings;
}

const login = (redirect: string, more = '', target = 'name: app'): string =>
  `---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: { name: login, namespace: shop }\nspec: { targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, ${target} }], oidc: { provider: { issuer: "https://idp.test" }, clientID: c, clientSecret: { name: s }, redirectURL: "${redirect}"${more} } }\n---\napiVersion: v1\nkind: Secret\nmetadata: { name: s, namespace: shop }\nstringData: { client-secret: a-client-secret-that-nobody-can-guess }\n`;
const app = (hosts: string, path = '/', name = 'app'): string =>
  documentOf(
    'HTTPRoute',
    name,
    `{ parentRefs: [{ name: g }], hostnames: [${hosts}], rules: [{ ${at(path)}, ${toA} }] }`,
  );

t.test('a login whose callback has no route is reported', async (t) => {
  const back = 'https://a.test/callback';
  const rows: [name: string, documents: string, expected: RegExp | undefined][] = [
    ['a valid login', app('a.test') + login(back), undefined],
    [
      'a path that no route serves',
      app('a.test', '/app') + login(back),
      /CallbackNotServed: no rule .* a\.test\/callback/,
    ],
    ['a host that no route serves', app('b.test') + login(back), /CallbackNotServed/],
    [
      'a path of a route without the policy',
      app('a.test', '/app') + app('a.test', '/', 'other') + login(back),
      /CallbackNotServed: HTTPRoute.* shop\/other|CallbackNotServed: .*httproute\/shop\/other/,
    ],
    [
      'two hosts, with a callback on one',
      app('a.test, b.test') + login(back),
      /LoginsComplete=False HostNotServed: .*b\.test.*a\.test/,
    ],
    ['two hosts of one domain', app('a.test, b.a.test') + login(back, ', cookieDomain: a.test'), undefined],
    [
      'two hosts, one of them in the domain',
      app('a.test, b.a.test, c.test') + login(back, ', cookieDomain: a.test'),
      /HostNotServed: .*c\.test/,
    ],
    ['any host', app('"*.test"') + login(back), undefined],
  ];
  for (const [name, documents, expected] of rows) {
    const said = await complaints(t, webGateway + documents);
    if (expected === undefined) t.strictSame(said, [], name);
    else {
      t.equal(said.length, 1, name);
      t.match(said[0], expected, name);
    }
  }
});

t.test('a login under a wildcard whose callback fits one host only is warned of', async (t) => {
  const starred = async (hosts: string, more = ''): Promise<readonly string[]> => {
    const all = await warnings(t, webGateway + app(hosts) + login('https://a.shop.test/callback', more));
    return all.filter((one) => /login/.test(one));
  };
  t.match(await starred('"*.shop.test"'), [
    /^SecurityPolicy shop\/login: a login that begins on a host of \*\.shop\.test other than a\.shop\.test cannot complete/,
  ]);
  t.strictSame(await starred('"*.shop.test"', ', cookieDomain: shop.test'), []);
  t.strictSame(await starred('a.shop.test'), []);
});
