// What is one for all workers of a gateway lies with the first; the others ask it over the pipe that they have anyway. It is
// plain tables: each question is answered at once. What a worker holds is free again when it is gone.

import type { ConcurrencyLimit, ConcurrencyPlan } from '../edge/concurrency/limit.ts';
import type { Claim, LocalSessions } from '../edge/oidc/session-memory.ts';
import { type GivenBack, type Lease, type LeaseAsk, lend, takeBack } from '../edge/rate-limit/leases.ts';
import type { LocalLimits } from '../edge/rate-limit/local.ts';

/** A question of a worker, as it goes over the pipe. */
export type StateAsk =
  | { readonly op: 'spend'; readonly key: string; readonly until: number }
  | { readonly op: 'claim'; readonly key: string; readonly owner: string; readonly leaseMs: number }
  | {
      readonly op: 'settle';
      readonly key: string;
      readonly owner: string;
      readonly answer?: string | undefined;
      readonly keepMs: number;
    }
  | { readonly op: 'end'; readonly id: string; readonly until: number }
  | { readonly op: 'ended' }
  | { readonly op: 'lend'; readonly asks: readonly LeaseAsk[] }
  | { readonly op: 'giveBack'; readonly all: readonly GivenBack[] }
  | { readonly op: 'enter' | 'leave'; readonly limit: string; readonly plan: ConcurrencyPlan; readonly key: string };

/** `true` where there is nothing to say. */
export type StateAnswer = boolean | Claim | readonly Lease[] | readonly (readonly [id: string, until: number])[];

/** Who is in, by worker. */
interface Held {
  readonly limit: ConcurrencyLimit;
  readonly key: string;
  count: number;
}

export class FirstState {
  readonly #sessions: LocalSessions;
  readonly #limits: LocalLimits;
  readonly #workers: number;
  readonly #gateway: { inFlightOf(key: string, plan: ConcurrencyPlan): ConcurrencyLimit };
  readonly #held = new Map<number, Map<string, Held>>();

  constructor(
    sessions: LocalSessions,
    limits: LocalLimits,
    workers: number,
    gateway: { inFlightOf(key: string, plan: ConcurrencyPlan): ConcurrencyLimit },
  ) {
    this.#sessions = sessions;
    this.#limits = limits;
    this.#workers = workers;
    this.#gateway = gateway;
  }

  /** Answers worker `worker`. */
  answer(worker: number, ask: StateAsk): StateAnswer {
    switch (ask.op) {
      case 'spend':
        return this.#sessions.spend(ask.key, ask.until);
      case 'claim':
        return this.#sessions.claim(ask.key, ownerOf(worker, ask.owner), ask.leaseMs);
      case 'settle':
        this.#sessions.settle(ask.key, ownerOf(worker, ask.owner), ask.answer, ask.keepMs);
        return true;
      case 'end':
        this.#sessions.end(ask.id, ask.until);
        return true;
      case 'ended':
        return this.#sessions.ended();
      case 'lend':
        return lend(this.#limits, ask.asks, this.#workers);
      case 'giveBack':
        takeBack(this.#limits, ask.all);
        return true;
      case 'enter':
        return this.#enter(worker, ask.limit, ask.plan, ask.key);
      case 'leave':
        this.#leave(worker, ask.limit, ask.key);
        return true;
    }
  }

  /** A worker is gone, and with it all that it was doing. What it had on loan of limits counts as spent. */
  gone(worker: number): void {
    this.#sessions.release(ownerOf(worker, ''));
    for (const { limit, key, count } of this.#held.get(worker)?.values() ?? [])
      for (let i = 0; i < count; i++) limit.leave(key);
    this.#held.delete(worker);
  }

  #enter(worker: number, name: string, plan: ConcurrencyPlan, key: string): boolean {
    const held = this.#held.get(worker) ?? new Map<string, Held>();
    this.#held.set(worker, held);
    const of = `${name} ${key}`;
    const one = held.get(of) ?? { limit: this.#gateway.inFlightOf(name, plan), key, count: 0 };
    if (!one.limit.enter(key)) return false;
    one.count++;
    held.set(of, one);
    return true;
  }

  #leave(worker: number, name: string, key: string): void {
    const held = this.#held.get(worker);
    const of = `${name} ${key}`;
    const one = held?.get(of);
    // Of one that was started again: what it held is free since it was gone.
    if (held === undefined || one === undefined) return;
    one.limit.leave(key);
    one.count--;
    if (one.count === 0) held.delete(of);
  }
}

function ownerOf(worker: number, owner: string): string {
  return `worker ${worker} ${owner}`;
}
