// Controls the load process: sets of connections that are opened once and run repeatedly.

import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Answers, Job, Latency, Order } from './load.ts';

const program = fileURLToPath(new URL('./load.ts', import.meta.url));

/** A set of open connections in the load process. */
export interface OpenSet {
  /** Sends `count` requests and waits for every response. The latencies of a warm-up run are not kept. */
  run(count: number, warm?: boolean): Promise<Answers['run']>;
  close(): Promise<Latency>;
}

/** An order without the ID, which the loader adds. */
type Bare<T> = T extends Order ? Omit<T, 'id'> : never;

export class Loader {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, PromiseWithResolvers<never>>();
  #orders = 0;
  #stderr = '';

  constructor() {
    this.#child = fork(program, { stdio: ['ignore', 'inherit', 'pipe', 'ipc'] });
    this.#child.stderr!.setEncoding('utf8').on('data', (chunk: string) => {
      this.#stderr += chunk;
    });
    this.#child.on('message', ({ id, answer }: { id: number; answer: never }) => {
      this.#waiting.get(id)?.resolve(answer);
      this.#waiting.delete(id);
    });
    this.#child.once('close', () => {
      for (const { reject } of this.#waiting.values()) reject(new Error(`the load failed: ${this.#stderr}`));
    });
  }

  async open(job: Job): Promise<OpenSet> {
    const { set } = await this.#order<Answers['open']>({ kind: 'open', job });
    return {
      run: (count, warm = false) => this.#order<Answers['run']>({ kind: 'run', set, count, warm }),
      close: () => this.#order<Latency>({ kind: 'close', set }),
    };
  }

  /** Ends the load process and all its sets. */
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

/** Runs `use` with a new load process. */
export async function withLoader<T>(use: (loader: Loader) => Promise<T>): Promise<T> {
  const loader = new Loader();
  try {
    return await use(loader);
  } finally {
    loader.close();
  }
}
