// The cost of recording a request: its access-log line and its metrics. Each is measured alone, on a finished exchange.

import type { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { Registry } from 'prom-client';
import { LiveCell } from '../cert-agent/base/live.ts';
import { writeRecord } from '../sidecar/access-log.ts';
import { Connection } from '../sidecar/connection.ts';
import type { Downstream } from '../sidecar/exchange/ends.ts';
import { Exchange, type PortRules } from '../sidecar/exchange/exchange.ts';
import { emptyFields } from '../sidecar/exchange/message.ts';
import { LogLine } from '../sidecar/observe/log-line.ts';
import { TrafficMetrics } from '../sidecar/observe/metrics.ts';

const times = 200_000;
const block = Buffer.alloc(4096);
const line = new LogLine();

/** Mean microseconds of each. */
export function measureRecordUs(): { readonly line: number; readonly metrics: number } {
  const rules = { generation: 1, direction: 'inbound', protocol: 'http' } as PortRules;
  const socket = new Duplex() as unknown as Socket;
  const connection = new Connection(socket, { key: 'perf', rules: new LiveCell(rules) });
  const exchange = new Exchange(connection, {} as Downstream, rules, emptyFields);
  Object.assign(exchange, {
    ...{ method: 'GET', path: '/v1/orders/7?full=1', authority: 'orders', minor: 2, status: 200, decision: 'allow' },
    ...{ requestId: crypto.randomUUID(), userAgent: 'perf/1', policy: 'ns[shop]-policy[callers]-rule[50]' },
    ...{ upstreamAddress: '127.0.0.1:8080', upstreamLocalAddress: '127.0.0.1:40000', details: 'via_upstream' },
  });
  const metrics = new TrafficMetrics(
    new Registry(),
    'perf.test',
    { namespace: 'shop', serviceAccount: 'orders', labels: {} },
    'perf',
  );
  const stats = metrics.statsOf('inbound', 'spiffe://perf.test/ns/shop/sa/client');
  return {
    // Copied into a block, as for the log file.
    line: mean((i) => {
      writeRecord(line.clear(), exchange, connection, i % 7);
      line.bytes.copy(block, 0, 0, line.length);
    }),
    metrics: mean((i) => metrics.countRequest(stats, exchange, i % 7)),
  };
}

function mean(run: (i: number) => unknown): number {
  for (let i = 0; i < times / 10; i++) run(i);
  const started = performance.now();
  for (let i = 0; i < times; i++) run(i);
  return ((performance.now() - started) * 1000) / times;
}
