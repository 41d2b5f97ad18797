// The step that gives both workloads new certificates while requests go through both sidecars.

import { ask, idOf } from './ask.ts';
import { startLoad } from './load.ts';
import type { Finding } from './step.ts';
import type { Parts, World } from './world.ts';

/** Serials, as shown by the sidecars' admin pages. */
interface Serials {
  readonly web: string;
  readonly orders: string;
  /** The serials that `web` presented on the open connections of `orders`. */
  readonly shown: readonly string[];
}

const rounds = 12;

/** A round ends when both serials are new and `web` has presented its new one to `orders`. */
export async function rotated(world: World, { ordersSidecar, webAgent }: Parts): Promise<Finding> {
  const load = startLoad(world.ports.outbound);
  try {
    for (let round = 0; round < rounds; round++) {
      const old = await serialsOf(world);
      for (const agent of [webAgent, ordersSidecar]) agent.signal('SIGHUP');
      await world.processes.until(async () => isNew(await serialsOf(world), old), 'new certificates on both sides');
    }
  } finally {
    void load.stop();
  }
  const { requests, failures } = await load.stop();
  const why = failures[0] === undefined ? '' : ` (${failures[0]})`;
  return [`${failures.length} failed of ${requests}, ${rounds} new serials each${why}`, failures.length === 0];
}

function isNew(now: Serials, old: Serials): boolean {
  return now.web !== old.web && now.orders !== old.orders && now.shown.includes(now.web);
}

async function serialsOf({ ports }: World): Promise<Serials> {
  const [web, orders, open] = await Promise.all([
    read(ports.webAdmin, '/certs'),
    read(ports.ordersAdmin, '/certs'),
    read(ports.ordersAdmin, '/connections'),
  ]);
  const ofWeb = (open as { peer: string; serial: string }[]).filter(({ peer }) => peer === idOf('web'));
  const serial = (page: unknown): string => (page as { serial: string }).serial;
  return { web: serial(web), orders: serial(orders), shown: ofWeb.map(serial) };
}

async function read(port: number, path: string): Promise<unknown> {
  return JSON.parse((await ask({ port, path })).body);
}
