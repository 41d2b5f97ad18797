// Compares this run with an earlier one, from its run.json: the change in each row, and whether it exceeds the error of
// both runs. The machine's state differs between runs as well; `--before` shows smaller differences.

import { readFileSync } from 'node:fs';
import { formatPercent, type Row, round, type Table } from './table.ts';

/** The contents of run.json. */
export interface Run {
  readonly machine: string;
  /** Start time, ISO 8601. */
  readonly date: string;
  readonly noisy: boolean;
  readonly tables: readonly Table[];
}

/** A figure of a row, with its interval if slices gave one. */
interface Figure {
  readonly value: number;
  readonly low?: number;
  readonly high?: number;
}

/** Reads the run.json of an earlier run. @throws Error if the file is not one. */
export function readRun(file: string): Run {
  const run = JSON.parse(readFileSync(file, 'utf8')) as Partial<Run>;
  if (!Array.isArray(run.tables) || typeof run.machine !== 'string')
    throw new Error(`${file} is not the run.json of an earlier run; use '--out DIR' to write one`);
  return run as Run;
}

/** A head row, and one row for each figure that both runs have: ours, and ours / each peer. */
export function compareCells(then: Run, tables: readonly Table[]): string[][] {
  const cells: string[][] = [];
  for (const table of tables)
    for (const row of table.rows) {
      const old = then.tables.find(({ name }) => name === table.name)?.rows.find(({ label }) => label === row.label);
      if (old !== undefined) cells.push(...compareRows(`${table.name}, ${row.label}`, old, row));
    }
  return [['row', 'figure', 'then', 'now', 'change', 'beyond both intervals'], ...cells];
}

function compareRows(label: string, old: Row, now: Row): string[][] {
  const before = figuresOf(old);
  return [...figuresOf(now)].flatMap(([name, figure]) => {
    const other = before.get(name);
    if (other === undefined) return [];
    const change = formatPercent(figure.value / other.value - 1);
    return [[label, name, formatFigure(other), formatFigure(figure), change, beyond(other, figure)]];
  });
}

function figuresOf({ figures, spreads, ratios }: Row): Map<string, Figure> {
  const found = new Map<string, Figure>();
  const { ours } = figures;
  if (ours !== undefined) found.set('ours', { ...spreads?.['ours'], value: ours });
  for (const [peer, theirs] of Object.entries(figures)) {
    if (peer === 'ours' || peer === 'before' || ours === undefined || theirs === 0) continue;
    const spread = ratios?.[peer];
    found.set(`ours / ${peer}`, { ...spread, value: spread?.median ?? ours / theirs });
  }
  return found;
}

function formatFigure({ value, low, high }: Figure): string {
  return low === undefined || high === undefined
    ? `${round(value)}`
    : `${round(value)} (${round(low)} to ${round(high)})`;
}

function beyond(a: Figure, b: Figure): string {
  if (a.low === undefined || a.high === undefined || b.low === undefined || b.high === undefined) return 'no interval';
  return a.high < b.low || b.high < a.low ? 'yes' : 'no';
}
