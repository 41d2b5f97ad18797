// CPU time from the scheduler, in nanoseconds for each thread: /proc/PID/task/TID/schedstat. /proc/PID/schedstat covers
// the main thread only. /proc/PID/stat covers the whole process, but in ticks of 10 ms.

import { readdirSync, readFileSync } from 'node:fs';

/** A tick of /proc/PID/stat and /proc/stat in nanoseconds; the kernel's USER_HZ is 100 on every Linux. */
export const tickNs = 10_000_000;

/**
 * CPU time of a process, its threads and its child processes. An ended thread keeps the figure of its last reading;
 * `totalNs` includes what it used after that.
 */
export class CpuAccount {
  readonly #pid: number;
  readonly #threads = new Map<string, number>();
  #reusedNs = 0;

  constructor(pid: number) {
    this.#pid = pid;
  }

  /** Nanoseconds so far; never less than at the previous reading. */
  readNs(): number {
    for (const pid of familyOf(this.#pid)) for (const tid of threadsOf(pid)) this.#readThread(pid, tid);
    let sum = this.#reusedNs;
    for (const ns of this.#threads.values()) sum += ns;
    return sum;
  }

  /**
   * Nanoseconds so far from /proc/PID/stat, which includes ended threads and children that have been waited for.
   * Rounded down by at most two ticks per process.
   */
  totalNs(): number {
    return familyOf(this.#pid).reduce((sum, pid) => sum + ticksOf(pid) * tickNs, 0);
  }

  #readThread(pid: number, tid: string): void {
    const key = `${pid}/${tid}`;
    const text = readIfThere(`/proc/${pid}/task/${tid}/schedstat`);
    if (text === undefined) return;
    const ns = Number(text.slice(0, text.indexOf(' ')));
    const before = this.#threads.get(key) ?? 0;
    // The kernel has reused the ID of an ended thread.
    if (ns < before) this.#reusedNs += before;
    this.#threads.set(key, ns);
  }
}

/** The process and all its living descendants. */
export function familyOf(pid: number): number[] {
  const children = threadsOf(pid).flatMap((tid) =>
    (readIfThere(`/proc/${pid}/task/${tid}/children`) ?? '').split(' ').filter(Boolean).map(Number),
  );
  return [pid, ...children.flatMap(familyOf)];
}

function threadsOf(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch {
    return [];
  }
}

/** User and system time of the process and of the children that it has waited for. */
function ticksOf(pid: number): number {
  // The name in parentheses may hold spaces; the fields are counted after it.
  const fields = (readIfThere(`/proc/${pid}/stat`) ?? '').replace(/^.*\) /s, '').split(' ');
  return fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0);
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    // A thread or a process may end at any time.
    return undefined;
  }
}
