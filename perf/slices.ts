// Stacks take turns in short slices: A B C, B C A, C A B. A disturbance longer than a slice slows all of them, and so
// cancels out in the ratio of two neighbouring slices. Connections stay open from the first slice to the last.

import { setTimeout as delay } from 'node:timers/promises';
import type { CpuAccount } from './cpu.ts';
import type { Job, Latency } from './load.ts';
import { type OpenSet, withLoader } from './loader.ts';
import { type MachineUse, watchMachine } from './machine.ts';

/** One stack's part in a row. */
export interface Lane {
  readonly name: string;
  readonly job: Job;
  /** Whose CPU time counts. */
  readonly cpu: readonly CpuAccount[];
}

export interface SliceOptions {
  /** Requests in a slice. */
  readonly size: number;
  readonly rounds: number;
  /** Requests to each stack before the first slice, to warm up its JIT compiler. */
  readonly warm: number;
  /** Called before each round. */
  onRound(round: number): void;
}

/** The results of one stack. The slices of one round have the same index in every stack. */
export interface Series {
  /** Nanoseconds of CPU of each slice. */
  readonly cpuNs: readonly number[];
  readonly seconds: readonly number[];
  readonly latency: Latency;
  /** CPU time in no slice, of threads and children that ended between two readings; in ticks of 10 ms. */
  readonly lostNs: number;
}

export interface Sliced {
  readonly series: ReadonlyMap<string, Series>;
  readonly machine: MachineUse;
}

/**
 * The delay between a slice's last response and its CPU reading. Work that a proxy defers belongs to the slice: a log
 * that is written every 100 ms, garbage that another thread collects. The next stack has its turn meanwhile.
 */
const settleMs = 120;

export function runInSlices(lanes: readonly Lane[], options: SliceOptions): Promise<Sliced> {
  return withLoader(async (loader) => {
    const running: Turns[] = [];
    for (const lane of lanes) running.push(new Turns(lane, await loader.open(lane.job)));
    for (const turns of running) await turns.warm(options.warm);
    await delay(settleMs);
    const machine = watchMachine();
    for (const turns of running) turns.begin();
    for (let round = 0; round < options.rounds; round++) {
      options.onRound(round);
      // Each round begins with another stack, so that no stack always follows the same one, and drift favours none.
      for (let i = 0; i < running.length; i++) await running[(i + round) % running.length]!.slice(options.size);
    }
    const series = new Map<string, Series>();
    for (const turns of running) series.set(turns.name, await turns.end());
    return { series, machine: machine() };
  });
}

/** The slices of one stack. */
class Turns {
  readonly name: string;
  readonly #cpu: readonly CpuAccount[];
  readonly #set: OpenSet;
  readonly #cpuNs: number[] = [];
  readonly #seconds: number[] = [];
  #settled: Promise<void> = Promise.resolve();
  #unseenAtStart = 0;

  constructor({ name, cpu }: Lane, set: OpenSet) {
    this.name = name;
    this.#cpu = cpu;
    this.#set = set;
  }

  async warm(count: number): Promise<void> {
    await this.#set.run(count, true);
  }

  begin(): void {
    this.#unseenAtStart = this.#unseen();
  }

  /** Returns before the CPU time is known; the next slice waits for it. */
  async slice(size: number): Promise<void> {
    await this.#settled;
    const before = this.#spent();
    const { seconds } = await this.#set.run(size);
    this.#seconds.push(seconds);
    this.#settled = delay(settleMs).then(() => void this.#cpuNs.push(this.#spent() - before));
  }

  async end(): Promise<Series> {
    await this.#settled;
    const lostNs = Math.max(0, this.#unseen() - this.#unseenAtStart);
    return { cpuNs: this.#cpuNs, seconds: this.#seconds, latency: await this.#set.close(), lostNs };
  }

  #spent(): number {
    return this.#cpu.reduce((sum, one) => sum + one.readNs(), 0);
  }

  #unseen(): number {
    return this.#cpu.reduce((sum, one) => sum + one.totalNs(), 0) - this.#spent();
  }
}
