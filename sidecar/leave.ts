// How a process leaves, as a ladder: nobody new comes in, what is in flight finishes or is told to, and what has not
// finished when the time of its kind is over is cut and said.

import type { Log } from '../cert-agent/base/log.ts';
import type { ConnectionTable, DrainReport } from './connection.ts';
import type { Limits } from './exchange.ts';
import type { Ports } from './ports.ts';

export interface Leaving {
  readonly table: ConnectionTable;
  readonly ports: Ports;
  readonly limits: Limits;
  readonly log: Log;
  /** Has the other processes on the same ports leave, within so many milliseconds. */
  others(withinMs: number): Promise<readonly DrainReport[]>;
}

/** Resolves when nothing is open any more, with what became of it. */
export async function leave({ table, ports, limits, log, others }: Leaving): Promise<DrainReport> {
  const { drainMs, drainWebSocketMs, drainTcpMs } = limits;
  const now = performance.now();
  const deadlines = { http: now + drainMs, websocket: now + drainWebSocketMs, tcp: now + drainTcpMs };
  const elsewhere = others(Math.max(drainMs, drainWebSocketMs, drainTcpMs));
  // First nobody new comes in. The way out stays open: a request in flight may still need it.
  ports.close('inbound');
  ports.close('gateway');
  const inward = await Promise.all([table.drain('inbound', deadlines), table.drain('gateway', deadlines)]);
  ports.close('outbound');
  const outward = await table.drain('outbound', deadlines);
  const all = [...inward, outward, ...(await elsewhere)];
  const report = {
    finished: all.reduce((sum, { finished }) => sum + finished, 0),
    cut: all.flatMap(({ cut }) => cut),
  };
  say(report, log);
  return report;
}

function say({ finished, cut }: DrainReport, log: Log): void {
  // A list without end helps nobody; the number is whole.
  const facts = { code: 'drained', finished, cut: cut.length, first: cut.slice(0, 20) };
  if (cut.length > 0) log.warn(facts, `${cut.length} connections were cut at the end of the drain time`);
  else log.info(facts, 'drained: nothing had to be cut');
}
