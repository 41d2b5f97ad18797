// How many requests are in flight at once, of a route or of each client of it. Each that enters leaves, whatever happens; the
// table holds only clients that have a request in flight.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { ConcurrencyPlan } from './schema.ts';

/** Counts requests, here or in another process. */
export interface InFlight {
  /** Counts a request in, or returns false: then it must not leave. Never rejects. */
  enter(key: string): boolean | Promise<boolean>;
  leave(key: string): void;
}

export class ConcurrencyLimit implements InFlight {
  readonly plan: ConcurrencyPlan;
  readonly #inFlight = new Map<string, number>();
  #refused = 0;

  constructor(plan: ConcurrencyPlan) {
    this.plan = plan;
  }

  /** Counts a request in, or returns false: then it must not leave. With `per: 'route'` the key is ignored. */
  enter(key: string): boolean {
    const of = this.plan.per === 'route' ? '' : key;
    const now = this.#inFlight.get(of) ?? 0;
    if (now >= this.plan.maxInFlight) {
      this.#refused++;
      return false;
    }
    this.#inFlight.set(of, now + 1);
    return true;
  }

  /** @throws TypeError when no request of this key is in: a caller that leaves twice would let one more in, for ever. */
  leave(key: string): void {
    const of = this.plan.per === 'route' ? '' : key;
    const now = this.#inFlight.get(of);
    if (now === undefined) throw new TypeError('no request of this key is in');
    if (now === 1) this.#inFlight.delete(of);
    else this.#inFlight.set(of, now - 1);
  }

  facts(): { readonly inFlight: number; readonly keys: number; readonly refused: number } {
    const inFlight = [...this.#inFlight.values()].reduce((sum, one) => sum + one, 0);
    return { inFlight, keys: this.#inFlight.size, refused: this.#refused };
  }
}

/** The limits of one process. One that no generation holds any more, and that counts nothing, is collected. */
export class LimitTable {
  readonly #limits = new Map<string, WeakRef<ConcurrencyLimit>>();

  /** The limit of this name, made when it is first wanted. */
  of(name: string, plan: ConcurrencyPlan): ConcurrencyLimit {
    const known = this.#limits.get(name)?.deref();
    if (known !== undefined) return known;
    for (const [other, limit] of this.#limits) if (limit.deref() === undefined) this.#limits.delete(other);
    const made = new ConcurrencyLimit(plan);
    this.#limits.set(name, new WeakRef(made));
    return made;
  }
}

/** The error for a request that is one too many. */
export function refusalOf({ maxInFlight, per }: ConcurrencyPlan, route: string): SallyportError {
  const whose = per === 'route' ? 'of the route' : 'of one client';
  return new SallyportError('concurrency_limited', `${maxInFlight} requests ${whose} ${route} are in flight`);
}
