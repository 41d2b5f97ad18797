// Processes under measurement: started, asked for their CPU time and memory through /proc, ended.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';

/** Ticks of a second in /proc/PID/stat; the kernel's USER_HZ, 100 on every Linux. */
const ticksPerSecond = 100;

export interface Running {
  readonly child: ChildProcess;
  /** CPU time of the process and its children so far, microseconds. */
  cpuUs(): number;
  /** Resident memory of the process and its children, MB. */
  rssMb(): number;
  stop(): Promise<void>;
}

/** Starts a process; its output goes to nowhere unless it is to be read. */
export function startRunning(command: string, args: readonly string[], cwd: string, read = false): Running {
  const child = spawn(command, args, { cwd, stdio: ['ignore', read ? 'pipe' : 'ignore', 'inherit'] });
  const exited = new Promise<void>((resolve) => child.once('close', () => resolve()));
  const family = (): number[] => [child.pid!, ...childrenOf(child.pid!)];
  return {
    child,
    cpuUs: () => family().reduce((sum, pid) => sum + cpuUsOf(pid), 0),
    rssMb: () => family().reduce((sum, pid) => sum + rssMbOf(pid), 0),
    async stop() {
      // At SIGTERM a sidecar stays there for its app.
      child.kill('SIGINT');
      await exited;
    },
  };
}

/** True when the command can be run here. */
export function isInstalled(command: string): boolean {
  return spawnSync(command, ['--version'], { stdio: 'ignore' }).error === undefined;
}

/** Resolves when something takes connections on the port. */
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

function childrenOf(pid: number): number[] {
  return readdirSync(`/proc/${pid}/task`).flatMap((task) =>
    readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').split(' ').filter(Boolean).map(Number),
  );
}

function cpuUsOf(pid: number): number {
  // The name in parentheses may hold spaces; the fields are counted behind it.
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /s, '')
    .split(' ');
  return ((Number(fields[11]) + Number(fields[12])) * 1_000_000) / ticksPerSecond;
}

/** Resident memory of one process, MB. */
export function rssMbOf(pid: number): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) / 1024;
}
