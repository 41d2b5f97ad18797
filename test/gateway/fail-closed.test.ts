// What an attacker would try at the edge, and what must not stay open when documents change: who is in already, names
// that only others may say, streams beside requests, ports that are gone, credentials in the record.

import { connect, type Socket } from 'node:net';
import t from 'tap';
import { hashApiKey } from '../../sidecar/edge/api-key/api-key.ts';
import { limitInFlight } from '../../sidecar/edge/concurrency/capability.ts';
import { ConcurrencyLimit } from '../../sidecar/edge/concurrency-limit.ts';
import type { Exchange } from '../../sidecar/exchange/exchange.ts';
import { parseIp } from '../../sidecar/policy/ip.ts';
import { startHttpAuthorizer } from '../fixtures/authorizer.ts';
import { ask, startEcho } from '../fixtures/echo.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { exchangeBytes, startBackend } from '../fixtures/mesh.ts';
import { documentOf, planOf } from '../fixtures/plan.ts';
import { type Owner, until } from '../fixtures/process.ts';
import { createKey, jwksOf, sign } from '../fixtures/tokens.ts';

const gatewayOf = (...listeners: string[]): string =>
  documentOf('Gateway', 'g', `{ gatewayClassName: x, listeners: [${listeners.join()}] }`);
const web = '{ name: web, port: 80, protocol: HTTP }';
const routeOf = (name: string, path: string): string =>
  documentOf(
    'HTTPRoute',
    name,
    `{ parentRefs: [{ name: g }], rules: [{ matches: [{ path: { value: ${path} } }], backendRefs: [{ name: a, port: 80 }] }] }`,
  );
const policyOf = (target: string, spec: string, metadata = `name: ${target}`, kind = 'HTTPRoute'): string =>
  `---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: { namespace: shop, ${metadata} }\nspec:\n  targetRefs: [{ group: gateway.networking.k8s.io, kind: ${kind}, name: ${target} }]\n  ${spec}\n`;
const secretOf = (name: string, data: Record<string, string>): string =>
  `---\n${JSON.stringify({ apiVersion: 'v1', kind: 'Secret', metadata: { name, namespace: 'shop' }, stringData: data })}\n`;
const yamlFor = (app: number, more = ''): string =>
  `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a }\n${more}`;

const upgraded =
  'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n';

/** A WebSocket through the gateway that answers whatever is said. */
async function openWebSocket(t: Owner, port: number, headers: Readonly<Record<string, string>>): Promise<Socket> {
  const socket = connect({ host: '127.0.0.1', port });
  t.teardown(() => socket.destroy());
  let got = '';
  socket
    .on('error', () => {})
    .on('data', (chunk: Buffer) => {
      got += chunk.toString('latin1');
    });
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.write(
    `GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n${lines.join('')}\r\n`,
  );
  await until(() => got.startsWith('HTTP/1.1 101') || /^HTTP\/1\.1 [45]/.test(got), 'an answer');
  if (!got.startsWith('HTTP/1.1 101')) throw new Error(got);
  return socket;
}

const isOver = (socket: Socket): Promise<unknown> => until(() => socket.destroyed || socket.readableEnded, 'its end');

function goesOn(socket: Socket): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.once('data', () => resolve()).once('close', () => reject(new Error('it was closed')));
    socket.write('ping');
  });
}

t.test('a connected client is refused when its credential is withdrawn or another one is required', async (t) => {
  const app = await startBackend(t, (socket, soFar) => {
    if (soFar.endsWith('\r\n\r\n')) socket.write(upgraded);
    else if (soFar.endsWith('ping')) socket.write('pong');
  });
  const authorizer = await startHttpAuthorizer(t, (_, response) => response.writeHead(200).end());
  const key = await createKey('k');
  const byKey = 'apiKeyAuth: { credentialRefs: [{ name: keys }], extractFrom: [{ headers: [x-api-key] }] }';
  const byToken = (issuer: string): string =>
    `jwt: { providers: [{ name: p, issuer: ${issuer}, localJWKS: { inline: '${jwksOf(key)}' } }] }`;
  const keys = (of: Readonly<Record<string, string>>): string =>
    secretOf('keys', Object.fromEntries(Object.entries(of).map(([name, one]) => [name, hashApiKey(one)])));
  const [ann, bob, cat] = ['ann-has-a-long-key', 'bob-has-a-long-key', 'cat-has-a-long-key'] as const;
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app.port}"] }, asked: { endpoints: ["127.0.0.1:${authorizer.port}"] } }\nbackends: { shop/a:80: a, shop/asked:80: asked }\n`,
    documents: {
      'all.yaml': gatewayOf(web) + routeOf('ws', '/ws'),
      'policy.yaml': policyOf('ws', byKey),
      'keys.yaml': keys({ ann, bob }),
    },
  });
  const port = gateway.port('shop/g:80');
  const [ofAnn, ofBob] = await Promise.all([ann, bob].map((one) => openWebSocket(t, port, { 'x-api-key': one })));
  await gateway.write('keys.yaml', keys({ ann, cat }));
  await isOver(ofBob!);
  await goesOn(ofAnn!);
  await t.rejects(openWebSocket(t, port, { 'x-api-key': bob }), /401/);
  await gateway.write('keys.yaml', keys({ ann: 'ann-has-another-key', cat }));
  await isOver(ofAnn!);
  t.pass('a replaced key no longer counts');

  const ofCat = await openWebSocket(t, port, { 'x-api-key': cat });
  await gateway.write('policy.yaml', policyOf('ws', byToken('iss.test')));
  await isOver(ofCat);
  t.pass('a client of one policy is unknown to another that requires tokens');

  const token = { authorization: `Bearer ${await sign(key, { iss: 'iss.test', sub: 'ann' })}` };
  const byIss = await openWebSocket(t, port, token);
  await gateway.write('policy.yaml', policyOf('ws', `${byToken('iss.test')}\n  cors: { allowOrigins: ["*"] }`));
  await goesOn(byIss);
  await gateway.write('policy.yaml', policyOf('ws', byToken('other.test')));
  await isOver(byIss);
  t.pass('an assertion of an issuer that is no longer trusted does not count');

  await gateway.write('policy.yaml', policyOf('ws', 'cors: { allowOrigins: ["*"] }'));
  const anonymous = await openWebSocket(t, port, {});
  await gateway.write('policy.yaml', policyOf('ws', 'extAuth: { http: { backendRef: { name: asked, port: 80 } } }'));
  await isOver(anonymous);
  t.pass('a request about which no authorizer was asked must be sent again');
});

t.test('headers that only the gateway and its proxies may set are removed', async (t) => {
  const app = await startEcho(t, 'a');
  const authorizer = await startHttpAuthorizer(t, (asked, response) => {
    const known = asked.headers['x-session'] === 'ann';
    response.writeHead(200, known ? { 'x-current-user': 'ann' } : {}).end();
  });
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] }, asked: { endpoints: ["127.0.0.1:${authorizer.port}"] } }\nbackends: { shop/a:80: a, shop/asked:80: asked }\n`,
    documents:
      gatewayOf(web) +
      routeOf('asked', '/asked') +
      routeOf('open', '/open') +
      policyOf(
        'asked',
        'extAuth: { headersToExtAuth: [x-session, x-echo, cookie], http: { backendRef: { name: asked, port: 80 }, headersToBackend: [x-current-user, x-echo, authorization] } }',
      ),
  });
  const get = async (path: string, headers: Record<string, string>) =>
    (await ask(gateway.port('shop/g:80'), path, { headers: { host: 'a.test', ...headers } })).echo.headers;

  t.equal((await get('/asked', { 'x-session': 'ann' }))['x-current-user'], 'ann');
  const lie = { 'x-current-user': 'root', X_Current_User: 'root', 'x-echo': 'mine', authorization: 'Bearer mine' };
  const seen = await get('/asked', lie);
  t.equal(seen['x-current-user'], undefined, 'without a value from the authorizer the header is absent');
  t.equal(seen['x_current_user'], undefined);
  t.match(
    seen,
    { 'x-echo': 'mine', authorization: 'Bearer mine' },
    "the authorizer's value and the credentials are kept",
  );
  t.equal((await get('/open', lie))['x-current-user'], undefined, 'on any route');
  const cookie = '__Host-sallyport-session-abc=1.sealed; theme=dark';
  await get('/asked', { cookie, 'x-echo': cookie });
  t.equal(authorizer.asked.at(-1)!.headers.cookie, 'theme=dark', 'an authorizer does not see a session either');

  const names = [
    ...['Client-Cert', 'Client-Cert-Chain', 'X-Original-URL', 'X-Rewrite-URL', 'X-Forwarded-Prefix', 'Remote-User'],
    ...['X-Auth-Request-Groups', 'X-Forwarded-Access-Token', 'X_Original_URL', 'X-Forwarded-Tls-Client-Cert'],
  ];
  const others = await get('/open', Object.fromEntries(names.map((name) => [name, '/admin'])));
  for (const name of names) t.equal(others[name.toLowerCase()], undefined, name);
});

t.test('headers that a policy sets are removed from requests while the policy cannot be served', async (t) => {
  const app = await startEcho(t, 'a');
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: yamlFor(app),
    documents: {
      'all.yaml':
        gatewayOf(web) +
        routeOf('key', '/key') +
        routeOf('open', '/open') +
        policyOf(
          'key',
          'apiKeyAuth: { credentialRefs: [{ name: keys }], extractFrom: [{ headers: [x-api-key] }], forwardClientIDHeader: x-partner }',
        ),
      'keys.yaml': secretOf('keys', { partner: hashApiKey('a-key-that-is-long-enough') }),
    },
  });
  const get = (path: string) =>
    ask(gateway.port('shop/g:80'), path, { headers: { host: 'a.test', 'x-partner': 'root' } });
  t.equal((await get('/open')).echo.headers['x-partner'], undefined);
  await gateway.write('keys.yaml', secretOf('others', { a: 'b' }));
  t.equal((await get('/key')).status, 500, 'its Secret is missing');
  t.equal((await get('/open')).echo.headers['x-partner'], undefined, 'clients still cannot set its header');
});

t.test('a header that a rule removes is removed in every spelling, and from trailers', async (t) => {
  const app = await startBackend(t, (socket, soFar) => {
    if (soFar.endsWith('0\r\n\r\n') || /0\r\n(?:[^\r]+\r\n)+\r\n$/.test(soFar))
      socket.write('HTTP/1.1 204 No Content\r\n\r\n');
  });
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: yamlFor(app.port),
    documents:
      gatewayOf(web) +
      documentOf(
        'HTTPRoute',
        'r',
        '{ parentRefs: [{ name: g }], rules: [{ filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: X-Tier, value: free }], remove: [X-Debug] } }], backendRefs: [{ name: a, port: 80 }] }] }',
      ),
  });
  const answer = await exchangeBytes(
    gateway.port('shop/g:80'),
    'POST / HTTP/1.1\r\nHost: a.test\r\nX_Tier: gold\r\nx_debug: 1\r\nX-Debug: 1\r\nX-Kept: 1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\nx\r\n0\r\nX-Tier: gold\r\nX_Debug: 1\r\nX-Sum: 1\r\n\r\n',
  );
  t.match(answer, /^HTTP\/1\.1 204/);
  const got = Buffer.concat(app.received).toString('latin1');
  t.match(got, /x-tier: free/i);
  t.match(got, /x-kept: 1/i);
  t.notMatch(got, /gold|debug/i);
});

t.test('a credential in a query is not recorded, wherever the request ends', async (t) => {
  const app = await startEcho(t, 'a');
  const key = 'a-key-that-is-long-enough';
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: yamlFor(app, 'limits: { bodyBytes: 1024 }\n'),
    documents:
      gatewayOf(web) +
      routeOf('key', '/key') +
      routeOf('judged', '/judged') +
      policyOf(
        'judged',
        'apiKeyAuth: { sanitize: false, credentialRefs: [{ name: keys }], extractFrom: [{ params: [api_key] }] }\n  authorization: { defaultAction: Deny }',
      ) +
      policyOf(
        'key',
        'apiKeyAuth: { sanitize: false, credentialRefs: [{ name: keys }], extractFrom: [{ params: [api_key] }, { headers: [x-api-key] }] }',
      ) +
      secretOf('keys', { partner: hashApiKey(key) }),
  });
  const get = (path: string, more: object = {}) =>
    ask(gateway.port('shop/g:80'), path, { headers: { host: 'a.test' }, ...more });
  const good = await get(`/key?a=1&api_key=${key}`);
  t.match(
    good,
    { status: 200, echo: { path: `/key?a=1&api_key=${key}` } },
    'the app gets the credential where the policy says so',
  );
  t.equal((await get(`/key?api_key=${key}&api_key=${key}`)).status, 401, 'twice');
  t.equal((await get(`/key?%61pi_key=${key}`, { method: 'POST', body: 'x'.repeat(1025) })).status, 413, 'too large');
  t.equal((await get(`/judged?api_key=${key}`)).status, 403);
  const records = await gateway.records(4);
  t.notMatch(JSON.stringify(records), key);
  t.equal(records[0]!['path'], '/key?a=1');
});

t.test('a removed port keeps no connection under its old rules', async (t) => {
  const app = await startEcho(t, 'a');
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80', 'shop/g:81', 'shop/g:5432'],
    yaml: yamlFor(app),
    documents: {
      'gateway.yaml': gatewayOf(
        web,
        '{ name: more, port: 81, protocol: HTTP }',
        '{ name: db, port: 5432, protocol: TCP }',
      ),
      'rest.yaml':
        routeOf('r', '/') +
        documentOf(
          'TCPRoute',
          'db',
          '{ parentRefs: [{ name: g, sectionName: db }], rules: [{ backendRefs: [{ name: a, port: 80 }] }] }',
        ),
    },
  });
  const request = 'GET / HTTP/1.1\r\nHost: a.test\r\n\r\n';
  const open = async (key: string): Promise<Socket> => {
    const socket = connect({ host: '127.0.0.1', port: gateway.port(key) });
    t.teardown(() => socket.destroy());
    let got = '';
    socket
      .on('error', () => {})
      .on('data', (chunk: Buffer) => {
        got += chunk.toString('latin1');
      });
    socket.write(request);
    await until(() => /^HTTP\/1\.1 200[\s\S]*\}$/.test(got), `an answer of ${key}`);
    return socket;
  };
  const [kept, gone, stream] = await Promise.all(['shop/g:80', 'shop/g:81', 'shop/g:5432'].map(open));
  await gateway.write('gateway.yaml', gatewayOf(web));
  await Promise.all([isOver(gone!), isOver(stream!)]);
  kept!.write(request);
  t.match(await new Promise((resolve) => kept!.once('data', resolve)), /^HTTP\/1\.1 200/, 'other connections continue');
});

t.test('a stream does not bypass a policy for requests', async (t) => {
  const app = await startEcho(t, 'a');
  const bytes = await startBackend(t, (socket) => socket.write('pong'));
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80', 'shop/g:5432'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] }, b: { endpoints: ["127.0.0.1:${bytes.port}"] } }\nbackends: { shop/a:80: a, shop/b:80: b }\n`,
    documents: {
      'all.yaml':
        gatewayOf(web, '{ name: db, port: 5432, protocol: TCP }') +
        routeOf('r', '/') +
        documentOf(
          'TCPRoute',
          'db',
          '{ parentRefs: [{ name: g, sectionName: db }], rules: [{ backendRefs: [{ name: b, port: 80 }] }] }',
        ),
      'policy.yaml': policyOf('g', 'cors: { allowOrigins: ["*"] }', 'name: all', 'Gateway'),
    },
  });
  const open = connect({ host: '127.0.0.1', port: gateway.port('shop/g:5432') });
  t.teardown(() => open.destroy());
  await goesOn(open);
  await gateway.write(
    'policy.yaml',
    policyOf(
      'g',
      'authorization: { rules: [{ action: Allow, principal: { clientCIDRs: [192.0.2.0/24] } }] }',
      'name: all',
      'Gateway',
    ),
  );
  t.equal((await ask(gateway.port('shop/g:80'), '/', { headers: { host: 'a.test' } })).status, 403);
  await isOver(open);
  const next = connect({ host: '127.0.0.1', port: gateway.port('shop/g:5432') });
  await t.rejects(goesOn(next), { message: 'it was closed' }, 'no new stream is accepted');
  t.match((await gateway.records(3)).at(-1), { route_name: 'tcproute/shop/db/rule/0', code: 'rule_broken' });
});

t.test('a policy that is attached to nothing, or displaced by another, is logged', async (t) => {
  const app = await startEcho(t, 'a');
  const deny = 'authorization: { defaultAction: Deny }';
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: yamlFor(app),
    documents:
      gatewayOf(web) +
      routeOf('r', '/') +
      policyOf('mistyped', deny) +
      policyOf('r', deny, 'name: a-younger, creationTimestamp: "2026-02-01T00:00:00Z"') +
      policyOf(
        'r',
        'authorization: { defaultAction: Allow }',
        'name: z-older, creationTimestamp: "2026-01-01T00:00:00Z"',
      ),
  });
  const said = gateway.lines.filter(({ code }) => code === 'policy_not_attached').map(({ msg }) => String(msg));
  t.match(
    said.find((one) => one.includes('mistyped')),
    /is not attached: TargetNotFound: there is no HTTPRoute shop\/mistyped/,
  );
  t.match(
    said.find((one) => one.includes('a-younger')),
    /is not attached: Conflicted: shop\/z-older has the same target/,
  );
  t.equal(said.length, 2);
  const { status } = await ask(gateway.port('shop/g:80'), '/', { headers: { host: 'a.test' } });
  t.equal(status, 200, 'the older policy applies');
});

t.test('a policy for a missing rule closes its route, and no other', async (t) => {
  const app = await startEcho(t, 'a');
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: yamlFor(app),
    documents:
      gatewayOf(web) +
      routeOf('meant', '/meant') +
      routeOf('other', '/other') +
      policyOf('meant', 'cors: { allowOrigins: ["https://a.test"] }').replace(
        'name: meant }]',
        'name: meant, sectionName: rle }]',
      ),
  });
  const port = gateway.port('shop/g:80');
  t.match(
    await exchangeBytes(port, 'GET /meant HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n'),
    /^HTTP\/1\.1 500 /,
  );
  t.match(
    await exchangeBytes(port, 'GET /other HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n'),
    /^HTTP\/1\.1 200 /,
  );
  const [record] = (await gateway.records(1)).filter(({ response_code: code }) => code === 500);
  t.match(record, { code: 'rule_broken', reason: /there is no HTTPRoute shop\/meant with a section 'rle'/ });
});

t.test('of two policies for one target the older one applies, and one without a date comes last', (t) => {
  const documents = (first: string, second: string): string =>
    gatewayOf(web) + routeOf('r', '/') + policyOf('r', 'cors: {}', first) + policyOf('r', 'cors: {}', second);
  const place = {
    ...{ kind: 'HTTPRoute', namespace: 'shop', route: 'r', rule: undefined },
    ...{ gatewayNamespace: 'shop', gateway: 'g', listener: 'web' },
  };
  const winner = (first: string, second: string): string | undefined =>
    planOf(documents(first, second)).plan.security.policyFor(place)?.name;
  const [old, young] = ['"2026-01-01T00:00:00Z"', '"2026-01-01T01:00:00+00:30"'];
  t.equal(winner('name: a', 'name: b'), 'a');
  t.equal(winner(`name: a, creationTimestamp: ${young}`, `name: b, creationTimestamp: ${old}`), 'b');
  t.equal(winner('name: a', `name: b, creationTimestamp: ${young}`), 'b');
  t.end();
});

t.test("if a trusted proxy does not state the client's address, the proxy's address is not used instead", async (t) => {
  const app = await startEcho(t, 'a');
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: yamlFor(app, 'gatewayTopology: { numTrustedProxies: 1 }\n'),
    documents:
      gatewayOf(web) +
      routeOf('r', '/') +
      policyOf('r', 'authorization: { rules: [{ action: Allow, principal: { clientCIDRs: [127.0.0.0/8] } }] }'),
  });
  const statusFor = async (told: string): Promise<number> =>
    (await ask(gateway.port('shop/g:80'), '/', { headers: { host: 'a.test', 'x-forwarded-for': told } })).status;
  t.equal(await statusFor('127.0.0.9'), 200);
  t.equal(await statusFor('127.0.0.9:4711'), 200, 'with its port');
  t.equal(await statusFor('192.0.2.1'), 403);
  t.equal(await statusFor('192.0.2.1:4711'), 403);
  t.equal(await statusFor('unknown'), 403);
});

t.test('requests in flight are counted by client, and an IPv6 network is one client', (t) => {
  const limit = new ConcurrencyLimit({ maxInFlight: 1, per: 'client' });
  const hooks = limitInFlight(limit, limit.plan, 'r');
  const from = (ip: string): Exchange => ({ clientIp: parseIp(ip) }) as Exchange;
  hooks.limit(from('2001:db8:0:1::1'));
  t.throws(() => hooks.limit(from('2001:db8:0:1:ffff::2')), {
    code: 'concurrency_limited',
    message: '1 requests of one client r are in flight (limit concurrency.maxInFlight)',
  });
  hooks.limit(from('2001:db8:0:2::1'));
  hooks.limit(from('192.0.2.1'));
  hooks.limit(from('192.0.2.2'));
  t.equal(limit.facts().keys, 4);
  t.end();
});
