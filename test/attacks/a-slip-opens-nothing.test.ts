// A mistake in a protecting document, beside nearer routes and rules, or ones for everything: a request that it covers
// gets 403 before the mistake and 500 after it, never the response of another route. An edit in place is the hard case:
// only a condition reports it.

import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import t from 'tap';
import { ask, startEcho } from '../fixtures/echo.ts';
import { type Gateway, startTestGateway } from '../fixtures/gateway.ts';
import { documentOf, planOf, routeOf, serviceOf, webGateway } from '../fixtures/plan.ts';
import type { Owner } from '../fixtures/process.ts';

const backend = 'backendRefs: [{ name: a, port: 80 }]';
const api = 'gateway.networking.k8s.io';

const denied = (kind: string, name: string, section = ''): string =>
  `---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: { name: p-${kind.toLowerCase()}, namespace: shop }\nspec: { targetRefs: [{ group: ${api}, kind: ${kind}, name: ${name}${section} }], authorization: { defaultAction: Deny, rules: [] } }\n`;

async function start(t: Owner, documents: Readonly<Record<string, string>>): Promise<Gateway> {
  const app = await startEcho(t, 'a');
  return startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app}"], protocol: http } }\nbackends: { shop/a:80: a }\n`,
    documents,
  });
}

const statusFor = async (gateway: Gateway, path: string, host: string, method = 'GET'): Promise<number> =>
  (await ask(gateway.port('shop/g:80'), path, { method, headers: { host } })).status;

/** Variants of a rule for `/users/admin`, beside one for `/users`. */
const slips: Readonly<Record<string, string>> = {
  'match for matches': 'match: [{ path: { value: /users/admin } }]',
  'matches that are not a list': 'matches: { path: { type: Exact, value: /users/admin } }',
  'an expression with an alternation that RE2 does not support':
    'matches: [{ path: { type: RegularExpression, value: "/(users|orders)/admin(?=x)" } }]',
  'an expression without an end': 'matches: [{ path: { type: RegularExpression, value: "/users/(a|admin" } }]',
  'an expression with an alternation at the top level':
    'matches: [{ path: { type: RegularExpression, value: "/one(?=x)|/users/admin(?=y)" } }]',
  'another name for an expression': 'matches: [{ path: { type: PathRegex, value: "/(users)/admin" } }]',
  'a path as text': 'matches: [{ path: /users/admin }]',
  'a path as a list': 'matches: [{ path: { value: [/users/admin] } }]',
  'paths for path': 'matches: [{ paths: { value: /users/admin } }]',
  'values for value': 'matches: [{ path: { values: /users/admin } }]',
  'an extra key beside the value': 'matches: [{ path: { value: /, values: /users/admin } }]',
  'uri for path': 'matches: [{ uri: { prefix: /users/admin } }]',
  'an unknown type': 'matches: [{ path: { type: Exacto, value: /users/admin } }]',
  'a match that is text': 'matches: [/users/admin]',
  'a header that is to be missing':
    'matches: [{ path: { value: /users/admin }, headers: [{ name: x-inside, value: a, invert: true }] }]',
};

t.test('a rule with an unreadable path comes before nearer rules', async (t) => {
  const route = (slip: string): string =>
    routeOf(
      'r',
      `{ name: admin, ${slip}, ${backend} }`,
      `{ name: users, matches: [{ path: { value: /users } }], ${backend} }`,
      `{ name: exact, matches: [{ path: { type: Exact, value: /orders } }], ${backend} }`,
      `{ name: pattern, matches: [{ path: { type: RegularExpression, value: "/u[a-z]+/admi." } }], ${backend} }`,
    );
  const section = ', sectionName: admin';
  const gateway = await start(t, {
    'g.yaml': webGateway + denied('HTTPRoute', 'r', section),
    'r.yaml': route('matches: [{ path: { type: Exact, value: /users/admin } }]'),
  });
  t.equal(await statusFor(gateway, '/users/admin', 'h.test'), 403, 'the rule as intended');
  for (const [name, slip] of Object.entries(slips)) {
    await gateway.write('r.yaml', `# ${name}\n${route(slip)}`);
    const meant = name === 'a header that is to be missing' ? '/users/admin/x' : '/users/admin';
    t.equal(await statusFor(gateway, meant, 'h.test'), 500, name);
  }
  // The readable parts stay narrow.
  for (const [name, slip, path, method] of [
    ['a literal start', 'matches: [{ path: { type: RegularExpression, value: "/users/(?=x)" } }]', '/orders', 'GET'],
    ['a method', 'matches: [{ method: POST, path: [/users] }]', '/users', 'GET'],
    [
      'a prefix beside a header that cannot be read',
      'matches: [{ path: { value: /u }, headers: [x] }]',
      '/users',
      'GET',
    ],
    ['a mistake in another key', `backendRef: [], matches: [{ path: { value: /u } }]`, '/users', 'GET'],
  ] as const) {
    await gateway.write('r.yaml', `# ${name}\n${route(slip)}`);
    t.equal(await statusFor(gateway, path, 'h.test', method), 200, name);
  }
});

t.test('a gRPC rule with a mistake', async (t) => {
  const route = (slip: string): string =>
    documentOf(
      'GRPCRoute',
      'r',
      `{ parentRefs: [{ name: g }], hostnames: [g.test], rules: [{ name: admin, ${slip}, ${backend} }, { matches: [{ method: { service: shop.Users } }, { method: { service: shop.Users, method: Delete } }], ${backend} }] }`,
    );
  const gateway = await start(t, {
    'g.yaml': webGateway + denied('GRPCRoute', 'r', ', sectionName: admin'),
    'r.yaml': route('matches: [{ method: { service: shop.Users, method: Delete } }]'),
  });
  const call = (): Promise<number | undefined> => grpcStatus(gateway, '/shop.Users/Delete');
  t.equal(await call(), 7, 'the rule as intended');
  for (const slip of [
    'match: [{ method: { service: shop.Users, method: Delete } }]',
    'matches: [{ method: { type: RegularExpression, service: "shop.(Users|Orders)(?=x)", method: Delete } }]',
    'matches: [{ method: [shop.Users, Delete] }]',
    'matches: [{ method: { service: shop.Users, methods: Delete } }]',
    'matches: { method: { service: shop.Users, method: Delete } }',
  ]) {
    await gateway.write('r.yaml', route(slip));
    t.equal(await call(), 13, slip);
  }
});

async function grpcStatus(gateway: Gateway, path: string): Promise<number | undefined> {
  const { status, headers } = await ask(gateway.port('shop/g:80'), path, {
    method: 'POST',
    headers: { host: 'g.test', 'content-type': 'application/grpc', te: 'trailers' },
  });
  return headers['grpc-status'] === undefined ? status : Number(headers['grpc-status']);
}

const parents = 'parentRefs: [{ name: g }]';
const rules = `rules: [{ name: x, matches: [{ path: { value: /admin } }], ${backend} }]`;
const one = (path: string, name: string): string =>
  `{ name: ${name}, matches: [{ path: { value: ${path} } }], ${backend} }`;

/** Variants of a whole HTTPRoute `admin` for `/admin`. */
const wholes: Readonly<Record<string, string>> = {
  'an unknown key': `${parents}, hostname: [h.test], ${rules}`,
  'host names as text': `${parents}, hostnames: h.test, ${rules}`,
  'a host name with a port': `${parents}, hostnames: ["h.test:80"], ${rules}`,
  'a host name that cannot be read': `${parents}, hostnames: ["h.test, b.test"], ${rules}`,
  'rules that are an object': `hostnames: [h.test], ${parents}, rules: { matches: [{ path: { value: /admin } }] }`,
  'rules by name': `hostnames: [h.test], ${parents}, rules: { x: { matches: [{ path: { value: /admin } }] } }`,
  'rule for rules': `hostnames: [h.test], ${parents}, rule: [${one('/admin', 'x')}]`,
  'a second key for rules': `hostnames: [h.test], ${parents}, rule: [${one('/admin', 'x')}], rules: []`,
  'two rules of one name': `hostnames: [h.test], ${parents}, rules: [${one('/admin', 'x')}, ${one('/b', 'x')}]`,
  'too many rules': `hostnames: [h.test], ${parents}, rules: [${Array.from({ length: 17 }, (_, index) => one(index === 16 ? '/admin' : `/b${index}`, `n${index}`)).join()}]`,
  useDefaultGateways: `hostnames: [h.test], useDefaultGateways: All, ${rules}`,
  'an unknown key of a parent': `hostnames: [h.test], parentRefs: [{ name: g, listener: web }], ${rules}`,
  'a parent without a name': `hostnames: [h.test], parentRefs: [{ names: g }], ${rules}`,
  'parents as an object': `hostnames: [h.test], parentRefs: { name: g }, ${rules}`,
  'parentRef for parentRefs': `hostnames: [h.test], parentRef: [{ name: g }], ${rules}`,
  'an invalid section name': `hostnames: [h.test], parentRefs: [{ name: g, sectionName: "Web!" }], ${rules}`,
  'an invalid namespace': `hostnames: [h.test], parentRefs: [{ name: g, namespace: Shop }], ${rules}`,
  'nothing that can be read': 'x: 1',
};

t.test('a route that is refused as a whole answers 500 for its requests', async (t) => {
  const route = (spec: string): string => documentOf('HTTPRoute', 'admin', `{ ${spec} }`);
  const all = documentOf(
    'HTTPRoute',
    'all',
    `{ ${parents}, hostnames: ["*.test", h.test], rules: [{ ${backend} }, { matches: [{ path: { value: /admin/users } }], ${backend} }] }`,
  );
  const gateway = await start(t, {
    'g.yaml': webGateway + all + denied('HTTPRoute', 'admin'),
    'r.yaml': route(`${parents}, hostnames: [h.test], ${rules}`),
  });
  t.equal(await statusFor(gateway, '/admin', 'h.test'), 403, 'the rule as intended');
  for (const [name, spec] of Object.entries(wholes)) {
    await gateway.write('r.yaml', `# ${name}\n${route(spec)}`);
    t.equal(await statusFor(gateway, '/admin', 'h.test'), 500, name);
  }
  // The readable parts stay narrow: its hosts, its paths.
  await gateway.write('r.yaml', route(wholes['a host name with a port']!));
  t.equal(await statusFor(gateway, '/open', 'h.test'), 200);
  t.equal(await statusFor(gateway, '/admin', 'b.test'), 200);
  await gateway.write('r.yaml', route(wholes['a host name that cannot be read']!));
  t.equal(await statusFor(gateway, '/admin/users', 'b.test'), 500, 'its hosts are unknown');
  t.equal(await statusFor(gateway, '/open', 'b.test'), 200);
  // The same at a start.
  const { said, message } = planOf(webGateway + serviceOf('a') + all + route(wholes['rule for rules']!));
  t.equal(said['HTTPRoute shop/admin g']?.[0], 'Accepted=False UnsupportedValue');
  t.match(
    message('HTTPRoute shop/admin g', 'Accepted'),
    /unknown key 'rule'.*every request that it may be for gets 500/,
  );
  const guessed = planOf(webGateway + serviceOf('a') + all + route(wholes['nothing that can be read']!));
  t.equal(guessed.said['HTTPRoute shop/admin g']?.[0], 'Accepted=False UnsupportedValue');
});

/** A server that notes each connection, and closes it. */
async function startNoting(t: Owner, name: string, came: string[]): Promise<number> {
  const server = createServer((socket) => {
    came.push(name);
    socket.on('error', () => {}).end(`${name}\n`);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  return (server.address() as AddressInfo).port;
}

const closed = (socket: Socket): Promise<void> =>
  new Promise((resolve) => {
    socket.on('error', () => {}).on('close', () => resolve());
    socket.resume();
  });

t.test('streams of a refused route go to no other route', async (t) => {
  const came: string[] = [];
  const [meant, other] = [await startNoting(t, 'meant', came), await startNoting(t, 'other', came)];
  const stream = (kind: string, name: string, to: string, section: string, more: string): string =>
    documentOf(
      kind,
      name,
      `{ parentRefs: [{ name: g, sectionName: ${section} }], rules: [{ backendRefs: [{ name: ${to}, port: 80 }] }]${more} }`,
      `, creationTimestamp: "${to === 'meant' ? 2020 : 2021}-01-01T00:00:00Z"`,
    );
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:5432', 'shop/g:443'],
    yaml: `upstreams: { meant: { endpoints: ["127.0.0.1:${meant}"] }, other: { endpoints: ["127.0.0.1:${other}"] } }\nbackends: { shop/meant:80: meant, shop/other:80: other }\n`,
    documents: {
      'g.yaml':
        documentOf(
          'Gateway',
          'g',
          '{ gatewayClassName: x, listeners: [{ name: db, port: 5432, protocol: TCP }, { name: tls, port: 443, protocol: TLS, tls: { mode: Passthrough } }] }',
        ) +
        stream('TCPRoute', 'all', 'other', 'db', '') +
        stream('TLSRoute', 'all', 'other', 'tls', ', hostnames: ["*.h.test"]'),
      'tcp.yaml': stream('TCPRoute', 'one', 'meant', 'db', ''),
      'tls.yaml': stream('TLSRoute', 'one', 'meant', 'tls', ', hostnames: [a.h.test]'),
    },
  });
  const [tcp, tls] = [gateway.port('shop/g:5432'), gateway.port('shop/g:443')];
  const reached = async (): Promise<string[]> => {
    came.length = 0;
    await closed(connect(tcp, '127.0.0.1'));
    await closed(connectTls({ host: '127.0.0.1', port: tls, servername: 'a.h.test', rejectUnauthorized: false }));
    return [...came];
  };
  t.strictSame(await reached(), ['meant', 'meant']);
  await gateway.write('tcp.yaml', stream('TCPRoute', 'one', 'meant', 'db', ', rule: []'));
  await gateway.write('tls.yaml', stream('TLSRoute', 'one', 'meant', 'tls', ', hostnames: ["a.h.test:443"]'));
  t.strictSame(await reached(), []);
  await gateway.write('tls.yaml', stream('TLSRoute', 'one', 'meant', 'tls', ', hostname: [a.h.test]'));
  t.strictSame(await reached(), []);
});

const foreign = (kind: string, spec: string, apiVersion = 'kuadrant.io/v1'): string =>
  `---\napiVersion: ${apiVersion}\nkind: ${kind}\nmetadata: { name: x, namespace: shop }\nspec: ${spec}\n`;
const target = (more: string): string => `{ name: r, ${more} }`;

/** Policies that are not supported here, with a mistake in their targets. */
const foreigners: Readonly<Record<string, string>> = {
  'a version in the group': foreign('AuthPolicy', `{ targetRef: ${target(`group: ${api}/v1, kind: HTTPRoute`)} }`),
  'a group that lacks a letter': foreign(
    'AuthPolicy',
    `{ targetRef: ${target('group: gateway.networking.k8s, kind: HTTPRoute')} }`,
  ),
  'a kind in another case': foreign('AuthPolicy', `{ targetRefs: [${target(`group: ${api}, kind: HttpRoute`)}] }`),
  'a kind that lacks a letter': foreign('AuthPolicy', `{ targetRefs: [${target(`group: ${api}, kind: HTTPRute`)}] }`),
  'misspellings in both kinds': foreign(
    'SecurtyPolicy',
    `{ targetRefs: [${target('group: Gateway.Networking.k8s.io, kind: Httproute')}] }`,
  ),
  'a kind that is only a Route': foreign(
    'AuthPolicy',
    `{ targetRef: ${target('group: example.test, kind: AppRoute')} }`,
  ),
  'targets for targetRefs': foreign('Guard', `{ targets: [${target(`group: ${api}, kind: HTTPRoute`)}] }`),
  'target for targetRef': foreign('Guard', `{ target: ${target(`group: ${api}, kind: HTTPRoute`)} }`),
};

t.test('a policy of a foreign kind closes the target that it misspells', async (t) => {
  const gateway = await start(t, {
    'all.yaml':
      webGateway +
      routeOf('r', `{ matches: [{ path: { value: /r } }], ${backend} }`) +
      routeOf('open', `{ matches: [{ path: { value: /open } }], ${backend} }`),
    'policy.yaml': '# nothing yet',
  });
  t.equal(await statusFor(gateway, '/r', 'h.test'), 200);
  for (const [name, document] of Object.entries(foreigners)) {
    await gateway.write('policy.yaml', `# ${name}\n${document}`);
    t.strictSame(
      [await statusFor(gateway, '/r', 'h.test'), await statusFor(gateway, '/open', 'h.test')],
      [500, 200],
      name,
    );
  }
});

t.test('a protecting document without a known target stops the load, or is an error', async (t) => {
  for (const document of [
    foreign('WebApplicationFirewallRule', '{ selector: {} }', 'example.test/v1'),
    foreign('JWTAuthenticationRule', '{ selector: {} }', 'example.test/v1'),
    foreign('Guard', `{ targets: [{ group: ${api}, kind: HTTPRoute }] }`),
  ])
    t.throws(() => planOf(webGateway + document), /is not served by a gateway/, document);
  const slip = planOf(webGateway + foreign('AuthPolicy', '{ targetRef: { kind: Servise, name: a, group: "" } }'));
  t.strictSame(slip.said['AuthPolicy shop/x'], ['Accepted=False UnsupportedKind']);
  // These clearly belong to another implementation.
  for (const [kind, spec] of [
    ['AuthPolicy', '{ targetRef: { group: "", kind: Service, name: a } }'],
    ['ExternalSecret', '{ target: { name: a } }'],
    ['Widget', '{ targets: [here, there] }'],
  ] as const)
    t.strictSame(
      planOf(webGateway + foreign(kind, spec)).said[`${kind} shop/x`],
      ['PassedOver=True UnsupportedKind'],
      kind,
    );
});

t.test('a route whose own kind or group is misspelled', async (t) => {
  const gateway = await start(t, {
    'g.yaml': webGateway + routeOf('all', `{ ${backend} }`) + denied('HTTPRoute', 'admin'),
    'r.yaml': documentOf('HTTPRoute', 'admin', `{ ${parents}, ${rules} }`),
  });
  t.equal(await statusFor(gateway, '/admin', 'h.test'), 403);
  const good = documentOf('HTTPRoute', 'admin', `{ ${parents}, ${rules} }`);
  for (const [from, to] of [
    ['kind: HTTPRoute', 'kind: HTTPRute'],
    ['kind: HTTPRoute', 'kind: HttpRoute'],
    [`${api}/v1`, 'gateway.networking.k8s/v1'],
    [`${api}/v1`, `${api}/v9`],
    [`${api}/v1`, 'v1'],
  ] as const) {
    await gateway.write('r.yaml', good.replace(from, to));
    t.equal(await statusFor(gateway, '/admin', 'h.test'), 500, to);
    t.equal(await statusFor(gateway, '/open', 'h.test'), 200, to);
  }
});

t.test('a new document with a mistake affects none of the documents in force', async (t) => {
  const all = documentOf('HTTPRoute', 'all', `{ ${parents}, rules: [${one('/', 'x')}, ${one('/users', 'y')}] }`);
  const gateway = await start(t, { 'g.yaml': webGateway, 'all.yaml': all });
  t.equal(await statusFor(gateway, '/users', 'h.test'), 200, 'before');
  for (const [name, spec] of Object.entries({
    ...wholes,
    'parentRef for parentRefs': `parentRef: [{ name: g }], ${rules}`,
    'an unreadable path': `${parents}, rules: [{ name: x, match: [{ path: { value: /admin } }], ${backend} }]`,
  })) {
    await gateway.write('new.yaml', `# ${name}\n${documentOf('HTTPRoute', 'new', `{ ${spec} }`)}`);
    t.equal(await statusFor(gateway, '/users', 'h.test'), 200, `${name}: others continue`);
    // A change elsewhere makes it no older.
    await gateway.write('all.yaml', `# ${name}\n${all}`);
    t.equal(await statusFor(gateway, '/users', 'h.test'), 200, `${name}: the others continue after the next change`);
  }
  await gateway.write('new.yaml', documentOf('HTTPRoute', 'new', `{ ${parents}, rules: [${one('/new', 'x')}] }`));
  t.equal(await statusFor(gateway, '/new', 'h.test'), 200, 'corrected, it is served');
});

t.test('a refused route keeps its host name from a route of the other kind', async (t) => {
  const http = (more: string, rule = ''): string =>
    documentOf('HTTPRoute', 'admin', `{ ${parents}, hostnames: [g.test${more}], rules: [{ ${backend}${rule} }] }`);
  const gateway = await start(t, {
    'g.yaml':
      webGateway +
      denied('HTTPRoute', 'admin') +
      documentOf(
        'GRPCRoute',
        'calls',
        `{ ${parents}, hostnames: [g.test], rules: [{ matches: [{ method: { service: shop.Users } }], ${backend} }] }`,
        ', creationTimestamp: "2021-01-01T00:00:00Z"',
      ),
    'r.yaml': http('').replace('namespace: shop', 'namespace: shop, creationTimestamp: "2020-01-01T00:00:00Z"'),
  });
  const call = (): Promise<number | undefined> => grpcStatus(gateway, '/shop.Users/Delete');
  t.equal(await call(), 7, 'the rule as intended');
  for (const slip of [http(', "b.test:80"'), http('', ', filter: []'), http('', ', matchs: []')]) {
    await gateway.write('r.yaml', slip);
    t.equal(await call(), 13, slip);
  }
});
