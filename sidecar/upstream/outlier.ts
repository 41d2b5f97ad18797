// Envoy's outlier detection: ejects endpoints for their responses, by consecutive counts (Istio's DestinationRule has
// no others). Each response is counted, and a periodic sweep brings endpoints back. Pure except for its clock.

import type { SallyportError } from '../../cert-agent/base/errors.ts';
import type { OutlierPlan } from './traffic.ts';

/** Envoy's `max_ejection_time`: however often an endpoint was ejected, it is tried again after five minutes. */
const longestMs = 300_000;

/** The counts of one endpoint. */
export class Conduct {
  consecutive5xx = 0;
  consecutiveGateway = 0;
  consecutiveLocal = 0;
  /** By how many base times it is ejected; falls by one with each sweep without an ejection. */
  times = 0;
  ejectedAt = 0;
  /** clock.monotonic(); undefined while it is in use. */
  ejectedUntil: number | undefined = undefined;
}

/** Of one upstream. What it knows of an endpoint is in that endpoint's `Conduct`. */
export class Outliers {
  readonly #plan: OutlierPlan;
  readonly #monotonic: () => number;
  #sweptAt: number;
  /** Ejections so far. */
  ejections = 0;
  /** Ejections that the limit on the ejected share has prevented. */
  prevented = 0;

  constructor(plan: OutlierPlan, monotonic: () => number) {
    this.#plan = plan;
    this.#monotonic = monotonic;
    this.#sweptAt = monotonic();
  }

  /** Counts the outcome of one request; true if its endpoint was ejected by it. `all` are its upstream's. */
  note(one: Conduct, outcome: number | SallyportError, all: readonly Conduct[]): boolean {
    const { consecutive5xx, consecutiveGateway, consecutiveLocal } = this.#plan;
    const local = typeof outcome !== 'number';
    if (local && !isItsFault(outcome)) return false;
    if (local && consecutiveLocal !== undefined) {
      one.consecutiveLocal++;
      return one.consecutiveLocal === consecutiveLocal && this.#eject(one, all);
    }
    if (!local) one.consecutiveLocal = 0;
    // A request that we could not send counts as the 503 that the client gets.
    const status = local ? 503 : outcome;
    if (status < 500) {
      one.consecutive5xx = 0;
      one.consecutiveGateway = 0;
      return false;
    }
    one.consecutiveGateway = status >= 502 && status <= 504 ? one.consecutiveGateway + 1 : 0;
    one.consecutive5xx++;
    const reached =
      one.consecutive5xx === consecutive5xx ||
      (one.consecutiveGateway > 0 && one.consecutiveGateway === consecutiveGateway);
    return reached && this.#eject(one, all);
  }

  /** Restores endpoints whose ejection is over, once per interval. True if any was restored. */
  sweep(all: readonly Conduct[]): boolean {
    const now = this.#monotonic();
    if (now - this.#sweptAt < this.#plan.intervalMs) return false;
    this.#sweptAt = now;
    let changed = false;
    for (const one of all) {
      if (one.ejectedUntil === undefined) one.times = Math.max(0, one.times - 1);
      else if (one.ejectedUntil <= now) {
        this.restore(one);
        changed = true;
      }
    }
    return changed;
  }

  /** Returns it to use with its counts cleared; the number of its ejections stays. */
  restore(one: Conduct): void {
    one.ejectedUntil = undefined;
    one.consecutive5xx = 0;
    one.consecutiveGateway = 0;
    one.consecutiveLocal = 0;
  }

  /** One may always be ejected; further ones while the ejected share stays within the limit (as in Envoy). */
  #eject(one: Conduct, all: readonly Conduct[]): boolean {
    if (one.ejectedUntil !== undefined) return false;
    const now = this.#monotonic();
    const others = all.filter(({ ejectedUntil }) => ejectedUntil !== undefined).length;
    if (others > 0 && (100 * (others + 1)) / all.length > this.#plan.maxEjectionPercent) {
      this.prevented++;
      // Restart the counts: otherwise they would never equal the threshold again.
      this.restore(one);
      return false;
    }
    const { baseEjectionMs } = this.#plan;
    one.times++;
    one.ejectedAt = now;
    one.ejectedUntil = now + Math.min(one.times * baseEjectionMs, Math.max(baseEjectionMs, longestMs));
    this.ejections++;
    return true;
  }
}

/** gRPC statuses as HTTP statuses, for counting (Envoy's table); others count as success. */
const grpcOutcomes: Readonly<Record<number, number>> = { 2: 500, 4: 504, 12: 501, 13: 500, 14: 503, 15: 500 };

/** The HTTP status that a gRPC status counts as; 200 for those that are not the server's fault. */
export function grpcOutcome(status: number): number {
  return grpcOutcomes[status] ?? 200;
}

/** Whether a failure is the endpoint's: our own overload, or a missing SVID, is not. */
function isItsFault({ code }: SallyportError): boolean {
  return code.startsWith('upstream_') && code !== 'upstream_unresolved' && code !== 'upstream_unhealthy';
}
