// Memory of a pair, idle and under load, of idle connections, and allocated on the heap per request.

import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type Bench, checkoutsOf, withStacks } from './bench.ts';
import { withLoader } from './loader.ts';
import { startOurs } from './ours.ts';
import { type Memory, type Running, startRunning } from './process.ts';
import type { Site } from './stack.ts';
import type { Row, Table } from './table.ts';

const bareProgram = fileURLToPath(new URL('./bare.ts', import.meta.url));

/** Resident and private memory, idle and under load. */
export function memory(bench: Bench): Promise<Table[]> {
  const { loadedAfter } = bench.plan;
  return withStacks(bench, (stacks) =>
    withLoader(async (loader) => {
      const rows: Row[] = [];
      const note = (label: string): void => {
        const larger = (field: keyof Memory): Row['figures'] =>
          Object.fromEntries(
            stacks.map((one) => [one.name, Math.max(one.inbound.memory()[field], one.outbound.memory()[field])]),
          );
        rows.push(
          { label, figures: larger('residentMb') },
          { label: `${label}, private`, figures: larger('privateMb') },
        );
      };
      note('idle');
      let before = 0;
      for (const part of [0.1, 0.5, 1]) {
        // Only ours is still of interest: the others are stable long before.
        for (const { name, httpPort: port } of stacks) {
          bench.progress.title(`memory, ${name}, up to ${loadedAfter * part} requests`);
          const share = name === 'ours' || name === 'before' ? 1 : 0.1;
          const set = await loader.open({ kind: 'http', port, inFlight: 32 });
          await set.run(loadedAfter * share * (part - before), true);
          await set.close();
        }
        before = part;
        note(part === 1 ? 'after the load' : `after ${(loadedAfter * part).toLocaleString('en')} requests`);
      }
      const title = `Memory, resident and private, the larger of the pair; ${loadedAfter.toLocaleString('en')} requests, 32 in flight`;
      return [{ name: 'memory', title, unit: 'MB', rows }];
    }),
  );
}

/** Resident memory of an idle connection, on a sidecar without other traffic and on bare Node. */
export async function idleConnections(bench: Bench): Promise<Table[]> {
  const { site, plan, progress } = bench;
  progress.title('idle-connections, bare node:tls');
  const bare = await measureBare(site, plan.idle);
  const figures: Record<string, number> = {};
  for (const checkout of checkoutsOf(bench)) {
    progress.title(`idle-connections, ${checkout.name}`);
    const { inbound, outbound, tlsPort } = await startOurs(site, checkout);
    try {
      figures[checkout.name] = await measureIdle(tlsPort, inbound, site, plan.idle);
    } finally {
      await Promise.all([inbound.stop(), outbound.stop()]);
    }
  }
  const over = Object.fromEntries(Object.entries(figures).map(([name, kb]) => [name, kb - bare]));
  const rows: Row[] = [
    { label: 'per connection', figures: { ...figures, 'bare node:tls': bare } },
    { label: 'over bare node:tls', figures: over },
  ];
  const title = `Memory of ${plan.idle.toLocaleString('en')} idle mutual-TLS connections`;
  return [{ name: 'idle-connections', title, unit: 'KB each', rows }];
}

/** KB of the process per idle connection, with `count` of them on `port`. */
function measureIdle(port: number, running: Running, site: Site, count: number): Promise<number> {
  return withLoader(async (loader) => {
    const before = running.memory().residentMb;
    const { chainPem: certPem, keyPem } = site.client;
    const set = await loader.open({ kind: 'idle', port, count, certPem, keyPem, caPem: site.caPem });
    // Garbage of the handshakes is not a cost of the connections: it is collected soon.
    await delay(3000);
    const after = running.memory().residentMb;
    await set.close();
    return ((after - before) * 1024) / count;
  });
}

/** The same for a bare Node TLS server. */
async function measureBare(site: Site, count: number): Promise<number> {
  const shown = { cert: site.server.chainPem, key: site.server.keyPem, ca: site.caPem };
  const server = startRunning(process.execPath, [bareProgram, JSON.stringify(shown)], site.dir, 'pipe');
  const [text] = (await once(server.child.stdout!, 'data')) as [Buffer];
  try {
    return await measureIdle(Number(text.toString()), server, site, count);
  } finally {
    await server.stop();
  }
}

const heapRequests = 20_000;

/** Heap bytes allocated per request, by perf/heap-probe.ts in each process of a separate pair. */
export async function heap(bench: Bench): Promise<Table[]> {
  const sides = { outbound: {} as Record<string, number>, inbound: {} as Record<string, number> };
  for (const checkout of checkoutsOf(bench)) {
    bench.progress.title(`heap, ${checkout.name}`);
    const stack = await startOurs(bench.site, checkout, true);
    try {
      await withLoader(async (loader) => {
        const set = await loader.open({ kind: 'http', port: stack.httpPort, inFlight: 32 });
        await set.run(bench.plan.warm, true);
        await Promise.all([allocatedBytes(stack.outbound), allocatedBytes(stack.inbound)]);
        await set.run(heapRequests, true);
        for (const side of ['outbound', 'inbound'] as const)
          sides[side][checkout.name] = (await allocatedBytes(stack[side])) / heapRequests;
        await set.close();
      });
    } finally {
      await Promise.all([stack.inbound.stop(), stack.outbound.stop()]);
    }
  }
  const rows = Object.entries(sides).map(([label, figures]) => ({ label, figures }));
  return [{ name: 'heap', title: 'HTTP/1.1 services, 32 in flight: heap allocated per request', unit: 'bytes', rows }];
}

/** Bytes allocated in a process since the previous call. */
async function allocatedBytes({ child }: Running): Promise<number> {
  child.send('allocated');
  const [bytes] = (await once(child, 'message')) as [number];
  return bytes;
}
