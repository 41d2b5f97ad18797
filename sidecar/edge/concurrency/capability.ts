// Limits requests in flight. One count covers all listeners of a rule, all workers, and all generations that do not
// change it.

import { deny } from '../../exchange/decision.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import { Slot } from '../../exchange/exchange.ts';
import { networkOf } from '../../policy/ip.ts';
import type { EdgeProcess, FirstWorker, Service } from '../capability.ts';
import type { InFlight } from '../concurrency-limit.ts';
import { CountsOfWorkers } from './first.ts';
import { LimitTable, refusalOf } from './limit.ts';
import type { ConcurrencyPlan } from './schema.ts';

/** The limits of one process, by rule and plan. */
export interface ConcurrencyLimits {
  /** The count of this name, made at its first use. */
  of(name: string, plan: ConcurrencyPlan): InFlight;
}

export const concurrency: Service<ConcurrencyPlan, ConcurrencyLimits> = {
  name: 'concurrency',
  guards: false,
  fields: [
    {
      kind: 'BackendTrafficPolicy',
      name: 'concurrency',
      schema: async () => (await import('./schema.ts')).concurrency,
    },
  ],
  share({ workers }: EdgeProcess) {
    if (workers.first !== undefined) return { of: (name, plan) => countedByFirst(workers.first!, name, plan) };
    const limits = new LimitTable();
    workers.serve(new CountsOfWorkers(limits));
    return limits;
  },
  shareDry: () => new LimitTable(),
  compile([planned], { name, shared }) {
    if (planned === undefined) return undefined;
    const { plan } = planned;
    return limitInFlight(shared.of(`${name} ${plan.per} ${plan.maxInFlight}`, plan), plan, name);
  },
};

/** The key that an exchange counts for, while it counts. */
const counted = new Slot<string>();

/**
 * Counts an exchange as in flight until it has finished, in any way. Its step throws `concurrency_limited`; if another
 * process counts, its promise rejects with it.
 */
export function limitInFlight(limit: InFlight, plan: ConcurrencyPlan, rule: string) {
  const follow = (exchange: Exchange, key: string, isIn: boolean): void => {
    if (!isIn) throw deny(exchange, refusalOf(plan, rule));
    if (exchange.finished) limit.leave(key);
    else counted.set(exchange, key);
  };
  return {
    limit(exchange: Exchange): undefined | Promise<void> {
      // One that finished while another step waited has been recorded, and would never leave again.
      if (exchange.finished) return undefined;
      const key = exchange.clientId ?? networkOf(exchange.clientIp);
      const entered = limit.enter(key);
      if (entered instanceof Promise) return entered.then((isIn) => follow(exchange, key, isIn));
      follow(exchange, key, entered);
      return undefined;
    },
    finished(exchange: Exchange): void {
      const key = counted.get(exchange);
      if (key !== undefined) limit.leave(key);
    },
  };
}

/** Refuses a request that the first worker does not count in time. */
export function countedByFirst(first: FirstWorker, limit: string, plan: ConcurrencyPlan): InFlight {
  const leave = (key: string): void => first.tell({ op: 'leave', limit, plan, key });
  return {
    async enter(key) {
      const isIn = await first.ask<boolean>({ op: 'enter', limit, plan, key }, (late) => late && leave(key));
      return isIn === true;
    },
    leave,
  };
}
