// Kind 14, requests beside it: declaring a request the preflight of another rule's does not open a rule that is closed
// to the client. A gateway answers preflights itself, by the CORS of their rule; the app gets only what the rule for
// OPTIONS admits.

import t from 'tap';
import { ask, startEcho } from '../fixtures/echo.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { exchangeBytes } from '../fixtures/mesh.ts';
import { routeOf, webGateway } from '../fixtures/plan.ts';

const toA = 'backendRefs: [{ name: a, port: 80 }]';
const cors = `filters: [{ type: CORS, cors: { allowOrigins: ["https://x.test"], allowMethods: ["*"] } }], ${toA}`;
const at = (path: string, more = ''): string => `matches: [{ path: { value: ${path} }${more} }]`;
const deny = (rule: string): string =>
  `---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: { name: ${rule}, namespace: shop }\nspec: { targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, sectionName: ${rule} }], authorization: { defaultAction: Deny, rules: [] } }\n`;

t.test('a preflight does not open a closed rule', async (t) => {
  const app = await startEcho(t, 'a');
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a }\n`,
    documents:
      webGateway +
      routeOf(
        'r',
        `{ name: plain, ${at('/plain')}, ${toA} }`,
        `{ name: plain-get, ${at('/plain', ', method: GET')}, ${toA} }`,
        `{ name: two, ${at('/two')}, ${toA} }`,
        `{ name: two-a, ${at('/two', ', headers: [{ name: x-tenant, value: a }]')}, ${toA} }`,
        `{ name: two-b, ${at('/two', ', headers: [{ name: x-tenant, value: b }]')}, ${toA} }`,
        `{ name: cors, ${at('/cors')}, ${toA} }`,
        `{ name: cors-get, ${at('/cors', ', method: GET')}, ${cors} }`,
        `{ name: alone-get, ${at('/alone', ', method: GET')}, ${toA} }`,
        `{ name: alone-put, ${at('/alone', ', method: PUT')}, ${toA} }`,
      ) +
      ['plain', 'two', 'cors', 'alone-put'].map(deny).join(''),
  });
  const port = gateway.port('shop/g:80');
  const preflight = async (path: string, more: Record<string, string> = {}, body?: string): Promise<string> => {
    const { status, echo } = await ask(port, path, {
      method: 'OPTIONS',
      headers: { host: 'a', origin: 'https://x.test', 'access-control-request-method': 'GET', ...more },
      ...(body === undefined ? {} : { body }),
    });
    return `${status} ${echo.app}`.trim();
  };
  const plain = async (path: string): Promise<number> =>
    (await ask(port, path, { method: 'OPTIONS', headers: { host: 'a' } })).status;

  t.equal((await ask(port, '/plain', { headers: { host: 'a' } })).status, 200);
  for (const path of ['/plain', '/two', '/cors']) t.equal(await plain(path), 403, path);
  t.equal(await preflight('/plain'), '403', 'a rule without CORS');
  t.equal(await preflight('/plain', { 'access-control-request-method': 'PUT' }), '403', 'a rule with its own CORS');
  t.equal(await preflight('/two', { 'access-control-request-headers': 'x-tenant' }), '403', 'rules for a header');
  t.equal(await preflight('/cors'), '204', 'a rule with CORS, which responds');
  t.equal(await preflight('/alone'), '200 a', 'if no rule matches OPTIONS, the rule of the announced request applies');
  t.equal(
    await preflight('/alone', { 'access-control-request-method': 'PUT' }),
    '403',
    'the preflight is answered if that rule allows it',
  );

  t.test('a request that no browser would send as a preflight is not treated as one', async (t) => {
    for (const [path, expected] of [
      ['/plain', '403'],
      ['/cors', '403'],
      ['/alone', '404'],
    ] as const) {
      t.equal(await preflight(path, { 'content-length': '4' }, 'body'), expected, `${path} with a body`);
      t.equal(await preflight(path, { 'transfer-encoding': 'chunked' }, 'body'), expected, `${path} with chunks`);
      for (const name of ['authorization', 'cookie'])
        t.equal(await preflight(path, { [name]: 'a=b' }), expected, `${path} with ${name}`);
    }
    const empty = await exchangeBytes(
      port,
      'OPTIONS /cors HTTP/1.1\r\nHost: a\r\nOrigin: https://x.test\r\nAccess-Control-Request-Method: GET\r\nCookie:\r\nConnection: close\r\n\r\n',
    );
    t.match(empty, /^HTTP\/1\.1 403 /, 'an empty cookie counts as a cookie');
  });
});
