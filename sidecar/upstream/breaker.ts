// The limits of one upstream, all its endpoints together, and how often they were exceeded: Envoy's circuit breakers.
// The caller that counts up also counts down.

import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Limits } from '../exchange/limits.ts';
import type { RetryPolicy } from '../exchange/upstream.ts';
import type { ConnectionPlan } from './traffic.ts';

/** Envoy's `retry_budget`: a fifth of the requests in flight, and three where there are few. */
const usualBudget = { percent: 20, least: 3 };

/** Plain counters. What is not limited by `plan` is limited by the process's own limits, or not at all. */
export class Breaker {
  readonly #name: string;
  readonly #limits: Limits;
  readonly plan: ConnectionPlan;
  /** Connections that exist or are being opened. */
  connections = 0;
  /** Requests that wait for a connection. */
  pending = 0;
  retries = 0;
  /** For metrics: refused requests, by the exceeded limit; and retries that were not made. */
  readonly overflows = { connections: 0, pending: 0, requests: 0, retries: 0 };

  constructor(name: string, limits: Limits, plan: ConnectionPlan = {}) {
    this.#name = name;
    this.#limits = limits;
    this.plan = plan;
  }

  /** @throws SallyportError `overloaded` if no more requests may be in flight. */
  checkRequests(inFlight: number): void {
    const { maxRequests } = this.plan;
    if (maxRequests === undefined || inFlight < maxRequests) return;
    this.overflows.requests++;
    throw new SallyportError('overloaded', `${this.#name} has ${inFlight} requests in flight (limit http2MaxRequests)`);
  }

  /** @throws SallyportError `overloaded` if no more requests may wait for a connection. */
  checkPending(): void {
    const { maxPending } = this.plan;
    const limit = Math.min(this.#limits.pendingRequests, maxPending ?? Number.POSITIVE_INFINITY);
    if (this.pending < limit) return;
    this.overflows.pending++;
    const which = limit === maxPending ? 'http1MaxPendingRequests' : 'pendingRequests';
    throw new SallyportError('overloaded', `${this.pending} requests wait for ${this.#name} (limit ${which})`);
  }

  /**
   * Whether one more connection may be opened. Envoy allows one to an endpoint without any, or it might never be used.
   * @throws SallyportError `overloaded` if the process itself may have no more.
   */
  mayConnect(ofEndpoint: number): boolean {
    const { connections } = this.#limits;
    if (this.connections >= connections) {
      this.overflows.connections++;
      throw new SallyportError('overloaded', `${this.#name} has ${this.connections} connections (limit connections)`);
    }
    const { maxConnections } = this.plan;
    return maxConnections === undefined || this.connections < maxConnections || ofEndpoint === 0;
  }

  /** Whether another connection could be opened. */
  hasRoom(): boolean {
    const { maxConnections = Number.POSITIVE_INFINITY } = this.plan;
    return this.connections < Math.min(this.#limits.connections, maxConnections);
  }

  /** For TCP, which cannot wait for another stream's connection. @throws SallyportError `overloaded`. */
  checkStream(): void {
    const { maxConnections } = this.plan;
    if (maxConnections === undefined || this.connections < maxConnections) return;
    this.overflows.connections++;
    throw new SallyportError('overloaded', `${this.#name} has ${this.connections} connections (limit maxConnections)`);
  }

  /** Takes a retry if the budget allows it: a failing upstream must not get many times its load. */
  takeRetry(inFlight: number, budget: RetryPolicy['budget'] = usualBudget): boolean {
    const limit = this.plan.maxRetries ?? Math.max(budget.least, Math.floor((inFlight * budget.percent) / 100));
    if (this.retries >= limit) {
      this.overflows.retries++;
      return false;
    }
    this.retries++;
    return true;
  }
}
