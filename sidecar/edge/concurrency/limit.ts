// How many requests are in flight at once, of a route or of each client of it. Whoever enters leaves, whatever happens; the
// table holds those who are in, and nobody else.

import { SallyportError } from '../../../cert-agent/base/errors.ts';

export interface ConcurrencyPlan {
  readonly maxInFlight: number;
  /** Counted for the route as a whole, or for each client of it by the key that the caller gives. */
  readonly per: 'route' | 'client';
}

/** Who counts, here or in another process. */
export interface InFlight {
  /** Counts the request in, or gives false: then it must not leave. Never rejects. */
  enter(key: string): boolean | Promise<boolean>;
  leave(key: string): void;
  /** The error for whom `enter` refused. */
  refusal(route: string): SallyportError;
}

export class ConcurrencyLimit implements InFlight {
  readonly plan: ConcurrencyPlan;
  readonly #inFlight = new Map<string, number>();
  #refused = 0;

  constructor(plan: ConcurrencyPlan) {
    this.plan = plan;
  }

  /** Counts the request in, or gives false: then it must not leave. With `per: 'route'` the key is not looked at. */
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

  /** @throws TypeError when nobody of this key is in: a caller that leaves twice would let one more in, for ever. */
  leave(key: string): void {
    const of = this.plan.per === 'route' ? '' : key;
    const now = this.#inFlight.get(of);
    if (now === undefined) throw new TypeError('nobody of this key is in');
    if (now === 1) this.#inFlight.delete(of);
    else this.#inFlight.set(of, now - 1);
  }

  refusal(route: string): SallyportError {
    return refusalOf(this.plan, route);
  }

  facts(): { readonly inFlight: number; readonly keys: number; readonly refused: number } {
    const inFlight = [...this.#inFlight.values()].reduce((sum, one) => sum + one, 0);
    return { inFlight, keys: this.#inFlight.size, refused: this.#refused };
  }
}

/** The error for a request that is one too many. */
export function refusalOf({ maxInFlight, per }: ConcurrencyPlan, route: string): SallyportError {
  const whose = per === 'route' ? 'of the route' : 'of one client';
  return new SallyportError('concurrency_limited', `${maxInFlight} requests ${whose} ${route} are in flight`);
}
