// A thread that screens large bodies, so that none of them stops the event loop. It starts with the first, and does not
// keep the process alive. A full queue refuses.

import { Worker } from 'node:worker_threads';
import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { BodyResult, Rules } from './screen.ts';
import type { ScreenAnswer, ScreenQuestion } from './screen-worker.ts';

/** Bodies that wait; each is at most as long as its limit. */
const maxWaiting = 32;

/** The worker runs from the source and from the build. TypeScript does not rewrite a URL in a string. */
const workerUrl = new URL(
  import.meta.url.endsWith('.ts') ? './screen-worker.ts' : './screen-worker.js',
  import.meta.url,
);

interface Waiting {
  readonly resolve: (result: BodyResult) => void;
  readonly reject: (error: SallyportError) => void;
}

/** One for the process: all policies share its queue. */
export class ScreeningThread {
  #worker: Worker | undefined = undefined;
  #next = 0;
  readonly #waiting = new Map<number, Waiting>();

  /** @throws SallyportError `overloaded` if too many wait, or the thread ended. */
  screen(body: Buffer, contentType: string | undefined, path: string, rules: Rules): Promise<BodyResult> {
    if (this.#waiting.size >= maxWaiting)
      return Promise.reject(new SallyportError('overloaded', `${this.#waiting.size} bodies are waiting for screening`));
    return new Promise((resolve, reject) => {
      const question: ScreenQuestion = { id: this.#next++, body, contentType, path, rules };
      this.#waiting.set(question.id, { resolve, reject });
      const worker = this.#thread();
      worker.ref();
      worker.postMessage(question);
    });
  }

  /** Ends the thread. Bodies in its queue are refused. */
  close(): void {
    void this.#worker?.terminate();
  }

  #thread(): Worker {
    if (this.#worker !== undefined) return this.#worker;
    const worker = new Worker(workerUrl, { stdout: false, stderr: false });
    worker.on('message', ({ id, result }: ScreenAnswer) => {
      this.#waiting.get(id)?.resolve(result);
      this.#waiting.delete(id);
      if (this.#waiting.size === 0) worker.unref();
    });
    worker.on('error', () => {});
    worker.on('exit', () => {
      if (this.#worker === worker) this.#worker = undefined;
      for (const { reject } of this.#waiting.values())
        reject(new SallyportError('overloaded', 'the thread that screens bodies has ended'));
      this.#waiting.clear();
    });
    this.#worker = worker;
    return worker;
  }
}
