// The load process seen from here: sets of connections that are opened once and run as often as is wanted.

import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Answers, Job, Latency, Order } from './load.ts';

const program = fileURLToPath(new URL('./load.ts', import.meta.url));

/** A set of open connections in the load process. */
export interface OpenSet {
  /** Asks `count` questions and waits for every answer. The latencies of a warm run are not kept. */
  run(count: number, warm?: boolean): Promise<Answers['run']>;
  close(): Promise<Latency>;
}

/** An order without what the loader adds to it. */
type Bare<T> = T extends Order ? Omit<T, 'id'> : never;

export class Loader {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, PromiseWithResolvers<never>>();
  #orders = 0;
  #said = '';

  constructor() {
    this.#child = fork(program, { stdio: ['ignore', 'inherit', 'pipe', 'ipc'] });
    this.#child.stderr!.setEncoding('utf8').on('data', (chunk: string) => {
      this.#said += chunk;
    });
    this.#child.on('message', ({ id, answer }: { id: number; answer: never }) => {
      this.#waiting.get(id)?.resolve(answer);
      this.#waiting.delete(id);
    });
    this.#child.once('close', () => {
      for (const { reject } of this.#waiting.values()) reject(new Error(`the load failed: ${this.#said}`));
    });
  }

  async open(job: Job): Promise<OpenSet> {
    const { set } = await this.#order<Answers['open']>({ kind: 'open', job });
    return {
      run: (count, warm = false) => this.#order<Answers['run']>({ kind: 'run', set, count, warm }),
      close: () => this.#order<Latency>({ kind: 'close', set }),
    };
  }

  /** Ends the load process, and with it every set. */
  close(): void {
    this.#child.kill();
  }

  #order<T>(order: Bare<Order>): Promise<T> {
    const id = this.#orders++;
    const answer = Promise.withResolvers<T>();
    this.#waiting.set(id, answer as unknown as PromiseWithResolvers<never>);
    this.#child.send({ id, ...order });
    return answer.promise;
  }
}

/** Runs `use` with a load process of its own. */
export async function withLoader<T>(use: (loader: Loader) => Promise<T>): Promise<T> {
  const loader = new Loader();
  try {
    return await use(loader);
  } finally {
    loader.close();
  }
}
