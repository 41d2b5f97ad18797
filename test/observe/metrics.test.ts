// Istio's metrics, as a scrape reads them: the labels of each side, what is counted where, and the bound on peers.

import { type MetricValue, Registry } from 'prom-client';
import t from 'tap';
import { metricsText } from '../../cert-agent/base/metrics-text.ts';
import type { Exchange } from '../../sidecar/exchange/exchange.ts';
import { TrafficMetrics } from '../../sidecar/observe/metrics.ts';
import type { Workload } from '../../sidecar/policy/policy.ts';

const workload: Workload = {
  namespace: 'shop',
  serviceAccount: 'orders',
  labels: { app: 'orders-app', version: 'v2' },
};
const web = 'spiffe://demo.test/ns/front/sa/web';

function start(of: Workload = workload) {
  const registry = new Registry();
  const metrics = new TrafficMetrics(registry, 'demo.test', of, '1.2.3');
  return { registry, metrics };
}

/** All values of one metric, in the order of a scrape. */
async function read(registry: Registry, name: string): Promise<MetricValue<string>[]> {
  return (await registry.getSingleMetric(name)!.get()).values;
}

const only = (labels: Readonly<Record<string, unknown>>, ...names: string[]): unknown[] =>
  names.map((name) => labels[name]);

function ended(known: Partial<Exchange> = {}): Exchange {
  const plain = { status: 200, flag: '-', grpc: false, grpcStatus: -1, requestMessages: 0, replyMessages: 0 };
  return { ...plain, bytesReceived: 0, bytesSent: 0, ...known } as Exchange;
}

type Side = 'inbound' | 'outbound' | 'gateway';

const sides: [name: string, side: Side, principal: string | undefined, cluster: string | undefined, labels: object][] =
  [
    [
      'inbound, from a peer',
      'inbound',
      web,
      undefined,
      {
        ...{
          reporter: 'destination',
          source_workload: 'web',
          source_workload_namespace: 'front',
          source_principal: web,
        },
        ...{ source_app: 'unknown', source_canonical_service: 'web', source_canonical_revision: 'latest' },
        ...{ destination_workload: 'orders', destination_app: 'orders-app', destination_version: 'v2' },
        ...{
          destination_principal: 'spiffe://demo.test/ns/shop/sa/orders',
          destination_canonical_service: 'orders-app',
        },
        ...{ destination_service_name: 'orders-app', connection_security_policy: 'mutual_tls' },
      },
    ],
    [
      'inbound, in plain text',
      'inbound',
      undefined,
      undefined,
      {
        ...{ source_workload: 'unknown', source_principal: 'unknown', connection_security_policy: 'none' },
      },
    ],
    [
      'outbound',
      'outbound',
      web,
      undefined,
      {
        ...{
          reporter: 'source',
          source_workload: 'orders',
          source_canonical_revision: 'v2',
          destination_workload: 'web',
        },
        ...{ destination_principal: web, destination_service: 'web', destination_service_namespace: 'front' },
        connection_security_policy: 'unknown',
      },
    ],
    [
      'gateway, to a Service',
      'gateway',
      undefined,
      'outbound|80||api.back.svc.cluster.local',
      {
        ...{ reporter: 'source', source_workload: 'orders', destination_principal: 'unknown' },
        ...{ destination_service: 'api.back.svc.cluster.local', destination_service_name: 'api' },
        destination_service_namespace: 'back',
      },
    ],
  ];

for (const [name, side, principal, cluster, labels] of sides)
  t.test(`labels: ${name}`, async (t) => {
    const { registry, metrics } = start();
    metrics.countRequest(metrics.statsOf(side, principal, cluster), ended(), 1);
    const [value] = await read(registry, 'istio_requests_total');
    t.match(value, {
      value: 1,
      labels: { ...labels, response_code: '200', response_flags: '-', request_protocol: 'http' },
    });
  });

t.test('the name of a service comes from its labels', async (t) => {
  const rows: [labels: Record<string, string>, service: string][] = [
    [{ 'service.istio.io/canonical-name': 'a', 'app.kubernetes.io/name': 'b', app: 'c' }, 'a'],
    [{ 'app.kubernetes.io/name': 'b', app: 'c' }, 'b'],
    [{ app: 'c' }, 'c'],
    [{}, 'orders'],
  ];
  for (const [labels, service] of rows) {
    const { registry, metrics } = start({ ...workload, labels });
    metrics.countRequest(metrics.statsOf('inbound', web), ended(), 1);
    t.equal((await read(registry, 'istio_requests_total'))[0]!.labels['destination_canonical_service'], service);
  }
});

t.test('outcomes are counted by status, flag and gRPC status', async (t) => {
  const { registry, metrics } = start();
  const stats = metrics.statsOf('inbound', web);
  t.equal(metrics.statsOf('inbound', web), stats, 'a peer is looked up, not created again');
  for (const known of [
    ...[{}, {}, { status: 503, flag: 'UF' }, { status: 503, flag: 'UC' }, { grpc: true, grpcStatus: 7 }],
    ...[{ grpc: true }, { grpc: true, grpcStatus: 0, requestMessages: 3, replyMessages: 4 }],
  ])
    metrics.countRequest(stats, ended(known), 1);
  const values = await read(registry, 'istio_requests_total');
  t.strictSame(
    values.map(({ labels, value }) => [
      ...only(labels, 'response_code', 'response_flags', 'grpc_response_status'),
      value,
    ]),
    [
      ['200', '-', undefined, 2],
      ['503', 'UF', undefined, 1],
      ['503', 'UC', undefined, 1],
      ['200', '-', '7', 1],
      ['200', '-', 'unknown', 1],
      ['200', '-', '0', 1],
    ],
  );
  const messages = async (name: string) => (await read(registry, name)).map(({ value }) => value);
  t.strictSame(await messages('istio_request_messages_total'), [0, 0, 3], 'only for gRPC');
  t.strictSame(await messages('istio_response_messages_total'), [0, 0, 4]);
  t.strictSame(
    (await read(registry, 'istio_requests_total')).length,
    values.length,
    'a second scrape counts nothing twice',
  );
});

t.test('histograms: buckets are cumulative, and a bound belongs to its bucket', async (t) => {
  const { registry, metrics } = start();
  const stats = metrics.statsOf('inbound', web);
  for (const ms of [0.5, 0.6, 1, 4_000_000])
    metrics.countRequest(stats, ended({ bytesReceived: 10, bytesSent: 20 }), ms);
  const values = (await read(registry, 'istio_request_duration_milliseconds')) as (MetricValue<string> & {
    metricName: string;
  })[];
  const of = (le: unknown) => values.find(({ labels }) => labels['le'] === le)!.value;
  t.strictSame([0.5, 1, 5, 3_600_000, '+Inf'].map(of), [1, 3, 3, 3, 4]);
  const named = (end: string) => values.find(({ metricName }) => metricName.endsWith(end))!.value;
  t.strictSame([named('_sum'), named('_count')], [4_000_002.1, 4]);
  const sum = async (name: string) => (await registry.metrics()).match(new RegExp(`^${name}_sum{.*} (\\d+)$`, 'm'))![1];
  t.strictSame([await sum('istio_request_bytes'), await sum('istio_response_bytes')], ['40', '80']);
});

t.test('TCP: only peers with a connection are listed', async (t) => {
  const { registry, metrics } = start();
  metrics.statsOf('inbound', undefined);
  const stats = metrics.statsOf('inbound', web);
  stats.tcpOpened += 2;
  stats.tcpClosed += 1;
  stats.tcpSent += 30;
  stats.tcpReceived += 40;
  const names = ['connections_opened', 'connections_closed', 'sent_bytes', 'received_bytes'];
  const all = await Promise.all(names.map((name) => read(registry, `istio_tcp_${name}_total`)));
  t.strictSame(
    all.map((one) => one.map(({ value }) => value)),
    [[2], [1], [30], [40]],
  );
  t.match(all[0]![0]!.labels, { source_principal: web, request_protocol: 'tcp', response_flags: '-' });
});

t.test('peers beyond 300 are counted together', async (t) => {
  const { registry, metrics } = start();
  for (let i = 0; i < 300; i++) metrics.statsOf('inbound', `spiffe://demo.test/ns/a/sa/${i}`);
  const [one, other] = [metrics.statsOf('inbound', web), metrics.statsOf('inbound', `${web}2`)];
  t.equal(one, other);
  t.equal(metrics.statsOf('gateway', undefined, 'cluster').cluster, undefined, 'clusters are bounded too');
  t.equal(metrics.statsOf('inbound', 'spiffe://demo.test/ns/a/sa/5').principal, 'spiffe://demo.test/ns/a/sa/5');
  metrics.countRequest(one, ended(), 1);
  t.equal((await read(registry, 'istio_requests_total'))[0]!.labels['source_principal'], 'unknown');
});

t.test('other metrics are counted', async (t) => {
  const { registry, metrics } = start();
  for (let i = 0; i < 2; i++) {
    metrics.countHandshake('accepted', { version: 'TLSv1.3', cipher: 'a', group: 'x' });
    metrics.countToken('https://id.test', 'expired');
    metrics.countRefusedConnection('peer_unknown');
    metrics.countCut('policy_denied', 'websocket', 3);
  }
  metrics.countHandshake('dialed', { version: 'TLSv1.3', cipher: 'a', group: undefined });
  metrics.countCut('policy_denied', 'http', 1);
  metrics.shadow = () => new Map([['allow deny', 5]]);
  metrics.heldBytes = () => 77;
  metrics.logDropped = 8;
  metrics.jwks = () => [
    { issuer: 'a', keys: 2, ageMs: 1500, failed: 1 },
    { issuer: 'b', keys: 0, ageMs: null, failed: 4 },
  ];
  const rows: [name: string, values: [labels: object, value: number][]][] = [
    [
      'sallyport_tls_handshakes_total',
      [
        [{ side: 'accepted', version: 'TLSv1.3', cipher: 'a', group: 'x' }, 2],
        [{ side: 'dialed', version: 'TLSv1.3', cipher: 'a', group: 'unknown' }, 1],
      ],
    ],
    ['sallyport_jwt_verifications_total', [[{ issuer: 'https://id.test', outcome: 'expired' }, 2]]],
    ['sallyport_connections_refused_total', [[{ code: 'peer_unknown' }, 2]]],
    [
      'sallyport_exchanges_cut_total',
      [
        [{ code: 'policy_denied', kind: 'websocket' }, 6],
        [{ code: 'policy_denied', kind: 'http' }, 1],
      ],
    ],
    ['sallyport_shadow_decisions_total', [[{ decision: 'allow', shadow_decision: 'deny' }, 5]]],
    ['sallyport_held_bytes', [[{}, 77]]],
    ['sallyport_access_log_dropped_total', [[{}, 8]]],
    ['sallyport_jwks_age_seconds', [[{ issuer: 'a' }, 1.5]]],
    [
      'sallyport_jwks_keys',
      [
        [{ issuer: 'a' }, 2],
        [{ issuer: 'b' }, 0],
      ],
    ],
    [
      'sallyport_jwks_fetch_failures',
      [
        [{ issuer: 'a' }, 1],
        [{ issuer: 'b' }, 4],
      ],
    ],
    ['istio_build', [[{ component: 'proxy', tag: '1.2.3' }, 1]]],
  ];
  for (const [name, values] of rows)
    for (const scrape of [1, 2])
      t.strictSame(
        (await read(registry, name)).map(({ labels, value }) => [{ ...labels }, value]),
        values,
        `${name}, scrape ${scrape}`,
      );
});

t.test("the text is that of prom-client's, and is written in slices", async (t) => {
  const { registry, metrics } = start();
  metrics.heldBytes = () => 7;
  for (let i = 0; i < 5; i++)
    for (const known of [{}, { status: 503, flag: 'UF' }, { grpc: true, grpcStatus: 7 }])
      metrics.countRequest(metrics.statsOf('inbound', `${web}${i}`), ended({ bytesSent: 3, ...known }), 2.5);
  metrics.countToken('https://id.test/"quoted"\\\n', 'expired');
  metrics.statsOf('inbound', web).tcpOpened++;
  const lines = (text: string): string[] => text.split('\n').filter(Boolean).toSorted();
  t.strictSame(lines(String(await metricsText(registry))), lines(await registry.metrics()));

  // A clock on which each look is later than a slice may last.
  let time = 0;
  let turns = 0;
  let isDone = false;
  const count = (): void => {
    turns++;
    if (!isDone) setImmediate(count);
  };
  setImmediate(count);
  await metricsText(registry, () => (time += 10));
  isDone = true;
  t.ok(turns > 20, `${turns} turns of the event loop`);
});

t.test('statuses are counted as such from 100 to 599, gRPC statuses from 0 to 16', async (t) => {
  const { registry, metrics } = start();
  const stats = metrics.statsOf('inbound', web);
  for (const status of [0, 99, 100, 599, 600, 999, 1000, -1, 200.5, Number.NaN])
    metrics.countRequest(stats, ended({ status }), 1);
  for (const grpcStatus of [-1, 0, 16, 17, 99, 1.5, Number.NaN])
    metrics.countRequest(stats, ended({ grpc: true, grpcStatus }), 1);
  const values = await read(registry, 'istio_requests_total');
  t.strictSame(
    values.map(({ labels, value }) => [...only(labels, 'response_code', 'grpc_response_status'), value]),
    [
      ['0', undefined, 1],
      ['other', undefined, 7],
      ['100', undefined, 1],
      ['599', undefined, 1],
      ['200', 'unknown', 5],
      ['200', '0', 1],
      ['200', '16', 1],
    ],
  );
});

t.test('beyond 400 combinations of all peers, each counts under its classes, and then under unknown', async (t) => {
  const { registry, metrics } = start();
  const said: string[] = [];
  metrics.onFolded = (message) => said.push(message);
  const count = (i: number, known: Partial<Exchange>) =>
    metrics.countRequest(metrics.statsOf('inbound', `${web}${i}`), ended(known), 1);
  for (let i = 0; i < 200; i++) for (const status of [200, 403]) count(i, { status });
  t.equal(metrics.foldedRequests, 0);
  count(0, { status: 200 });
  t.equal(metrics.foldedRequests, 0, 'what is counted already stays');
  for (let i = 0; i < 200; i++) for (const status of [401, 503]) count(i, { status });
  t.equal(metrics.foldedRequests, 400);
  t.equal((await read(registry, 'istio_requests_total')).length, 800);
  for (let i = 200; i < 290; i++)
    for (const status of [200, 302, 404]) for (const grpc of [true, false]) count(i, { status, grpc });
  t.equal(said.length, 201, 'once for each peer, and once for all');
  const values = await read(registry, 'istio_requests_total');
  t.equal(values.length, 806);
  t.equal(
    values.reduce((sum, { value }) => sum + value, 0),
    801 + 540,
    'no request is lost',
  );
  const folded = values.filter(({ labels }) => labels['source_principal'] === 'unknown');
  t.strictSame(
    folded.map(({ labels, value }) => [labels['response_code'], value]),
    ['2xx', '2xx', '3xx', '3xx', '4xx', '4xx'].map((code) => [code, 90]),
  );
});
