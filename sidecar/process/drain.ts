// How a process leaves, in steps. Callers that do not know yet are still served for a while. Then no new ones are
// accepted, and what is in flight finishes or is asked to. What has not finished at the deadline of its kind is cut and
// logged. The app beside us gets the same signal and may send requests until it ends, so outbound ports close last.
// Istio has MINIMUM_DRAIN_DURATION and EXIT_ON_ZERO_ACTIVE_CONNECTIONS for this.

import { setTimeout as sleep } from 'node:timers/promises';
import type { Log } from '../../cert-agent/base/log.ts';
import type { ConnectionTable, DrainDeadlines, DrainReport } from '../connection.ts';
import type { Limits } from '../exchange/limits.ts';
import type { Ports } from './ports.ts';

/** What leaving needs. */
export interface Leaving {
  readonly table: ConnectionTable;
  readonly ports: Ports;
  readonly limits: Limits;
  readonly log: Log;
  /** True to wait for callers that do not know yet (`drainMinimum`), and for the app while it has connections open. */
  readonly patiently: boolean;
  /**
   * Settles when the app has ended, where that is known (`sallyport exec`): outbound is open until then, and callers
   * are not waited for any longer.
   */
  readonly app?: Promise<void> | undefined;
  /** Called when outbound connections are to end as well. */
  closingOutbound(): void;
  /** Makes the other processes on the same ports leave within so many milliseconds. */
  others(withinMs: number): Promise<readonly DrainReport[]>;
}

/** Resolves when nothing is open any more, with the number that finished and what was cut. */
export async function leave(leaving: Leaving): Promise<DrainReport> {
  const { table, ports, limits, log, patiently, app, others } = leaving;
  const { drainMs, drainWebSocketMs, drainTcpMs } = limits;
  const minimumMs = patiently ? limits.drainMinimumMs : 0;
  const began = performance.now();
  const deadlinesFrom = (now: number): DrainDeadlines => ({
    http: now + drainMs,
    websocket: now + drainWebSocketMs,
    tcp: now + drainTcpMs,
  });
  const elsewhere = others(minimumMs + 2 * Math.max(drainMs, drainWebSocketMs, drainTcpMs));
  // Load balancers that send traffic to ready processes only need seconds to notice.
  if (minimumMs > 0 && (ports.has('inbound') || ports.has('gateway'))) {
    const enough = new AbortController();
    await Promise.race([
      sleep(minimumMs, undefined, { signal: enough.signal }).catch(() => {}),
      ...(app === undefined ? [] : [app]),
    ]);
    enough.abort();
  }
  // Outbound ports stay open: a request in flight may still need them.
  ports.close('inbound');
  ports.close('gateway');
  const inwardBy = deadlinesFrom(performance.now());
  const inward = await Promise.all([table.drain('inbound', inwardBy), table.drain('gateway', inwardBy)]);
  if (app !== undefined) await app;
  else if (patiently && ports.has('outbound'))
    await table.whenUnused('outbound', began + minimumMs, began + Math.max(minimumMs, drainMs));
  leaving.closingOutbound();
  ports.close('outbound');
  const outwardBy = deadlinesFrom(performance.now());
  // The app's requests have had their time.
  const outward = await table.drain('outbound', {
    ...outwardBy,
    http: Math.max(app === undefined ? began + drainMs : 0, performance.now()),
  });
  const all = [...inward, outward, ...(await elsewhere)];
  const report = {
    finished: all.reduce((sum, { finished }) => sum + finished, 0),
    cut: all.flatMap(({ cut }) => cut),
  };
  say(report, log);
  return report;
}

function say({ finished, cut }: DrainReport, log: Log): void {
  // Only the first are listed; the count is complete.
  const facts = { code: 'drained', finished, cut: cut.length, first: cut.slice(0, 20) };
  if (cut.length > 0)
    log.warn(
      facts,
      `${cut.length} ${cut.length === 1 ? 'connection was' : 'connections were'} cut at the end of the drain time`,
    );
  else log.info(facts, 'drained: nothing had to be cut');
}
