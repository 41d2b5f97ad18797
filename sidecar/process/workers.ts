// `--workers N`: the first process is a sidecar with the agent and the pages, and starts N-1 others on the same ports
// (SO_REUSEPORT: the kernel deals out connections). What they know is put together here; one that dies is started again.

import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { guard } from '../../cert-agent/base/background.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import type { DrainReport } from '../connection.ts';
import type { Why } from '../observe/denials.ts';
import type { Facts } from '../observe/merge-workers.ts';
import type { Readiness } from '../observe/pages.ts';
import type { StateAsk } from './shared-state.ts';
import type { StateAnswers, StateAsks, StateInForce, StateTold } from './worker-link.ts';

/** What a worker is started with. */
export interface WorkerPlan {
  readonly configFile: string;
  readonly version: string;
  /** From 1; the first is the process that starts the others. */
  readonly index: number;
  readonly count: number;
}

export interface Ask {
  readonly id: number;
  readonly what: 'facts' | 'leave' | 'reload' | 'reopen' | 'why';
  /** With `why`: the decision. */
  readonly decision?: string;
  /** With `leave`: whether others are waited for. */
  readonly patiently?: boolean;
}

/** What the first says to another. */
export type Said = Ask | StateAnswers | StateTold | StateInForce;

export type Told = { readonly readiness: Readiness } | { readonly id: number; readonly answer: Reply } | StateAsks;

/** `null`: it knows nothing of that decision. */
export type Reply = Facts | DrainReport | Why | null;

// It has the extension that this file has: .ts from source, .js in dist/.
const program = fileURLToPath(import.meta.url.replace(/workers(\.[jt]s)$/, 'worker$1'));

/** A worker that answers no question in this time is hung; its share of an answer is left out. */
const patienceMs = 3000;
const restartMs = 1000;

interface Worker {
  readonly index: number;
  child: ChildProcess | undefined;
  readiness: Readiness;
}

/** What the first knows for all of them. */
export interface Shared {
  /** Answers a worker. */
  answer(worker: number, ask: StateAsk): unknown;
  /** A worker is gone. */
  gone(worker: number): void;
}

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

  /** Starts workers 2 to `count`; `changed` is called when the readiness of one changes. */
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

  /** What any of them waits for. */
  waitingFor(): string[] {
    return this.#workers.flatMap(({ index, readiness }) =>
      readiness.waitingFor.map((one) => (one === `worker ${index}` ? one : `${one} (worker ${index})`)),
    );
  }

  reload(): void {
    for (const { child } of this.#workers) child?.send({ id: 0, what: 'reload' });
  }

  /** Access logs are opened anew. */
  reopen(): void {
    for (const { child } of this.#workers) child?.send({ id: 0, what: 'reopen' });
  }

  /** What each of them knows; one that does not answer in time is left out. */
  async facts(): Promise<Facts[]> {
    return (await this.#askAll('facts', patienceMs)) as Facts[];
  }

  /** Whichever of them refused this request says why. */
  async why(decision: string): Promise<Why | undefined> {
    const answers = (await this.#askAll('why', patienceMs, { decision })) as (Why | null)[];
    return answers.find((one) => one !== null) ?? undefined;
  }

  /** Has all of them leave, within `ms`, and ends them. */
  async leave(ms: number, patiently: boolean): Promise<DrainReport[]> {
    this.#leaving = true;
    return (await this.#askAll('leave', ms + patienceMs, { patiently })) as DrainReport[];
  }

  /** Tells all others what a capability of the first has to say. */
  tellAll(of: string, message: unknown): void {
    for (const { child } of this.#workers) if (child !== undefined) write(child, { what: 'told', of, message });
  }

  /** What is in force here: each serves that and nothing else, also one that is started later. */
  follow(inForce: StateInForce): void {
    this.#inForce = inForce;
    for (const { child } of this.#workers) if (child !== undefined) write(child, inForce);
  }

  close(): void {
    this.#leaving = true;
    for (const { child } of this.#workers) if (child?.connected) child.disconnect();
  }

  #start(worker: Worker): void {
    const child = fork(program, [JSON.stringify({ ...this.#plan, index: worker.index })], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      // Before the first line of its program: log rotation may signal all of us at once.
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
    // One that could not be started (no descriptors, no memory) has no exit.
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
        `worker ${worker.index} is gone and is started again`,
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

  async #askAll(what: Ask['what'], ms: number, more: Partial<Ask> = {}): Promise<Reply[]> {
    const answers = await Promise.all(this.#workers.map(({ child }) => this.#ask(child, what, ms, more)));
    return answers.filter((one) => one !== undefined);
  }

  #ask(child: ChildProcess | undefined, what: Ask['what'], ms: number, more: Partial<Ask>): Promise<Reply | undefined> {
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
      const timer = setTimeout(gone, ms);
      timer.unref();
      child.once('exit', gone);
      this.#answers.set(id, settle);
      child.send({ ...more, id, what });
    });
  }
}

function starting(index: number): Readiness {
  return { ready: false, waitingFor: [`worker ${index}`] };
}

/** To a worker that may be going. */
function write(child: ChildProcess, said: Said): void {
  if (child.connected) child.send(said, () => {});
}
