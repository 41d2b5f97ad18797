// The demo's processes: each with its own log file, and none left behind.

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const bin = fileURLToPath(new URL('../../../sidecar/bin.mjs', import.meta.url));

/** Some twenty processes compile the same source; this saves a third of the time it takes to start them. */
const compileCache = fileURLToPath(new URL('../../../node_modules/.cache/node', import.meta.url));

/** Longer than any step takes, even on a busy machine; a step that takes longer is broken. */
const patienceMs = 15_000;
const pollMs = 15;
/** A sidecar drains for 5 s at most. */
const stopMs = 6000;

export interface Running {
  readonly name: string;
  readonly pid: number;
  /** Everything printed so far. */
  log(): string;
  signal(name: NodeJS.Signals): void;
  stop(): Promise<void>;
}

export class Processes {
  readonly #directory: string;
  readonly #children = new Map<string, ChildProcess>();
  readonly #end = new AbortController();
  #problem: string | undefined;

  /** `directory` holds the logs and is the processes' working directory. */
  constructor(directory: string) {
    this.#directory = directory;
  }

  /** All processes are being stopped, or were: failures from now on have that cause. */
  get ended(): boolean {
    return this.#end.signal.aborted;
  }

  logFile(name: string): string {
    return join(this.#directory, 'run', `${name}.log`);
  }

  /** Starts `sallyport` with `args` as a process that keeps running. */
  sallyport(name: string, ...args: string[]): Running {
    return this.node(name, [bin, ...args]);
  }

  /** Starts Node. The process leads its own group, so that we handle Ctrl-C and --keep can leave it running. */
  node(name: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Running {
    this.#end.signal.throwIfAborted();
    const log = openSync(this.logFile(name), 'a', 0o600);
    const options = { cwd: this.#directory, detached: true, stdio: ['ignore', log, log] as ('ignore' | number)[] };
    const child = spawn(process.execPath, args, { ...options, env: { ...cleanEnvironment(), ...env } });
    closeSync(log);
    child.unref();
    this.#children.set(name, child);
    child.once('error', (error) => this.#died(name, error.message));
    child.once('exit', (code, signal) => this.#died(name, `ended with ${signal ?? code}`));
    return {
      name,
      pid: child.pid ?? 0,
      log: () => readFileSync(this.logFile(name), 'utf8'),
      signal: (signal) => void child.kill(signal),
      stop: () => this.#stop(name),
    };
  }

  /** Runs a `sallyport` command to its end and resolves to what it printed. */
  async run(...args: string[]): Promise<string> {
    const options = { cwd: this.#directory, env: cleanEnvironment(), signal: this.#end.signal };
    const { stdout } = await promisify(execFile)(process.execPath, [bin, ...args], options);
    return stdout;
  }

  /** Repeats `question` until it gives a value. @throws when a process died or the time is over. */
  async until<T>(question: () => T | undefined | false | Promise<T | undefined | false>, what: string): Promise<T> {
    const end = performance.now() + patienceMs;
    for (;;) {
      const answer = await Promise.resolve()
        .then(question)
        .catch(() => undefined);
      if (answer !== undefined && answer !== false) return answer;
      this.#end.signal.throwIfAborted();
      if (this.#problem !== undefined) throw new Error(this.#problem);
      if (performance.now() > end) throw new Error(`waited ${patienceMs / 1000} s for ${what}`);
      await pause(pollMs);
    }
  }

  /** Name and process ID of each running process. */
  list(): [string, number][] {
    return [...this.#children].map(([name, child]) => [name, child.pid ?? 0]);
  }

  /** Ends everything, for good. */
  async stopAll(): Promise<void> {
    this.#end.abort();
    await Promise.all([...this.#children.keys()].map((name) => this.#stop(name)));
  }

  async #stop(name: string): Promise<void> {
    const child = this.#children.get(name);
    if (child === undefined) return;
    this.#children.delete(name);
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    const timer = setTimeout(() => child.kill('SIGKILL'), stopMs);
    child.ref();
    // As with Ctrl-C: after SIGTERM a sidecar waits for its app, but here all processes end at once.
    child.kill('SIGINT');
    await ended;
    clearTimeout(timer);
  }

  /** A process that was stopped is no longer on the list, and may end. */
  #died(name: string, how: string): void {
    if (!this.#children.has(name)) return;
    this.#children.delete(name);
    this.#problem ??= `${name} ${how}; its log is ${this.logFile(name)}`;
  }
}

/** The demo ignores this shell's Sallyport settings; a loader in NODE_OPTIONS would run in every process. */
function cleanEnvironment(): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(([name]) => !/^(NODE_OPTIONS|SALLYPORT_.*)$/.test(name));
  return { ...Object.fromEntries(kept), NODE_COMPILE_CACHE: compileCache };
}
