// BackendTrafficPolicy: what it says as plain data, with Envoy Gateway's defaults, and what is refused, with its place.

import t from 'tap';
import { formatProblem } from '../../../cert-agent/base/errors.ts';
import { parseYaml } from '../../../cert-agent/base/yaml.ts';
import type { BackendTrafficPolicy } from '../../../sidecar/documents/envoy-gateway/backend-traffic-policy.ts';
import {
  isBackendTrafficPolicy,
  readBackendTrafficPolicy,
} from '../../../sidecar/documents/envoy-gateway/backend-traffic-policy.ts';
import type { RateLimitPlan } from '../../../sidecar/edge/rate-limit/schema.ts';

const route = 'targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: web }]';

function read(spec: string, version = 'v1alpha1') {
  const text = `apiVersion: gateway.envoyproxy.io/${version}\nkind: BackendTrafficPolicy\nmetadata: { name: web, namespace: shop }\nspec: ${spec}\n`;
  const { documents, problems } = parseYaml(text, 'x.yaml');
  t.strictSame(problems, [], text);
  return readBackendTrafficPolicy(documents[0]!, 'x.yaml');
}

function policyOf(spec: string): BackendTrafficPolicy {
  const one = read(`{ ${route}, ${spec} }`);
  if ('problems' in one) throw new Error(one.problems.map(formatProblem).join('\n'));
  return one.value;
}

t.test('names, targets and place', async (t) => {
  const one = read(
    '{ targetRef: { group: gateway.networking.k8s.io, kind: Gateway, name: edge, sectionName: https }, compression: [{ type: Gzip, gzip: {} }, { type: Brotli }] }',
  );
  t.strictSame('value' in one && one.value, {
    ...{ name: 'web', namespace: 'shop', file: 'x.yaml', line: 3 },
    targets: [{ group: 'gateway.networking.k8s.io', kind: 'Gateway', name: 'edge', sectionName: 'https' }],
    compression: ['gzip', 'br'],
  });
  t.equal(isBackendTrafficPolicy('BackendTrafficPolicy', 'gateway.envoyproxy.io/v1alpha1'), true);
  t.equal(isBackendTrafficPolicy('BackendTrafficPolicy', 'gateway.networking.k8s.io/v1'), false);
});

t.test('limits, local and shared, with all that a selector may say', async (t) => {
  const { rateLimit } = policyOf(`
    rateLimit: {
      local: { rules: [
        { limit: { requests: 100, unit: Second } },
        { clientSelectors: [
            { headers: [{ name: X-User, type: Distinct }, { name: x-user, value: admin, invert: true }],
              methods: [{ value: GET }], path: { value: /api }, queryParams: [{ name: Key, type: Distinct }],
              sourceCIDR: { type: Distinct, value: 10.0.0.0/8 } },
            { jwtClaims: [{ name: sub, type: Distinct }], clientId: { type: Distinct }, principal: { value: "spiffe://demo.test/a" } } ],
          limit: { requests: 5, unit: Minute }, burst: 2, cost: { request: { from: Number, number: 3 } } } ] },
      global: { rules: [{ limit: { requests: 0, unit: Day }, shared: true }] } }`) as unknown as {
    readonly rateLimit: RateLimitPlan;
  };
  const plain = { selectors: [], burst: 0, cost: 1, acrossRoutes: false };
  t.strictSame(rateLimit, {
    rules: [
      { id: 'local rule 1', scope: 'local', requests: 100, periodMs: 1000, ...plain },
      {
        ...{ id: 'local rule 2', scope: 'local', requests: 5, periodMs: 60_000, burst: 2, cost: 3 },
        acrossRoutes: false,
        selectors: [
          {
            headers: [
              { name: 'x-user', type: 'Distinct', invert: false, value: '' },
              { name: 'x-user', type: 'Exact', value: 'admin', invert: true },
            ],
            queryParams: [{ name: 'Key', type: 'Distinct', invert: false, value: '' }],
            jwtClaims: [],
            methods: [{ value: 'GET', invert: false }],
            path: { type: 'PathPrefix', value: '/api', invert: false },
            sourceCIDR: { type: 'Distinct', value: '10.0.0.0/8' },
          },
          {
            ...{ headers: [], queryParams: [], methods: [] },
            jwtClaims: [{ name: 'sub', type: 'Distinct', value: '', invert: false }],
            clientId: { type: 'Distinct', value: '' },
            principal: { type: 'Exact', value: 'spiffe://demo.test/a' },
          },
        ],
      },
      {
        id: 'global rule 1',
        scope: 'shared',
        requests: 0,
        periodMs: 86_400_000,
        ...plain,
        acrossRoutes: true,
      },
    ],
  });
  t.equal(JSON.stringify(structuredClone(rateLimit)), JSON.stringify(rateLimit), 'plain data');
});

const values: [string, Readonly<Record<string, unknown>>][] = [
  [
    'retry: {}',
    {
      retry: {
        numRetries: 2,
        triggers: ['connect-failure', 'refused-stream', 'unavailable', 'cancelled', 'retriable-status-codes'],
        statusCodes: [503],
      },
    },
  ],
  [
    'retry: { numRetries: 5, retryOn: { triggers: [5xx, retriable-status-codes], httpStatusCodes: [429, 503] }, perRetry: { timeout: 250ms, backOff: { baseInterval: 100ms } } }',
    {
      retry: {
        ...{ numRetries: 5, triggers: ['5xx', 'retriable-status-codes'], statusCodes: [429, 503] },
        ...{ perTryTimeoutMs: 250, backOff: { baseMs: 100, maxMs: 1000 } },
      },
    },
  ],
  ['retry: { retryOn: { triggers: [reset] } }', { retry: { numRetries: 2, triggers: ['reset'], statusCodes: [] } }],
  [
    'timeout: { tcp: { connectTimeout: 2s }, http: { requestTimeout: 0s, connectionIdleTimeout: 1h } }',
    { timeout: { connectMs: 2000, requestMs: 0, connectionIdleMs: 3_600_000 } },
  ],
  ['loadBalancer: { type: LeastRequest }', { loadBalancer: { type: 'LeastRequest' } }],
  [
    'loadBalancer: { type: ConsistentHash, consistentHash: { type: SourceIP } }',
    { loadBalancer: { type: 'ConsistentHash', consistentHash: { type: 'SourceIP' } } },
  ],
  [
    'loadBalancer: { type: ConsistentHash, consistentHash: { type: Header, header: { name: X-User } } }',
    { loadBalancer: { type: 'ConsistentHash', consistentHash: { type: 'Header', names: ['x-user'] } } },
  ],
  [
    'loadBalancer: { type: ConsistentHash, consistentHash: { type: Headers, headers: [{ name: A }, { name: b }] } }',
    { loadBalancer: { type: 'ConsistentHash', consistentHash: { type: 'Header', names: ['a', 'b'] } } },
  ],
  [
    'loadBalancer: { type: ConsistentHash, consistentHash: { type: Cookie, cookie: { name: FomoCookie, ttl: 1h } } }',
    {
      loadBalancer: {
        type: 'ConsistentHash',
        consistentHash: { type: 'Cookie', name: 'FomoCookie', ttlMs: 3_600_000 },
      },
    },
  ],
  [
    'circuitBreaker: { maxParallelRequests: 10 }',
    {
      circuitBreaker: {
        ...{ maxConnections: 1024, maxPendingRequests: 1024, maxParallelRequests: 10, maxParallelRetries: 1024 },
      },
    },
  ],
  [
    'healthCheck: { active: { type: HTTP, http: { path: /healthz } }, passive: {} }',
    {
      healthCheck: {
        active: {
          type: 'HTTP',
          http: { path: '/healthz', method: 'GET', expectedStatuses: [200] },
          ...{ intervalMs: 3000, timeoutMs: 1000, unhealthyThreshold: 3, healthyThreshold: 1 },
        },
        passive: {
          ...{ consecutive5xxErrors: 5, consecutiveGatewayErrors: 0, intervalMs: 3000, baseEjectionMs: 30_000 },
          maxEjectionPercent: 10,
        },
      },
    },
  ],
  [
    'healthCheck: { active: { type: TCP, tcp: {}, interval: 1s } }',
    {
      healthCheck: {
        active: { type: 'TCP', intervalMs: 1000, timeoutMs: 1000, unhealthyThreshold: 3, healthyThreshold: 1 },
      },
    },
  ],
  ['requestBuffer: { limit: 10Mi }', { requestBuffer: { limitBytes: 10_485_760 } }],
  ['requestBuffer: { limit: 500k }', { requestBuffer: { limitBytes: 500_000 } }],
  ['requestBuffer: { limit: 4096 }', { requestBuffer: { limitBytes: 4096 } }],
];

for (const [spec, expected] of values)
  t.test(spec, async (t) => {
    const [[field, value]] = Object.entries(expected) as [[keyof BackendTrafficPolicy, unknown]];
    t.strictSame(policyOf(spec)[field], value);
  });

const local = (rule: string): string => `{ ${route}, rateLimit: { local: { rules: [{ ${rule} }] } } }`;
const limit = 'limit: { requests: 1, unit: Second }';
const selecting = (selector: string): string => local(`${limit}, clientSelectors: [{ ${selector} }]`);
const hash = (text: string): string =>
  `{ ${route}, loadBalancer: { type: ConsistentHash, consistentHash: { ${text} } } }`;
const active = (text: string): string => `{ ${route}, healthCheck: { active: { ${text} } } }`;

const bad: [spec: string, expected: RegExp][] = [
  ['{}', /needs 'targetRefs'/],
  [
    `{ targetRef: { group: gateway.networking.k8s.io, kind: Gateway, name: a }, ${route} }`,
    /needs 'targetRefs', or the one/,
  ],
  ['{ targetRefs: [{ group: "", kind: Service, name: a }] }', /group gateway\.networking\.k8s\.io/],
  ['{ targetRefs: [{ group: gateway.networking.k8s.io, kind: UDPRoute, name: a }] }', /targetRefs\[0\]\.kind/],
  [
    `{ targetRefs: [{ group: gateway.networking.k8s.io, kind: TCPRoute, name: a }], rateLimit: { local: { rules: [{ ${limit} }] } } }`,
    /'rateLimit' is about requests, and a TCPRoute has none/,
  ],
  [`{ ${route}, mergeType: Replace }`, /'mergeType' is StrategicMerge or JSONMerge/],
  [`{ ${route}, faultInjection: {} }`, /does not evaluate 'faultInjection'/],
  [`{ ${route}, ratelimit: {} }`, /unknown key 'ratelimit' \(did you mean 'rateLimit'\?\)/],
  [`{ ${route}, rateLimit: {} }`, /needs 'local' or 'global'/],
  [`{ ${route}, rateLimit: { type: Global, local: { rules: [{ ${limit} }] } } }`, /'local' is not for type Global/],
  [`{ ${route}, rateLimit: { type: Local, local: { rules: [] } } }`, /rules/],
  [local('limit: { requests: 1, unit: Month }'), /unit/],
  [local('limit: { requests: -1, unit: Day }'), /requests/],
  [local('limit: { requests: 1.5, unit: Day }'), /requests/],
  [local(`${limit}, shadowMode: true`), /does not evaluate 'shadowMode'/],
  [local(`${limit}, cost: { response: { from: Number } }`), /does not evaluate 'cost\.response'/],
  [local(`${limit}, cost: { request: { from: Metadata, metadata: {} } }`), /only 'Number' is evaluated/],
  [local(`${limit}, cost: { request: { from: Number, number: 0 } }`), /number/],
  [local(`${limit}, cost: { request: { from: Number, number: 2 } }`), /none would ever pass/],
  [local('limit: { requests: 0, unit: Day }, burst: 1'), /'burst' needs requests > 0/],
  [selecting(''), /selects everything: leave it out/],
  [selecting('headers: []'), /selects everything: leave it out/],
  [selecting('headers: [{ name: a }]'), /type Exact needs a 'value'/],
  [selecting('headers: [{ name: a, type: Distinct, value: b }]'), /Distinct means any value/],
  [selecting('headers: [{ name: a, type: Distinct, invert: true }]'), /Distinct cannot be inverted/],
  [selecting('headers: [{ name: "a b", value: c }]'), /not a valid header name/],
  [selecting('headers: [{ name: a, type: RegularExpression, value: "(" }]'), /not a valid RE2 regular expression/],
  [selecting('path: { type: RegularExpression, value: "(?=a)" }'), /not a valid RE2 regular expression/],
  [selecting('path: { value: api }'), /a path begins with \//],
  [selecting('methods: [{ value: get }]'), /methods/],
  [selecting('sourceCIDR: { value: 10.0.0.0/33 }'), /'10\.0\.0\.0\/33' is not an address or a block/],
  [selecting('jwtClaims: [{ name: sub, type: RegularExpression, value: a }]'), /jwtClaims/],
  [selecting('clientId: {}'), /type Exact needs a 'value'/],
  [
    `{ ${route}, retry: { retryOn: { triggers: [5xx], httpStatusCodes: [503] } } }`,
    /need the trigger 'retriable-status-codes'/,
  ],
  [`{ ${route}, retry: { retryOn: { triggers: [6xx] } } }`, /triggers/],
  [
    `{ ${route}, retry: { perRetry: { backOff: { baseInterval: 1s, maxInterval: 100ms } } } }`,
    /shorter than baseInterval/,
  ],
  [`{ ${route}, timeout: { http: { requestTimeout: 10 } } }`, /requestTimeout/],
  [`{ ${route}, timeout: { http: { maxConnectionDuration: 1h } } }`, /does not evaluate 'maxConnectionDuration'/],
  [`{ ${route}, loadBalancer: { type: ConsistentHash } }`, /needs 'consistentHash'/],
  [`{ ${route}, loadBalancer: { type: Random, slowStart: { window: 1s } } }`, /does not evaluate 'slowStart'/],
  [hash('type: Header'), /type Header needs 'header'/],
  [hash('type: SourceIP, cookie: { name: a }'), /'cookie' is not for type SourceIP/],
  [`{ ${route}, circuitBreaker: { maxConnections: -1 } }`, /maxConnections/],
  [active('type: GRPC'), /makes HTTP and TCP checks only/],
  [active('type: HTTP'), /type HTTP needs 'http'/],
  [active('type: HTTP, http: { path: healthz }'), /a path begins with \//],
  [active('type: HTTP, http: { path: "/a b" }'), /holds no spaces/],
  [active('type: TCP, tcp: { send: {} }'), /does not evaluate 'send'/],
  [active('type: TCP, interval: 0s'), /'interval' must be longer than 0/],
  [`{ ${route}, healthCheck: {} }`, /needs 'active' or 'passive'/],
  [`{ ${route}, compression: [{ type: Zstd }] }`, /compression\[0\]\.type/],
  [`{ ${route}, compression: [{ type: Gzip }, { type: Gzip }] }`, /Gzip is listed twice/],
  [`{ ${route}, compression: [{ type: Gzip, gzip: { compressionLevel: 9 } }] }`, /unknown key 'compressionLevel'/],
  [`{ ${route}, requestBuffer: { limit: 0 } }`, /'0' is not a size/],
  [`{ ${route}, requestBuffer: { limit: 3Gi } }`, /'3Gi' is not a size up to 2Gi/],
  [`{ ${route}, concurrency: { maxInFlight: 0 } }`, /concurrency\.maxInFlight/],
  [`{ ${route}, concurrency: { maxInFlight: 1, per: Gateway } }`, /concurrency\.per/],
];

for (const [spec, expected] of bad)
  t.test(`refused: ${spec.slice(0, 160)}`, async (t) => {
    const one = read(spec);
    if (!('problems' in one)) return t.fail('it was taken');
    t.match(formatProblem(one.problems[0]!), expected);
    t.match(formatProblem(one.problems[0]!), /^x\.yaml:\d+:\d+: /);
  });

t.test('requests in flight: our own addition', async (t) => {
  t.match(read(`{ ${route}, concurrency: { maxInFlight: 5 } }`), {
    value: { concurrency: { maxInFlight: 5, per: 'route' } },
  });
  t.match(read(`{ ${route}, concurrency: { maxInFlight: 1, per: Client } }`), {
    value: { concurrency: { maxInFlight: 1, per: 'client' } },
  });
});

t.test('what a refused policy was to protect can still be told', async (t) => {
  const one = read(`{ ${route}, mergeType: x }`);
  t.match(one, { targets: [{ kind: 'HTTPRoute', name: 'web' }], problems: [{ line: 4 }] });
  t.notOk('targets' in read('{ targetRefs: [{ kind: HTTPRoute }] }'));
  t.match(read(`{ ${route} }`, 'v1beta1'), { problems: [{ message: /apiVersion/ }], targets: [{ name: 'web' }] });
});
