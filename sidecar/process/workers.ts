// `--workers N`: the first process is a sidecar with the agent and the pages. It starts N-1 others on the same ports
// (SO_REUSEPORT: the kernel distributes connections), merges their facts, and restarts one that dies.

import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { guard } from '../../cert-agent/base/background.ts';
import { withCompileCache } from '../../cert-agent/base/compile-cache.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import type { DrainReport } from '../connection.ts';
import type { Why } from '../observe/denial-lines.ts';
import type { Facts } from '../observe/merge-workers.ts';
import type { Readiness } from '../observe/pages.ts';
import type { StateAsk } from './shared-state.ts';
import type { StateAnswers, StateAsks, StateInForce, StateTold } from './worker-link.ts';

/** How a worker is started. */
export interface WorkerPlan {
  readonly configFile: string;
  readonly version: string;
  /** From 1; the first is the process that starts the others. */
  readonly index: number;
  readonly count: number;
  /** See `SidecarOptions.wrapping`. */
  readonly wrapping?: boolean;
}

/** A query or command of the first worker. */
export interface Ask {
  readonly id: number;
  readonly what: 'facts' | 'leave' | 'appGone' | 'reload' | 'reopen' | 'why';
  /** With `why`: the decision. */
  readonly decision?: string;
  /** With `leave`: whether to wait for callers and the app. */
  readonly patiently?: boolean;
  /** With `leave`: outbound stays open until `appGone`. */
  readonly withApp?: boolean;
}

/** Messages of the first worker to another. */
export type Said = Ask | StateAnswers | StateTold | StateInForce;

/** Messages of a worker to the first. */
export type Told = { readonly readiness: Readiness } | { readonly id: number; readonly answer: Reply } | StateAsks;

/** `null`: it did not refuse that request. */
export type Reply = Facts | DrainReport | Why | null;

// The same extension as this file: .ts in the source, .js in dist/.
const program = fileURLToPath(import.meta.url.replace(/workers(\.[jt]s)$/, 'worker$1'));

/** A worker that does not answer in this time hangs; its part is left out. */
const patienceMs = 3000;
const restartMs = 1000;

interface Worker {
  readonly index: number;
  child: ChildProcess | undefined;
  readiness: Readiness;
}

/** The first worker's shared state. */
export interface Shared {
  /** Answers a worker's query. */
  answer(worker: number, ask: StateAsk): unknown;
  /** Called when a worker has ended. */
  gone(worker: number): void;
}

/** The workers after the first. */
export class Workers {
  readonly #plan: WorkerPlan;
  readonly #log: Log;
  readonly #workers: Worker[];
  readonly #answers = new Map<number, (answer: Reply | undefined) => void>();
  readonly #changed: () => void;
  readonly #shared: Shared;
  #inForce: StateInForce | undefined = undefined;
  #nextId = 1;
  #leaving = false;
  restarts = 0;

  /** Starts workers 2 to `count`. `changed` is called when the readiness of one changes. */
  constructor(plan: WorkerPlan, log: Log, changed: () => void, shared: Shared) {
    this.#shared = shared;
    this.#plan = plan;
    this.#log = log;
    this.#changed = changed;
    this.#workers = Array.from({ length: plan.count - 1 }, (_, i) => ({
      index: i + 2,
      child: undefined,
      readiness: starting(i + 2),
    }));
    for (const worker of this.#workers) this.#start(worker);
  }

  /** What the workers wait for. */
  waitingFor(): string[] {
    return this.#workers.flatMap(({ index, readiness }) =>
      readiness.waitingFor.map((one) => (one === `worker ${index}` ? one : `${one} (worker ${index})`)),
    );
  }

  /** Makes each of them read its files again. */
  reload(): void {
    for (const { child } of this.#workers) child?.send({ id: 0, what: 'reload' });
  }

  /** Makes each of them reopen its access log. */
  reopen(): void {
    for (const { child } of this.#workers) child?.send({ id: 0, what: 'reopen' });
  }

  /** The facts of each; one that does not answer in time is left out. */
  async facts(): Promise<Facts[]> {
    return (await this.#askAll('facts', patienceMs)) as Facts[];
  }

  /** The explanation of the worker that refused this request. */
  async why(decision: string): Promise<Why | undefined> {
    const answers = (await this.#askAll('why', patienceMs, { decision })) as (Why | null)[];
    return answers.find((one) => one !== null) ?? undefined;
  }

  /** True once the own part of each is ready. */
  get serving(): boolean {
    return this.#workers.every(({ readiness }) => readiness.serving);
  }

  /** Makes all of them leave within `ms`, and ends them. With `app` the time begins when it has gone. */
  async leave(ms: number, patiently: boolean, app?: Promise<void>): Promise<DrainReport[]> {
    this.#leaving = true;
    void app?.then(() => {
      for (const { child } of this.#workers) if (child !== undefined) write(child, { id: 0, what: 'appGone' });
    });
    const asked = { patiently, withApp: app !== undefined };
    return (await this.#askAll('leave', ms + patienceMs, asked, app)) as DrainReport[];
  }

  /** Sends a capability's message to all others. */
  tellAll(of: string, message: unknown): void {
    for (const { child } of this.#workers) if (child !== undefined) write(child, { what: 'told', of, message });
  }

  /** Sets what the others serve, including those that start later: exactly what is in force here. */
  follow(inForce: StateInForce): void {
    this.#inForce = inForce;
    for (const { child } of this.#workers) if (child !== undefined) write(child, inForce);
  }

  /** Disconnects them, so that they end, and starts none again. */
  close(): void {
    this.#leaving = true;
    for (const { child } of this.#workers) if (child?.connected) child.disconnect();
  }

  #start(worker: Worker): void {
    const child = fork(program, [JSON.stringify({ ...this.#plan, index: worker.index })], {
      env: withCompileCache(process.env),
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      // Disabled before its program runs: log rotation may signal all of us at once.
      execArgv: [...process.execArgv, '--disable-sigusr1'],
    });
    worker.child = child;
    if (this.#inForce !== undefined) write(child, this.#inForce);
    child.on('message', (told: Told) => {
      if ('readiness' in told) {
        worker.readiness = told.readiness;
        this.#changed();
      } else if ('asks' in told) guard('workers', () => this.#answerState(worker.index, child, told));
      else this.#answers.get(told.id)?.(told.answer);
    });
    // A child that could not be started (no descriptors, no memory) does not exit.
    child.on('error', () => child.pid === undefined && gone(null, null));
    child.once('exit', (status, signal) => gone(status, signal));
    const gone = (status: number | null, signal: NodeJS.Signals | null): void => {
      worker.child = undefined;
      this.#shared.gone(worker.index);
      worker.readiness = starting(worker.index);
      if (this.#leaving) return;
      this.restarts++;
      this.#log.error(
        { code: 'worker_exited', worker: worker.index, status, signal },
        `worker ${worker.index} ended and is restarted`,
      );
      this.#changed();
      setTimeout(() => {
        if (!this.#leaving) this.#start(worker);
      }, restartMs).unref();
    };
  }

  async #answerState(worker: number, child: ChildProcess, { asks }: StateAsks): Promise<void> {
    const answers: [number, unknown][] = [];
    for (const [id, ask] of asks) {
      const said = this.#shared.answer(worker, ask);
      const answer = said instanceof Promise ? await said : said;
      if (id !== 0) answers.push([id, answer]);
    }
    if (answers.length > 0) write(child, { what: 'answers', answers });
  }

  /** The time limit begins once `from` is settled; default at once. */
  async #askAll(what: Ask['what'], ms: number, more: Partial<Ask> = {}, from?: Promise<void>): Promise<Reply[]> {
    const answers = await Promise.all(this.#workers.map(({ child }) => this.#ask(child, { ...more, what }, ms, from)));
    return answers.filter((one) => one !== undefined);
  }

  #ask(
    child: ChildProcess | undefined,
    ask: Omit<Ask, 'id'>,
    ms: number,
    from: Promise<void> | undefined,
  ): Promise<Reply | undefined> {
    if (child === undefined || !child.connected) return Promise.resolve(undefined);
    const id = this.#nextId++;
    return new Promise((resolve) => {
      const settle = (answer: Reply | undefined): void => {
        clearTimeout(timer);
        child.off('exit', gone);
        this.#answers.delete(id);
        resolve(answer);
      };
      const gone = (): void => settle(undefined);
      let timer: NodeJS.Timeout | undefined;
      const begin = (): void => {
        timer = setTimeout(gone, ms);
        timer.unref();
      };
      if (from === undefined) begin();
      else void from.then(() => this.#answers.has(id) && begin());
      child.once('exit', gone);
      this.#answers.set(id, settle);
      child.send({ ...ask, id });
    });
  }
}

function starting(index: number): Readiness {
  return { ready: false, serving: false, waitingFor: [`worker ${index}`] };
}

/** Sends to a worker that may be ending. */
function write(child: ChildProcess, said: Said): void {
  if (child.connected) child.send(said, () => {});
}
