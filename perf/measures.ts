// All measures, by their names on the command line.

import type { Bench } from './bench.ts';
import { measureDecisionUs } from './decision.ts';
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
