// Which endpoint a request goes to, of those that are fit for it. Pure but for the dice.

import { createMaglev, createRing, type HashTable } from './hash-table.ts';
import type { BalancePlan } from './traffic.ts';

/** What of an endpoint the choice looks at. */
export interface Candidate {
  /** Its address as it is written. */
  readonly address: string;
  /** Requests that it has now. */
  readonly inFlight: number;
}

export interface Balancer<T extends Candidate> {
  /** The endpoints there are now, fit or not. */
  changed(all: readonly T[]): void;
  /** One of `fit`, which is not empty; `hash` where balancing is by hash and the request has what is hashed. */
  pick(fit: readonly T[], hash: string | undefined): T;
}

/** Istio's default, and ours. */
const byDefault: BalancePlan = { by: 'leastRequest' };

/** A balancer with a state of its own. `random` gives numbers from 0 to 1, 1 excluded. */
export function createBalancer<T extends Candidate>(
  plan: BalancePlan = byDefault,
  random: () => number = Math.random,
): Balancer<T> {
  if (plan.by === 'ringHash' || plan.by === 'maglev') return new ByHash(plan, random);
  if (plan.by === 'random') return { changed() {}, pick: (fit) => fit[Math.floor(random() * fit.length)]! };
  if (plan.by === 'roundRobin') {
    // Several that start together do not all begin with the first.
    let turn = Math.floor(random() * 1000);
    return { changed() {}, pick: (fit) => fit[turn++ % fit.length]! };
  }
  return { changed() {}, pick: (fit) => lessBusy(fit, random) };
}

/** The power of two choices: nearly as even as looking at all of them, and no herd runs to one that looks idle. */
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

  /** Of all of them, not of those that are fit: who is ejected loses his own texts, and nobody else's move. */
  changed(all: readonly T[]): void {
    this.#all = all;
    const names = all.map(({ address }) => address);
    const { by, size } = this.#plan;
    this.#table = by === 'ringHash' ? createRing(names, size) : createMaglev(names, size);
  }

  pick(fit: readonly T[], hash: string | undefined): T {
    // Without what is hashed there is nothing to keep to (as Envoy has it).
    if (hash === undefined) return fit[Math.floor(this.#random() * fit.length)]!;
    const member = this.#table?.find(hash, (one) => fit.includes(this.#all[one]!));
    return member === undefined ? fit[0]! : this.#all[member]!;
  }
}
