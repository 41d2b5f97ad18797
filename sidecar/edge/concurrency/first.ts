// The first worker's side: counts for the others, and releases what a worker held when that ends.

import type { ConcurrencyLimit } from '../concurrency-limit.ts';
import type { LimitTable } from './limit.ts';
import type { ConcurrencyPlan } from './schema.ts';

interface Question {
  readonly op: 'enter' | 'leave';
  readonly limit: string;
  readonly plan: ConcurrencyPlan;
  readonly key: string;
}

interface Held {
  readonly limit: ConcurrencyLimit;
  readonly key: string;
  count: number;
}

/** What each of the other workers has in flight. */
export class CountsOfWorkers {
  readonly #limits: LimitTable;
  readonly #held = new Map<number, Map<string, Held>>();

  constructor(limits: LimitTable) {
    this.#limits = limits;
  }

  /** True if the request may enter; always true for one that leaves. Only messages of our own workers arrive here. */
  answer(worker: number, question: unknown): boolean {
    const { op, limit, plan, key } = question as Question;
    if (op === 'enter') return this.#enter(worker, limit, plan, key);
    this.#leave(worker, limit, key);
    return true;
  }

  /** Releases what the worker held, so that a crash leaks no places. */
  gone(worker: number): void {
    for (const { limit, key, count } of this.#held.get(worker)?.values() ?? [])
      for (let i = 0; i < count; i++) limit.leave(key);
    this.#held.delete(worker);
  }

  #enter(worker: number, name: string, plan: ConcurrencyPlan, key: string): boolean {
    const held = this.#held.get(worker) ?? new Map<string, Held>();
    this.#held.set(worker, held);
    const of = `${name} ${key}`;
    const one = held.get(of) ?? { limit: this.#limits.of(name, plan), key, count: 0 };
    if (!one.limit.enter(key)) return false;
    one.count++;
    held.set(of, one);
    return true;
  }

  #leave(worker: number, name: string, key: string): void {
    const held = this.#held.get(worker);
    const of = `${name} ${key}`;
    const one = held?.get(of);
    // The worker has been restarted: what it held was released when it ended.
    if (held === undefined || one === undefined) return;
    one.limit.leave(key);
    one.count--;
    if (one.count === 0) held.delete(of);
  }
}
