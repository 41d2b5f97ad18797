// An error in one rule, or one document, stops only that: the rule answers 500, its route's other rules and everything
// else continue, at a start and on a live edit. Only an error that would drop a protection closes what it protects.

import t from 'tap';
import { ask, startEcho } from '../fixtures/echo.ts';
import { type Gateway, startTestGateway } from '../fixtures/gateway.ts';
import { documentOf, markedRule, planOf, routeOf, serviceOf, webGateway } from '../fixtures/plan.ts';

const good = markedRule('{ path: { value: /good } }', 'good');
const withRule = (rule: string): string => webGateway + serviceOf('a') + routeOf('r', good, rule);
const at = (path: string, more = ''): string => `matches: [{ path: { value: ${path} }${more} }]`;
const backend = 'backendRefs: [{ name: a, port: 80 }]';

/** Rules, each wrong in another way, and what they are for. */
const bad: Readonly<Record<string, [rule: string, path: string, headers?: Record<string, string>]>> = {
  'an unknown key': [`{ ${at('/bad')}, backendRef: [] }`, '/bad'],
  'an unknown filter': [`{ ${at('/bad')}, filters: [{ type: ExternalAuth, externalAuth: {} }], ${backend} }`, '/bad'],
  'a filter of another implementation': [
    `{ ${at('/bad')}, filters: [{ type: ExtensionRef, extensionRef: { group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: x } }], ${backend} }`,
    '/bad',
  ],
  'filters that exclude each other': [
    `{ ${at('/bad')}, filters: [{ type: RequestRedirect, requestRedirect: { scheme: https } }, { type: URLRewrite, urlRewrite: { hostname: b.test } }] }`,
    '/bad',
  ],
  'a backend that is not a Service': [
    `{ ${at('/bad')}, backendRefs: [{ group: gateway.envoyproxy.io, kind: Backend, name: a }] }`,
    '/bad',
  ],
  'a Service without a port': [`{ ${at('/bad')}, backendRefs: [{ name: a }] }`, '/bad'],
  'a redirect to itself': [`{ ${at('/bad')}, filters: [{ type: RequestRedirect, requestRedirect: {} }] }`, '/bad'],
  'a path without its slash': [`{ ${at('bad')}, ${backend} }`, '/bad/x'],
  'an impossible path': [`{ ${at('/bad//x')}, ${backend} }`, '/bad/x'],
  'a path with an escaped slash': [`{ ${at('/bad%2fx')}, ${backend} }`, '/bad%2fx'],
  'an unsupported regular expression': [
    `{ matches: [{ path: { type: RegularExpression, value: "/bad/(?=x).*" } }], ${backend} }`,
    '/bad/x',
  ],
  'one whose last letter is optional': [
    `{ matches: [{ path: { type: RegularExpression, value: "/bade?(?=x)" } }], ${backend} }`,
    '/badx',
  ],
  'a header with such an expression': [
    `{ ${at('/', ', headers: [{ type: RegularExpression, name: x-kind, value: "(?=b)" }]')}, ${backend} }`,
    '/any',
    { 'x-kind': 'bad' },
  ],
  'a method in lower case': [`{ ${at('/bad', ', method: get')}, ${backend} }`, '/bad'],
  'a match with an unknown key': [`{ ${at('/bad', ', cookies: []')}, ${backend} }`, '/bad'],
};

const wayOf = ({ port }: Gateway) => ask.bind(undefined, port('shop/g:80'));

t.test('a rule that cannot be served answers 500 alone, at the start and on a live edit', async (t) => {
  const app = await startEcho(t, 'a');
  const open = markedRule('{ path: { value: / } }', 'open');
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a }\n`,
    documents: { 'all.yaml': webGateway, 'route.yaml': routeOf('r', good, bad['an unknown key']![0], open) },
  });
  await gateway.write('others.yaml', harmless.join(''));
  const get = wayOf(gateway);
  const check = async (name: string): Promise<void> => {
    const [, path, headers = {}] = bad[name]!;
    const ours = await get('/good', { headers: { host: 'a', ...headers } });
    t.match([ours.status, ours.echo?.headers['x-mark']], [200, 'good'], `${name}: the others continue`);
    const theirs = await get(path, { headers: { host: 'a', ...headers } });
    t.equal(theirs.status, 500, `${name}: no other rule gets its requests`);
  };
  await check('an unknown key');
  for (const [name, [rule]] of Object.entries(bad).slice(1)) {
    await gateway.write('route.yaml', `# ${name}\n${routeOf('r', good, rule, open)}`);
    await check(name);
  }
});

t.test('the Gateway API condition reports it with its position', async (t) => {
  const { said, message } = planOf(withRule(bad['an unknown key']![0]));
  const key = 'HTTPRoute shop/r g';
  t.strictSame(said[key], [
    'Accepted=True Accepted',
    'ResolvedRefs=True ResolvedRefs',
    'PartiallyInvalid=True UnsupportedValue',
  ]);
  t.match(message(key, 'PartiallyInvalid'), /^Dropped Rule 1: all\.yaml:\d+:\d+: unknown key 'backendRef'/);
  const only = planOf(webGateway + routeOf('r', bad['an unknown key']![0]));
  t.strictSame(only.said[key]?.[0], 'Accepted=False UnsupportedValue', 'nothing of it is served');
});

t.test('a gRPC rule that cannot be served affects no other rule', async (t) => {
  const { said } = planOf(
    webGateway +
      serviceOf('a') +
      documentOf(
        'GRPCRoute',
        'r',
        `{ parentRefs: [{ name: g }], rules: [{ matches: [{ method: { service: a.B } }], ${backend} }, { matches: [{ method: { type: RegularExpression, service: "(?=x)" } }], ${backend} }] }`,
      ),
  );
  t.match(said['GRPCRoute shop/r g'], ['Accepted=True Accepted', /./, 'PartiallyInvalid=True UnsupportedValue']);
});

const envoy = (kind: string, spec: string): string =>
  `---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: ${kind}\nmetadata: { name: x, namespace: shop }\nspec: ${spec}\n`;
const crd = (apiVersion: string, kind: string, spec = '{}'): string =>
  `---\napiVersion: ${apiVersion}\nkind: ${kind}\nmetadata: { name: x, namespace: shop }\nspec: ${spec}\n`;

const harmless = [
  crd('gateway.networking.k8s.io/v1', 'ListenerSet', '{ parentRef: { name: g } }'),
  crd('gateway.networking.x-k8s.io/v1alpha1', 'XListenerSet'),
  crd('gateway.networking.k8s.io/v1alpha2', 'UDPRoute'),
  envoy('EnvoyProxy', '{}'),
  envoy('Backend', '{}'),
  envoy('HTTPRouteFilter', '{}'),
  crd('networking.istio.io/v1', 'VirtualService'),
  crd('networking.istio.io/v1', 'Gateway'),
  crd('networking.k8s.io/v1', 'Ingress'),
  crd('example.test/v1', 'Whatever'),
  crd(
    'autoscaling.k8s.io/v1',
    'VerticalPodAutoscaler',
    '{ targetRef: { apiVersion: apps/v1, kind: Deployment, name: a } }',
  ),
  crd('example.test/v1', 'Backup', '{ targetRef: { kind: Deployment, name: a, namespace: other } }'),
  crd(
    'gateway.networking.x-k8s.io/v1alpha1',
    'XBackendTrafficPolicy',
    '{ targetRefs: [{ group: "", kind: Service, name: a }] }',
  ),
];

t.test('a kind that protects nothing is reported and skipped', async (t) => {
  for (const document of harmless) {
    const [, kind = ''] = /kind: (\S+)/.exec(document)!;
    const { said, warnings } = planOf(withRule(`{ ${at('/x')}, ${backend} }`) + document);
    t.equal(said['HTTPRoute shop/r g']?.[0], 'Accepted=True Accepted', kind);
    t.match(warnings.join('\n'), new RegExp(`\\b${kind}\\b.*does not concern a gateway: skipped`), kind);
    t.notMatch(warnings.join('\n'), /did you mean/, `${kind} exists`);
    t.match(said[`${kind} shop/x`], ['PassedOver=True UnsupportedKind'], `${kind} has a status`);
  }
});

t.test('a typing mistake is treated the same way', async (t) => {
  const { said, warnings } = planOf(webGateway + crd('gateway.networking.k8s.io/v1', 'HTTPRute'));
  t.match(warnings[0], /kind HTTPRute .*skipped \(did you mean 'HTTPRoute'\?\)/);
  t.strictSame(said['HTTPRute shop/x'], ['Accepted=False UnsupportedKind']);
});

const target = (kind: string, name: string): string =>
  `targetRefs: [{ group: gateway.networking.k8s.io, kind: ${kind}, name: ${name} }]`;

t.test('a policy that is not supported here closes its target, and only its target', async (t) => {
  const app = await startEcho(t, 'a');
  const gateway = await startTestGateway(t, {
    listeners: ['shop/g:80'],
    yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app}"] } }\nbackends: { shop/a:80: a }\n`,
    documents: {
      'all.yaml':
        webGateway +
        routeOf('open', markedRule('{ path: { value: /open } }', 'open')) +
        routeOf('meant', markedRule('{ path: { value: /meant } }', 'meant')),
      'policy.yaml': envoy('EnvoyExtensionPolicy', `{ ${target('HTTPRoute', 'meant')}, extProc: [] }`),
    },
  });
  const get = wayOf(gateway);
  const statuses = async (): Promise<number[]> => [
    (await get('/open', { headers: { host: 'a' } })).status,
    (await get('/meant', { headers: { host: 'a' } })).status,
  ];
  t.strictSame(await statuses(), [200, 500]);
  const page = await (await fetch(`http://127.0.0.1:${gateway.admin}/gateway-status`)).text();
  t.match(page, /EnvoyExtensionPolicy.*is not evaluated here.*answers 500/);
  for (const [kind, name, expected] of [
    ['kuadrant.io/v1 AuthPolicy', 'open', [500, 200]],
    ['gateway.envoyproxy.io/v1alpha1 ClientTrafficPolicy', 'g', [500, 500]],
    ['gateway.envoyproxy.io/v1alpha1 EnvoyPatchPolicy', 'g', [500, 500]],
  ] as const) {
    const [apiVersion, of] = kind.split(' ') as [string, string];
    await gateway.write(
      'policy.yaml',
      crd(apiVersion, of, `{ ${target(name === 'g' ? 'Gateway' : 'HTTPRoute', name)} }`),
    );
    t.strictSame(await statuses(), expected, kind);
  }
  // A nearer policy of another kind does not open it again.
  await gateway.write(
    'nearer.yaml',
    envoy('SecurityPolicy', `{ ${target('HTTPRoute', 'open')}, cors: { allowOrigins: ["*"] } }`),
  );
  t.strictSame(await statuses(), [500, 500]);
});

t.test('a protecting document without a target stops the load: its target is unknown', async (t) => {
  for (const document of [
    envoy('ClientTrafficPolicy', '{}'),
    envoy('SecurtyPolicy', '{}'),
    crd('security.istio.io/v1', 'AuthorizationPolicy'),
    crd('configuration.konghq.com/v1', 'KongPlugin'),
    crd('networking.istio.io/v1alpha3', 'EnvoyFilter'),
    crd('kuadrant.io/v1', 'AuthPolicy', '{ targetRef: { kind: HTTPRoute } }'),
    crd('example.test/v1', 'Guard', '{ targetRef: { kind: HTTPRoute, name: r, namespace: other } }'),
    crd('example.test/v1', 'Guard', '{ targetSelectors: [{ kind: HTTPRoute }] }'),
  ])
    t.throws(() => planOf(webGateway + document), /is not served by a gateway/, document);
});

t.test('nulls are dropped as an API server drops them', async (t) => {
  const { said } = planOf(
    webGateway.replace('protocol: HTTP', 'protocol: HTTP, tls: null, hostname: ~') +
      serviceOf('a').replace('port: 80 ', 'port: 80, name: null, appProtocol: ~ ') +
      routeOf(
        'r',
        `{ matches: null, filters: null, timeouts: ~, backendRefs: [{ name: a, port: 80, weight: null, filters: null }] }`,
        `{ matches: [{ path: null, headers: ~, method: null }], filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { set: null, add: [{ name: a, value: b }], remove: ~ } }], backendRefs: [{ name: a, port: 80 }] }`,
      ),
  );
  t.strictSame(said['HTTPRoute shop/r g'], ['Accepted=True Accepted', 'ResolvedRefs=True ResolvedRefs']);
  const policy = envoy(
    'SecurityPolicy',
    `{ ${target('HTTPRoute', 'r')}, cors: { allowOrigins: ["*"] }, authorization: null }`,
  );
  t.match(planOf(withRule(`{ ${at('/x')}, ${backend} }`) + policy).warnings, [
    /^all\.yaml:\d+:\d+: 'authorization' of this SecurityPolicy is null and counts as absent$/,
  ]);
  // Nothing of a list is dropped.
  t.match(planOf(withRule('{ matches: [null] }')).said['HTTPRoute shop/r g'], [/./, /./, /^PartiallyInvalid=True/]);
  t.match(planOf(withRule(`{ ${at('/x')}, backendRefs: [{ name: null, port: 80 }] }`)).said['HTTPRoute shop/r g'], [
    /./,
    /./,
    /^PartiallyInvalid=True/,
  ]);
});
