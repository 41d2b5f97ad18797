// The latency that a proxy adds, at the same rate for all.

import { type Bench, withStacks } from './bench.ts';
import type { Job, Latency } from './load.ts';
import { type Loader, withLoader } from './loader.ts';
import { median } from './statistics.ts';
import type { Row, Table } from './table.ts';

const turns = 3;
const saturating = 10_000;

/** The rate is half of what saturates the slowest. The latency without a proxy is measured too, and subtracted. */
export function latency(bench: Bench): Promise<Table[]> {
  const { site, plan, progress } = bench;
  return withStacks(bench, (stacks) =>
    withLoader(async (loader) => {
      const rates: number[] = [];
      for (const { name, httpPort } of stacks) {
        progress.title(`latency-added, saturation of ${name}`);
        rates.push(await saturatingRate(loader, httpPort, plan.warm));
      }
      const perSecond = Math.floor(Math.min(...rates) / 2);
      const job = (port: number): Job => ({ kind: 'rate', port, perSecond });
      const count = Math.floor(perSecond * plan.rateSeconds);
      const direct = await latencyOf(loader, job(site.app.http), count);
      const found = new Map(stacks.map(({ name }) => [name, [] as Latency[]]));
      for (let turn = 0; turn < turns; turn++)
        for (const { name, httpPort } of stacks) {
          progress.title(`latency-added, ${name}, turn ${turn + 1} of ${turns}`);
          found.get(name)!.push(await latencyOf(loader, job(httpPort), count));
        }
      const rows = (['p50', 'p99', 'p999'] as const).map((key): Row => {
        const added = (all: readonly Latency[]): number =>
          Math.max(0, median(all.map((one) => one[key])) - direct[key]);
        const figures = Object.fromEntries([...found].map(([name, all]) => [name, added(all)]));
        return { label: key === 'p999' ? 'p99.9' : key, figures };
      });
      const title = `Latency added over no proxy, at ${perSecond} requests a second for all`;
      return [{ name: 'latency-added', title, unit: 'ms', rows }];
    }),
  );
}

async function saturatingRate(loader: Loader, port: number, warm: number): Promise<number> {
  const set = await loader.open({ kind: 'http', port, inFlight: 64 });
  await set.run(warm, true);
  const { seconds } = await set.run(saturating);
  await set.close();
  return saturating / seconds;
}

async function latencyOf(loader: Loader, job: Job, count: number): Promise<Latency> {
  const set = await loader.open(job);
  await set.run(count);
  return await set.close();
}
