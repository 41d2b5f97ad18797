// The limits of one process on requests in flight, and the refusal beyond them.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { ConcurrencyLimit } from '../concurrency-limit.ts';
import type { ConcurrencyPlan } from './schema.ts';

/** The limits of one process. One that no generation uses any more, and that counts nothing, is garbage-collected. */
export class LimitTable {
  readonly #limits = new Map<string, WeakRef<ConcurrencyLimit>>();

  /** The limit of this name, made at its first use. */
  of(name: string, plan: ConcurrencyPlan): ConcurrencyLimit {
    const known = this.#limits.get(name)?.deref();
    if (known !== undefined) return known;
    for (const [other, limit] of this.#limits) if (limit.deref() === undefined) this.#limits.delete(other);
    const made = new ConcurrencyLimit(plan);
    this.#limits.set(name, new WeakRef(made));
    return made;
  }
}

/** The error for a request beyond the limit. */
export function refusalOf({ maxInFlight, per }: ConcurrencyPlan, route: string): SallyportError {
  const whose = per === 'route' ? 'of the route' : 'of one client';
  return new SallyportError(
    'concurrency_limited',
    `${maxInFlight} requests ${whose} ${route} are in flight (limit concurrency.maxInFlight)`,
  );
}
