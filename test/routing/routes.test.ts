// The status of routes for each of their parents, with the standard's conditions and reasons: a table of cases, each
// alone.

import t from 'tap';
import { sectionsOf } from '../../sidecar/routing/status.ts';
import { createAuthority } from '../fixtures/pki.ts';
import { documentOf, type PlanOptions, planOf, serviceOf } from '../fixtures/plan.ts';

const route = (spec: string, name = 'r', kind = 'HTTPRoute', metadata = ''): string =>
  documentOf(kind, name, spec, metadata);
const gateway = (listeners = '{ name: web, port: 80, protocol: HTTP }', name = 'g'): string =>
  documentOf('Gateway', name, `{ gatewayClassName: x, listeners: [${listeners}] }`);
const toG = 'parentRefs: [{ name: g }]';
const a = 'backendRefs: [{ name: a, port: 80 }]';
const ruled = (rule: string): string => gateway() + serviceOf('a') + route(`{ ${toG}, rules: [{ ${rule} }] }`);
const filtered = (filter: string): string => ruled(`filters: [{ ${filter} }], ${a}`);
const grant = (from: string, to: string, namespace = 'others'): string =>
  documentOf('ReferenceGrant', `${namespace}/grant`, `{ from: [${from}], to: [${to}] }`);
const fromShop = '{ group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop }';
const toService = '{ group: "", kind: Service }';
const across = (...grants: string[]): string =>
  gateway() +
  serviceOf('others/a') +
  route(`{ ${toG}, rules: [{ backendRefs: [{ name: a, namespace: others, port: 80 }] }] }`) +
  grants.join('');

const good = ['Accepted=True Accepted', 'ResolvedRefs=True ResolvedRefs'];
const refused = (reason: string): string[] => [`Accepted=False ${reason}`, 'ResolvedRefs=True ResolvedRefs'];
const unresolved = (reason: string): string[] => ['Accepted=True Accepted', `ResolvedRefs=False ${reason}`];
const unsupported = refused('UnsupportedValue');

const namespace = (name: string, labels: string): string =>
  `---\napiVersion: v1\nkind: Namespace\nmetadata: { name: ${name}, labels: { ${labels} } }\n`;
const selecting = (selector: string): string =>
  gateway(
    `{ name: web, port: 80, protocol: HTTP, allowedRoutes: { namespaces: { from: Selector${selector === '' ? '' : `, selector: ${selector}`} } } }`,
  ) +
  namespace('red', 'color: red, team: a') +
  route('{ parentRefs: [{ name: g, namespace: shop }] }', 'red/r') +
  route('{ parentRefs: [{ name: g, namespace: shop }] }', 'plain/r');
const notAllowed = refused('NotAllowedByListeners');

interface Case {
  readonly documents: string;
  readonly options?: PlanOptions;
  readonly said: Readonly<Record<string, readonly string[]>>;
  readonly message?: readonly [key: string, type: string, expected: RegExp];
}

const key = 'HTTPRoute shop/r g';

const cases: Readonly<Record<string, Case>> = {
  'a route and its Service': { documents: ruled(a), said: { [key]: good } },
  'an upstream of gateway.yaml stands for a Service': {
    documents: gateway() + route(`{ ${toG}, rules: [{ ${a} }] }`),
    options: { yaml: 'upstreams: { u: { endpoints: ["127.0.0.1:1"] } }\nbackends: { shop/a:80: u }\n' },
    said: { [key]: good },
  },
  'no such Gateway': {
    documents: route(`{ ${toG}, rules: [] }`),
    said: { [key]: refused('NoMatchingParent') },
    message: [key, 'Accepted', /^Gateway shop\/g does not exist or has no such listener$/],
  },
  'no such listener': {
    documents: gateway() + route('{ parentRefs: [{ name: g, sectionName: other }] }'),
    said: { 'HTTPRoute shop/r g/other': refused('NoMatchingParent') },
  },
  'no listener of that port': {
    documents: gateway() + route('{ parentRefs: [{ name: g, port: 81 }] }'),
    said: { [key]: refused('NoMatchingParent') },
  },
  'a port, and a listener that has it': {
    documents: gateway() + route('{ parentRefs: [{ name: g, port: 80 }] }'),
    said: { [key]: good },
  },
  'a kind that the listener does not accept': {
    documents:
      gateway('{ name: web, port: 80, protocol: HTTP, allowedRoutes: { kinds: [{ kind: GRPCRoute }] } }') +
      route(`{ ${toG} }`),
    said: { [key]: notAllowed },
    message: [key, 'Accepted', /^no listener of Gateway shop\/g accepts a HTTPRoute of namespace shop$/],
  },
  'an HTTPRoute for TLS that passes through': {
    documents: gateway('{ name: web, port: 443, protocol: TLS, tls: { mode: Passthrough } }') + route(`{ ${toG} }`),
    said: { [key]: notAllowed },
  },
  'a TCPRoute for TLS that passes through': {
    documents:
      gateway('{ name: web, port: 443, protocol: TLS, tls: { mode: Passthrough } }') +
      serviceOf('a') +
      route(`{ ${toG}, rules: [{ ${a} }] }`, 'r', 'TCPRoute'),
    said: { 'TCPRoute shop/r g': notAllowed },
  },
  'another namespace, where only the same one is accepted': {
    documents: gateway() + route('{ parentRefs: [{ name: g, namespace: shop }] }', 'others/r'),
    said: { 'HTTPRoute others/r g': notAllowed },
  },
  'another namespace, where all are accepted': {
    documents:
      gateway('{ name: web, port: 80, protocol: HTTP, allowedRoutes: { namespaces: { from: All } } }') +
      route('{ parentRefs: [{ name: g, namespace: shop }] }', 'others/r'),
    said: { 'HTTPRoute others/r g': good },
  },
  'where none is accepted': {
    documents:
      gateway('{ name: web, port: 80, protocol: HTTP, allowedRoutes: { namespaces: { from: None } } }') +
      route(`{ ${toG} }`),
    said: { [key]: notAllowed },
  },
  'a selector by label': {
    documents: selecting('{ matchLabels: { color: red } }'),
    said: { 'HTTPRoute red/r g': good, 'HTTPRoute plain/r g': notAllowed },
  },
  'a selector by the name that each namespace has as a label': {
    documents: selecting('{ matchLabels: { kubernetes.io/metadata.name: plain } }'),
    said: { 'HTTPRoute red/r g': notAllowed, 'HTTPRoute plain/r g': good },
  },
  'a selector with In': {
    documents: selecting('{ matchExpressions: [{ key: color, operator: In, values: [blue, red] }] }'),
    said: { 'HTTPRoute red/r g': good, 'HTTPRoute plain/r g': notAllowed },
  },
  'a selector with NotIn': {
    documents: selecting('{ matchExpressions: [{ key: color, operator: NotIn, values: [red] }] }'),
    said: { 'HTTPRoute red/r g': notAllowed, 'HTTPRoute plain/r g': good },
  },
  'a selector with Exists': {
    documents: selecting('{ matchExpressions: [{ key: color, operator: Exists }] }'),
    said: { 'HTTPRoute red/r g': good, 'HTTPRoute plain/r g': notAllowed },
  },
  'a selector with DoesNotExist': {
    documents: selecting('{ matchExpressions: [{ key: color, operator: DoesNotExist }] }'),
    said: { 'HTTPRoute red/r g': notAllowed, 'HTTPRoute plain/r g': good },
  },
  'a selector with two requirements': {
    documents: selecting(
      '{ matchLabels: { color: red }, matchExpressions: [{ key: team, operator: In, values: [b] }] }',
    ),
    said: { 'HTTPRoute red/r g': notAllowed, 'HTTPRoute plain/r g': notAllowed },
  },
  'an empty selector selects everything': {
    documents: selecting('{}'),
    said: { 'HTTPRoute red/r g': good, 'HTTPRoute plain/r g': good },
  },
  'no selector selects nothing': {
    documents: selecting(''),
    said: { 'HTTPRoute red/r g': notAllowed, 'HTTPRoute plain/r g': notAllowed },
  },
  'In without values is not a Gateway': {
    documents: selecting('{ matchExpressions: [{ key: color, operator: In }] }'),
    said: { 'Gateway shop/g': ['Accepted=False Invalid', 'Programmed=False Invalid'] },
  },
  'no host name in common': {
    documents:
      gateway('{ name: web, port: 80, protocol: HTTP, hostname: "*.a.test" }') +
      route(`{ ${toG}, hostnames: [a.test, b.test, "*.b.test"] }`),
    said: { [key]: refused('NoMatchingListenerHostname') },
  },
  'one host name in common': {
    documents:
      gateway('{ name: web, port: 80, protocol: HTTP, hostname: "*.a.test" }') +
      route(`{ ${toG}, hostnames: [b.test, x.y.a.test] }`),
    said: { [key]: good },
  },
  'each parent has its own status': {
    documents:
      gateway() +
      gateway('{ name: web, port: 81, protocol: HTTP, hostname: a.test }', 'h') +
      route('{ parentRefs: [{ name: g }, { name: h }, { name: gone }], hostnames: [b.test] }'),
    said: {
      [key]: good,
      'HTTPRoute shop/r h': refused('NoMatchingListenerHostname'),
      'HTTPRoute shop/r gone': refused('NoMatchingParent'),
    },
  },
  'a Gateway of another namespace': {
    documents:
      documentOf(
        'Gateway',
        'infra/g',
        '{ gatewayClassName: x, listeners: [{ name: web, port: 80, protocol: HTTP, allowedRoutes: { namespaces: { from: All } } }] }',
      ) + route('{ parentRefs: [{ name: g, namespace: infra }] }'),
    said: { [key]: good },
  },

  'no such Service': {
    documents: gateway() + route(`{ ${toG}, rules: [{ ${a} }] }`),
    said: { [key]: unresolved('BackendNotFound') },
    message: [key, 'ResolvedRefs', /^there is no Service shop\/a, and 'backends' does not name shop\/a:80$/],
  },
  'no such port': {
    documents: ruled('backendRefs: [{ name: a, port: 81 }]'),
    said: { [key]: unresolved('BackendNotFound') },
    message: [key, 'ResolvedRefs', /^Service shop\/a has no port 81$/],
  },
  'a backend of another kind': {
    documents: ruled('backendRefs: [{ group: example.test, kind: Bucket, name: a }]'),
    said: { [key]: unresolved('InvalidKind') },
    message: [key, 'ResolvedRefs', /^example\.test\/Bucket a is not a Service$/],
  },
  'a mirror that does not exist': {
    documents: filtered('type: RequestMirror, requestMirror: { backendRef: { name: gone, port: 80 } }'),
    said: { [key]: unresolved('BackendNotFound') },
  },
  'an unknown filter': {
    documents: filtered('type: ExtensionRef, extensionRef: { group: a.test, kind: Filter, name: f }'),
    said: { [key]: unresolved('InvalidKind') },
    message: [key, 'ResolvedRefs', /^there is no filter a\.test\/Filter f: its rule answers 500$/],
  },
  'an unknown filter of a backend': {
    documents: ruled(
      'backendRefs: [{ name: a, port: 80, filters: [{ type: ExtensionRef, extensionRef: { group: a.test, kind: Filter, name: f } }] }]',
    ),
    said: { [key]: unresolved('InvalidKind') },
  },
  'a backend whose BackendTLSPolicy is not valid': {
    documents:
      ruled(a) +
      documentOf('BackendTLSPolicy', 'p', '{ targetRefs: [{ group: "", kind: Service, name: a }], validation: {} }'),
    options: { yaml: 'upstreams: { u: { endpoints: ["127.0.0.1:1"] } }\nbackends: { shop/a:80: u }\n' },
    said: { [key]: unresolved('InvalidBackendTLSPolicy') },
  },

  'across namespaces, not granted': {
    documents: across(),
    said: { [key]: unresolved('RefNotPermitted') },
    message: [key, 'ResolvedRefs', /^no ReferenceGrant in others allows HTTPRoutes of shop to refer to Service a$/],
  },
  'across namespaces, granted': { documents: across(grant(fromShop, toService)), said: { [key]: good } },
  'granted by name': {
    documents: across(grant(fromShop, '{ group: "", kind: Service, name: a }')),
    said: { [key]: good },
  },
  'granted for another name': {
    documents: across(grant(fromShop, '{ group: "", kind: Service, name: b }')),
    said: { [key]: unresolved('RefNotPermitted') },
  },
  'granted to another namespace': {
    documents: across(grant('{ group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: red }', toService)),
    said: { [key]: unresolved('RefNotPermitted') },
  },
  'granted to another kind': {
    documents: across(grant('{ group: gateway.networking.k8s.io, kind: GRPCRoute, namespace: shop }', toService)),
    said: { [key]: unresolved('RefNotPermitted') },
  },
  'granted to another group': {
    documents: across(grant('{ group: "", kind: HTTPRoute, namespace: shop }', toService)),
    said: { [key]: unresolved('RefNotPermitted') },
  },
  'granted for another kind': {
    documents: across(grant(fromShop, '{ group: "", kind: Secret }')),
    said: { [key]: unresolved('RefNotPermitted') },
  },
  'granted by another namespace': {
    documents: across(grant(fromShop, toService, 'shop')),
    said: { [key]: unresolved('RefNotPermitted') },
  },
  'granted by a grant that is not valid': {
    documents: across(grant('{ group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: "*" }', toService)),
    said: { [key]: unresolved('RefNotPermitted') },
  },

  'a document that is not valid': {
    documents: gateway() + route(`{ ${toG}, hostnames: [A.test] }`) + route(`{ ${toG} }`, 'other'),
    said: { [key]: unsupported, 'HTTPRoute shop/other g': good },
    message: [
      key,
      'Accepted',
      /^all\.yaml:10:\d+: spec\.hostnames\[0\]: 'A\.test' is not a host name \(every request that it may be for gets 500\)$/,
    ],
  },
  'an unknown enum value': {
    documents: ruled('matches: [{ path: { type: Glob, value: /a } }]'),
    said: { [key]: unsupported },
  },
  'filters that exclude each other': {
    documents: ruled(
      'filters: [{ type: RequestRedirect, requestRedirect: { port: 1 } }, { type: URLRewrite, urlRewrite: { hostname: a.test } }]',
    ),
    said: { [key]: refused('IncompatibleFilters') },
  },
  'no regular expression': {
    documents: ruled('matches: [{ path: { type: RegularExpression, value: "/(?=a)" } }]'),
    said: { [key]: unsupported },
    message: [key, 'Accepted', /^rule 0: '\/\(\?=a\)' is not a supported regular expression \(RE2\).*no look-around/],
  },
  'an invalid regular expression for a header': {
    documents: ruled('matches: [{ headers: [{ type: RegularExpression, name: x, value: "(" }] }]'),
    said: { [key]: unsupported },
  },
  'an invalid regular expression for a parameter': {
    documents: ruled('matches: [{ queryParams: [{ type: RegularExpression, name: x, value: "[" }] }]'),
    said: { [key]: unsupported },
  },
  'a regular expression that costs too much': {
    documents: ruled('matches: [{ path: { type: RegularExpression, value: "(?:[a-z]{1,100}){1,10}" } }]'),
    said: { [key]: unsupported },
    message: [key, 'Accepted', /takes 2001 steps for a character \(limit 500\)/],
  },
  'a redirect to itself': {
    documents: ruled('filters: [{ type: RequestRedirect, requestRedirect: { statusCode: 301 } }]'),
    said: { [key]: unsupported },
    message: [key, 'Accepted', /^rule 0: it redirects each request to itself$/],
  },
  ...Object.fromEntries(
    ['Host', 'content-length', 'Transfer-Encoding', 'connection', 'upgrade', 'te', 'x-forwarded-client-cert'].flatMap(
      (name) =>
        [`set: [{ name: ${name}, value: a }]`, `add: [{ name: ${name}, value: a }]`, `remove: [${name}]`].flatMap(
          (change) =>
            ['Request', 'Response'].map((side): [string, Case] => [
              `a ${side}HeaderModifier that would ${change}`,
              {
                documents: filtered(`type: ${side}HeaderModifier, ${side.toLowerCase()}HeaderModifier: { ${change} }`),
                said: { [key]: unsupported },
                message: [key, 'Accepted', new RegExp(`^rule 0: header '${name}' cannot be changed by a filter`)],
              },
            ]),
        ),
    ),
  ),
  'a header that breaks the line': {
    documents: filtered(
      'type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: a, value: "b\\r\\nHost: c" }] }',
    ),
    said: { [key]: unsupported },
    message: [key, 'Accepted', /requestHeaderModifier\.set\[0\]\.value: a value has no line breaks or NUL$/],
  },
  'a header with another control character': {
    documents: filtered(
      'type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: a, value: "b\\u0001" }] }',
    ),
    said: { [key]: unsupported },
    message: [key, 'Accepted', /^rule 0: the value for header 'a' contains a control character$/],
  },
  'an invalid name to remove': {
    documents: filtered('type: RequestHeaderModifier, requestHeaderModifier: { remove: ["a b"] }'),
    said: { [key]: unsupported },
  },
  "a backend's modifier that breaks the line": {
    documents: ruled(
      'backendRefs: [{ name: a, port: 80, filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: host, value: b }] } }] }]',
    ),
    said: { [key]: unsupported },
  },
  'a rewrite that breaks the line': {
    documents: filtered(
      'type: URLRewrite, urlRewrite: { path: { type: ReplaceFullPath, replaceFullPath: "/a HTTP/1.1\\r\\nHost: b" } }',
    ),
    said: { [key]: unsupported },
    message: [key, 'Accepted', /^rule 0: '\/a HTTP\/1\.1\.\.Host: b' is not a valid path$/],
  },
  'a rewrite with a query of its own': {
    documents: filtered(
      'type: URLRewrite, urlRewrite: { path: { type: ReplacePrefixMatch, replacePrefixMatch: "/a?b" } }',
    ),
    said: { [key]: unsupported },
  },
  'a redirect that breaks the line': {
    documents: ruled(
      'filters: [{ type: RequestRedirect, requestRedirect: { path: { type: ReplaceFullPath, replaceFullPath: "/\\r\\na: b" } } }]',
    ),
    said: { [key]: unsupported },
  },
  'a redirect for one of the backends': {
    documents: ruled(
      'backendRefs: [{ name: a, port: 80, filters: [{ type: RequestRedirect, requestRedirect: { port: 81 } }] }]',
    ),
    said: { [key]: unsupported },
    message: [key, 'Accepted', /^rule 0: a filter RequestRedirect belongs to a rule, not to one of its backends$/],
  },
  'CORS for one of the backends': {
    documents: ruled('backendRefs: [{ name: a, port: 80, filters: [{ type: CORS, cors: { allowOrigins: ["*"] } }] }]'),
    said: { [key]: unsupported },
  },
  "a backend's rewrite of a prefix that is one of two": {
    documents: ruled(
      'matches: [{ path: { value: /a } }, { path: { value: /longer } }], backendRefs: [{ name: a, port: 80, filters: [{ type: URLRewrite, urlRewrite: { path: { type: ReplacePrefixMatch, replacePrefixMatch: /b } } }] }]',
    ),
    said: { [key]: unsupported },
    message: [key, 'Accepted', /^rule 0: ReplacePrefixMatch needs exactly one PathPrefix match$/],
  },
  'a session with an idle time': {
    documents: ruled(`sessionPersistence: { idleTimeout: 1m }, ${a}`),
    said: { [key]: unsupported },
    message: [key, 'Accepted', /^rule 0: 'idleTimeout' is not supported/],
  },
  'a session whose cookie would set more': {
    documents: ruled(`sessionPersistence: { sessionName: "a=b; Domain=c" }, ${a}`),
    said: { [key]: unsupported },
  },
  'a session whose header is the host': {
    documents: ruled(`sessionPersistence: { type: Header, sessionName: Host }, ${a}`),
    said: { [key]: unsupported },
  },
  'a TCPRoute of two rules': {
    documents:
      gateway('{ name: db, port: 1, protocol: TCP }') +
      serviceOf('a') +
      route(`{ ${toG}, rules: [{ ${a} }, { ${a} }] }`, 'r', 'TCPRoute'),
    said: { 'TCPRoute shop/r g': unsupported },
    message: ['TCPRoute shop/r g', 'Accepted', /^a TCPRoute can have one rule only/],
  },
  'an HTTPRoute and a GRPCRoute for one host': {
    documents:
      gateway() +
      serviceOf('a') +
      route(
        `{ ${toG}, hostnames: [a.test], rules: [{ ${a} }] }`,
        'young',
        'HTTPRoute',
        ', creationTimestamp: "2025-02-01T00:00:00Z"',
      ) +
      route(
        `{ ${toG}, hostnames: ["*.test"], rules: [{ ${a} }] }`,
        'old',
        'GRPCRoute',
        ', creationTimestamp: "2025-01-01T00:00:00Z"',
      ),
    said: { 'GRPCRoute shop/old g': good, 'HTTPRoute shop/young g': refused('HostnameConflict') },
  },
  'an HTTPRoute and a GRPCRoute for two hosts': {
    documents:
      gateway() +
      route(`{ ${toG}, hostnames: [a.test] }`, 'a') +
      route(`{ ${toG}, hostnames: [b.test] }`, 'b', 'GRPCRoute'),
    said: { 'GRPCRoute shop/b g': good, 'HTTPRoute shop/a g': good },
  },
  'a route of a Service is for meshes': {
    documents: gateway() + route('{ parentRefs: [{ group: "", kind: Service, name: a }, { name: g }] }'),
    said: { [key]: good },
  },
};

for (const [name, { documents, options, said, message }] of Object.entries(cases)) {
  t.test(name, async (t) => {
    const planned = planOf(documents, options);
    for (const [of, expected] of Object.entries(said)) t.strictSame(planned.said[of], expected, of);
    if (message !== undefined) t.match(planned.message(message[0], message[1]), message[2]);
  });
}

t.test('attached routes are counted, once for each listener', async (t) => {
  const planned = planOf(
    gateway('{ name: a, port: 80, protocol: HTTP, hostname: a.test }, { name: b, port: 80, protocol: HTTP }') +
      route('{ parentRefs: [{ name: g }] }', 'both') +
      route('{ parentRefs: [{ name: g, sectionName: a }, { name: g, sectionName: b }] }', 'twice') +
      route('{ parentRefs: [{ name: g, sectionName: b }] }', 'one') +
      route('{ parentRefs: [{ name: g, sectionName: a }], hostnames: [c.test] }', 'none') +
      route('{ parentRefs: [{ name: g }], rules: [{ matches: [{ path: { value: nowhere } }] }] }', 'bad'),
  );
  t.equal(planned.said['Gateway shop/g a']?.at(-1), 'HTTPRoute,GRPCRoute 3', 'a broken route has its 500');
  t.equal(planned.said['Gateway shop/g b']?.at(-1), 'HTTPRoute,GRPCRoute 4');
});

t.test('BackendTLSPolicy: authorities that are invalid, and some that are missing', async (t) => {
  const { bundlePem } = await createAuthority('ours.test');
  const policy = (refs: string): string =>
    documentOf(
      'BackendTLSPolicy',
      'p',
      `{ targetRefs: [{ group: "", kind: Service, name: a }], validation: { hostname: a.test, caCertificateRefs: [${refs}] } }`,
    );
  const map = `---\n${JSON.stringify({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'ca', namespace: 'shop' }, data: { 'ca.crt': bundlePem } })}\n`;
  const saidOf = (refs: string): string[] => {
    const { list } = planOf(ruled(a) + policy(refs) + map);
    const item = list.items.find(({ kind }) => kind === 'BackendTLSPolicy')!;
    return sectionsOf(item).flatMap(({ conditions }) =>
      conditions.map(({ type, status, reason }) => `${type}=${status} ${reason}`),
    );
  };
  const ca = '{ group: "", kind: ConfigMap, name: ca }';
  const gone = '{ group: "", kind: ConfigMap, name: gone }';
  t.same(saidOf(ca), good);
  t.same(saidOf('{ group: invalid.io, kind: InvalidKind, name: x }'), [
    'Accepted=False NoValidCACertificate',
    'ResolvedRefs=False InvalidKind',
  ]);
  t.same(saidOf(`${ca}, ${gone}`), ['Accepted=True Accepted', 'ResolvedRefs=False InvalidCACertificateRef']);
});

t.test('an invalid ReferenceGrant has no status, so it is logged', async (t) => {
  const { warnings } = planOf(documentOf('ReferenceGrant', 'g', '{ from: [], to: [] }'));
  t.match(warnings[0], /^all\.yaml:5:\d+: spec\.from/);
});

t.test('a document that would leave its target open stops the load', async (t) => {
  const bad: [string, string, RegExp][] = [
    [
      'no name',
      '---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {}\nspec: {}\n',
      /metadata\.name/,
    ],
    [
      'a BackendTLSPolicy with unreadable targets',
      documentOf('BackendTLSPolicy', 'p', '{ validation: {} }'),
      /targetRefs/,
    ],
    [
      'the same twice',
      route(`{ ${toG} }`) + route(`{ ${toG} }`),
      /HTTPRoute shop\/r is already defined in all\.yaml:4/,
    ],
  ];
  for (const [name, documents, expected] of bad) t.throws(() => planOf(documents), { message: expected }, name);
});

t.test('one upstream, two Services in two namespaces: each is verified against its own authority', async (t) => {
  const [ours, theirs] = [await createAuthority('ours.test'), await createAuthority('theirs.test')];
  const of = (namespace: string, { bundlePem }: { readonly bundlePem: string }): string =>
    documentOf(
      'HTTPRoute',
      `${namespace}/r`,
      '{ parentRefs: [{ name: g, namespace: shop }], rules: [{ backendRefs: [{ name: pay, port: 80 }] }] }',
    ) +
    documentOf(
      'BackendTLSPolicy',
      `${namespace}/pay`,
      '{ targetRefs: [{ group: "", kind: Service, name: pay }], validation: { hostname: pay.test, caCertificateRefs: [{ group: "", kind: ConfigMap, name: ca }] } }',
    ) +
    `---\n${JSON.stringify({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'ca', namespace }, data: { 'ca.crt': bundlePem } })}\n`;
  const gateway = documentOf(
    'Gateway',
    'g',
    '{ gatewayClassName: x, listeners: [{ name: web, port: 80, protocol: HTTP, allowedRoutes: { namespaces: { from: All } } }] }',
  );
  const { plan } = planOf(`${gateway}${of('shop', ours)}${of('other', theirs)}`, {
    yaml: 'upstreams: { pay: { endpoints: ["pay.test:443"] } }\nbackends: { shop/pay:80: pay, other/pay:80: pay }\n',
  });
  t.equal(new Set(plan.pools.map(({ name }) => name)).size, 2);
  t.strictSame(
    plan.pools.map(({ serverTls }) => serverTls!.ca).toSorted(),
    [ours.bundlePem, theirs.bundlePem].toSorted(),
  );
});
