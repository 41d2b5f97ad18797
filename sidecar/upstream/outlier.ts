// Who is left out for what he answers: Envoy's outlier detection, the consecutive counts (Istio's DestinationRule has no
// others). An endpoint is judged with each answer and comes back at a sweep. Pure but for the clock that it is given.

import type { SallyportError } from '../../cert-agent/base/errors.ts';
import type { OutlierPlan } from './traffic.ts';

/** Envoy's `max_ejection_time`: however often it was ejected, it is tried again after five minutes. */
const longestMs = 300_000;

/** What is remembered of one endpoint. */
export class Conduct {
  consecutive5xx = 0;
  consecutiveGateway = 0;
  consecutiveLocal = 0;
  /** How many times over the base time it is left out; falls by one with each sweep in which it behaves. */
  times = 0;
  ejectedAt = 0;
  /** clock.monotonic(); undefined while it is in use. */
  ejectedUntil: number | undefined = undefined;
}

export class Outliers {
  readonly #plan: OutlierPlan;
  readonly #monotonic: () => number;
  #sweptAt: number;
  /** Ejections so far. */
  ejections = 0;
  /** Those that the largest part that may be ejected has prevented. */
  prevented = 0;

  constructor(plan: OutlierPlan, monotonic: () => number) {
    this.#plan = plan;
    this.#monotonic = monotonic;
    this.#sweptAt = monotonic();
  }

  /** Counts what came of one request; true when its endpoint has just been ejected. `all` are its upstream's. */
  note(one: Conduct, outcome: number | SallyportError, all: readonly Conduct[]): boolean {
    const { consecutive5xx, consecutiveGateway, consecutiveLocal } = this.#plan;
    const local = typeof outcome !== 'number';
    if (local && !isItsFault(outcome)) return false;
    if (local && consecutiveLocal !== undefined) {
      one.consecutiveLocal++;
      return one.consecutiveLocal === consecutiveLocal && this.#eject(one, all);
    }
    if (!local) one.consecutiveLocal = 0;
    // What we could not even ask counts as the 503 that the caller gets.
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

  /** Lets those back whose time is over, once per interval. True when anybody came back. */
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

  /** It is used again, with a clean record of answers; how often it was ejected stays. */
  restore(one: Conduct): void {
    one.ejectedUntil = undefined;
    one.consecutive5xx = 0;
    one.consecutiveGateway = 0;
    one.consecutiveLocal = 0;
  }

  /** One may always be ejected; a further one as long as the part of those ejected stays within the limit (as Envoy). */
  #eject(one: Conduct, all: readonly Conduct[]): boolean {
    if (one.ejectedUntil !== undefined) return false;
    const now = this.#monotonic();
    const others = all.filter(({ ejectedUntil }) => ejectedUntil !== undefined).length;
    if (others > 0 && (100 * (others + 1)) / all.length > this.#plan.maxEjectionPercent) {
      this.prevented++;
      // It begins anew, or it would never reach the number exactly again.
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

/** gRPC's statuses as those of HTTP, for whoever counts what an endpoint answers (Envoy's table); others mean no harm. */
const grpcOutcomes: Readonly<Record<number, number>> = { 2: 500, 4: 504, 12: 501, 13: 500, 14: 503, 15: 500 };

export function grpcOutcome(status: number): number {
  return grpcOutcomes[status] ?? 200;
}

/** Whether a failure says something of the endpoint: that we were full, or have no SVID, does not. */
function isItsFault({ code }: SallyportError): boolean {
  return code.startsWith('upstream_') && code !== 'upstream_unresolved' && code !== 'upstream_unhealthy';
}
