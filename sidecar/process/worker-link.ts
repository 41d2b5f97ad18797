// The link from a worker to the first, for state that all workers share: see shared-state.ts. All queries of one turn
// of the event loop go in one message. A query without an answer in time fails: what must be counted is refused then.

import { every } from '../../cert-agent/base/background.ts';
import type { Owners } from '../compile/gateway-plan.ts';
import type { FirstWorker } from '../edge/capability.ts';
import type { StateAsk } from './shared-state.ts';

/** Queries to the first worker. Number 0 expects no answer. */
export interface StateAsks {
  readonly asks: readonly (readonly [id: number, ask: StateAsk])[];
}
/** Answers of the first worker, by query number. */
export interface StateAnswers {
  readonly what: 'answers';
  readonly answers: readonly (readonly [id: number, answer: unknown])[];
}
/** A message of one of the first worker's capabilities to all others. */
export interface StateTold {
  readonly what: 'told';
  readonly of: string;
  readonly message: unknown;
}

/** What the first worker has in force. Sent to the others at each change, and to each at its start. */
export interface StateInForce {
  readonly what: 'inForce';
  /** Hash of the files: see `Configuration.digest`. */
  readonly digest: string;
  readonly owners: Owners;
}

/** If the first worker answers nothing in this time, it hangs. */
const patienceMs = 3000;

interface Waiting {
  readonly since: number;
  readonly answer: (answer: unknown) => void;
}

/** A worker's link to the first. */
export class WorkerLink {
  readonly #send: (asks: StateAsks) => void;
  readonly #waiting = new Map<number, Waiting>();
  readonly #listeners = new Map<string, (message: unknown) => void>();
  #queue: (readonly [number, StateAsk])[] = [];
  #nextId = 1;
  #inForce: StateInForce | undefined = undefined;
  #changed: () => void = () => {};

  /** `send` writes to the first worker. */
  constructor(send: (asks: StateAsks) => void) {
    this.#send = send;
    every('worker_link', patienceMs / 4, () => this.#giveUp());
  }

  /** Takes a message of the first worker. */
  heard(message: StateAnswers | StateTold | StateInForce): void {
    if (message.what === 'inForce') {
      this.#inForce = message;
      return this.#changed();
    }
    if (message.what === 'told') return this.#listeners.get(message.of)?.(message.message);
    for (const [id, answer] of message.answers) {
      const waiting = this.#waiting.get(id);
      this.#waiting.delete(id);
      waiting?.answer(answer ?? undefined);
    }
  }

  /** The first worker's owners; undefined unless it has the files of this digest in force. */
  ownersFor(digest: string | undefined): Owners | undefined {
    return this.#inForce?.digest === digest ? this.#inForce?.owners : undefined;
  }

  /** Calls back at each change of what the first worker has in force. */
  onInForce(changed: () => void): void {
    this.#changed = changed;
  }

  /** The link for one capability. */
  of(name: string): FirstWorker {
    return {
      ask: (question, late) => this.#ask(name, question, late),
      tell: (question) => this.#write(0, { of: name, question }),
      onTold: (listener) => this.#listeners.set(name, listener),
    };
  }

  /** Resolves with undefined if there is no answer in time; `late` gets an answer that comes later. Never rejects. */
  #ask<T>(of: string, question: unknown, late: (answer: T) => void = () => {}): Promise<T | undefined> {
    return new Promise((resolve) => {
      const id = this.#nextId++;
      let isOver = false;
      this.#waiting.set(id, {
        since: performance.now(),
        answer: (answer) => {
          if (answer === undefined) isOver = true;
          else if (isOver) return late(answer as T);
          resolve(answer as T | undefined);
        },
      });
      this.#write(id, { of, question });
    });
  }

  #write(id: number, ask: StateAsk): void {
    if (this.#queue.length === 0)
      setImmediate(() => {
        const asks = this.#queue;
        this.#queue = [];
        this.#send({ asks });
      });
    this.#queue.push([id, ask]);
  }

  #giveUp(): void {
    const now = performance.now();
    for (const [id, { since, answer }] of this.#waiting) {
      // In the order of the queries.
      if (now - since < patienceMs) return;
      answer(undefined);
      // An answer ten times later would come from a restarted first worker, which is impossible.
      if (now - since > 10 * patienceMs) this.#waiting.delete(id);
    }
  }
}
