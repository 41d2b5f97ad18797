// The way from a worker to the first, for state that is one over all of them: see shared-state.ts. All questions of a turn of
// the event loop go in one message. A question without an answer in time fails: nothing passes then that has to be counted.

import { every } from '../../cert-agent/base/background.ts';
import type { Owners } from '../compile/gateway-plan.ts';
import type { FirstWorker } from '../edge/capability.ts';
import type { StateAsk } from './shared-state.ts';

/** Questions to the first. One numbered 0 wants no answer. */
export interface StateAsks {
  readonly asks: readonly (readonly [id: number, ask: StateAsk])[];
}
export interface StateAnswers {
  readonly what: 'answers';
  readonly answers: readonly (readonly [id: number, answer: unknown])[];
}
/** What a capability of the first tells all others. */
export interface StateTold {
  readonly what: 'told';
  readonly of: string;
  readonly message: unknown;
}

/** What the first has in force, from it to each of the others: whenever it changes, and when one starts. */
export interface StateInForce {
  readonly what: 'inForce';
  /** Of the files: see `Configuration.digest`. */
  readonly digest: string;
  readonly owners: Owners;
}

/** A first that answers nothing in this time hangs. */
const patienceMs = 3000;

interface Waiting {
  readonly since: number;
  readonly answer: (answer: unknown) => void;
}

export class WorkerLink {
  readonly #send: (asks: StateAsks) => void;
  readonly #waiting = new Map<number, Waiting>();
  readonly #listeners = new Map<string, (message: unknown) => void>();
  #queue: (readonly [number, StateAsk])[] = [];
  #nextId = 1;
  #inForce: StateInForce | undefined = undefined;
  #changed: () => void = () => {};

  /** `send` writes to the first. */
  constructor(send: (asks: StateAsks) => void) {
    this.#send = send;
    every('worker_link', patienceMs / 4, () => this.#giveUp());
  }

  /** A message of the first. */
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

  /** Who has what, as the first has it in force; undefined unless the first has the files of this digest. */
  ownersFor(digest: string | undefined): Owners | undefined {
    return this.#inForce?.digest === digest ? this.#inForce?.owners : undefined;
  }

  /** Calls back whenever something else is in force at the first. */
  onInForce(changed: () => void): void {
    this.#changed = changed;
  }

  /** The way for one capability. */
  of(name: string): FirstWorker {
    return {
      ask: (question, late) => this.#ask(name, question, late),
      tell: (question) => this.#write(0, { of: name, question }),
      onTold: (listener) => this.#listeners.set(name, listener),
    };
  }

  /** Undefined where there is no answer in time; `late` hears of one that comes then. Never rejects. */
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
      // In the order in which they were asked.
      if (now - since < patienceMs) return;
      answer(undefined);
      // An answer that comes ten times later would be that of a first that has started anew, which cannot be.
      if (now - since > 10 * patienceMs) this.#waiting.delete(id);
    }
  }
}
