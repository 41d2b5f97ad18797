// Kinds 3, 4 and 10, the metrics: an app or a peer that makes up statuses gets a fixed number of series, of its own, and
// the others are counted as before.

import { Registry } from 'prom-client';
import t from 'tap';
import { metricsText } from '../../cert-agent/base/metrics-text.ts';
import type { Exchange } from '../../sidecar/exchange/exchange.ts';
import { TrafficMetrics } from '../../sidecar/observe/metrics.ts';

const workload = { namespace: 'shop', serviceAccount: 'orders', labels: {} };
const idOf = (name: string): string => `spiffe://demo.test/ns/shop/sa/${name}`;

function start() {
  const registry = new Registry();
  const metrics = new TrafficMetrics(registry, 'demo.test', workload, '1.2.3');
  const said: string[] = [];
  metrics.onFolded = (message) => said.push(message);
  return { registry, metrics, said };
}

function ended(status: number, grpcStatus?: number): Exchange {
  const plain = { flag: '-', requestMessages: 0, replyMessages: 0, bytesReceived: 0, bytesSent: 0 };
  return { ...plain, status, grpc: grpcStatus !== undefined, grpcStatus: grpcStatus ?? -1 } as Exchange;
}

/** `istio_requests_total` as [response code, gRPC status, count], of one caller. */
async function countsOf(registry: Registry, principal: string): Promise<[string, string | undefined, number][]> {
  const { values } = await registry.getSingleMetric('istio_requests_total')!.get();
  return values
    .filter(({ labels }) => labels['source_principal'] === principal)
    .map(({ labels, value }) => [String(labels['response_code']), labels['grpc_response_status'] as string, value]);
}

/** Every status with three digits, and many gRPC statuses. */
function flood(metrics: TrafficMetrics, principal: string | undefined): number {
  const stats = metrics.statsOf('inbound', principal);
  let count = 0;
  for (let status = 100; status < 1000; status++)
    for (let grpc = -1; grpc < 100; grpc += 4) {
      metrics.countRequest(stats, ended(status, grpc), 1);
      metrics.countRequest(stats, ended(status), 1);
      count += 2;
    }
  return count;
}

for (const [name, principal] of [
  ['a peer', idOf('evil')],
  ['callers without an identity', undefined],
] as const)
  t.test(`${name}: a fixed number of series, whatever the app returns`, async (t) => {
    const { registry, metrics, said } = start();
    const count = flood(metrics, principal);
    const counts = await countsOf(registry, principal ?? 'unknown');
    t.ok(counts.length <= 42, `${counts.length} combinations`);
    t.equal(
      counts.reduce((sum, [, , value]) => sum + value, 0),
      count,
      'no request is lost',
    );
    const known = /^(?:[1-5]\d\d|[1-5]xx|other)$/;
    t.strictSame(
      counts.filter(([code]) => !known.test(code)),
      [],
    );
    t.strictSame(
      counts.filter(([, grpc]) => grpc !== undefined && grpc !== 'unknown' && Number(grpc) > 16),
      [],
    );
    t.ok(metrics.foldedRequests > count / 2, 'the counter says how many');
    t.equal(said.length, 1, 'the log says so once');
    t.ok((await metricsText(registry)).length < 5_000_000);
  });

t.test('each peer has its own share', async (t) => {
  const { registry, metrics, said } = start();
  for (let i = 0; i < 8; i++) flood(metrics, idOf(`evil${i}`));
  flood(metrics, undefined);
  for (const status of [200, 403, 503]) metrics.countRequest(metrics.statsOf('inbound', idOf('web')), ended(status), 1);
  t.strictSame(await countsOf(registry, idOf('web')), [
    ['200', undefined, 1],
    ['403', undefined, 1],
    ['503', undefined, 1],
  ]);
  t.equal(said.length, 9);
});

t.test('many peers together leave the others their classes', async (t) => {
  const { registry, metrics } = start();
  for (let i = 0; i < 20; i++) flood(metrics, idOf(`evil${i}`));
  for (const status of [200, 403, 503]) metrics.countRequest(metrics.statsOf('inbound', idOf('web')), ended(status), 1);
  t.strictSame(await countsOf(registry, idOf('web')), [
    ['2xx', undefined, 1],
    ['4xx', undefined, 1],
    ['5xx', undefined, 1],
  ]);
});

t.test('at a gateway each upstream cluster has its own share', async (t) => {
  const { registry, metrics } = start();
  const [evil, web] = ['evil', 'web'].map((name) =>
    metrics.statsOf('gateway', undefined, `outbound|80||${name}.shop.svc.cluster.local`),
  ) as [ReturnType<typeof metrics.statsOf>, ReturnType<typeof metrics.statsOf>];
  for (let status = 100; status < 1000; status++) metrics.countRequest(evil, ended(status), 1);
  metrics.countRequest(web, ended(201), 1);
  const { values } = await registry.getSingleMetric('istio_requests_total')!.get();
  const of = (name: string) => values.filter(({ labels }) => labels['destination_service_name'] === name);
  t.ok(of('evil').length <= 42);
  t.strictSame(
    of('web').map(({ labels }) => labels['response_code']),
    ['201'],
  );
});
