// The metrics of several workers as one text.

import { Counter, Gauge, Registry } from 'prom-client';
import t from 'tap';
import { createRegistry } from '../../cert-agent/base/metrics.ts';
import type { Exchange } from '../../sidecar/exchange/exchange.ts';
import { packMetrics, sumMetrics } from '../../sidecar/observe/merge-metrics.ts';
import { TrafficMetrics } from '../../sidecar/observe/metrics.ts';

const workload = { namespace: 'shop', serviceAccount: 'orders', labels: {} };

function ended(status: number): Exchange {
  const plain = { flag: '-', grpc: false, requestMessages: 0, replyMessages: 0, bytesReceived: 3, bytesSent: 5 };
  return { ...plain, status, grpcStatus: -1 } as Exchange;
}

/** The registry of one worker, with `peers` callers. */
function worker(value: number, peers: number): Registry {
  const registry = createRegistry();
  const metrics = new TrafficMetrics(registry, 'demo.test', workload, '1.2.3');
  for (let i = 0; i < peers; i++)
    metrics.countRequest(metrics.statsOf('inbound', `spiffe://demo.test/ns/a/sa/${i}`), ended(200), 0.5);
  for (const aggregator of ['sum', 'first', 'min', 'max', 'average', 'omit'] as const)
    new Gauge({ name: `g_${aggregator}`, help: 'a "help" \\ of\ntwo lines', registers: [registry], aggregator }).set(
      value,
    );
  const counter = new Counter({ name: 'c', help: 'c', labelNames: ['of'], registers: [registry] });
  counter.inc({ of: 'all "of" \\ us\n# HELP c no' }, Number.isFinite(value) ? value : 5);
  counter.inc({ of: `${value}` });
  return registry;
}

async function merged(all: readonly Registry[], now?: () => number): Promise<string> {
  const packed = await Promise.all(all.map(async (one) => ({ metrics: await packMetrics(one) })));
  return String(await sumMetrics(packed, all[0]!, now));
}

t.test('each metric merges as it is defined', async (t) => {
  const text = await merged([worker(3, 2), worker(1, 3), worker(Number.POSITIVE_INFINITY, 1)]);
  const lines = text.split('\n');
  const shown = (series: string): string | undefined =>
    lines.find((line) => line.startsWith(`${series} `))?.slice(series.length + 1);
  t.strictSame(['g_sum', 'g_first', 'g_min', 'g_max', 'g_average', 'g_omit'].map(shown), [
    '+Inf',
    '3',
    '1',
    '+Inf',
    '+Inf',
    undefined,
  ]);
  t.equal(shown('c{of="all \\"of\\" \\\\ us\\n# HELP c no"}'), '9');
  t.strictSame([shown('c{of="3"}'), shown('c{of="1"}')], ['1', '1']);
  t.equal(shown('istio_build{component="proxy",tag="1.2.3"}'), '1');
  const requests = lines.filter((line) => line.startsWith('istio_requests_total{'));
  t.strictSame(
    requests.map((line) => line.slice(line.lastIndexOf(' ') + 1)),
    ['3', '2', '1'],
  );
  const sums = lines.filter((line) => line.startsWith('istio_response_bytes_sum{'));
  t.strictSame(
    sums.map((line) => line.slice(line.lastIndexOf(' ') + 1)),
    ['15', '10', '5'],
  );
  t.equal(lines.filter((line) => line === '# TYPE istio_requests_total counter').length, 1);
  t.equal(lines.filter((line) => line.startsWith('# HELP g_sum ')).length, 1);
});

t.test('one worker alone: its own text', async (t) => {
  const one = new Registry();
  new TrafficMetrics(one, 'demo.test', workload, '1');
  const sorted = (text: string): string[] => text.split('\n').filter(Boolean).toSorted();
  t.strictSame(sorted(await merged([one])), sorted(await one.metrics()));
});

t.test('it is merged in slices', async (t) => {
  const all = [worker(1, 20), worker(2, 20)];
  const packed = await Promise.all(all.map(async (one) => ({ metrics: await packMetrics(one) })));
  let time = 0;
  let turns = 0;
  let isDone = false;
  const count = (): void => {
    turns++;
    if (!isDone) setImmediate(count);
  };
  setImmediate(count);
  await sumMetrics(packed, all[0]!, () => (time += 10));
  isDone = true;
  // 20 peers have some 1300 lines: to be read twice, and written once. A slice has 32 here.
  t.ok(turns > 100, `${turns} turns of the event loop`);
});
