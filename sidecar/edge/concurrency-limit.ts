// Limits how many requests are in flight at once, in total or per client. Each that enters must leave, in any case; the
// table holds only clients with requests in flight.

/** How many at once: in total, or per client. */
export interface InFlightPlan {
  readonly maxInFlight: number;
  readonly per: 'route' | 'client';
}

/** Counts requests, here or in another process. */
export interface InFlight {
  /** Counts a request in, or returns false: then it must not leave. Never rejects. */
  enter(key: string): boolean | Promise<boolean>;
  /** Exactly once for each `enter` that returned true, with the same key. */
  leave(key: string): void;
}

/** A count of requests in flight, with its limit. */
export class ConcurrencyLimit implements InFlight {
  readonly plan: InFlightPlan;
  readonly #inFlight = new Map<string, number>();
  #refused = 0;

  constructor(plan: InFlightPlan) {
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

  /**
   * @throws TypeError if no request of this key is in: leaving twice would admit one more for ever.
   */
  leave(key: string): void {
    const of = this.plan.per === 'route' ? '' : key;
    const now = this.#inFlight.get(of);
    if (now === undefined) throw new TypeError('no request of this key is in');
    if (now === 1) this.#inFlight.delete(of);
    else this.#inFlight.set(of, now - 1);
  }

  /** For metrics: `keys` are clients with requests in flight, `refused` is since the start. */
  facts(): { readonly inFlight: number; readonly keys: number; readonly refused: number } {
    const inFlight = [...this.#inFlight.values()].reduce((sum, one) => sum + one, 0);
    return { inFlight, keys: this.#inFlight.size, refused: this.#refused };
  }
}
