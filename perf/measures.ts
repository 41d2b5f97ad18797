// All measures, by their names on the command line.

import { join } from 'node:path';
import { type Bench, checkoutsOf } from './bench.ts';
import { measureDecisionUs } from './decision.ts';
import { measureLedger } from './ledger.ts';
import { bodies, edge, handshakes, http1, http2, tcp, websocket } from './measure-cpu.ts';
import { latency } from './measure-latency.ts';
import { heap, idleConnections, memory } from './measure-memory.ts';
import { measureRecordUs } from './record.ts';
import type { Row, Table } from './table.ts';

/** Measures one thing; may return several tables. */
export type Measure = (bench: Bench) => Promise<Table[]>;

export const measures: Readonly<Record<string, Measure>> = {
  memory,
  'http1-cpu': http1,
  'http2-cpu': http2,
  bodies,
  websocket,
  'handshake-cpu': handshakes,
  'tcp-cpu': tcp,
  'latency-added': latency,
  'idle-connections': idleConnections,
  heap,
  decision,
  record,
  ledger,
  edge,
};

async function decision({ progress }: Bench): Promise<Table[]> {
  progress.title('decision');
  const rows: Row[] = [];
  for (const rules of [100, 1000, 10_000])
    rows.push({ label: `${rules.toLocaleString('en')} rules`, figures: { ours: await measureDecisionUs(rules) } });
  return [{ name: 'decision', title: 'One decision; ten rules concern the peer', unit: 'us', rows }];
}

async function record({ progress }: Bench): Promise<Table[]> {
  progress.title('record');
  const { line, metrics } = measureRecordUs();
  const rows = [
    { label: 'access-log line', figures: { ours: line } },
    { label: 'metrics', figures: { ours: metrics } },
  ];
  const title = 'What access log and metrics cost a request, the garbage that they leave not counted';
  return [{ name: 'record', title, unit: 'us', rows }];
}

async function ledger(bench: Bench): Promise<Table[]> {
  const label = '1,000,000 records';
  const [seconds, peak]: [Record<string, number>, Record<string, number>] = [{}, {}];
  for (const { name, root } of checkoutsOf(bench)) {
    bench.progress.title(`ledger, ${name}`);
    const done = await measureLedger(join(bench.site.dir, `ledger-${name}`), root, 1_000_000);
    seconds[name] = done.seconds;
    peak[name] = done.peakMb;
  }
  return [
    {
      name: 'ledger',
      title: 'ca ledger verify, a signed head in every thousand',
      unit: 's',
      rows: [{ label, figures: seconds }],
    },
    {
      name: 'ledger-memory',
      title: 'ca ledger verify, most resident memory',
      unit: 'MB',
      rows: [{ label, figures: peak }],
    },
  ];
}
