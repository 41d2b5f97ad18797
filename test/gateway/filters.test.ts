// What a rule does to a request on its way: redirects, rewrites, headers, CORS, backends by weight, sessions. One
// gateway on real sockets, a host name for each case.

import { Agent } from 'node:http';
import t from 'tap';
import { ask, startEcho } from '../fixtures/echo.ts';
import { startTestGateway } from '../fixtures/gateway.ts';
import { exchangeBytes } from '../fixtures/mesh.ts';
import { documentOf, serviceOf } from '../fixtures/plan.ts';
import { freePort } from '../fixtures/process.ts';

const [a, b, dead] = await Promise.all([startEcho(t, 'a'), startEcho(t, 'b'), freePort()]);
const toA = 'backendRefs: [{ name: a, port: 80 }]';

const redirects: [name: string, match: string, redirect: string, asked: string, location: string][] = [
  ['scheme', '/', 'scheme: https', 'http://H/x?y=1', 'https://H/x?y=1'],
  ['scheme, port', '/', 'scheme: https, port: 8443', 'http://H/x', 'https://H:8443/x'],
  ['scheme, its own port', '/', 'scheme: https, port: 443', 'http://H/x', 'https://H/x'],
  ['port alone', '/', 'port: 8080', 'http://H/x', 'http://H:8080/x'],
  ['a port in Host is not kept', '/', 'scheme: https', 'http://H:81/x', 'https://H/x'],
  ['host', '/', 'hostname: other.test', 'http://H/x', 'http://other.test/x'],
  [
    'whole path',
    '/a',
    'path: { type: ReplaceFullPath, replaceFullPath: /new }',
    'http://H/a/b?y=1',
    'http://H/new?y=1',
  ],
  // The standard's table for ReplacePrefixMatch.
  [
    '/foo -> /xyz',
    '/foo',
    'path: { type: ReplacePrefixMatch, replacePrefixMatch: /xyz }',
    'http://H/foo/bar',
    'http://H/xyz/bar',
  ],
  [
    '/foo -> /xyz/',
    '/foo',
    'path: { type: ReplacePrefixMatch, replacePrefixMatch: /xyz/ }',
    'http://H/foo/bar',
    'http://H/xyz/bar',
  ],
  [
    '/foo/ -> /xyz',
    '/foo/',
    'path: { type: ReplacePrefixMatch, replacePrefixMatch: /xyz }',
    'http://H/foo/bar',
    'http://H/xyz/bar',
  ],
  [
    '/foo/ -> /xyz/',
    '/foo/',
    'path: { type: ReplacePrefixMatch, replacePrefixMatch: /xyz/ }',
    'http://H/foo/bar',
    'http://H/xyz/bar',
  ],
  [
    '/foo alone',
    '/foo',
    'path: { type: ReplacePrefixMatch, replacePrefixMatch: /xyz }',
    'http://H/foo',
    'http://H/xyz',
  ],
  [
    '/foo/ alone',
    '/foo',
    'path: { type: ReplacePrefixMatch, replacePrefixMatch: /xyz }',
    'http://H/foo/',
    'http://H/xyz/',
  ],
  [
    '/foo -> nothing',
    '/foo',
    'path: { type: ReplacePrefixMatch, replacePrefixMatch: "" }',
    'http://H/foo/bar',
    'http://H/bar',
  ],
  [
    '/foo/ -> nothing',
    '/foo',
    'path: { type: ReplacePrefixMatch, replacePrefixMatch: "" }',
    'http://H/foo/',
    'http://H/',
  ],
  [
    '/foo alone -> nothing',
    '/foo',
    'path: { type: ReplacePrefixMatch, replacePrefixMatch: "" }',
    'http://H/foo',
    'http://H/',
  ],
  ['/foo/ -> /', '/foo', 'path: { type: ReplacePrefixMatch, replacePrefixMatch: / }', 'http://H/foo/', 'http://H/'],
  ['/foo -> /', '/foo', 'path: { type: ReplacePrefixMatch, replacePrefixMatch: / }', 'http://H/foo', 'http://H/'],
  [
    '/ -> /xyz',
    '/',
    'path: { type: ReplacePrefixMatch, replacePrefixMatch: /xyz }',
    'http://H/foo',
    'http://H/xyz/foo',
  ],
];

const rewrites: [name: string, match: string, rewrite: string, asked: string, path: string, host: string][] = [
  ['host', '/', 'hostname: inside.test', '/x?y=1', '/x?y=1', 'inside.test'],
  ['whole path', '/a', 'path: { type: ReplaceFullPath, replaceFullPath: /new }', '/a/b?y=1', '/new?y=1', 'H'],
  ['prefix', '/a', 'path: { type: ReplacePrefixMatch, replacePrefixMatch: /b }', '/a/c', '/b/c', 'H'],
  ['a prefix removed', '/a', 'path: { type: ReplacePrefixMatch, replacePrefixMatch: / }', '/a?y=1', '/?y=1', 'H'],
  ['both', '/a', 'hostname: i.test, path: { type: ReplacePrefixMatch, replacePrefixMatch: /b }', '/a', '/b', 'i.test'],
];

interface Headers {
  readonly rule?: string;
  readonly backend?: string;
  readonly sent: Readonly<Record<string, string | string[]>>;
  readonly got: Readonly<Record<string, string | undefined>>;
}

const headers: Readonly<Record<string, Headers>> = {
  set: { rule: 'set: [{ name: X-A, value: new }]', sent: { 'x-a': ['1', '2'] }, got: { 'x-a': 'new' } },
  add: { rule: 'add: [{ name: X-A, value: new }]', sent: { 'x-a': 'old' }, got: { 'x-a': 'old, new' } },
  'add to nothing': { rule: 'add: [{ name: X-A, value: new }]', sent: {}, got: { 'x-a': 'new' } },
  remove: { rule: 'remove: [X-A]', sent: { 'x-a': '1', 'x-b': '2' }, got: { 'x-a': undefined, 'x-b': '2' } },
  'all at once': {
    rule: 'set: [{ name: a, value: "1" }], add: [{ name: b, value: "2" }], remove: [c]',
    sent: { a: 'x', b: 'x', c: 'x' },
    got: { a: '1', b: 'x, 2', c: undefined },
  },
  'of a backend': { backend: 'set: [{ name: X-A, value: backend }]', sent: {}, got: { 'x-a': 'backend' } },
  "the backend's come after the rule's": {
    rule: 'set: [{ name: a, value: rule }], add: [{ name: b, value: rule }]',
    backend: 'add: [{ name: a, value: backend }], remove: [b]',
    sent: {},
    got: { a: 'rule, backend', b: undefined },
  },
  'an ID of its own': { rule: 'set: [{ name: x-request-id, value: "7" }]', sent: {}, got: { 'x-request-id': '7' } },
};

const cors = (spec: string): string => `filters: [{ type: CORS, cors: { ${spec} } }], ${toA}`;
const hostRoutes: string[] = [];
let hosts = 0;
/** A route for a host of its own; gives the host. */
const serve = (rules: string): string => {
  const host = `h${++hosts}.test`;
  hostRoutes.push(
    documentOf('HTTPRoute', `r${hosts}`, `{ parentRefs: [{ name: g }], hostnames: [${host}], rules: [${rules}] }`),
  );
  return host;
};
const prefixed = (match: string, rest: string): string => `{ matches: [{ path: { value: ${match} } }], ${rest} }`;

const redirectHosts = redirects.map(([, match, redirect]) =>
  serve(prefixed(match, `filters: [{ type: RequestRedirect, requestRedirect: { ${redirect} } }]`)),
);
const rewriteHosts = rewrites.map(([, match, rewrite]) =>
  serve(prefixed(match, `filters: [{ type: URLRewrite, urlRewrite: { ${rewrite} } }], ${toA}`)),
);
const modifier = (change: string): string =>
  `filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { ${change} } }]`;
const headerHosts = Object.values(headers).map(({ rule, backend }) =>
  serve(
    `{ ${rule === undefined ? '' : `${modifier(rule)}, `}backendRefs: [{ name: a, port: 80${backend === undefined ? '' : `, ${modifier(backend)}`} }] }`,
  ),
);
const statuses = [301, 302, 303, 307, 308];
const statusHosts = statuses.map((code) =>
  serve(`{ filters: [{ type: RequestRedirect, requestRedirect: { port: 81, statusCode: ${code} } }] }`),
);
const loopHost = serve('{ filters: [{ type: RequestRedirect, requestRedirect: { scheme: http, port: 80 } }] }');
const seeOtherHost = serve(
  '{ filters: [{ type: RequestRedirect, requestRedirect: { scheme: http, port: 80, statusCode: 303 } }] }',
);
const corsHost = serve(
  `{ ${cors('allowOrigins: ["https://app.test", "https://*.wide.test"], allowMethods: [GET, PUT], allowHeaders: [x-a, content-type], exposeHeaders: [x-b], maxAge: 60, allowCredentials: true')} }`,
);
const methodsHost = serve(
  `{ ${cors('allowOrigins: ["https://a.test"], allowMethods: [PUT], exposeHeaders: ["*", x-b], allowCredentials: true')} }`,
);
const openHost = serve(`{ ${cors('allowOrigins: ["*"], allowMethods: ["*"], allowHeaders: ["*"]')} }`);
const openCredentialsHost = serve(
  `{ ${cors('allowOrigins: ["*"], allowMethods: ["*"], allowHeaders: ["*"], allowCredentials: true')} }`,
);
const weighted = (...weights: [string, number][]): string =>
  `{ backendRefs: [${weights.map(([name, weight]) => `{ name: ${name}, port: 80, weight: ${weight} }`).join()}] }`;
const weightHost = serve(weighted(['a', 3], ['b', 1], ['none', 0]));
const broken: Readonly<Record<string, readonly [host: string, status: number, text: RegExp]>> = {
  'all weights are 0': [serve(weighted(['a', 0], ['b', 0])), 500, /^backend invalid$/],
  'one backend of weight 0': [serve(weighted(['a', 0])), 500, /^backend invalid$/],
  'a Service that is not there': [serve(weighted(['gone', 1])), 500, /^backend invalid$/],
  'no backend at all': [serve('{ }'), 500, /^backend invalid$/],
  'a Service without endpoints': [serve(weighted(['empty', 1])), 503, /^(?:no healthy upstream|rule broken)$/],
  'an upstream that is not there': [serve(weighted(['dead', 1])), 503, /^upstream connect error/],
  'a Service of another namespace, not granted': [
    serve('{ backendRefs: [{ name: a, namespace: others, port: 80 }] }'),
    500,
    /^backend invalid$/,
  ],
  'an unknown filter': [
    serve(`{ filters: [{ type: ExtensionRef, extensionRef: { group: a.test, kind: F, name: f } }], ${toA} }`),
    500,
    /^rule broken$/,
  ],
};
const shareHost = serve(weighted(['a', 1], ['gone', 1]));
const cookieHost = serve(
  `{ matches: [{ path: { value: /shop } }], sessionPersistence: { sessionName: sid }, backendRefs: [{ name: a, port: 80 }, { name: b, port: 80 }] }`,
);
const headerHost = serve(
  `{ sessionPersistence: { type: Header, sessionName: X-Sid }, backendRefs: [{ name: a, port: 80 }, { name: b, port: 80 }] }`,
);
const permanentHost = serve(
  `{ matches: [{ path: { type: RegularExpression, value: "/r.*" } }], sessionPersistence: { sessionName: sid, absoluteTimeout: 1h, cookieConfig: { lifetimeType: Permanent } }, ${toA} }`,
);
const endpointsHost = serve(`{ sessionPersistence: { sessionName: sid }, backendRefs: [{ name: both, port: 80 }] }`);

const gateway = await startTestGateway(t, {
  listeners: ['shop/g:80'],
  yaml: `upstreams:
  a: { endpoints: ["127.0.0.1:${a}"] }
  b: { endpoints: ["127.0.0.1:${b}"] }
  dead: { endpoints: ["127.0.0.1:${dead}"] }
  both: { endpoints: ["127.0.0.1:${a}", "127.0.0.1:${b}"] }
backends: { shop/a:80: a, shop/b:80: b, shop/dead:80: dead, shop/both:80: both, others/a:80: a }
`,
  documents:
    documentOf('Gateway', 'g', '{ gatewayClassName: x, listeners: [{ name: web, port: 80, protocol: HTTP }] }') +
    serviceOf('empty') +
    hostRoutes.join(''),
});
const port = gateway.port('shop/g:80');
const agent = new Agent({ keepAlive: true, maxSockets: 8 });
t.teardown(() => agent.destroy());
const at = (host: string, path = '/', more: Parameters<typeof ask>[2] = {}): ReturnType<typeof ask> =>
  ask(port, path, { agent, ...more, headers: { host, ...more.headers } });

t.test('redirects are answered', async (t) => {
  for (const [index, [name, , , asked, location]] of redirects.entries()) {
    const own = redirectHosts[index]!;
    const url = new URL(asked.replace('H', own));
    const answer = await at(url.host, url.pathname + url.search);
    t.equal(answer.status, 302, name);
    t.equal(answer.headers.location, location.replace('H', own), name);
  }
  for (const [index, code] of statuses.entries()) {
    const answer = await at(statusHosts[index]!);
    t.equal(answer.status, code);
    t.equal(answer.headers['content-length'], '0');
  }
  const loop = await at(loopHost, '/x');
  t.match(loop, { status: 500, text: 'redirect loop' });
  const posted = await at(seeOtherHost, '/x', { method: 'POST' });
  t.equal(posted.status, 303, 'after a POST the client gets the new URL');
  t.match(posted.headers, { location: `http://${seeOtherHost}/x` });
  t.equal((await at(seeOtherHost, '/x')).status, 500, 'a client that has received it may keep it');
  t.equal((await at(redirectHosts[6]!, '/other')).status, 404, 'a path that the rule does not match');
  const hostless = await exchangeBytes(port, 'GET /foo HTTP/1.0\r\n\r\n');
  t.match(hostless, /^HTTP\/1\.1 404 /, 'without a Host no listener matches');
});

t.test('rewrites change the request', async (t) => {
  for (const [index, [name, , , asked, path, host]] of rewrites.entries()) {
    const own = rewriteHosts[index]!;
    const { status, echo } = await at(own, asked, { headers: { 'x-envoy-original-path': '/lie' } });
    t.equal(status, 200, name);
    t.equal(echo.path, path, name);
    t.equal(echo.headers['host'], host.replace('H', own), name);
    t.equal(echo.headers['x-forwarded-host'], own, name);
    t.equal(echo.headers['x-envoy-original-path'], path === asked ? undefined : asked, name);
  }
});

t.test('request headers are changed', async (t) => {
  for (const [index, [name, { sent, got }]] of Object.entries(headers).entries()) {
    const { echo } = await at(headerHosts[index]!, '/', { headers: sent });
    for (const [field, value] of Object.entries(got)) t.equal(echo.headers[field], value, `${name}: ${field}`);
  }
});

t.test('CORS is answered', async (t) => {
  const preflight = (host: string, origin: string, more: Record<string, string> = {}): ReturnType<typeof ask> =>
    at(host, '/', { method: 'OPTIONS', headers: { origin, 'access-control-request-method': 'PUT', ...more } });
  const allowed = await preflight(corsHost, 'https://app.test', { 'access-control-request-headers': 'x-a' });
  t.equal(allowed.status, 204);
  t.match(allowed.headers, {
    'access-control-allow-origin': 'https://app.test',
    'access-control-allow-credentials': 'true',
    'access-control-allow-methods': 'GET, PUT',
    'access-control-allow-headers': 'x-a, content-type',
    'access-control-expose-headers': 'x-b',
    'access-control-max-age': '60',
    vary: 'Origin',
  });
  t.equal(allowed.headers['x-app'], undefined, 'the backend does not get it');
  const cases: [string, boolean][] = [
    ['https://a.wide.test', true],
    ['https://a.b.wide.test', true],
    ['https://wide.test', false],
    ['https://.wide.test', false],
    ['http://a.wide.test', false],
    ['https://evil.test/.wide.test', false],
    ['https://evil.test#.wide.test', false],
    ['https://a.wide.test.evil', false],
    ['https://app.test.evil', false],
    ['https://app.test:444', false],
    ['HTTPS://APP.test', true],
    ['null', false],
  ];
  for (const [origin, may] of cases) {
    const answer = await preflight(corsHost, origin);
    t.equal(answer.headers['access-control-allow-origin'], may ? origin : undefined, origin);
    t.equal(answer.headers['access-control-allow-methods'] !== undefined, may, origin);
    t.equal(answer.headers.vary, 'Origin', 'a response that depends on the origin has Vary');
  }
  const open = await preflight(openHost, 'https://a.test', { 'access-control-request-headers': 'x-any' });
  t.match(open.headers, {
    'access-control-allow-origin': '*',
    'access-control-allow-methods': '*',
    'access-control-allow-headers': '*',
    'access-control-max-age': '5',
  });
  t.equal(open.headers['access-control-allow-credentials'], undefined);
  const bare = await preflight(methodsHost, 'https://a.test');
  t.equal(bare.headers['access-control-allow-headers'], undefined, 'an empty list counts as no list');
  t.equal(bare.headers['access-control-expose-headers'], 'x-b', 'with credentials a star is the name of a header');
  const named = await preflight(openCredentialsHost, 'https://a.test', { 'access-control-request-headers': 'x-any' });
  t.match(
    named.headers,
    {
      'access-control-allow-origin': 'https://a.test',
      'access-control-allow-methods': 'PUT',
      'access-control-allow-headers': 'x-any',
      'access-control-allow-credentials': 'true',
    },
    'with credentials a browser accepts no star',
  );
  const simple = await at(corsHost, '/', { headers: { origin: 'https://app.test' } });
  t.match(simple, { status: 200, echo: { app: 'a' } });
  t.match(simple.headers, {
    'access-control-allow-origin': 'https://app.test',
    'access-control-allow-credentials': 'true',
    'access-control-expose-headers': 'x-b',
  });
  const foreign = await at(corsHost, '/', { headers: { origin: 'https://evil.test' } });
  t.equal(foreign.headers['access-control-allow-origin'], undefined);
  const plain = await at(corsHost, '/', { method: 'OPTIONS', headers: { origin: 'https://app.test' } });
  t.equal(plain.echo.method, 'OPTIONS', 'OPTIONS without its second field is not a preflight');
});

t.test('backends are chosen by weight', async (t) => {
  const count = 600;
  const apps = await Promise.all(Array.from({ length: count }, async () => (await at(weightHost)).echo.app));
  const share = apps.filter((app) => app === 'a').length / count;
  // Six standard deviations: one run in five hundred million is outside.
  t.ok(Math.abs(share - 0.75) < 6 * Math.sqrt((0.75 * 0.25) / count), `${share} of them went to a, 0.75 is expected`);
  t.equal(apps.filter((app) => app !== 'a' && app !== 'b').length, 0, 'no request goes to the one of weight 0');
  const mixed = await Promise.all(Array.from({ length: 200 }, async () => (await at(shareHost)).status));
  const failed = mixed.filter((status) => status === 500).length / mixed.length;
  t.ok(
    Math.abs(failed - 0.5) < 6 * Math.sqrt(0.25 / 200),
    `${failed} of them failed, as the share of the invalid backend`,
  );
  t.strictSame([...new Set(mixed)].toSorted(), [200, 500]);
});

t.test('filters that cannot be served are refused', async (t) => {
  for (const [name, [host, status, text]] of Object.entries(broken)) {
    const answer = await at(host);
    t.equal(answer.status, status, name);
    t.match(answer.text, text, name);
  }
});

t.test('sessions keep their backend', async (t) => {
  const first = await at(cookieHost, '/shop/x');
  const [cookie = ''] = first.headers['set-cookie'] ?? [];
  t.match(cookie, /^sid=[0-9a-z]+\.[A-Za-z0-9_-]{16}; Path=\/shop; HttpOnly; SameSite=Lax$/);
  const { app } = first.echo;
  const value = cookie.split(';', 1)[0]!;
  for (let i = 0; i < 20; i++) {
    const again = await at(cookieHost, '/shop/y', { headers: { cookie: `other=1; ${value}; more=2` } });
    t.equal(again.echo.app, app);
    t.equal(again.headers['set-cookie'], undefined, 'a client that has a cookie gets none');
  }
  const apps = new Set<string>();
  for (let i = 0; i < 40; i++) apps.add((await at(cookieHost, '/shop')).echo.app);
  t.strictSame([...apps].toSorted(), ['a', 'b'], 'other clients go elsewhere');
  for (const forged of [
    'sid=',
    'sid=x',
    'sid=1.short',
    'sid=zzzzzzzzzz.AAAAAAAAAAAAAAAA',
    `sid=${'9'.repeat(5000)}`,
    'sid=%0d%0aa: b',
  ]) {
    const { status, headers: got } = await at(cookieHost, '/shop', { headers: { cookie: forged } });
    t.equal(status, 200, forged.slice(0, 40));
    t.equal(got['a'], undefined);
  }
  const byHeader = await at(headerHost);
  const sid = byHeader.headers['x-sid'] as string;
  t.match(sid, /^[0-9a-z]+\.[A-Za-z0-9_-]{16}$/);
  for (let i = 0; i < 20; i++)
    t.equal((await at(headerHost, '/', { headers: { 'x-sid': sid } })).echo.app, byHeader.echo.app);
  const permanent = await at(permanentHost, '/r');
  t.match(permanent.headers['set-cookie'], [/^sid=[^;]+; Path=\/; Max-Age=3600; HttpOnly; SameSite=Lax$/]);
  const old = `${Math.floor(Date.now() / 1000 - 3601).toString(36)}.AAAAAAAAAAAAAAAA`;
  const late = await at(permanentHost, '/r', { headers: { cookie: `sid=${old}` } });
  t.match(late.headers['set-cookie'], [/^sid=/], 'an expired session is started again');
  const endpoint = await at(endpointsHost);
  const own = endpoint.headers['set-cookie']?.[0]?.split(';', 1)[0] ?? '';
  for (let i = 0; i < 20; i++)
    t.equal(
      (await at(endpointsHost, '/', { headers: { cookie: own } })).echo.app,
      endpoint.echo.app,
      'one endpoint of several',
    );
});
