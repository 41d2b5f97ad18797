// Gateway API documents: what the standard's own validation takes, and what it refuses, with the place.

import t from 'tap';
import { formatProblem } from '../../../cert-agent/base/errors.ts';
import { parseYaml } from '../../../cert-agent/base/yaml.ts';
import { checkGatewayApi, isGatewayApi } from '../../../sidecar/documents/gateway-api/gateway.ts';

const problemsOf = (kind: string, spec: string, version = 'v1'): string[] => {
  const text = `apiVersion: gateway.networking.k8s.io/${version}\nkind: ${kind}\nmetadata: { name: x, namespace: n }\nspec: ${spec}\n`;
  const { documents, problems } = parseYaml(text, 'x.yaml');
  t.strictSame(problems, [], text);
  t.ok(isGatewayApi(documents[0]!));
  return checkGatewayApi(documents[0]!).map(formatProblem);
};

const rule = (text: string): string => `{ rules: [{ ${text} }] }`;
const backends = 'backendRefs: [{ name: a, port: 80 }]';
const match = (text: string): string => rule(`matches: [{ ${text} }], ${backends}`);
const filter = (text: string): string => rule(`filters: [{ ${text} }]`);

const good: [string, string, string?][] = [
  ['HTTPRoute', '{}'],
  [
    'HTTPRoute',
    `{ parentRefs: [{ name: g }], hostnames: ["a.test", "*.b.test"], rules: [{ ${backends} }] }`,
    'v1beta1',
  ],
  [
    'HTTPRoute',
    match(
      'path: { type: Exact, value: /a }, method: GET, headers: [{ name: x, value: y }], queryParams: [{ name: q, value: "1" }]',
    ),
  ],
  ['HTTPRoute', match('path: { type: RegularExpression, value: "^a//b$" }')],
  ['HTTPRoute', filter('type: RequestRedirect, requestRedirect: { scheme: https, statusCode: 301 }')],
  [
    'HTTPRoute',
    rule(
      'matches: [{ path: { value: /a } }], filters: [{ type: URLRewrite, urlRewrite: { path: { type: ReplacePrefixMatch, replacePrefixMatch: /b } } }]',
    ),
  ],
  [
    'HTTPRoute',
    rule('filters: [{ type: URLRewrite, urlRewrite: { path: { type: ReplacePrefixMatch, replacePrefixMatch: / } } }]'),
  ],
  ['HTTPRoute', filter('type: RequestMirror, requestMirror: { backendRef: { name: a, port: 1 }, percent: 10 }')],
  [
    'HTTPRoute',
    filter('type: CORS, cors: { allowOrigins: ["https://b.test", "https://a.test"], allowMethods: ["*"] }'),
  ],
  ['HTTPRoute', rule('timeouts: { request: 10s, backendRequest: 1s500ms }')],
  ['HTTPRoute', rule('timeouts: { request: 0s, backendRequest: 5s }')],
  ['HTTPRoute', '{ parentRefs: [{ name: g, sectionName: a }, { name: g, sectionName: b }] }'],
  ['GRPCRoute', rule(`matches: [{ method: { service: a.b.C, method: D } }], ${backends}`)],
  ['TLSRoute', `{ hostnames: [a.test], rules: [{ ${backends} }] }`, 'v1alpha2'],
  ['TCPRoute', `{ rules: [{ ${backends} }] }`, 'v1alpha2'],
  [
    'ReferenceGrant',
    '{ from: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: a }], to: [{ group: "", kind: Service }] }',
    'v1beta1',
  ],
  ['GatewayClass', '{ controllerName: example.test/controller }'],
  [
    'BackendTLSPolicy',
    '{ targetRefs: [{ group: "", kind: Service, name: a }], validation: { hostname: a.test, wellKnownCACertificates: System } }',
  ],
  [
    'Gateway',
    '{ gatewayClassName: c, listeners: [{ name: a, port: 80, protocol: HTTP }, { name: b, port: 443, protocol: HTTPS, hostname: "*.a.test", tls: { certificateRefs: [{ name: s }] } }, { name: c, port: 443, protocol: TLS, tls: { mode: Passthrough } }] }',
  ],
];

for (const [kind, spec, version] of good) {
  t.test(`${kind} ${spec}`, async (t) => {
    t.strictSame(problemsOf(kind, spec, version), []);
  });
}

const bad: [string, string, RegExp][] = [
  ['HTTPRoute', '{ hostname: a }', /4:9: unknown key 'hostname' \(did you mean 'hostnames'\?\)/],
  ['HTTPRoute', '{ hostnames: [1.2.3.4] }', /'1\.2\.3\.4' is not a host name/],
  ['HTTPRoute', '{ hostnames: ["a.*.test"] }', /is not a host name/],
  ['HTTPRoute', '{ hostnames: [A.test] }', /is not a host name/],
  ['HTTPRoute', '{ parentRefs: [{ name: g }, { name: g }] }', /references to the same parent must each/],
  ['HTTPRoute', '{ parentRefs: [{}] }', /parentRefs\[0\]\.name/],
  ['HTTPRoute', match('path: { type: Prefix, value: /a }'), /path\.type/],
  ['HTTPRoute', match('path: { value: a }'), /must begin with '\/'/],
  ['HTTPRoute', match('path: { value: /a//b }'), /must not contain/],
  ['HTTPRoute', match('path: { value: /a/../b }'), /must not contain/],
  ['HTTPRoute', match('path: { value: /a/.. }'), /must not contain/],
  ['HTTPRoute', match('path: { value: /a%2fb }'), /must not contain/],
  ['HTTPRoute', match('path: { value: "/a b" }'), /contains characters that no path may contain/],
  ['HTTPRoute', match('method: get'), /method/],
  ['HTTPRoute', match('headers: [{ name: x, value: a }, { name: X, value: b }]'), /'X' is named twice/],
  ['HTTPRoute', match('headers: [{ name: "a b", value: a }]'), /not a valid header name/],
  ['HTTPRoute', rule('backendRefs: [{ name: a }]'), /a reference to a Service needs a port/],
  ['HTTPRoute', rule('backendRefs: [{ name: a, port: 0 }]'), /a port is 1 to 65535/],
  ['HTTPRoute', rule('backendRefs: [{ name: a, port: 80, weight: -1 }]'), /weight/],
  ['HTTPRoute', rule(`backendRefs: [${Array(17).fill('{ name: a, port: 80 }')}]`), /at most 16 backends/],
  ['HTTPRoute', `{ rules: [${Array(17).fill('{}')}] }`, /at most 16 rules/],
  ['HTTPRoute', rule(`matches: [${Array(65).fill('{}')}]`), /at most 64 matches/],
  [
    'HTTPRoute',
    `{ rules: [${Array(3).fill(`{ matches: [${Array(43).fill('{}')}] }`)}] }`,
    /at most 128 matches in all/,
  ],
  ['HTTPRoute', '{ rules: [{ name: a }, { name: a }] }', /two rules have the same name/],
  ['HTTPRoute', filter('type: RequestHeader'), /type/],
  ['HTTPRoute', filter('type: RequestHeaderModifier'), /needs 'requestHeaderModifier'/],
  ['HTTPRoute', filter('type: CORS, cors: {}, urlRewrite: {}'), /'urlRewrite' is not for a filter of type CORS/],
  ['HTTPRoute', rule('filters: [{ type: CORS, cors: {} }, { type: CORS, cors: {} }]'), /at most one CORS filter/],
  [
    'HTTPRoute',
    rule('filters: [{ type: RequestRedirect, requestRedirect: {} }, { type: URLRewrite, urlRewrite: {} }]'),
    /exclude each other/,
  ],
  [
    'HTTPRoute',
    rule(`filters: [{ type: RequestRedirect, requestRedirect: {} }], ${backends}`),
    /a rule that redirects has no backends/,
  ],
  ['HTTPRoute', filter('type: RequestRedirect, requestRedirect: { statusCode: 200 }'), /statusCode/],
  [
    'HTTPRoute',
    filter('type: URLRewrite, urlRewrite: { path: { type: ReplaceFullPath, replacePrefixMatch: / } }'),
    /needs 'replaceFullPath'/,
  ],
  [
    'HTTPRoute',
    rule(
      'matches: [{ path: { type: Exact, value: /a } }], filters: [{ type: URLRewrite, urlRewrite: { path: { type: ReplacePrefixMatch, replacePrefixMatch: / } } }]',
    ),
    /exactly one PathPrefix match/,
  ],
  [
    'HTTPRoute',
    filter(
      'type: RequestMirror, requestMirror: { backendRef: { name: a, port: 1 }, percent: 1, fraction: { numerator: 1 } }',
    ),
    /only one of 'percent' and 'fraction'/,
  ],
  [
    'HTTPRoute',
    filter('type: RequestMirror, requestMirror: { backendRef: { name: a, port: 1 }, fraction: { numerator: 101 } }'),
    /numerator is larger/,
  ],
  ['HTTPRoute', rule('timeouts: { request: 1s, backendRequest: 2s }'), /'backendRequest' is longer than 'request'/],
  ['HTTPRoute', rule('timeouts: { request: 1.5s }'), /a duration is written/],
  ['HTTPRoute', rule('sessionPersistence: { cookieConfig: { lifetimeType: Permanent } }'), /needs 'absoluteTimeout'/],
  ['HTTPRoute', rule('retry: { codes: [200] }'), /codes/],
  ['GRPCRoute', rule('matches: [{ method: {} }]'), /names a 'service' or a 'method'/],
  ['GRPCRoute', rule('matches: [{ method: { service: a/b } }]'), /'a\/b' is not a service/],
  ['GRPCRoute', filter('type: URLRewrite, urlRewrite: {}'), /type/],
  ['TCPRoute', '{ rules: [{ backendRefs: [] }] }', /backendRefs/],
  ['TLSRoute', '{}', /rules/],
  ['ReferenceGrant', '{ from: [], to: [] }', /from/],
  ['GatewayClass', '{ controllerName: nobody }', /domain\/path/],
  [
    'BackendTLSPolicy',
    '{ targetRefs: [{ group: "", kind: Service, name: a }], validation: { hostname: a.test } }',
    /exactly one of 'caCertificateRefs'/,
  ],
  [
    'BackendTLSPolicy',
    '{ targetRefs: [{ group: "", kind: Service, name: a }], validation: { hostname: "*.a.test", wellKnownCACertificates: System } }',
    /precise host name/,
  ],
  ['Gateway', '{ gatewayClassName: c, listeners: [] }', /at least one listener/],
  [
    'Gateway',
    '{ gatewayClassName: c, listeners: [{ name: a, port: 80, protocol: HTTP, tls: { certificateRefs: [{ name: s }] } }] }',
    /protocol HTTP has no 'tls'/,
  ],
  [
    'Gateway',
    '{ gatewayClassName: c, listeners: [{ name: a, port: 443, protocol: HTTPS, tls: { mode: Passthrough } }] }',
    /HTTPS terminates TLS/,
  ],
  [
    'Gateway',
    '{ gatewayClassName: c, listeners: [{ name: a, port: 443, protocol: HTTPS, tls: {} }] }',
    /needs 'certificateRefs'/,
  ],
  [
    'Gateway',
    '{ gatewayClassName: c, listeners: [{ name: a, port: 1, protocol: TCP, hostname: a.test }] }',
    /protocol TCP has no host names/,
  ],
  [
    'Gateway',
    '{ gatewayClassName: c, listeners: [{ name: a, port: 80, protocol: HTTP }, { name: a, port: 81, protocol: HTTP }] }',
    /two listeners are named 'a'/,
  ],
  [
    'Gateway',
    '{ gatewayClassName: c, listeners: [{ name: a, port: 80, protocol: HTTP }, { name: b, port: 80, protocol: HTTP }] }',
    /another listener has the same port, protocol and host name/,
  ],
  ['HttpRoute', '{}', /kind HttpRoute is not a kind of Gateway API .* \(did you mean 'HTTPRoute'\?\)/],
];

for (const [kind, spec, expected] of bad) {
  t.test(`${kind} ${spec.slice(0, 150)}`, async (t) => {
    const problems = problemsOf(kind, spec);
    t.match(problems[0], expected);
    t.match(problems[0], /^x\.yaml:\d+:\d+: /);
  });
}

t.test('versions', async (t) => {
  t.match(problemsOf('HTTPRoute', '{}', 'v2'), [/apiVersion/]);
});
