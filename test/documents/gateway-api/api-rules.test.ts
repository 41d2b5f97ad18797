// What an API server refuses by the CRDs of Gateway API: one row for each rule, with its place, and the nearest document
// that it accepts.

import t from 'tap';
import { formatProblem } from '../../../cert-agent/base/errors.ts';
import { parseYaml } from '../../../cert-agent/base/yaml.ts';
import { checkGatewayApi } from '../../../sidecar/documents/gateway-api/gateway.ts';

const problemsOf = (kind: string, spec: string, version: string): string[] => {
  const text = `apiVersion: gateway.networking.k8s.io/${version}\nkind: ${kind}\nmetadata: { name: x }\nspec: ${spec}\n`;
  const { documents, problems } = parseYaml(text, 'x.yaml');
  t.strictSame(problems, [], text);
  return checkGatewayApi(documents[0]!).map(formatProblem);
};

const gateway = (more: string, listener = 'protocol: HTTP'): string =>
  `{ gatewayClassName: c, listeners: [{ name: a, port: 443, ${listener} }], ${more} }`;
const rule = (text: string): string => `{ rules: [{ ${text} }] }`;
const backend = '{ name: a, port: 80 }';
const match = (text: string): string => rule(`matches: [{ ${text} }], backendRefs: [${backend}]`);
const modify = (text: string): string =>
  rule(`filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { ${text} } }]`);
const cors = (text: string): string => rule(`filters: [{ type: CORS, cors: { ${text} } }]`);
const prefix = '{ type: URLRewrite, urlRewrite: { path: { type: ReplacePrefixMatch, replacePrefixMatch: / } } }';
const targets = (...list: string[]): string =>
  `{ targetRefs: [${list.map((one) => `{ group: "", kind: Service, ${one} }`).join(', ')}], validation: { hostname: a.test, wellKnownCACertificates: System } }`;
const validation = (text: string): string =>
  `{ targetRefs: [{ group: "", kind: Service, name: a }], validation: { hostname: a.test, wellKnownCACertificates: System, ${text} } }`;
const many = (count: number): string => `{ ${Array.from({ length: count }, (_, index) => `k${index}: v`).join(', ')} }`;
const references = (count: number): string =>
  `[${Array(count).fill('{ group: "", kind: ConfigMap, name: a }').join(', ')}]`;
const addresses = (text: string): string => gateway(`addresses: [${text}]`);

const rows: [what: string, kind: string, bad: string, good: string, problem: RegExp, version?: string][] = [
  [
    'a TLS listener has tls',
    'Gateway',
    gateway('', 'protocol: TLS'),
    gateway('', 'protocol: TLS, tls: { mode: Passthrough }'),
    /listeners\[0\]\.protocol: protocol TLS needs 'tls'/,
  ],
  [
    'allowed routes come from somewhere',
    'Gateway',
    gateway('', 'protocol: HTTP, allowedRoutes: { namespaces: { from: None } }'),
    gateway('', 'protocol: HTTP, allowedRoutes: { namespaces: { from: All } }'),
    /from: a listener's routes come from All, Selector or Same/,
  ],
  [
    'options of a listener',
    'Gateway',
    gateway('', `protocol: HTTPS, tls: { options: ${many(17)} }`),
    gateway('', `protocol: HTTPS, tls: { options: ${many(16)} }`),
    /at most 16 options/,
  ],
  [
    'repeated IP addresses',
    'Gateway',
    addresses('{ value: 1.2.3.4 }, { type: IPAddress, value: 1.2.3.4 }'),
    addresses('{ value: 1.2.3.4 }, { value: 1.2.3.5 }'),
    /addresses\[1\]: '1\.2\.3\.4' is listed twice/,
  ],
  [
    'repeated host names',
    'Gateway',
    addresses('{ type: Hostname, value: a.test }, { type: Hostname, value: a.test }'),
    addresses('{ type: NamedAddress, value: a }, { type: NamedAddress, value: a }'),
    /addresses\[1\]: 'a\.test' is listed twice/,
  ],
  [
    'a host name as an address',
    'Gateway',
    addresses('{ type: Hostname, value: "*.*.test" }'),
    addresses('{ type: Hostname, value: "*.a.test" }'),
    /addresses\[0\]\.value: '\*\.\*\.test' is not a host/,
  ],
  [
    'an address without type',
    'Gateway',
    addresses('{ type: "" }'),
    addresses('{ type: a.test/b }'),
    /must not be empty/,
  ],
  [
    'labels for the infrastructure',
    'Gateway',
    gateway(`infrastructure: { labels: ${many(9)} }`),
    gateway(`infrastructure: { labels: ${many(8)} }`),
    /at most 8 labels/,
  ],
  [
    'annotations for it',
    'Gateway',
    gateway(`infrastructure: { annotations: ${many(17)} }`),
    gateway(`infrastructure: { annotations: ${many(16)} }`),
    /at most 16 annotations/,
  ],
  [
    'keys of labels',
    'Gateway',
    gateway('infrastructure: { labels: { "a/b/c": v } }'),
    gateway('infrastructure: { labels: { "a.test/b_c": v } }'),
    /'a\/b\/c' is not a valid key/,
  ],
  [
    'keys of annotations',
    'Gateway',
    gateway('infrastructure: { annotations: { "-a": v } }'),
    gateway('infrastructure: { annotations: { a: "any text" } }'),
    /'-a' is not a valid key/,
  ],
  [
    'values of labels',
    'Gateway',
    gateway('infrastructure: { labels: { a: "b c" } }'),
    gateway('infrastructure: { labels: { a: "" } }'),
    /'b c' is not a label's value/,
  ],
  [
    'validation of clients has a default',
    'Gateway',
    gateway('tls: { frontend: { perPort: [] } }'),
    gateway('tls: { frontend: { default: {} } }'),
    /tls\.frontend: needs 'default'/,
  ],
  [
    'validation of clients names a port once',
    'Gateway',
    gateway('tls: { frontend: { default: {}, perPort: [{ port: 1, tls: {} }, { port: 1, tls: {} }] } }'),
    gateway('tls: { frontend: { default: {}, perPort: [{ port: 1, tls: {} }, { port: 2, tls: {} }] } }'),
    /perPort\[1\]: '1' is listed twice/,
  ],
  [
    'roots for clients',
    'Gateway',
    gateway(`tls: { frontend: { default: { validation: { caCertificateRefs: ${references(17)} } } } }`),
    gateway(`tls: { frontend: { default: { validation: { caCertificateRefs: ${references(16)} } } } }`),
    /caCertificateRefs/,
  ],
  ['the scope', 'Gateway', gateway('defaultScope: Some'), gateway('defaultScope: All'), /must be All or None/],
  [
    'the domain of a controller',
    'GatewayClass',
    '{ controllerName: a..test/b }',
    '{ controllerName: a.test/b }',
    /a controller is named domain\/path/,
  ],
  ['no rules', 'HTTPRoute', '{ rules: [] }', '{}', /spec\.rules: a route has at least one rule/],
  [
    'a prefix to replace',
    'HTTPRoute',
    rule(`matches: [], filters: [${prefix}]`),
    rule(`filters: [${prefix}]`),
    /exactly one PathPrefix/,
  ],
  [
    'a prefix that a backend replaces',
    'HTTPRoute',
    rule(`matches: [{ path: { type: Exact, value: /a } }], backendRefs: [{ name: a, port: 80, filters: [${prefix}] }]`),
    rule(`matches: [{ path: { value: /a } }], backendRefs: [{ name: a, port: 80, filters: [${prefix}] }]`),
    /exactly one PathPrefix/,
  ],
  [
    'query parameters',
    'HTTPRoute',
    match('queryParams: [{ name: q, value: a }, { name: q, value: b }]'),
    match('queryParams: [{ name: q, value: a }, { name: Q, value: b }]'),
    /queryParams\[1\]\.name: 'q' is listed twice/,
  ],
  ['attempts', 'HTTPRoute', rule('retry: { attempts: 0 }'), rule('retry: { attempts: 1 }'), /at least one attempt/],
  [
    'codes to retry',
    'HTTPRoute',
    rule('retry: { codes: [503, 503] }'),
    rule('retry: { codes: [502, 503] }'),
    /codes\[1\]: '503' is listed twice/,
  ],
  [
    'a cookie of a session in a header',
    'HTTPRoute',
    rule('sessionPersistence: { type: Header, cookieConfig: {} }'),
    rule('sessionPersistence: { type: Cookie, cookieConfig: {} }'),
    /type Header has no 'cookieConfig'/,
  ],
  [
    'headers to remove',
    'HTTPRoute',
    modify('remove: [a, a]'),
    modify('remove: [a, b]'),
    /remove\[1\]: 'a' is listed twice/,
  ],
  [
    'headers to remove for a backend',
    'GRPCRoute',
    rule(
      'backendRefs: [{ name: a, port: 80, filters: [{ type: ResponseHeaderModifier, responseHeaderModifier: { remove: [a, a] } }] }]',
    ),
    rule('backendRefs: [{ name: a, port: 80 }]'),
    /backendRefs\[0\]\.filters\[0\]\.responseHeaderModifier\.remove\[1\]/,
  ],
  [
    'line breaks in a value',
    'HTTPRoute',
    modify('set: [{ name: a, value: "b\\r\\nc: d" }]'),
    modify('set: [{ name: a, value: "b c" }]'),
    /set\[0\]\.value: a value has no line breaks/,
  ],
  [
    'space around a value',
    'HTTPRoute',
    modify('add: [{ name: a, value: " b" }]'),
    modify('add: [{ name: a, value: "b\\tc" }]'),
    /add\[0\]\.value: a value is printable ASCII/,
  ],
  [
    'repeated origins',
    'HTTPRoute',
    cors('allowOrigins: ["https://a.test", "https://a.test"]'),
    cors('allowOrigins: ["https://a.test", "https://b.test"]'),
    /allowOrigins\[1\]: 'https:\/\/a\.test' is listed twice/,
  ],
  [
    'any method and one',
    'HTTPRoute',
    cors('allowMethods: ["*", GET]'),
    cors('allowMethods: ["*"]'),
    /'\*' stands alone/,
  ],
  [
    'the service of a call',
    'GRPCRoute',
    match('method: { service: a..b }'),
    match('method: { service: .a.B_1 }'),
    /'a\.\.b' is not a service/,
  ],
  [
    'the method of a call',
    'GRPCRoute',
    match('method: { method: 1a }'),
    match('method: { method: a1 }'),
    /'1a' is not a method/,
  ],
  [
    'host names of a TLSRoute',
    'TLSRoute',
    rule(`backendRefs: [${backend}]`),
    `{ hostnames: [${Array.from({ length: 17 }, (_, index) => `a${index}.test`).join(', ')}], rules: [{ backendRefs: [${backend}] }] }`,
    /a TLSRoute needs 'hostnames'/,
  ],
  [
    'rules of a TCPRoute',
    'TCPRoute',
    `{ rules: [{ backendRefs: [${backend}] }, { backendRefs: [${backend}] }] }`,
    rule(`backendRefs: [${backend}]`),
    /rules\[1\]: a route of streams has one rule/,
  ],
  [
    'a target twice',
    'BackendTLSPolicy',
    targets('name: a', 'name: a'),
    targets('name: a', 'name: b'),
    /targetRefs\[1\]: the target Service a is named twice/,
  ],
  [
    'a section twice',
    'BackendTLSPolicy',
    targets('name: a, sectionName: s', 'name: a, sectionName: s'),
    targets('name: a, sectionName: s', 'name: a, sectionName: t'),
    /the target Service a is named twice/,
  ],
  [
    'a target and its section',
    'BackendTLSPolicy',
    targets('name: a', 'name: a, sectionName: s'),
    targets('name: a', 'name: b, sectionName: s'),
    /Service a is named as a whole and by its sections/,
  ],
  [
    'a URI of a backend',
    'BackendTLSPolicy',
    validation('subjectAltNames: [{ type: URI, uri: a.test }]'),
    validation('subjectAltNames: [{ type: URI, uri: "spiffe://a.test/b" }]'),
    /'a\.test' is not a URI with a scheme/,
  ],
];

for (const [what, kind, bad, good, problem, version = 'v1'] of rows) {
  t.test(what, async (t) => {
    t.strictSame(problemsOf(kind, good, version), []);
    const problems = problemsOf(kind, bad, version);
    t.match(problems[0], problem);
    t.match(problems[0], /^x\.yaml:4:\d+: spec/);
    t.equal(problems.length, 1);
  });
}

t.test('v1alpha2 of the routes of streams had no such rules', async (t) => {
  t.strictSame(problemsOf('TLSRoute', rule(`backendRefs: [${backend}]`), 'v1alpha2'), []);
});
