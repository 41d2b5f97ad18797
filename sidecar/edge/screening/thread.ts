// A thread that screens large bodies, so that none blocks the event loop. It starts with the first, and does not
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

/** A thread that does not respond for this long hangs: longer than any body's time limit, even on a busy machine. */
const stallMs = 20_000;

/** A thread loads its modules first. */
const startMs = 60_000;

interface Waiting {
  readonly question: ScreenQuestion;
  readonly resolve: (result: BodyResult) => void;
  readonly reject: (error: SallyportError) => void;
}

/** One for the process: all policies share its queue. */
export class ScreeningThread {
  readonly #url: URL;
  readonly #stallMs: number;
  #worker: Worker | undefined = undefined;
  #isReady = false;
  #isClosed = false;
  #next = 0;
  /** In the order of the responses: the first is being screened. */
  readonly #waiting = new Map<number, Waiting>();
  #stall: NodeJS.Timeout | undefined = undefined;

  /** `url` and `stallMs` are for tests. */
  constructor(url = workerUrl, stall = stallMs) {
    this.#url = url;
    this.#stallMs = stall;
  }

  /** @throws SallyportError `overloaded` if too many wait, or the thread ended while it screened this body. */
  screen(body: Buffer, contentType: string | undefined, path: string, rules: Rules): Promise<BodyResult> {
    if (this.#waiting.size >= maxWaiting)
      return Promise.reject(new SallyportError('overloaded', `${this.#waiting.size} bodies are waiting for screening`));
    return new Promise((resolve, reject) => {
      const question: ScreenQuestion = { id: this.#next++, body, contentType, path, rules };
      this.#waiting.set(question.id, { question, resolve, reject });
      this.#ask(question);
      if (this.#waiting.size === 1) this.#watch();
    });
  }

  /** Ends the thread. Bodies in its queue are refused. */
  close(): void {
    this.#isClosed = true;
    void this.#worker?.terminate();
  }

  #ask(question: ScreenQuestion): void {
    const worker = this.#thread();
    worker.ref();
    worker.postMessage(question);
  }

  /** Ends a hanging thread; its end is handled like any other. */
  #watch(): void {
    clearTimeout(this.#stall);
    if (this.#waiting.size > 0) {
      const limit = this.#isReady ? this.#stallMs : startMs;
      this.#stall = setTimeout(() => void this.#worker?.terminate(), limit);
    }
  }

  #thread(): Worker {
    if (this.#worker !== undefined) return this.#worker;
    const worker = new Worker(this.#url, { stdout: false, stderr: false });
    this.#isReady = false;
    worker.on('message', (message: ScreenAnswer | 'ready') => {
      if (message === 'ready') {
        this.#isReady = true;
        return this.#watch();
      }
      const { id, result } = message;
      this.#waiting.get(id)?.resolve(result);
      this.#waiting.delete(id);
      this.#watch();
      if (this.#waiting.size === 0) worker.unref();
    });
    worker.on('error', () => {});
    worker.on('exit', () => {
      this.#worker = undefined;
      // The body being screened may be the cause. The others are sent again, to a new thread.
      const [first] = this.#waiting.values();
      if (first !== undefined) {
        this.#waiting.delete(first.question.id);
        first.reject(new SallyportError('overloaded', 'the thread that screens bodies has ended'));
      }
      if (this.#isClosed)
        for (const { reject } of this.#waiting.values())
          reject(new SallyportError('overloaded', 'the thread that screens bodies is closed'));
      if (this.#isClosed) this.#waiting.clear();
      for (const { question } of this.#waiting.values()) this.#ask(question);
      this.#watch();
    });
    this.#worker = worker;
    return worker;
  }
}
