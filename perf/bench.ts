// The input of every measure: the site, the plan of the run, and the stacks to start.

import { startEnvoy } from './envoy.ts';
import { startHaproxy } from './haproxy.ts';
import { startNginx } from './nginx.ts';
import { here, startOurs } from './ours.ts';
import type { Progress } from './progress.ts';
import type { Checkout, Site, Stack } from './stack.ts';

/** How much is measured. */
export interface Plan {
  /** Slices of each stack in a row of the table, per start of the stacks. */
  readonly rounds: number;
  /** How often all stacks are started for a row. Two starts of one program differ in speed. */
  readonly starts: number;
  /** Requests before the first slice. */
  readonly warm: number;
  readonly inFlight: readonly number[];
  readonly idle: number;
  readonly rateSeconds: number;
  readonly loadedAfter: number;
}

export const quickly: Plan = {
  ...{ rounds: 12, starts: 1, warm: 6000, inFlight: [32] },
  ...{ idle: 1000, rateSeconds: 3, loadedAfter: 60_000 },
};

export const wholly: Plan = {
  ...{ rounds: 40, starts: 1, warm: 20_000, inFlight: [1, 8, 32, 256, 512] },
  ...{ idle: 10_000, rateSeconds: 8, loadedAfter: 1_000_000 },
};

/** The changes for `--before`. The interval of twelve values is from the third to the tenth. */
export const besideBefore = { rounds: 10, starts: 12 } as const;

export interface Bench {
  readonly site: Site;
  readonly plan: Plan;
  /** The peers to measure, by their commands. */
  readonly peers: ReadonlySet<string>;
  /** Another checkout, whose `dist/` is measured as `before`. */
  readonly before: string | undefined;
  readonly progress: Progress;
}

/** This checkout, and the earlier one if there is one. */
export function checkoutsOf({ before }: Bench): Checkout[] {
  return [{ name: 'ours', root: here }, ...(before === undefined ? [] : [{ name: 'before', root: before }])];
}

/** Starts all stacks, runs `use`, and stops them. */
export async function withStacks<T>(bench: Bench, use: (stacks: readonly Stack[]) => Promise<T>): Promise<T> {
  const stacks: Stack[] = [];
  try {
    for (const checkout of checkoutsOf(bench)) stacks.push(await startOurs(bench.site, checkout));
    if (bench.peers.has('nginx')) stacks.push(await startNginx(bench.site));
    if (bench.peers.has('haproxy')) stacks.push(await startHaproxy(bench.site));
    if (bench.peers.has('envoy')) stacks.push(await startEnvoy(bench.site));
    return await use(stacks);
  } finally {
    await Promise.all(stacks.flatMap(({ inbound, outbound }) => [inbound.stop(), outbound.stop()]));
  }
}
