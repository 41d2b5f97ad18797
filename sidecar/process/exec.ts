// `sallyport exec`: a sidecar and its app as one process to the program that starts them. The app begins when its sidecar serves,
// gets every signal, keeps its outbound port until it has ended, and its exit code is ours. Where no orchestrator orders
// the two (compose, VMs, CI, jobs), this does.

import { constants as system } from 'node:os';
import { formatDuration } from '../../cert-agent/base/clock.ts';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import type { Notify } from '../../cert-agent/base/notify.ts';
import type { Readiness } from '../observe/pages.ts';
import { type App, findProgram, startApp } from './app.ts';
import { type Sidecar, type SidecarOptions, startSidecar } from './main.ts';

/** How `sallyport exec` is run. */
export interface ExecOptions {
  readonly configFile: string;
  /** Reads the configuration; by default in a separate process. */
  readonly read?: SidecarOptions['read'];
  /** The app and its arguments. */
  readonly command: readonly [string, ...string[]];
  readonly log: Log;
  readonly version: string;
  /** The number of workers. */
  readonly count: number;
  /** How long the app waits for its sidecar, milliseconds; 0 for ever. */
  readonly readyTimeoutMs: number;
  /** Whether it waits for upstreams to answer, too. */
  readonly waitForUpstreams: boolean;
  readonly notify: Notify;
}

/** What is passed on. A terminal's stop (SIGTSTP) is not: a sidecar that stands still would hold up its callers. */
const passed = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2', 'SIGWINCH'] as const;

/** Of these each ends the wait for the sidecar. */
const ending: readonly NodeJS.Signals[] = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT'];

/**
 * Runs until the app has ended; resolves with its exit code, or with 128+n if signal n came before the app began.
 * @throws SallyportError as `startSidecar`, `ready_timeout`, `app_not_started`: the app has not run.
 */
export async function execApp(options: ExecOptions): Promise<number> {
  const { command, log, notify } = options;
  // A misspelt command is reported now, not after the wait.
  findProgram(command[0], process.env['PATH'] ?? '');
  const run = new Run(log);
  const sidecar = await startSidecar({
    ...options,
    component: 'sidecar',
    wrapping: true,
    onReadiness: (readiness) => {
      run.readiness = readiness;
      run.changed();
      if (!readiness.ready) notify.waiting(readiness.waitingFor);
    },
    quit: () => run.quit(),
  });
  run.sidecar = sidecar;
  try {
    const signal = await waitUntilServing(run, sidecar, options);
    if (signal !== undefined) {
      log.info({ code: 'stopped', signal }, `stopped by ${signal} before the app was started`);
      return 128 + system.signals[signal];
    }
    const app = await startApp(command, log);
    run.begin(app);
    log.info({ code: 'app_started', pid: app.pid }, 'the app is started');
    notify.ready();
    const code = await app.ended;
    await app.sweep();
    log.info({ code: 'app_ended', status: code }, `the app has ended with ${code}`);
    return code;
  } finally {
    run.end();
    notify.stopping();
    await sidecar.drain(false, run.gone.promise);
    run.close();
  }
}

/** What signals and pages do, in each phase. */
class Run {
  readonly #log: Log;
  #app: App | undefined = undefined;
  #early: NodeJS.Signals | undefined = undefined;
  /** Called when there is something new to look at before the app is started. */
  #wake = (): void => {};
  sidecar: Sidecar | undefined = undefined;
  readiness: Readiness | undefined = undefined;
  /** Resolves once the app has ended. */
  readonly gone = Promise.withResolvers<void>();
  readonly #listeners = passed.map((name) => [name, () => this.#on(name)] as const);
  readonly #ignore = (): void => {};

  constructor(log: Log) {
    this.#log = log;
    for (const [name, listener] of this.#listeners) process.on(name, listener);
    process.on('SIGTSTP', this.#ignore);
  }

  /** The first ending signal that came before the app was started. */
  get early(): NodeJS.Signals | undefined {
    return this.#early;
  }

  changed(): void {
    this.#wake();
  }

  /** Resolves at the next change or signal. */
  next(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  begin(app: App): void {
    this.#app = app;
    // It came while the app was being started.
    if (this.#early !== undefined) this.#pass(this.#early);
  }

  /** `POST /quitquitquit`: callers are sent away; the app decides when it ends. */
  quit(): void {
    this.#leave();
  }

  end(): void {
    this.#app = undefined;
    this.gone.resolve();
  }

  close(): void {
    for (const [name, listener] of this.#listeners) process.off(name, listener);
    process.off('SIGTSTP', this.#ignore);
  }

  #on(name: NodeJS.Signals): void {
    // As `sallyport sidecar` takes them; its files are watched anyway.
    if (name === 'SIGHUP') this.sidecar?.reload();
    if (name === 'SIGHUP' || name === 'SIGUSR1') this.sidecar?.reopen();
    if (this.#app !== undefined) return this.#pass(name);
    if (!ending.includes(name)) return;
    this.#early ??= name;
    this.#wake();
  }

  #pass(name: NodeJS.Signals): void {
    this.#app?.signal(name);
    // Other signals mean something else to many apps: a reload, or a dump of threads.
    if (name === 'SIGTERM' || name === 'SIGINT') this.#leave();
  }

  /** Callers are sent away while the app ends. Outbound stays until it has. */
  #leave(): void {
    void this.sidecar?.leave(true, this.gone.promise).catch((error: unknown) => {
      this.#log.error({ code: 'internal' }, `draining failed: ${String(error)}`);
    });
  }
}

/** Undefined once the sidecar serves, or the signal that came first. @throws SallyportError `ready_timeout`. */
async function waitUntilServing(
  run: Run,
  sidecar: Sidecar,
  { readyTimeoutMs, waitForUpstreams }: ExecOptions,
): Promise<NodeJS.Signals | undefined> {
  let late = false;
  const timer =
    readyTimeoutMs === 0
      ? undefined
      : setTimeout(() => {
          late = true;
          run.changed();
        }, readyTimeoutMs);
  try {
    for (;;) {
      if (run.early !== undefined) return run.early;
      const { ready, serving, waitingFor } = sidecar.readiness();
      if (waitForUpstreams ? ready : serving) return undefined;
      if (late)
        throw new SallyportError(
          'ready_timeout',
          `not ready within ${formatDuration(readyTimeoutMs)}: waiting for ${waitingFor.join('; ')}`,
          { hint: "the app was not started; 'sallyport doctor' looks for the cause, --ready-timeout sets the time" },
        );
      await run.next();
    }
  } finally {
    clearTimeout(timer);
  }
}
