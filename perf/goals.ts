// Our performance goals, and the last table of a run, which shows the goals that were met.

import { formatRatio, type Row, ratioOf, round, type Table } from './table.ts';

/** The maximum of ours / peer, or of ours if there is no peer. */
export interface Goal {
  readonly table: string;
  /** Undefined: all rows of the table. */
  readonly label?: string;
  readonly peer?: string;
  readonly most: number;
}

const goals: readonly Goal[] = [
  { table: 'heap', most: 3000 },
  { table: 'http1-cpu', label: '1 in flight', peer: 'nginx', most: 1.3 },
  { table: 'http1-cpu', label: '8 in flight', peer: 'nginx', most: 1 },
  { table: 'http1-cpu', label: '32 in flight', peer: 'nginx', most: 0.8 },
  { table: 'http1-cpu', label: '256 in flight', peer: 'nginx', most: 0.65 },
  { table: 'http1-cpu', label: '1 in flight', peer: 'envoy', most: 0.6 },
  { table: 'http1-cpu', label: '32 in flight', peer: 'envoy', most: 0.4 },
  { table: 'http2-cpu', peer: 'haproxy', most: 1.1 },
  { table: 'http2-cpu', label: 'gRPC, unary', peer: 'envoy', most: 0.4 },
  { table: 'bodies', label: '1 MB', peer: 'nginx', most: 1.1 },
  { table: 'websocket', peer: 'nginx', most: 1.2 },
  { table: 'handshake-cpu', peer: 'nginx', most: 1 },
  { table: 'tcp-cpu', peer: 'haproxy', most: 1 },
  { table: 'latency-added', label: 'p50', peer: 'nginx', most: 1.2 },
  { table: 'latency-added', label: 'p99', peer: 'nginx', most: 1.2 },
  { table: 'memory', label: 'idle, private', most: 30 },
  { table: 'memory', label: 'after the load', most: 115 },
  { table: 'memory', label: 'after the load, private', most: 62 },
  { table: 'idle-connections', label: 'over bare node:tls', most: 12 },
  { table: 'decision', label: '10,000 rules', most: 1 },
  { table: 'ledger', label: '1,000,000 records', most: 30 },
  { table: 'edge-cpu', label: '1,000 routes', peer: 'nginx', most: 1.4 },
  { table: 'edge-cpu', label: '1,000 routes, HTTP/2: 32 streams on 4 connections', peer: 'nginx', most: 1.1 },
];

/** A goal and its result in one row. */
export interface Verdict {
  readonly row: string;
  readonly goal: string;
  readonly ours: string;
  readonly verdict: 'held' | 'missed';
  readonly noisy: boolean;
}

/** The goals of the rows that were measured. */
export function verdictsOf(tables: readonly Table[]): Verdict[] {
  return goals.flatMap((goal) =>
    tables
      .filter(({ name }) => name === goal.table)
      .flatMap((table) =>
        table.rows
          .filter(({ label }) => goal.label === undefined || goal.label === label)
          .flatMap((row) => verdictIn(goal, table, row)),
      ),
  );
}

function verdictIn({ peer, most }: Goal, { name, unit }: Table, row: Row): Verdict[] {
  const value = peer === undefined ? row.figures['ours'] : ratioOf(row, peer);
  if (value === undefined) return [];
  return [
    {
      row: `${name}, ${row.label}`,
      goal: peer === undefined ? `at most ${most} ${unit}` : `at most ${most} of ${peer}`,
      ours: peer === undefined ? String(round(value)) : formatRatio(row, peer),
      verdict: value <= most ? 'held' : 'missed',
      noisy: (row.noise?.length ?? 0) > 0,
    },
  ];
}

/** One row for each goal. */
export function verdictCells(verdicts: readonly Verdict[]): string[][] {
  return [
    ['row', 'goal', 'ours', ''],
    ...verdicts.map(({ row, goal, ours, verdict, noisy }) => [row, goal, ours, `${verdict}${noisy ? ' (noisy)' : ''}`]),
  ];
}
