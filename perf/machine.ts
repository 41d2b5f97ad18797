// The machine during a measurement: what else ran on it, and whether the figures are reliable.

import { readFileSync } from 'node:fs';
import { cpus, loadavg } from 'node:os';
import { CpuAccount, tickNs } from './cpu.ts';

export interface MachineUse {
  /** The load average of one minute, at the beginning and at the end. */
  readonly load: readonly [number, number];
  /** CPU time that the hypervisor gave to other machines, percent of all cores. */
  readonly stealPercent: number;
  /** CPU time of processes outside this bench, percent of all cores. */
  readonly otherPercent: number;
}

/** A row above one of these is noisy; perf/README.md explains why. */
export const noise = { stealPercent: 2, otherPercent: 10, halfIntervalPercent: 3 } as const;

interface Times {
  readonly total: number;
  readonly busy: number;
  readonly steal: number;
}

/** Begins to watch. The returned function gives the use since then. */
export function watchMachine(): () => MachineUse {
  const ours = new CpuAccount(process.pid);
  const loadBefore = loadNow();
  const before = timesNow();
  const oursBefore = ours.totalNs();
  return () => {
    const now = timesNow();
    const total = now.total - before.total;
    const others = now.busy - before.busy - (ours.totalNs() - oursBefore) / tickNs;
    const percent = (part: number): number => (total === 0 ? 0 : Math.max(0, (part / total) * 100));
    return {
      load: [loadBefore, loadNow()],
      stealPercent: percent(now.steal - before.steal),
      otherPercent: percent(others),
    };
  };
}

/** Merges several periods into one. */
export function mergeUse(all: readonly MachineUse[]): MachineUse {
  const mean = (value: (one: MachineUse) => number): number =>
    all.reduce((sum, one) => sum + value(one), 0) / all.length;
  return {
    load: [all[0]!.load[0], all.at(-1)!.load[1]],
    stealPercent: mean((one) => one.stealPercent),
    otherPercent: mean((one) => one.otherPercent),
  };
}

/** Why a measurement is noisy, as text; empty if it is not. */
export function noiseOf({ stealPercent, otherPercent }: MachineUse): string[] {
  return [
    ...(stealPercent > noise.stealPercent ? [`steal ${stealPercent.toFixed(1)} %`] : []),
    ...(otherPercent > noise.otherPercent ? [`others ${otherPercent.toFixed(0)} % of the cores`] : []),
  ];
}

/** The machine that the figures are from. */
export function describeMachine(): string {
  const all = cpus();
  const kernel = readFileSync('/proc/sys/kernel/osrelease', 'utf8').trim();
  return `${all.length} x ${all[0]?.model.trim() ?? 'unknown'}, Linux ${kernel}, Node ${process.versions.node}`;
}

function loadNow(): number {
  return loadavg()[0]!;
}

/** The sums of all cores in /proc/stat, in ticks. */
function timesNow(): Times {
  const line = readFileSync('/proc/stat', 'utf8').split('\n', 1)[0]!;
  const [user, nice, system, idle, iowait, irq, softirq, steal] = line.split(/\s+/).slice(1).map(Number);
  const busy = user! + nice! + system! + irq! + softirq!;
  return { busy, steal: steal!, total: busy + idle! + iowait! + steal! };
}
