// How a process leaves, as a ladder: nobody new comes in, what is in flight finishes or is told to, and what has not
// finished when the time of its kind is over is cut and said. The app beside us gets the same signal and has things to say
// until it ends: the way out takes new connections to the last, as with Istio's MINIMUM_DRAIN_DURATION and
// EXIT_ON_ZERO_ACTIVE_CONNECTIONS.

import type { Log } from '../cert-agent/base/log.ts';
import type { ConnectionTable, DrainDeadlines, DrainReport } from './connection.ts';
import type { Limits } from './exchange.ts';
import type { Ports } from './ports.ts';

export interface Leaving {
  readonly table: ConnectionTable;
  readonly ports: Ports;
  readonly limits: Limits;
  readonly log: Log;
  /** Whether the app is waited for: its connections for as long as they live, and `drainMinimum` in any case. */
  readonly waitForApp: boolean;
  /** Told when outbound connections are to end as well. */
  closingOutbound(): void;
  /** Has the other processes on the same ports leave, within so many milliseconds. */
  others(withinMs: number): Promise<readonly DrainReport[]>;
}

/** Resolves when nothing is open any more, with what became of it. */
export async function leave(leaving: Leaving): Promise<DrainReport> {
  const { table, ports, limits, log, waitForApp, others } = leaving;
  const { drainMs, drainWebSocketMs, drainTcpMs, drainMinimumMs } = limits;
  const began = performance.now();
  const deadlinesFrom = (now: number): DrainDeadlines => ({
    http: began + drainMs,
    websocket: now + drainWebSocketMs,
    tcp: now + drainTcpMs,
  });
  const appMs = waitForApp && ports.has('outbound') ? Math.max(drainMs, drainMinimumMs) : 0;
  const elsewhere = others(appMs + Math.max(drainMs, drainWebSocketMs, drainTcpMs));
  // First nobody new comes in. The way out stays open: a request in flight may still need it.
  ports.close('inbound');
  ports.close('gateway');
  const inwardBy = deadlinesFrom(began);
  const inward = await Promise.all([table.drain('inbound', inwardBy), table.drain('gateway', inwardBy)]);
  if (appMs > 0) await table.whenUnused('outbound', began + drainMinimumMs, began + appMs);
  leaving.closingOutbound();
  ports.close('outbound');
  const outward = await table.drain('outbound', deadlinesFrom(performance.now()));
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
