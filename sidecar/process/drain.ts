// How a process leaves, as a ladder: for a while whoever does not know it yet is still served, then nobody new comes in, what is in
// flight finishes or is told to, and what has not finished when the time of its kind is over is cut and said. The app beside
// us gets the same signal and has things to say until it ends: the way out takes new connections to the last. Istio has
// MINIMUM_DRAIN_DURATION and EXIT_ON_ZERO_ACTIVE_CONNECTIONS for this.

import { setTimeout as sleep } from 'node:timers/promises';
import type { Log } from '../../cert-agent/base/log.ts';
import type { ConnectionTable, DrainDeadlines, DrainReport } from '../connection.ts';
import type { Limits } from '../exchange/limits.ts';
import type { Ports } from './ports.ts';

export interface Leaving {
  readonly table: ConnectionTable;
  readonly ports: Ports;
  readonly limits: Limits;
  readonly log: Log;
  /** Whether those around us are waited for: callers that do not know yet for `drainMinimum`, the app for as long as its connections live. */
  readonly patiently: boolean;
  /** Told when outbound connections are to end as well. */
  closingOutbound(): void;
  /** Has the other processes on the same ports leave, within so many milliseconds. */
  others(withinMs: number): Promise<readonly DrainReport[]>;
}

/** Resolves when nothing is open any more, with what became of it. */
export async function leave(leaving: Leaving): Promise<DrainReport> {
  const { table, ports, limits, log, patiently, others } = leaving;
  const { drainMs, drainWebSocketMs, drainTcpMs } = limits;
  const minimumMs = patiently ? limits.drainMinimumMs : 0;
  const began = performance.now();
  const deadlinesFrom = (now: number): DrainDeadlines => ({
    http: now + drainMs,
    websocket: now + drainWebSocketMs,
    tcp: now + drainTcpMs,
  });
  const elsewhere = others(minimumMs + 2 * Math.max(drainMs, drainWebSocketMs, drainTcpMs));
  // Those that send to the ready alone take some seconds to hear of it.
  if (minimumMs > 0 && (ports.has('inbound') || ports.has('gateway'))) await sleep(minimumMs);
  // The way out stays open: a request in flight may still need it.
  ports.close('inbound');
  ports.close('gateway');
  const inwardBy = deadlinesFrom(performance.now());
  const inward = await Promise.all([table.drain('inbound', inwardBy), table.drain('gateway', inwardBy)]);
  if (patiently && ports.has('outbound'))
    await table.whenUnused('outbound', began + minimumMs, began + Math.max(minimumMs, drainMs));
  leaving.closingOutbound();
  ports.close('outbound');
  const outwardBy = deadlinesFrom(performance.now());
  // A request of the app has had its time.
  const outward = await table.drain('outbound', { ...outwardBy, http: Math.max(began + drainMs, performance.now()) });
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
