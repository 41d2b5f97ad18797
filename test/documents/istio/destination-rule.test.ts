// DestinationRules as they are written: what is taken, what is refused and where, and whose upstream they are for.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { formatProblem, SallyportError } from '../../../cert-agent/base/errors.ts';
import { parseIstio } from '../../../sidecar/documents/istio/read.ts';
import { type DestinationRule, matchRules } from '../../../sidecar/upstream/destination-rule.ts';
import { exchangeBytes, readState, startBackend, startMesh } from '../../fixtures/mesh.ts';
import { until } from '../../fixtures/process.ts';

const head = 'apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: { name: r, namespace: shop }\n';
const read = (spec: string, start = head): DestinationRule =>
  parseIstio([{ file: 'r.yaml', text: `${start}spec: ${spec}\n` }]).destinationRules[0]!;
const problemsOf = (spec: string): string[] => {
  try {
    read(spec);
    return [];
  } catch (error) {
    if (!(error instanceof SallyportError)) throw error;
    return error.problems.map(formatProblem);
  }
};

t.test('everything that is evaluated', async (t) => {
  const rule = read(`
  host: Reviews
  exportTo: [".", other]
  trafficPolicy:
    tls: { mode: ISTIO_MUTUAL }
    loadBalancer: { simple: ROUND_ROBIN }
    connectionPool:
      tcp:
        maxConnections: 50
        connectTimeout: 30ms
        tcpKeepalive: { time: 7200s, interval: 75s, probes: 3 }
        maxConnectionDuration: 1h
        idleTimeout: 0s
      http:
        http1MaxPendingRequests: 25
        http2MaxRequests: 5
        maxRequestsPerConnection: 10
        maxRetries: 4
        idleTimeout: 60s
        h2UpgradePolicy: DO_NOT_UPGRADE
        maxConcurrentStreams: 8
    outlierDetection: { consecutiveGatewayErrors: 7, interval: 5m, baseEjectionTime: 15m, minHealthPercent: 30 }
    portLevelSettings:
      - port: { number: 8080 }
        loadBalancer: { simple: RANDOM }`);
  t.strictSame(rule, {
    ...{
      name: 'r',
      namespace: 'shop',
      createdAt: 0,
      host: 'reviews',
      exportTo: ['.', 'other'],
      file: 'r.yaml',
      line: 3,
    },
    traffic: {
      balance: { by: 'roundRobin' },
      connections: {
        ...{ maxConnections: 50, maxPending: 25, maxRequests: 5, maxRequestsPerConnection: 10 },
        ...{ maxStreamsPerConnection: 8, maxRetries: 4, connectMs: 30, idleMs: 60_000, tcpIdleMs: 0 },
        ...{
          maxConnectionMs: 3_600_000,
          keepAlive: { timeMs: 7_200_000, intervalMs: 75_000, probes: 3 },
          http2: false,
        },
      },
      outlier: {
        ...{ consecutive5xx: 5, consecutiveGateway: 7, intervalMs: 300_000, baseEjectionMs: 900_000 },
        maxEjectionPercent: 10,
      },
      panicPercent: 30,
    },
    ports: [{ port: 8080, traffic: { balance: { by: 'random' } } }],
  });
  t.ok(Object.isFrozen(rule) && Object.isFrozen(rule.traffic));
});

const balances: [string, object][] = [
  ['{ simple: LEAST_CONN }', { by: 'leastRequest' }],
  ['{ simple: UNSPECIFIED }', { by: 'leastRequest' }],
  ['{}', { by: 'leastRequest' }],
  ['{ consistentHash: { useSourceIp: true } }', { by: 'ringHash', hash: { sourceIp: true }, size: 1024 }],
  [
    '{ consistentHash: { httpHeaderName: X-User, maglev: {} } }',
    { by: 'maglev', hash: { headers: ['x-user'] }, size: 65_537 },
  ],
  [
    '{ consistentHash: { httpQueryParameterName: u, ringHash: { minimumRingSize: 10 } } }',
    { by: 'ringHash', hash: { query: 'u' }, size: 10 },
  ],
  [
    '{ consistentHash: { httpCookie: { name: user, ttl: 0s }, minimumRingSize: 2048 } }',
    { by: 'ringHash', hash: { cookie: 'user', path: undefined, ttlMs: 0 }, size: 2048 },
  ],
];
for (const [text, expected] of balances)
  t.test(`loadBalancer: ${text}`, async (t) =>
    t.same(read(`{ host: a, trafficPolicy: { loadBalancer: ${text} } }`).traffic.balance, expected),
  );

t.test('failures of ours counted apart', async (t) => {
  const of = (text: string) => read(`{ host: a, trafficPolicy: { outlierDetection: ${text} } }`).traffic.outlier;
  t.equal(of('{ consecutiveLocalOriginFailures: 3 }')!.consecutiveLocal, undefined, 'only where it is asked for');
  t.equal(of('{ splitExternalLocalOriginErrors: true }')!.consecutiveLocal, 5);
});

const policy = (text: string): string => `{ host: a, trafficPolicy: ${text} }`;
const wrong: [string, string, RegExp][] = [
  ['no host', '{}', /^r\.yaml:4:7: spec\.host: /],
  ['a host that is none', '{ host: "a b" }', /spec\.host: a host must be a name/],
  [
    'a key that is not there',
    policy('{ loadbalancer: {} }'),
    /unknown key 'loadbalancer' \(did you mean 'loadBalancer'\?\)/,
  ],
  ['subsets', '{ host: a, subsets: [{ name: v1 }] }', /subsets are not supported by this build/],
  ['a selector', '{ host: a, workloadSelector: { matchLabels: { app: x } } }', /'workloadSelector' is not supported/],
  ['TLS of its own', policy('{ tls: { mode: SIMPLE } }'), /only ISTIO_MUTUAL is supported/],
  ['no TLS', policy('{ tls: { mode: DISABLE } }'), /only ISTIO_MUTUAL is supported/],
  [
    'names of its own',
    policy('{ tls: { mode: ISTIO_MUTUAL, sni: x } }'),
    /spec\.trafficPolicy\.tls\.sni: with ISTIO_MUTUAL/,
  ],
  ['PASSTHROUGH', policy('{ loadBalancer: { simple: PASSTHROUGH } }'), /PASSTHROUGH is not supported/],
  [
    'locality',
    policy('{ loadBalancer: { localityLbSetting: {} } }'),
    /'localityLbSetting' is not supported by this build/,
  ],
  ['warm-up', policy('{ loadBalancer: { warmupDurationSecs: 10s } }'), /'warmupDurationSecs' is not supported/],
  [
    'two ways',
    policy('{ loadBalancer: { simple: RANDOM, consistentHash: { useSourceIp: true } } }'),
    /only one of 'simple'/,
  ],
  ['no key to hash', policy('{ loadBalancer: { consistentHash: {} } }'), /needs exactly one of 'httpHeaderName'/],
  [
    'two keys',
    policy('{ loadBalancer: { consistentHash: { useSourceIp: true, httpHeaderName: x } } }'),
    /needs exactly one/,
  ],
  [
    'no prime',
    policy('{ loadBalancer: { consistentHash: { useSourceIp: true, maglev: { tableSize: 100 } } } }'),
    /a prime/,
  ],
  ['a percentage', policy('{ outlierDetection: { maxEjectionPercent: 101 } }'), /a percentage is 0 to 100/],
  ['a time that is none', policy('{ outlierDetection: { interval: 0s } }'), /at least 1ms/],
  ['what is no more', policy('{ outlierDetection: { consecutiveErrors: 5 } }'), /use 'consecutiveGatewayErrors'/],
  [
    "the client's protocol",
    policy('{ connectionPool: { http: { useClientProtocol: true } } }'),
    /'useClientProtocol' is not supported/,
  ],
  [
    'a port twice',
    policy('{ portLevelSettings: [{ port: { number: 1 } }, { port: { number: 1 } }] }'),
    /port 1 is listed twice/,
  ],
  ['a tunnel', policy('{ tunnel: { targetHost: a, targetPort: 1 } }'), /'tunnel' is not supported/],
];
for (const [name, spec, expected] of wrong)
  t.test(`refused: ${name}`, async (t) => {
    const [problem, ...more] = problemsOf(spec);
    t.match(problem, expected);
    t.same(more, []);
  });

t.test('whose it is', async (t) => {
  let n = 0;
  const rule = (host: string, namespace = 'shop', more: Partial<DestinationRule> = {}): DestinationRule => ({
    ...{ name: `r${n++}`, namespace, host, createdAt: 0, exportTo: [], ports: [], file: 'f', line: 1 },
    ...{ traffic: { connections: { maxRequests: n } }, ...more },
  });
  const orders = { name: 'orders', hosts: ['orders.shop.svc', 'api.example.com:8443'], port: 15_006 };
  const scope = { namespace: 'shop', rootNamespace: 'istio-system' };
  const winner = (...rules: DestinationRule[]): number => {
    const { traffic, unused } = matchRules(rules, [orders], scope);
    const plan = traffic.get('orders');
    t.equal(unused.length, rules.length - (plan === undefined ? 0 : 1));
    return rules.findIndex((one) => one.traffic === plan || one.ports.some((at) => at.traffic === plan));
  };
  for (const host of [
    'orders',
    'orders.shop.svc',
    'orders.shop.svc.cluster.local',
    'api.example.com',
    '*.example.com',
    '*',
  ])
    t.equal(winner(rule(host)), 0, host);
  for (const host of ['order', 'orders.other.svc.cluster.local', 'example.com', '*.shop', 'api.example.com.evil'])
    t.equal(winner(rule(host)), -1, host);
  t.equal(winner(rule('orders.shop.svc.cluster.local', 'other')), 0, 'of another namespace, by the whole name');
  t.equal(winner(rule('*'), rule('*.example.com'), rule('*.com')), 1, 'the longest end');
  t.equal(winner(rule('*.example.com'), rule('orders')), 1, 'a name before a wildcard');
  t.equal(winner(rule('orders', 'istio-system'), rule('orders', 'other'), rule('orders')), 2, 'our namespace first');
  t.equal(winner(rule('orders', 'istio-system'), rule('orders', 'other')), 1, 'the root namespace last');
  t.equal(winner(rule('orders', 'shop', { createdAt: 2 }), rule('orders', 'shop', { createdAt: 1 })), 1, 'the older');
  t.equal(winner(rule('orders', 'other', { exportTo: ['.'] })), -1, 'not exported to us');
  t.equal(winner(rule('orders', 'other', { exportTo: ['shop'] })), 0);
  const ports = [{ port: 15_006, traffic: { balance: { by: 'random' as const } } }];
  t.same(matchRules([rule('orders', 'shop', { ports })], [orders], scope).traffic.get('orders'), ports[0]!.traffic);
  const { unused } = matchRules(
    [rule('orders'), rule('orders'), rule('x'), rule('orders', 'b', { exportTo: ['.'] })],
    [orders],
    scope,
  );
  t.same(
    unused.map(({ why }) => why.replace(/r\d+/, 'r')),
    ['shop/r takes precedence for the same host', 'no upstream has the host x', 'it is not exported to namespace shop'],
  );
});

t.test('in a running sidecar', async (t) => {
  const waiting: (() => void)[] = [];
  const backend = await startBackend(t, (socket) => {
    waiting.push(() => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'));
  });
  const mesh = await startMesh(t, { app: backend.port });
  // Both read their policies in one directory; what is for callers concerns only one of them.
  const text = readFileSync(join(mesh.dir, 'web.yaml'), 'utf8');
  const other = head.replace('name: r', 'name: lost');
  writeFileSync(
    join(mesh.dir, 'policies', 'rules.yaml'),
    `${head}spec: { host: orders, trafficPolicy: { connectionPool: { http: { http2MaxRequests: 1 } } } }\n---\n${other}spec: { host: nobody }\n`,
  );
  writeFileSync(join(mesh.dir, 'web.yaml'), `${text}policies: policies/\n`);
  mesh.outbound.reload();
  const lost = /^DestinationRule shop\/lost changes nothing here: no upstream has the host nobody$/;
  await until(async () => (await readState(mesh.outAdmin))['generation'] === 2, 'the rules to be in force');
  t.ok(
    mesh.lines.some(({ msg, code }) => code === 'destination_rule_unused' && lost.test(String(msg))),
    'a rule for an unknown host is reported',
  );
  const get = 'GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n';
  const first = exchangeBytes(mesh.outPort, get);
  await until(() => waiting.length === 1, 'the first request');
  t.match(await exchangeBytes(mesh.outPort, get), /^HTTP\/1\.1 503 [\s\S]*overloaded$/);
  const facts = await (await fetch(`http://127.0.0.1:${mesh.outAdmin}/upstreams`)).json();
  t.match(facts, [
    {
      ...{ name: 'http orders', pending: 0, waitingFor: null, ejections: 0, overflows: { requests: 1 } },
      endpoints: [{ address: `127.0.0.1:${mesh.inPort}`, inFlight: 1, ejectedUntil: null, healthy: null }],
    },
  ]);
  waiting[0]!();
  t.match(await first, /^HTTP\/1\.1 200 /);
  t.match((await mesh.records('web', 2))[0], { response_flags: 'UO', code: 'overloaded' });
});
