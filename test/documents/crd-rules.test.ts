// What an API server refuses by the CRDs of Envoy Gateway (v1.6) and Istio (1.32): one row for each validation rule and
// each bound of a field that is served, with the nearest document that is accepted. A good spec of undefined: every form
// is refused, since the field is not served.

import t from 'tap';
import { formatProblem } from '../../cert-agent/base/errors.ts';
import { checkDocuments } from '../../sidecar/analyze/check.ts';

type Row = readonly [what: string, kind: string, bad: string, good: string | undefined, problem: RegExp];

const versions: Readonly<Record<string, string>> = {
  SecurityPolicy: 'gateway.envoyproxy.io/v1alpha1',
  BackendTrafficPolicy: 'gateway.envoyproxy.io/v1alpha1',
  ClientTrafficPolicy: 'gateway.envoyproxy.io/v1alpha1',
  AuthorizationPolicy: 'security.istio.io/v1',
  RequestAuthentication: 'security.istio.io/v1',
  PeerAuthentication: 'security.istio.io/v1',
  DestinationRule: 'networking.istio.io/v1',
};

const problemsOf = async (kind: string, spec: string): Promise<string[]> => {
  const text = `apiVersion: ${versions[kind]}\nkind: ${kind}\nmetadata: { name: x, namespace: a }\nspec: ${spec}\n`;
  const { problems } = await checkDocuments([{ file: 'x.yaml', text }]);
  return problems.map(formatProblem);
};

const times = (count: number, item: string): string => Array(count).fill(item).join(', ');
const numbered = (count: number, item: (index: number) => string): string =>
  Array.from({ length: count }, (_, index) => item(index)).join(', ');

const target = '{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: r }';
const gateway = '{ group: gateway.networking.k8s.io, kind: Gateway, name: g }';
const forRoute = (text: string): string => `{ targetRefs: [${target}], ${text} }`;
const forGateway = (text: string): string => `{ targetRefs: [${gateway}], ${text} }`;

// What every policy of Envoy Gateway says of its targets.
const ofTargets = (kind: string, said: string, place: string): Row[] => [
  ['a target', kind, `{ ${said} }`, `{ targetRefs: [${place}], ${said} }`, /targetRef/],
  [
    'one form of target',
    kind,
    `{ targetRef: ${place}, targetRefs: [${place}], ${said} }`,
    `{ targetRef: ${place}, ${said} }`,
    /targetRef/,
  ],
  [
    'group of targetRef',
    kind,
    `{ targetRef: ${place.replace('gateway.networking.k8s.io', '""')}, ${said} }`,
    `{ targetRef: ${place}, ${said} }`,
    /targetRef\.group/,
  ],
  [
    'kind of targetRef',
    kind,
    `{ targetRef: ${place.replace(/kind: \w+/, 'kind: Service')}, ${said} }`,
    `{ targetRef: ${place}, ${said} }`,
    /targetRef\.kind/,
  ],
  [
    'group of targetRefs',
    kind,
    `{ targetRefs: [${place.replace('gateway.networking.k8s.io', 'a.b')}], ${said} }`,
    `{ targetRefs: [${place}], ${said} }`,
    /targetRefs\[0\]\.group/,
  ],
  [
    'kind of targetRefs',
    kind,
    `{ targetRefs: [${place}, ${place.replace(/kind: \w+/, 'kind: Service')}], ${said} }`,
    `{ targetRefs: [${place}], ${said} }`,
    /targetRefs\[1\]\.kind/,
  ],
  [
    'name of a target',
    kind,
    `{ targetRefs: [${place.replace(/name: \w+/, 'name: ""')}], ${said} }`,
    `{ targetRefs: [${place}], ${said} }`,
    /targetRefs\[0\]\.name/,
  ],
  [
    'section of a target',
    kind,
    `{ targetRefs: [${place.replace(' }', ', sectionName: A_b }')}], ${said} }`,
    `{ targetRefs: [${place.replace(' }', ', sectionName: a-b }')}], ${said} }`,
    /targetRefs\[0\]\.sectionName/,
  ],
];

const provider = (text: string): string => forRoute(`jwt: { providers: [{ name: p, ${text} }] }`);
const remote = 'remoteJWKS: { uri: "https://i.test/keys" }';
const keys = `'{"keys":[]}'`;
const access = (text: string, before = ''): string =>
  forRoute(`${before} authorization: { rules: [{ action: Allow, ${text} }] }`);
const jwt = `jwt: { providers: [{ name: p, issuer: "https://i.test", ${remote} }] },`;
const oidc = (text: string): string =>
  forRoute(
    `oidc: { provider: { issuer: "https://o.test" }, clientSecret: { name: s }, redirectURL: "https://a.test/cb", ${text} }`,
  );
const authorizer = (text: string): string => forRoute(`extAuth: { ${text} }`);
const backend = 'backendRefs: [{ name: z, port: 80 }]';

const security: Row[] = [
  ...ofTargets('SecurityPolicy', 'cors: { allowOrigins: ["https://a.test"] }', target),
  [
    'a principal',
    'SecurityPolicy',
    access('principal: {}'),
    access('principal: { clientCIDRs: [10.0.0.0/8] }'),
    /principal/,
  ],
  [
    'a principal by token needs jwt',
    'SecurityPolicy',
    access('principal: { jwt: { provider: p, scopes: [a] } }'),
    access('principal: { jwt: { provider: p, scopes: [a] } }', jwt),
    /jwt/,
  ],
  [
    'claims or scopes',
    'SecurityPolicy',
    access('principal: { jwt: { provider: p } }', jwt),
    access('principal: { jwt: { provider: p, claims: [{ name: a, values: [b] }] } }', jwt),
    /claims|scopes/,
  ],
  [
    'claims are some',
    'SecurityPolicy',
    access('principal: { jwt: { provider: p, claims: [] } }', jwt),
    access('principal: { jwt: { provider: p, scopes: [a] } }', jwt),
    /claims/,
  ],
  [
    'claims are 16 at most',
    'SecurityPolicy',
    access(
      `principal: { jwt: { provider: p, claims: [${numbered(17, (n) => `{ name: a${n}, values: [b] }`)}] } }`,
      jwt,
    ),
    access(
      `principal: { jwt: { provider: p, claims: [${numbered(16, (n) => `{ name: a${n}, values: [b] }`)}] } }`,
      jwt,
    ),
    /claims/,
  ],
  [
    'scopes are 16 at most',
    'SecurityPolicy',
    access(`principal: { jwt: { provider: p, scopes: [${numbered(17, (n) => `a${n}`)}] } }`, jwt),
    access(`principal: { jwt: { provider: p, scopes: [${numbered(16, (n) => `a${n}`)}] } }`, jwt),
    /scopes/,
  ],
  [
    'a scope is not empty',
    'SecurityPolicy',
    access('principal: { jwt: { provider: p, scopes: [""] } }', jwt),
    access('principal: { jwt: { provider: p, scopes: [a] } }', jwt),
    /scopes\[0\]/,
  ],
  [
    'values of a claim are 128 at most',
    'SecurityPolicy',
    access(
      `principal: { jwt: { provider: p, claims: [{ name: a, values: [${numbered(129, (n) => `v${n}`)}] }] } }`,
      jwt,
    ),
    access(
      `principal: { jwt: { provider: p, claims: [{ name: a, values: [${numbered(128, (n) => `v${n}`)}] }] } }`,
      jwt,
    ),
    /values/,
  ],
  [
    'methods are some',
    'SecurityPolicy',
    access('operation: { methods: [] }, principal: { clientCIDRs: [10.0.0.0/8] }'),
    access('operation: { methods: [GET] }, principal: { clientCIDRs: [10.0.0.0/8] }'),
    /methods/,
  ],
  [
    'methods are 16 at most',
    'SecurityPolicy',
    access(`operation: { methods: [${times(17, 'GET')}] }, principal: { clientCIDRs: [10.0.0.0/8] }`),
    access(`operation: { methods: [${times(16, 'GET')}] }, principal: { clientCIDRs: [10.0.0.0/8] }`),
    /methods/,
  ],
  [
    'blocks of addresses are some',
    'SecurityPolicy',
    access('principal: { clientCIDRs: [] }'),
    access('principal: { clientCIDRs: [10.0.0.0/8] }'),
    /clientCIDRs/,
  ],
  [
    'a block is an address and a length',
    'SecurityPolicy',
    access('principal: { clientCIDRs: [10.0.0.0] }'),
    access('principal: { clientCIDRs: ["fd00::/8"] }'),
    /clientCIDRs/,
  ],
  [
    'headers of a principal',
    'SecurityPolicy',
    access('principal: { headers: [] }'),
    access('principal: { headers: [{ name: x-a, values: [b] }] }'),
    /headers/,
  ],
  [
    'values of a header',
    'SecurityPolicy',
    access('principal: { headers: [{ name: x-a, values: [] }] }'),
    access('principal: { headers: [{ name: x-a, values: [b] }] }'),
    /values/,
  ],
  [
    'an origin',
    'SecurityPolicy',
    forRoute('cors: { allowOrigins: ["ftp://a.test"] }'),
    forRoute('cors: { allowOrigins: ["https://*.a.test:8443"] }'),
    /allowOrigins/,
  ],
  [
    'a duration',
    'SecurityPolicy',
    forRoute('cors: { allowOrigins: ["*"], maxAge: 1 hour }'),
    forRoute('cors: { allowOrigins: ["*"], maxAge: 1h30m }'),
    /maxAge/,
  ],
  ['an authorizer', 'SecurityPolicy', authorizer(''), authorizer(`http: { ${backend} }`), /extAuth/],
  [
    'one authorizer',
    'SecurityPolicy',
    authorizer(`grpc: { ${backend} }, http: { ${backend} }`),
    authorizer(`grpc: { ${backend} }`),
    /extAuth/,
  ],
  [
    'an authorizer has a backend',
    'SecurityPolicy',
    authorizer('grpc: {}'),
    authorizer(`grpc: { ${backend} }`),
    /extAuth\.grpc/,
  ],
  [
    'the kind of its backend',
    'SecurityPolicy',
    authorizer('grpc: { backendRefs: [{ kind: Pod, name: z, port: 80 }] }'),
    authorizer(`grpc: { ${backend} }`),
    /backendRefs\[0\]/,
  ],
  [
    'the group of its backend',
    'SecurityPolicy',
    authorizer('grpc: { backendRefs: [{ group: apps, name: z, port: 80 }] }'),
    authorizer(`grpc: { ${backend} }`),
    /backendRefs\[0\]/,
  ],
  [
    'the port of a Service',
    'SecurityPolicy',
    authorizer('grpc: { backendRefs: [{ name: z }] }'),
    authorizer(`grpc: { ${backend} }`),
    /port/,
  ],
  [
    'the range of a port',
    'SecurityPolicy',
    authorizer('grpc: { backendRefs: [{ name: z, port: 70000 }] }'),
    authorizer(`grpc: { ${backend} }`),
    /port/,
  ],
  [
    'providers are some',
    'SecurityPolicy',
    forRoute('jwt: { providers: [] }'),
    provider(`issuer: "https://i.test", ${remote}`),
    /providers/,
  ],
  [
    'providers are 4 at most',
    'SecurityPolicy',
    forRoute(`jwt: { providers: [${numbered(5, (n) => `{ name: p${n}, issuer: "https://i${n}.test", ${remote} }`)}] }`),
    forRoute(`jwt: { providers: [${numbered(4, (n) => `{ name: p${n}, issuer: "https://i${n}.test", ${remote} }`)}] }`),
    /providers/,
  ],
  [
    'a provider has keys',
    'SecurityPolicy',
    provider('issuer: "https://i.test"'),
    provider(`issuer: "https://i.test", ${remote}`),
    /JWKS/,
  ],
  [
    'a provider has one source of keys',
    'SecurityPolicy',
    provider(`issuer: "https://i.test", ${remote}, localJWKS: { type: Inline, inline: ${keys} }`),
    provider(`issuer: "https://i.test", localJWKS: { type: Inline, inline: ${keys} }`),
    /JWKS/,
  ],
  [
    'keys of their type',
    'SecurityPolicy',
    provider('issuer: "https://i.test", localJWKS: { type: Inline }'),
    provider(`issuer: "https://i.test", localJWKS: { type: Inline, inline: ${keys} }`),
    /localJWKS/,
  ],
  [
    'audiences are 8 at most',
    'SecurityPolicy',
    provider(`issuer: "https://i.test", ${remote}, audiences: [${numbered(9, (n) => `a${n}`)}]`),
    provider(`issuer: "https://i.test", ${remote}, audiences: [${numbered(8, (n) => `a${n}`)}]`),
    /audiences/,
  ],
  [
    'the length of an issuer',
    'SecurityPolicy',
    provider(`issuer: "https://i.test/${'a'.repeat(253)}", ${remote}`),
    provider(`issuer: "https://i.test/a", ${remote}`),
    /issuer/,
  ],
  [
    'the length of a URI',
    'SecurityPolicy',
    provider(`issuer: "https://i.test", remoteJWKS: { uri: "https://i.test/${'a'.repeat(253)}" }`),
    provider(`issuer: "https://i.test", ${remote}`),
    /uri/,
  ],
  [
    'the backend of keys',
    'SecurityPolicy',
    provider('issuer: "https://i.test", remoteJWKS: { uri: "https://i.test/keys", backendRef: { name: a, port: 80 } }'),
    provider(`issuer: "https://i.test", ${remote}`),
    /backendRef/,
  ],
  [
    'a recomputed route',
    'SecurityPolicy',
    provider(`issuer: "https://i.test", ${remote}, recomputeRoute: true`),
    provider(`issuer: "https://i.test", ${remote}, recomputeRoute: false`),
    /recomputeRoute/,
  ],
  ['a client ID', 'SecurityPolicy', oidc(''), oidc('clientID: e'), /clientID/],
  ['one client ID', 'SecurityPolicy', oidc('clientID: e, clientIDRef: { name: s }'), oidc('clientID: e'), /clientID/],
  ['a client ID is not empty', 'SecurityPolicy', oidc('clientID: ""'), oidc('clientID: e'), /clientID/],
  [
    'the domain of cookies',
    'SecurityPolicy',
    oidc('clientID: e, cookieDomain: .a.test'),
    oidc('clientID: e, cookieDomain: a.test'),
    /cookieDomain/,
  ],
  [
    'an issuer is not empty',
    'SecurityPolicy',
    oidc('clientID: e').replace('"https://o.test"', '""'),
    oidc('clientID: e'),
    /issuer/,
  ],
  [
    'the kind of a Secret',
    'SecurityPolicy',
    forRoute('apiKeyAuth: { credentialRefs: [{ kind: "1a", name: k }], extractFrom: [{ headers: [x-key] }] }'),
    forRoute('apiKeyAuth: { credentialRefs: [{ name: k }], extractFrom: [{ headers: [x-key] }] }'),
    /kind/,
  ],
  [
    'the namespace of a Secret',
    'SecurityPolicy',
    forRoute('apiKeyAuth: { credentialRefs: [{ namespace: A, name: k }], extractFrom: [{ headers: [x-key] }] }'),
    undefined,
    /namespace/,
  ],
];

const check = (text: string): string => forRoute(`healthCheck: { active: { ${text} } }`);
const balance = (text: string): string => forRoute(`loadBalancer: { ${text} }`);
const hash = (text: string): string => balance(`type: ConsistentHash, consistentHash: { ${text} }`);
const limit = (rule: string, part = 'local', type = 'Local'): string =>
  forRoute(`rateLimit: { type: ${type}, ${part}: { rules: [${rule}] } }`);
const perMinute = 'limit: { requests: 1, unit: Minute }';
const selected = (selector: string): string => limit(`{ clientSelectors: [${selector}], ${perMinute} }`);

const traffic: Row[] = [
  ...ofTargets('BackendTrafficPolicy', 'circuitBreaker: {}', target),
  [
    'compression and compressor',
    'BackendTrafficPolicy',
    forRoute('compression: [{ type: Gzip }], compressor: [{ type: Gzip }]'),
    forRoute('compression: [{ type: Gzip }]'),
    /compressor/,
  ],
  [
    'preconnect',
    'BackendTrafficPolicy',
    forRoute('connection: { preconnect: { predictivePercent: 150 } }'),
    undefined,
    /connection/,
  ],
  [
    'a circuit breaker counts up to 2^32',
    'BackendTrafficPolicy',
    forRoute('circuitBreaker: { maxConnections: 4294967296 }'),
    forRoute('circuitBreaker: { maxConnections: 4294967295 }'),
    /maxConnections/,
  ],
  [
    'a circuit breaker counts from 0',
    'BackendTrafficPolicy',
    forRoute('circuitBreaker: { maxPendingRequests: -1 }'),
    forRoute('circuitBreaker: { maxPendingRequests: 0 }'),
    /maxPendingRequests/,
  ],
  ['a check over HTTP', 'BackendTrafficPolicy', check('type: HTTP'), check('type: HTTP, http: { path: / }'), /http/],
  [
    'a check over TCP has no http',
    'BackendTrafficPolicy',
    check('type: TCP, tcp: {}, http: { path: / }'),
    check('type: TCP, tcp: {}'),
    /http/,
  ],
  ['a check over TCP has tcp', 'BackendTrafficPolicy', check('type: TCP'), check('type: TCP, tcp: {}'), /tcp/],
  [
    'a check over HTTP has no tcp',
    'BackendTrafficPolicy',
    check('type: HTTP, http: { path: / }, tcp: {}'),
    check('type: HTTP, http: { path: / }'),
    /tcp/,
  ],
  [
    'a check over gRPC',
    'BackendTrafficPolicy',
    check('type: HTTP, http: { path: / }, grpc: {}'),
    check('type: HTTP, http: { path: / }'),
    /grpc/,
  ],
  [
    'an expected response of text',
    'BackendTrafficPolicy',
    check('type: HTTP, http: { path: /, expectedResponse: { type: Text, binary: YQ== } }'),
    undefined,
    /expectedResponse/,
  ],
  [
    'an expected response of bytes',
    'BackendTrafficPolicy',
    check('type: HTTP, http: { path: /, expectedResponse: { type: Binary, text: a } }'),
    undefined,
    /expectedResponse/,
  ],
  [
    'healthy after one check',
    'BackendTrafficPolicy',
    check('type: TCP, tcp: {}, healthyThreshold: 0'),
    check('type: TCP, tcp: {}, healthyThreshold: 1'),
    /healthyThreshold/,
  ],
  [
    'unhealthy after one check',
    'BackendTrafficPolicy',
    check('type: TCP, tcp: {}, unhealthyThreshold: 0'),
    check('type: TCP, tcp: {}, unhealthyThreshold: 1'),
    /unhealthyThreshold/,
  ],
  [
    'expected statuses',
    'BackendTrafficPolicy',
    check('type: HTTP, http: { path: /, expectedStatuses: [600] }'),
    check('type: HTTP, http: { path: /, expectedStatuses: [599] }'),
    /expectedStatuses/,
  ],
  [
    'the host of a check',
    'BackendTrafficPolicy',
    check('type: HTTP, http: { path: /, hostname: A_b }'),
    check('type: HTTP, http: { path: /, hostname: a.test }'),
    /hostname/,
  ],
  [
    'the path of a check',
    'BackendTrafficPolicy',
    check('type: HTTP, http: { path: "" }'),
    check('type: HTTP, http: { path: /a }'),
    /path/,
  ],
  [
    'the time of a check',
    'BackendTrafficPolicy',
    check('type: TCP, tcp: {}, interval: 123456s'),
    check('type: TCP, tcp: {}, interval: 12345s'),
    /interval/,
  ],
  [
    'the threshold of panic',
    'BackendTrafficPolicy',
    forRoute('healthCheck: { panicThreshold: 101 }'),
    undefined,
    /panicThreshold/,
  ],
  [
    'the threshold of failures',
    'BackendTrafficPolicy',
    forRoute('healthCheck: { passive: { failurePercentageThreshold: 101 } }'),
    undefined,
    /failurePercentageThreshold/,
  ],
  [
    'consistent hashing',
    'BackendTrafficPolicy',
    balance('type: ConsistentHash'),
    hash('type: SourceIP'),
    /consistentHash/,
  ],
  [
    'no other kind has a hash',
    'BackendTrafficPolicy',
    balance('type: Random, consistentHash: { type: SourceIP }'),
    balance('type: Random'),
    /consistentHash/,
  ],
  ['slow start', 'BackendTrafficPolicy', balance('type: Random, slowStart: { window: 10s }'), undefined, /slowStart/],
  [
    'zones',
    'BackendTrafficPolicy',
    balance('type: ConsistentHash, consistentHash: { type: SourceIP }, zoneAware: {}'),
    undefined,
    /zoneAware/,
  ],
  [
    'a hash by header',
    'BackendTrafficPolicy',
    hash('type: Header'),
    hash('type: Header, header: { name: x-a }'),
    /header/,
  ],
  [
    'a hash by source has no header',
    'BackendTrafficPolicy',
    hash('type: SourceIP, header: { name: x-a }'),
    hash('type: SourceIP'),
    /header/,
  ],
  [
    'a hash by headers',
    'BackendTrafficPolicy',
    hash('type: Headers, header: { name: x-a }'),
    hash('type: Headers, headers: [{ name: x-a }]'),
    /header/,
  ],
  [
    'a hash by cookie',
    'BackendTrafficPolicy',
    hash('type: Cookie'),
    hash('type: Cookie, cookie: { name: a }'),
    /cookie/,
  ],
  [
    'a selector selects',
    'BackendTrafficPolicy',
    selected('{}'),
    selected('{ headers: [{ name: x-a, value: b }] }'),
    /selector/,
  ],
  [
    'selectors are 8 at most',
    'BackendTrafficPolicy',
    selected(times(9, '{ methods: [{ value: GET }] }')),
    selected(times(8, '{ methods: [{ value: GET }] }')),
    /clientSelectors/,
  ],
  [
    'headers of a selector are 16 at most',
    'BackendTrafficPolicy',
    selected(`{ headers: [${numbered(17, (n) => `{ name: x-${n}, value: b }`)}] }`),
    selected(`{ headers: [${numbered(16, (n) => `{ name: x-${n}, value: b }`)}] }`),
    /headers/,
  ],
  [
    'the length of a value',
    'BackendTrafficPolicy',
    selected(`{ headers: [{ name: x-a, value: ${'b'.repeat(1025)} }] }`),
    selected(`{ headers: [{ name: x-a, value: ${'b'.repeat(1024)} }] }`),
    /value/,
  ],
  [
    'the length of a name',
    'BackendTrafficPolicy',
    selected(`{ headers: [{ name: ${'b'.repeat(257)}, value: a }] }`),
    selected(`{ headers: [{ name: ${'b'.repeat(256)}, value: a }] }`),
    /name/,
  ],
  [
    'a block of sources',
    'BackendTrafficPolicy',
    selected('{ sourceCIDR: { value: "" } }'),
    selected('{ sourceCIDR: { value: 10.0.0.0/8 } }'),
    /sourceCIDR/,
  ],
  [
    'rules of one process are 16 at most',
    'BackendTrafficPolicy',
    limit(times(17, `{ ${perMinute} }`)),
    limit(times(16, `{ ${perMinute} }`)),
    /rules/,
  ],
  [
    'shared rules are 128 at most',
    'BackendTrafficPolicy',
    limit(times(129, `{ ${perMinute} }`), 'global', 'Global'),
    limit(times(128, `{ ${perMinute} }`), 'global', 'Global'),
    /rules/,
  ],
  [
    'one kind of cost',
    'BackendTrafficPolicy',
    limit(`{ ${perMinute}, cost: { request: { from: Number, number: 1, metadata: {} } } }`),
    limit(`{ ${perMinute}, cost: { request: { from: Number, number: 1 } } }`),
    /metadata/,
  ],
  [
    'no cost of responses',
    'BackendTrafficPolicy',
    limit(`{ ${perMinute}, cost: { response: { from: Number, number: 1 } } }`),
    limit(`{ ${perMinute} }`),
    /response/,
  ],
  [
    'retries are counted from 0',
    'BackendTrafficPolicy',
    forRoute('retry: { numRetries: -1 }'),
    forRoute('retry: { numRetries: 0 }'),
    /numRetries/,
  ],
  [
    'statuses of retries',
    'BackendTrafficPolicy',
    forRoute('retry: { retryOn: { triggers: [retriable-status-codes], httpStatusCodes: [99] } }'),
    forRoute('retry: { retryOn: { triggers: [retriable-status-codes], httpStatusCodes: [503] } }'),
    /httpStatusCodes/,
  ],
  [
    'the time of a request',
    'BackendTrafficPolicy',
    forRoute('timeout: { http: { requestTimeout: 1d } }'),
    forRoute('timeout: { http: { requestTimeout: 1h } }'),
    /requestTimeout/,
  ],
];

const validation = 'tls: { clientValidation: { caCertificateRefs: [{ name: a, kind: ConfigMap, group: "" }] } }';
const clients: Row[] = [
  ...ofTargets('ClientTrafficPolicy', validation, gateway),
  [
    'CAs are 8 at most',
    'ClientTrafficPolicy',
    forGateway(
      `tls: { clientValidation: { caCertificateRefs: [${numbered(9, (n) => `{ name: a${n}, kind: ConfigMap, group: "" }`)}] } }`,
    ),
    forGateway(
      `tls: { clientValidation: { caCertificateRefs: [${numbered(8, (n) => `{ name: a${n}, kind: ConfigMap, group: "" }`)}] } }`,
    ),
    /caCertificateRefs/,
  ],
  [
    'CRLs are some',
    'ClientTrafficPolicy',
    forGateway(validation.replace('] } }', '], crl: { refs: [] } } }')),
    forGateway(validation.replace('] } }', '], crl: { refs: [{ name: a }] } } }')),
    /crl\.refs/,
  ],
  [
    'versions of TLS',
    'ClientTrafficPolicy',
    forGateway(validation.replace('tls: {', 'tls: { minVersion: "1.3", maxVersion: "1.2",')),
    undefined,
    /minVersion/,
  ],
  [
    'ciphers of TLS 1.3',
    'ClientTrafficPolicy',
    forGateway(validation.replace('tls: {', 'tls: { minVersion: "1.3", ciphers: [a],')),
    undefined,
    /ciphers/,
  ],
  [
    'IDs of requests',
    'ClientTrafficPolicy',
    forGateway(`headers: { preserveXRequestID: true, requestID: Preserve }, ${validation}`),
    undefined,
    /headers/,
  ],
];

const selectors = (kind: string, more = ''): Row[] => [
  [
    'a star in a label key',
    kind,
    `{ selector: { matchLabels: { "a*": b } }${more} }`,
    `{ selector: { matchLabels: { a: b } }${more} }`,
    /matchLabels/,
  ],
  [
    'an empty label key',
    kind,
    `{ selector: { matchLabels: { "": b } }${more} }`,
    `{ selector: { matchLabels: { a: b } }${more} }`,
    /matchLabels/,
  ],
  [
    'a star in a label value',
    kind,
    `{ selector: { matchLabels: { a: "b*" } }${more} }`,
    `{ selector: { matchLabels: { a: b } }${more} }`,
    /matchLabels/,
  ],
  [
    'the length of a label value',
    kind,
    `{ selector: { matchLabels: { a: ${'b'.repeat(64)} } }${more} }`,
    `{ selector: { matchLabels: { a: ${'b'.repeat(63)} } }${more} }`,
    /matchLabels/,
  ],
];

const aTarget = '{ group: gateway.networking.k8s.io, kind: Gateway, name: g }';
const attached = (kind: string, more = ''): Row[] => [
  ...selectors(kind, more),
  [
    'selector or targets',
    kind,
    `{ selector: { matchLabels: { a: b } }, targetRefs: [${aTarget}]${more} }`,
    `{ selector: { matchLabels: { a: b } }${more} }`,
    /selector|targetRef/,
  ],
];

const rule = (source: string): string => `{ rules: [{ from: [{ source: { ${source} } }] }] }`;
const jwtRule = (text: string): string => `{ jwtRules: [{ issuer: i, ${text} }] }`;

const istio: Row[] = [
  ...attached('AuthorizationPolicy'),
  [
    'service accounts beside principals',
    'AuthorizationPolicy',
    rule('serviceAccounts: [a/b], principals: [c]'),
    rule('principals: [c]'),
    /serviceAccounts/,
  ],
  [
    'service accounts beside namespaces',
    'AuthorizationPolicy',
    rule('notServiceAccounts: [a/b], namespaces: [c]'),
    rule('namespaces: [c]'),
    /erviceAccounts/,
  ],
  [
    'service accounts are 16 at most',
    'AuthorizationPolicy',
    rule(`serviceAccounts: [${numbered(17, (n) => `a/b${n}`)}]`),
    rule(`serviceAccounts: [${numbered(16, (n) => `a/b${n}`)}]`),
    /serviceAccounts/,
  ],
  [
    'the length of a service account',
    'AuthorizationPolicy',
    rule(`serviceAccounts: [a/${'b'.repeat(319)}]`),
    rule('serviceAccounts: [a/b]'),
    /serviceAccounts/,
  ],
  [
    'rules are 512 at most',
    'AuthorizationPolicy',
    `{ rules: [${times(513, '{}')}] }`,
    `{ rules: [${times(512, '{}')}] }`,
    /rules/,
  ],
  [
    'sources are 512 at most',
    'AuthorizationPolicy',
    `{ rules: [{ from: [${times(513, '{ source: { principals: [a] } }')}] }] }`,
    `{ rules: [{ from: [${times(512, '{ source: { principals: [a] } }')}] }] }`,
    /from/,
  ],
  [
    'a condition has a key',
    'AuthorizationPolicy',
    '{ rules: [{ when: [{ values: [a] }] }] }',
    '{ rules: [{ when: [{ key: "request.headers[x]", values: [a] }] }] }',
    /key/,
  ],
  [
    'a target in another namespace',
    'AuthorizationPolicy',
    '{ targetRefs: [{ kind: Service, group: "", name: s, namespace: other }] }',
    '{ targetRefs: [{ kind: Service, group: "", name: s }] }',
    /namespace/,
  ],
  [
    'a target has a name',
    'AuthorizationPolicy',
    '{ targetRefs: [{ kind: Service, group: "", name: "" }] }',
    '{ targetRefs: [{ kind: Service, group: "", name: s }] }',
    /name/,
  ],
  [
    'targets are 16 at most',
    'AuthorizationPolicy',
    `{ targetRefs: [${numbered(17, (n) => `{ kind: Service, group: "", name: s${n} }`)}] }`,
    `{ targetRefs: [${numbered(16, (n) => `{ kind: Service, group: "", name: s${n} }`)}] }`,
    /targetRefs/,
  ],
  [
    'a provider is for CUSTOM',
    'AuthorizationPolicy',
    '{ action: DENY, provider: { name: a }, rules: [{}] }',
    '{ action: CUSTOM, provider: { name: a }, rules: [{}] }',
    /provider/,
  ],
  ...attached('RequestAuthentication'),
  [
    'one source of keys',
    'RequestAuthentication',
    jwtRule(`jwksUri: "https://a.test", jwks: ${keys}`),
    jwtRule('jwksUri: "https://a.test"'),
    /jwks/,
  ],
  [
    'the scheme of a URI of keys',
    'RequestAuthentication',
    jwtRule('jwksUri: "ftp://a.test"'),
    jwtRule('jwksUri: "http://a.test"'),
    /jwksUri|jwks_uri/,
  ],
  [
    'the length of a URI of keys',
    'RequestAuthentication',
    jwtRule(`jwksUri: "https://a.test/${'a'.repeat(2048)}"`),
    jwtRule('jwksUri: "https://a.test"'),
    /jwksUri/,
  ],
  [
    'an issuer is not empty',
    'RequestAuthentication',
    '{ jwtRules: [{ issuer: "" }] }',
    '{ jwtRules: [{ issuer: i }] }',
    /issuer/,
  ],
  [
    'an audience is not empty',
    'RequestAuthentication',
    jwtRule('audiences: [""]'),
    jwtRule('audiences: [a]'),
    /audiences/,
  ],
  [
    'a header of a token has a name',
    'RequestAuthentication',
    jwtRule('fromHeaders: [{ name: "" }]'),
    jwtRule('fromHeaders: [{ name: x-a }]'),
    /fromHeaders/,
  ],
  [
    'a parameter is not empty',
    'RequestAuthentication',
    jwtRule('fromParams: [""]'),
    jwtRule('fromParams: [a]'),
    /fromParams/,
  ],
  [
    'a cookie is not empty',
    'RequestAuthentication',
    jwtRule('fromCookies: [""]'),
    jwtRule('fromCookies: [a]'),
    /fromCookies/,
  ],
  [
    'a claim to a header needs both',
    'RequestAuthentication',
    jwtRule('outputClaimToHeaders: [{ header: x-a }]'),
    jwtRule('outputClaimToHeaders: [{ header: x-a, claim: b }]'),
    /claim/,
  ],
  [
    'the header of a claim',
    'RequestAuthentication',
    jwtRule('outputClaimToHeaders: [{ header: "x a", claim: b }]'),
    jwtRule('outputClaimToHeaders: [{ header: x_a, claim: b }]'),
    /header/,
  ],
  [
    'claims with spaces are 64 at most',
    'RequestAuthentication',
    jwtRule(`spaceDelimitedClaims: [${numbered(65, (n) => `c${n}`)}]`),
    jwtRule(`spaceDelimitedClaims: [${numbered(64, (n) => `c${n}`)}]`),
    /spaceDelimitedClaims/,
  ],
  ['the time for keys', 'RequestAuthentication', jwtRule('timeout: 0.1ms'), jwtRule('timeout: 5s'), /timeout/],
  [
    'rules are 4096 at most',
    'RequestAuthentication',
    `{ jwtRules: [${numbered(4097, (n) => `{ issuer: i${n} }`)}] }`,
    `{ jwtRules: [${numbered(4096, (n) => `{ issuer: i${n} }`)}] }`,
    /jwtRules/,
  ],
  ...selectors('PeerAuthentication'),
  [
    'ports of a workload',
    'PeerAuthentication',
    '{ portLevelMtls: { 80: { mode: STRICT } } }',
    '{ selector: { matchLabels: { a: b } }, portLevelMtls: { 80: { mode: STRICT } } }',
    /portLevelMtls/,
  ],
  [
    'the range of a port',
    'PeerAuthentication',
    '{ selector: { matchLabels: { a: b } }, portLevelMtls: { 65536: { mode: STRICT } } }',
    '{ selector: { matchLabels: { a: b } }, portLevelMtls: { 65535: { mode: STRICT } } }',
    /portLevelMtls/,
  ],
  ['a host', 'DestinationRule', '{ trafficPolicy: {} }', '{ host: a, trafficPolicy: {} }', /host/],
  ['a subset has a name', 'DestinationRule', '{ host: a, subsets: [{ labels: { v: "1" } }] }', undefined, /subsets/],
  [
    'one balancer',
    'DestinationRule',
    '{ host: a, trafficPolicy: { loadBalancer: { simple: RANDOM, consistentHash: { useSourceIp: true } } } }',
    '{ host: a, trafficPolicy: { loadBalancer: { simple: RANDOM } } }',
    /loadBalancer/,
  ],
  [
    'codes of outliers',
    'DestinationRule',
    '{ host: a, trafficPolicy: { outlierDetection: { outlierDetectionHttpErrorCodes: [600] } } }',
    undefined,
    /outlierDetection/,
  ],
  [
    'errors of outliers',
    'DestinationRule',
    '{ host: a, trafficPolicy: { outlierDetection: { consecutive5xxErrors: -1 } } }',
    '{ host: a, trafficPolicy: { outlierDetection: { consecutive5xxErrors: 1 } } }',
    /consecutive5xxErrors/,
  ],
  [
    'the life of an idle connection',
    'DestinationRule',
    '{ host: a, trafficPolicy: { connectionPool: { http: { idleTimeout: 0.1ms } } } }',
    '{ host: a, trafficPolicy: { connectionPool: { http: { idleTimeout: 1s } } } }',
    /idleTimeout/,
  ],
  [
    'a cookie has a name',
    'DestinationRule',
    '{ host: a, trafficPolicy: { loadBalancer: { consistentHash: { httpCookie: { ttl: 1s } } } } }',
    '{ host: a, trafficPolicy: { loadBalancer: { consistentHash: { httpCookie: { name: a, ttl: 1s } } } } }',
    /name/,
  ],
];

for (const [what, kind, bad, good, problem] of [...security, ...traffic, ...clients, ...istio])
  t.test(`${kind}: ${what}`, async (t) => {
    if (good !== undefined) t.strictSame(await problemsOf(kind, good), [], `accepted: ${good.slice(0, 200)}`);
    const found = await problemsOf(kind, bad);
    t.ok(
      found.some((one) => problem.test(one)),
      `refused: ${bad.slice(0, 200)}`,
      { found },
    );
  });
