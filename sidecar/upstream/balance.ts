// Chooses the endpoint of a request among the usable ones. Pure except for random numbers.

import { createMaglev, createRing, type HashTable } from './hash-table.ts';
import type { BalancePlan } from './traffic.ts';

/** The part of an endpoint that the choice depends on. */
export interface Candidate {
  /** Its address as written. */
  readonly address: string;
  /** Requests in flight on it. */
  readonly inFlight: number;
}

/** Synchronous and without I/O: it runs for each request. `changed` is called before the first `pick`. */
export interface Balancer<T extends Candidate> {
  /** The current endpoints, usable or not. */
  changed(all: readonly T[]): void;
  /** One of `fit`, which is not empty; `hash` if balancing is by hash and the request has the hashed text. */
  pick(fit: readonly T[], hash: string | undefined): T;
}

/** Istio's default, and ours. */
const byDefault: BalancePlan = { by: 'leastRequest' };

/** A balancer with its own state. `random` returns numbers from 0 to 1, 1 excluded. */
export function createBalancer<T extends Candidate>(
  plan: BalancePlan = byDefault,
  random: () => number = Math.random,
): Balancer<T> {
  if (plan.by === 'ringHash' || plan.by === 'maglev') return new ByHash(plan, random);
  if (plan.by === 'random') return { changed() {}, pick: (fit) => fit[Math.floor(random() * fit.length)]! };
  if (plan.by === 'roundRobin') {
    // Several processes that start together do not all begin with the first.
    let turn = Math.floor(random() * 1000);
    return { changed() {}, pick: (fit) => fit[turn++ % fit.length]! };
  }
  return { changed() {}, pick: (fit) => lessBusy(fit, random) };
}

/** The power of two choices: nearly as even as looking at all of them, without a rush to one that looks idle. */
function lessBusy<T extends Candidate>(fit: readonly T[], random: () => number): T {
  if (fit.length === 1) return fit[0]!;
  const first = Math.floor(random() * fit.length);
  const other = (first + 1 + Math.floor(random() * (fit.length - 1))) % fit.length;
  return fit[other]!.inFlight < fit[first]!.inFlight ? fit[other]! : fit[first]!;
}

class ByHash<T extends Candidate> implements Balancer<T> {
  readonly #plan: BalancePlan & { readonly by: 'ringHash' | 'maglev' };
  readonly #random: () => number;
  #all: readonly T[] = [];
  #table: HashTable | undefined = undefined;

  constructor(plan: BalancePlan & { readonly by: 'ringHash' | 'maglev' }, random: () => number) {
    this.#plan = plan;
    this.#random = random;
  }

  /** Built from all endpoints, usable or not: an ejected endpoint's keys move, and no others. */
  changed(all: readonly T[]): void {
    this.#all = all;
    const names = all.map(({ address }) => address);
    const { by, size } = this.#plan;
    this.#table = by === 'ringHash' ? createRing(names, size) : createMaglev(names, size);
  }

  pick(fit: readonly T[], hash: string | undefined): T {
    // Without the hashed text any endpoint will do (as in Envoy).
    if (hash === undefined) return fit[Math.floor(this.#random() * fit.length)]!;
    const member = this.#table?.find(hash, (one) => fit.includes(this.#all[one]!));
    return member === undefined ? fit[0]! : this.#all[member]!;
  }
}
