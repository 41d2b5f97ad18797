// Who is calling, through a running gateway and on into a sidecar: each way of the SecurityPolicy, what goes on, what
// is taken out, and what becomes of a policy that is not valid.

import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingHttpHeaders } from 'node:http';
import { join } from 'node:path';
import t from 'tap';
import { hashApiKey } from '../../sidecar/edge/api-key/api-key.ts';
import { startHttpAuthorizer } from '../fixtures/authorizer.ts';
import { type Gateway, startTestGateway } from '../fixtures/gateway.ts';
import { startOne, writeCredential } from '../fixtures/mesh.ts';
import { Browser, client, startProvider } from '../fixtures/oidc-provider.ts';
import { createCredential } from '../fixtures/pki.ts';
import { freePort, type Owner } from '../fixtures/process.ts';
import { createKey, jwksOf, sign } from '../fixtures/tokens.ts';

const gatewayKind = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge }
spec: { gatewayClassName: x, listeners: [{ name: http, port: 80, protocol: HTTP }] }
`;

const route = (name: string, path: string, backend = 'app'): string => `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: ${name} }
spec:
  parentRefs: [{ name: edge }]
  rules: [{ matches: [{ path: { value: ${path} } }], backendRefs: [{ name: ${backend}, port: 80 }] }]
`;

const security = (name: string, spec: string): string => `
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: { name: ${name} }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: ${name} }]
  ${spec}
`;

const secret = (name: string, data: Record<string, string>): string =>
  JSON.stringify({ apiVersion: 'v1', kind: 'Secret', metadata: { name }, stringData: data });

/** An app that says with which headers it was asked. */
async function startEcho(t: Owner): Promise<number> {
  const server = createServer((request, response) => response.end(JSON.stringify(request.headers)));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return (server.address() as { port: number }).port;
}

interface Got {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  /** What the app was asked with; {} where it was not. */
  readonly seen: IncomingHttpHeaders;
}

async function get(gateway: Gateway, path: string, headers: Record<string, string> = {}): Promise<Got> {
  const answer = await fetch(`http://127.0.0.1:${gateway.port('default/edge:80')}${path}`, {
    headers,
    redirect: 'manual',
  });
  const text = await answer.text();
  const seen = answer.status === 200 ? (JSON.parse(text) as IncomingHttpHeaders) : {};
  return { status: answer.status, headers: answer.headers, text, seen };
}

const upstreams = (app: number): string =>
  `upstreams: { app: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { default/app:80: app }\n`;

t.test('tokens, keys, passwords, an authorizer, and authorization rules', async (t) => {
  const key = await createKey('k');
  const app = await startEcho(t);
  const authorizer = await startHttpAuthorizer(t, (asked, response) => {
    response.writeHead(asked.headers['x-role'] === 'admin' ? 200 : 403, { 'x-seen-by': 'authorizer' }).end('not you');
  });
  const jwt = `jwt: { providers: [{ name: p, issuer: iss.test, localJWKS: { inline: '${jwksOf(key)}' }, claimToHeaders: [{ header: x-user, claim: sub }] }] }`;
  const gateway = await startTestGateway(t, {
    listeners: ['default/edge:80'],
    yaml: `upstreams: { app: { endpoints: ["127.0.0.1:${app}"] }, asked: { endpoints: ["127.0.0.1:${authorizer.port}"] } }\nbackends: { default/app:80: app, default/authorizer:80: asked }\n`,
    documents: [
      gatewayKind,
      ...['open', 'token', 'clerks', 'key', 'basic', 'asked'].map((name) => route(name, `/${name}`)),
      security('token', jwt),
      security(
        'clerks',
        `${jwt}\n  authorization: { defaultAction: Deny, rules: [{ name: clerks, action: Allow, principal: { jwt: { provider: p, claims: [{ name: groups, valueType: StringArray, values: [clerks] }] } } }] }`,
      ),
      security(
        'key',
        'apiKeyAuth: { credentialRefs: [{ name: keys }], extractFrom: [{ headers: [x-api-key] }], forwardClientIDHeader: x-client-id }',
      ),
      secret('keys', { partner: hashApiKey('a-key-that-is-long-enough') }),
      security('basic', 'basicAuth: { users: { name: users }, forwardUsernameHeader: x-username }'),
      secret('users', {
        '.htpasswd': `ann:{SHA}${Buffer.from(await crypto.subtle.digest('SHA-1', Buffer.from('secret'))).toString('base64')}\n`,
      }),
      security(
        'asked',
        'extAuth: { http: { backendRef: { name: authorizer, port: 80 } }, headersToExtAuth: [x-role] }',
      ),
    ].join('\n---\n'),
  });
  const now = Math.floor(Date.now() / 1000);
  const good = await sign(key, { iss: 'iss.test', sub: 'ann', groups: ['clerks'] });
  const reader = await sign(key, { iss: 'iss.test', sub: 'bob', groups: ['readers'] });
  const bearer = (token: string): Record<string, string> => ({ authorization: `Bearer ${token}` });

  await t.test('tokens are accepted', async (t) => {
    t.match(await get(gateway, '/token'), { status: 401, text: 'Jwt is missing' });
    const wrong = await sign(await createKey('k'), { iss: 'iss.test', sub: 'ann' });
    t.match(await get(gateway, '/token', bearer(wrong)), { status: 401, text: 'Jwt verification fails' });
    const old = await sign(key, { iss: 'iss.test', sub: 'ann', exp: now - 1 });
    t.match(await get(gateway, '/token', bearer(old)), { status: 401, text: 'Jwt is expired' });
    const { status, seen } = await get(gateway, '/token', bearer(good));
    t.equal(status, 200);
    t.equal(seen['x-user'], 'ann');
    t.equal(seen.authorization, undefined, 'the token is not forwarded');
    t.equal(seen['txn-token'], undefined, 'an app outside the mesh gets no assertion');
  });

  await t.test('authorization rules apply', async (t) => {
    t.equal((await get(gateway, '/clerks', bearer(good))).status, 200);
    t.match(await get(gateway, '/clerks', bearer(reader)), { status: 403, text: 'RBAC: access denied' });
  });

  await t.test('identity headers from outside are removed on every route', async (t) => {
    const lies = {
      'x-user': 'root',
      X_User: 'root',
      'x-client-id': 'root',
      'x-username': 'root',
      'x-forwarded-client-cert': 'By=spiffe://demo.test/x;URI=spiffe://demo.test/ns/a/sa/root',
      'txn-token': 'a.b.c',
      'x-envoy-external-address': '1.2.3.4',
      'x-forwarded-for': '1.2.3.4',
      forwarded: 'for=1.2.3.4',
    };
    const { status, seen } = await get(gateway, '/open', lies);
    t.equal(status, 200);
    for (const name of Object.keys(lies).filter((one) => one !== 'x-forwarded-for'))
      t.equal(seen[name.toLowerCase()], undefined, name);
    t.equal(seen['x-forwarded-for'], '127.0.0.1');
    t.match(await get(gateway, '/token', { ...lies, ...bearer(good) }), { status: 200, seen: { 'x-user': 'ann' } });
  });

  await t.test('API keys are kept as hashes', async (t) => {
    t.equal((await get(gateway, '/key')).status, 401);
    t.equal((await get(gateway, '/key', { 'x-api-key': 'another' })).status, 401);
    t.equal((await get(gateway, '/key', { 'x-api-key': hashApiKey('a-key-that-is-long-enough') })).status, 401);
    const { status, seen } = await get(gateway, '/key', { 'x-api-key': 'a-key-that-is-long-enough' });
    t.equal(status, 200);
    t.equal(seen['x-client-id'], 'partner');
    t.equal(seen['x-api-key'], undefined);
  });

  await t.test('passwords are accepted', async (t) => {
    const basic = (text: string): Record<string, string> => ({ authorization: `Basic ${btoa(text)}` });
    const without = await get(gateway, '/basic');
    t.equal(without.status, 401);
    t.match(without.headers.get('www-authenticate'), /^Basic realm="/);
    t.equal((await get(gateway, '/basic', basic('ann:wrong'))).status, 401);
    t.match(await get(gateway, '/basic', basic('ann:secret')), { status: 200, seen: { 'x-username': 'ann' } });
  });

  await t.test('an authorizer refuses, allows, and fails closed', async (t) => {
    t.match(await get(gateway, '/asked'), { status: 403, text: 'not you' });
    t.equal((await get(gateway, '/asked', { 'x-role': 'admin' })).status, 200);
    t.equal(authorizer.asked[0]?.url, '/asked');
  });

  const records = await gateway.records(15);
  const clerk = records.find(({ path, response_code }) => path === '/clerks' && response_code === 403);
  t.match(clerk, {
    request_auth_principal: 'iss.test/bob',
    decision: 'deny',
    response_code_details: /^rbac_access_denied/,
  });
  t.notMatch(JSON.stringify(records), /a-key-that-is-long-enough|eyJ/, 'no credential is logged');
});

t.test('an invalid policy closes its target, and reports it', async (t) => {
  const app = await startEcho(t);
  const gateway = await startTestGateway(t, {
    listeners: ['default/edge:80'],
    yaml: upstreams(app),
    documents: [
      gatewayKind,
      route('open', '/open'),
      route('typo', '/typo'),
      route('nosecret', '/nosecret'),
      security('typo', 'jwt: { provider: [] }'),
      security('nosecret', 'basicAuth: { users: { name: nobody } }'),
    ].join('\n---\n'),
  });
  t.equal((await get(gateway, '/open')).status, 200);
  t.match(await get(gateway, '/typo'), { status: 500, text: 'rule broken' });
  t.match(await get(gateway, '/nosecret'), { status: 500, text: 'rule broken' });
  const status = (await (await fetch(`http://127.0.0.1:${gateway.admin}/gateway-status`)).json()) as {
    items: { kind: string; metadata: { name: string }; status: { ancestors?: { conditions: object[] }[] } }[];
  };
  const typo = status.items.find(({ kind, metadata }) => kind === 'SecurityPolicy' && metadata.name === 'typo');
  t.match(typo?.status.ancestors?.[0]?.conditions[0], {
    type: 'Accepted',
    status: 'False',
    reason: 'Invalid',
    message: /unknown key 'provider' ?/,
  });
  await gateway.write(
    'more.yaml',
    `${security('open', 'basicAuth: { users: { name: nobody } }')}---\n${secret('unrelated', { a: 'b' })}`,
  );
  t.equal((await get(gateway, '/open')).status, 500, 'a change closes it at once');
});

t.test('a policy without a known target is not accepted', async (t) => {
  const app = await startEcho(t);
  const gateway = await startTestGateway(t, {
    listeners: ['default/edge:80'],
    yaml: upstreams(app),
    documents: [gatewayKind, route('open', '/open')].join('\n---\n'),
  });
  writeFileSync(
    join(gateway.dir, 'documents', 'bad.yaml'),
    'apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: { name: x }\nspec: { target: open }\n',
  );
  gateway.sidecar.reload();
  const page = async (): Promise<{ lastProblem: { problems: string[] } | null }> =>
    (await (await fetch(`http://127.0.0.1:${gateway.admin}/state`)).json()) as never;
  let state = await page();
  while (state.lastProblem === null) state = await page();
  t.match(state.lastProblem.problems.join('\n'), /bad\.yaml:4:9: unknown key 'target'/);
  t.equal((await get(gateway, '/open')).status, 200, 'the previous generation continues');
});

t.test('a login with a real provider, through the gateway', async (t) => {
  const app = await startEcho(t);
  const listener = await freePort();
  const origin = `http://localhost:${listener}`;
  const provider = await startProvider(t, [`${origin}/shop/callback`], origin);
  const gateway = await startTestGateway(t, {
    listeners: { 'default/edge:80': listener },
    yaml: upstreams(app),
    documents: [
      gatewayKind,
      route('shop', '/shop'),
      route('open', '/open'),
      security(
        'shop',
        `oidc: { provider: { issuer: "${provider.issuer}" }, clientID: ${client.id}, clientSecret: { name: oidc }, redirectURL: "${origin}/shop/callback", logoutPath: /shop/logout, scopes: [openid] }`,
      ),
      secret('oidc', { 'client-secret': client.secret, 'session-keys': 'k'.repeat(40) }),
    ].join('\n---\n'),
  });
  const browser = new Browser();
  const { response, url } = await browser.walk(`${origin}/shop/orders?x=1`);
  t.equal(url, `${origin}/shop/orders?x=1`, 'back to where it began');
  t.equal(response.status, 200);
  const seen = (await response.json()) as IncomingHttpHeaders;
  t.notMatch(JSON.stringify(seen), /sallyport-session/, 'no app sees the session');
  t.equal((await browser.get(`${origin}/shop/orders`)).status, 200, 'the session stays');
  const open = (await (await browser.get(`${origin}/open`)).json()) as IncomingHttpHeaders;
  t.notMatch(JSON.stringify(open), /sallyport-session/, 'a route without a login does not see it either');
  t.equal(
    (await fetch(`${origin}/shop/orders`, { redirect: 'manual' })).status,
    401,
    'scripts are not sent to a login',
  );
  const record = (await gateway.records(6)).find(({ request_auth_principal }) => request_auth_principal !== null);
  t.equal(record?.['request_auth_principal'], `${provider.issuer}/ann`);
});

t.test("the gateway's transaction token is forwarded into the mesh, and no client can forge it", async (t) => {
  const key = await createKey('k');
  const app = await startEcho(t);
  const inPort = await freePort();
  const gateway = await startTestGateway(t, {
    listeners: ['default/edge:80'],
    yaml: `upstreams: { orders: { endpoints: ["127.0.0.1:${inPort}"], identity: spiffe://demo.test/ns/shop/sa/orders } }\nbackends: { default/orders:80: orders }\n`,
    documents: [
      gatewayKind,
      route('orders', '/orders', 'orders'),
      route('public', '/public', 'orders'),
      security(
        'orders',
        `jwt: { providers: [{ name: p, issuer: iss.test, localJWKS: { inline: '${jwksOf(key)}' } }] }`,
      ),
    ].join('\n---\n'),
  });
  const { dir, authority } = gateway;
  writeCredential(dir, 'orders', await createCredential(authority, 'spiffe://demo.test/ns/shop/sa/orders'));
  mkdirSync(join(dir, 'policies'));
  writeFileSync(
    join(dir, 'policies', 'clerks.yaml'),
    `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: clerks-via-the-gateway, namespace: shop }
spec:
  rules:
  - from: [{ source: { principals: [demo.test/ns/edge/sa/gateway] } }]
    when: [{ key: 'request.auth.claims[groups]', values: [clerks] }]
`,
  );
  writeFileSync(
    join(dir, 'orders.yaml'),
    `trustDomain: demo.test
workload: { namespace: shop, serviceAccount: orders }
identity: { files: { svid: orders.pem, key: orders.key, bundle: bundle.pem } }
accessLog: orders.log
inbound: [{ port: ${inPort}, app: "127.0.0.1:${app}" }]
policies: policies/
gateways: [spiffe://demo.test/ns/edge/sa/gateway]
`,
  );
  await startOne(t, join(dir, 'orders.yaml'));
  const clerk = await sign(key, { iss: 'iss.test', sub: 'ann', groups: ['clerks'] });
  const reader = await sign(key, { iss: 'iss.test', sub: 'bob', groups: ['readers'] });
  const good = await get(gateway, '/orders', { authorization: `Bearer ${clerk}` });
  t.equal(good.status, 200, good.text);
  const claims = JSON.parse(Buffer.from(String(good.seen['txn-token']).split('.')[1]!, 'base64url').toString());
  t.match(claims, {
    iss: 'spiffe://demo.test/ns/edge/sa/gateway',
    aud: 'spiffe://demo.test/ns/shop/sa/orders',
    sub: 'ann',
    groups: ['clerks'],
    auth: { method: 'jwt', iss: 'iss.test' },
  });
  t.ok(claims.exp - claims.iat <= 60);
  t.match(await get(gateway, '/orders', { authorization: `Bearer ${reader}` }), {
    status: 403,
    text: 'RBAC: access denied',
  });
  t.equal((await get(gateway, '/public')).status, 403, 'an unauthenticated caller does not match the role');
  const stolen = { 'txn-token': String(good.seen['txn-token']) };
  t.equal((await get(gateway, '/public', stolen)).status, 403, 'a captured token is useless');
});
