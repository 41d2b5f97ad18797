// A thread that compares passwords with bcrypt hashes, one at a time. It starts with the first password and does not
// keep the process alive. A full queue refuses, so that guesses cannot pile up without bound.

import { Worker } from 'node:worker_threads';
import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { BcryptAnswer, BcryptQuestion } from './bcrypt-worker.ts';

/** At 70 ms per password of cost 10, the last one in the queue waits for two seconds. */
const maxWaiting = 32;

/** The worker runs from the source and from the build. TypeScript does not rewrite a URL in a string. */
const workerUrl = new URL(
  import.meta.url.endsWith('.ts') ? './bcrypt-worker.ts' : './bcrypt-worker.js',
  import.meta.url,
);

interface Waiting {
  readonly resolve: (right: boolean) => void;
  readonly reject: (error: SallyportError) => void;
}

/** One for the process: all policies share its queue. */
export class BcryptThread {
  #worker: Worker | undefined = undefined;
  #next = 0;
  readonly #waiting = new Map<number, Waiting>();

  /**
   * True if it is the password of `hash`.
   * @throws SallyportError `overloaded` if too many wait, or the thread ended.
   */
  compare(password: string, hash: string): Promise<boolean> {
    if (this.#waiting.size >= maxWaiting)
      return Promise.reject(
        new SallyportError('overloaded', `${this.#waiting.size} passwords are waiting for comparison`),
      );
    return new Promise((resolve, reject) => {
      const question: BcryptQuestion = { id: this.#next++, password, hash };
      this.#waiting.set(question.id, { resolve, reject });
      const worker = this.#thread();
      // The thread keeps the process alive only while a comparison is pending.
      worker.ref();
      worker.postMessage(question);
    });
  }

  /** Ends the thread. Comparisons in its queue are refused. */
  close(): void {
    void this.#worker?.terminate();
  }

  #thread(): Worker {
    if (this.#worker !== undefined) return this.#worker;
    const worker = new Worker(workerUrl, { stdout: false, stderr: false });
    worker.on('message', ({ id, right }: BcryptAnswer) => {
      this.#waiting.get(id)?.resolve(right);
      this.#waiting.delete(id);
      if (this.#waiting.size === 0) worker.unref();
    });
    worker.on('error', () => {});
    worker.on('exit', () => {
      if (this.#worker === worker) this.#worker = undefined;
      for (const { reject } of this.#waiting.values())
        reject(new SallyportError('overloaded', 'the thread that compares passwords has ended'));
      this.#waiting.clear();
    });
    this.#worker = worker;
    return worker;
  }
}
