// Starts and stops processes under measurement, and reads their CPU time and memory.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { CpuAccount, familyOf } from './cpu.ts';

export interface Memory {
  /** Resident, including program pages shared with other processes, MB. */
  readonly residentMb: number;
  /** Written by this process and not shared, MB. */
  readonly privateMb: number;
}

export interface Running {
  readonly child: ChildProcess;
  /** CPU time of the process, its threads and its children. */
  readonly cpu: CpuAccount;
  /** Memory of the process and its children. */
  memory(): Memory;
  stop(): Promise<void>;
}

const all = new Set<ChildProcess>();

/** Starts a process. Its output is discarded unless `output` is `pipe`; with `ipc` it has a channel to this process. */
export function startRunning(
  command: string,
  args: readonly string[],
  cwd: string,
  output: 'ignore' | 'pipe' | 'ipc' = 'ignore',
): Running {
  const child = spawn(command, args, {
    cwd,
    stdio: output === 'ipc' ? ['ignore', 'ignore', 'inherit', 'ipc'] : ['ignore', output, 'inherit'],
  });
  all.add(child);
  const exited = new Promise<void>((resolve) =>
    child.once('close', () => {
      all.delete(child);
      resolve();
    }),
  );
  return {
    child,
    cpu: new CpuAccount(child.pid!),
    memory: () => familyOf(child.pid!).map(memoryOf).reduce(sumOf),
    async stop() {
      // On SIGTERM, a sidecar stays while its app runs.
      child.kill('SIGINT');
      await exited;
    },
  };
}

/** Ends all processes that still run, at once. */
export function killAll(): void {
  for (const child of all) child.kill('SIGKILL');
}

/** True if the command can be run here. */
export function isInstalled(command: string): boolean {
  return spawnSync(command, ['--version'], { stdio: 'ignore' }).error === undefined;
}

/** Resolves when a process accepts connections on the port. */
export async function whenListening(port: number, timeoutMs = 10_000): Promise<void> {
  const end = Date.now() + timeoutMs;
  while (!(await answers(port))) {
    if (Date.now() > end) throw new Error(`nothing listens on port ${port} after ${timeoutMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

function memoryOf(pid: number): Memory {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  const mb = (field: string): number => Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? 0) / 1024;
  return { residentMb: mb('Rss'), privateMb: mb('Private_Dirty') };
}

function sumOf(a: Memory, b: Memory): Memory {
  return { residentMb: a.residentMb + b.residentMb, privateMb: a.privateMb + b.privateMb };
}
