// Limits requests by the rules of a policy and by a rule's own filter. Buckets outlive a configuration.

import { parseDuration } from '../../../cert-agent/base/clock.ts';
import type { Planned, Service } from '../capability.ts';
import { limitExchange } from './filter.ts';
import { leasesFrom, serveLeases } from './first.ts';
import { compileLeasedLimits } from './leased.ts';
import type { LimitLeases } from './leases.ts';
import { LocalLimits } from './local.ts';
import { inherited, isKept } from './plan.ts';
import { compileRateLimits, type LimitTools, type RateLimits } from './rate-limit.ts';
import type { FilterPlan, LimitRule, RateLimitPlan } from './schema.ts';
import { limitsIn, type SharedLimits } from './shared.ts';

type Plan = RateLimitPlan | FilterPlan;

interface Limits extends LimitTools {
  /** In a worker that is not the first. */
  readonly leases: LimitLeases | undefined;
}

export const rateLimit: Service<Plan, Limits> = {
  name: 'rate-limit',
  guards: false,
  combines: true,
  fields: [
    {
      kind: 'BackendTrafficPolicy',
      name: 'rateLimit',
      schema: async () => (await import('./schema.ts')).rateLimit,
    },
    {
      kind: 'filter',
      name: 'RequestRateLimit',
      schema: async () => (await import('./schema.ts')).requestRateLimit,
      filter: { key: 'requestRateLimit', grpc: false, repeatable: false },
    },
  ],
  async share({ registry, redis, workers }) {
    const local = new LocalLimits();
    const shared = redis === undefined ? undefined : limitsIn(redis);
    if (workers.first === undefined) serveLeases(workers, local);
    const leases = workers.first === undefined ? undefined : leasesFrom(workers.first);
    const { registerRateLimitMetrics } = await import('./metrics.ts');
    registerRateLimitMetrics(registry, () => ({ limits: local.facts(), redis: shared?.facts() ?? null }));
    return { local, redis: shared, leases };
  },
  shareDry: ({ hasRedis }) => ({ local: new LocalLimits(), redis: hasRedis ? unasked : undefined, leases: undefined }),
  keeps: (below, above) => isKept(below as RateLimitPlan, above as RateLimitPlan),
  inherited: (merged, parent, of) => inherited(merged as RateLimitPlan, parent as RateLimitPlan, of),
  compile(plans, { name, shared }) {
    if (plans.length === 0) return undefined;
    const limits = compile({ rules: plans.flatMap((one) => rulesOf(one, name)) }, shared);
    return { limit: (exchange) => limitExchange(exchange, limits, name) };
  },
};

function compile(plan: RateLimitPlan, { leases, ...tools }: Limits): RateLimits {
  return leases === undefined ? compileRateLimits(plan, tools) : compileLeasedLimits(plan, leases, tools);
}

/**
 * Names a rule by its policy, or by the route's rule: the same in each generation, and on each listener.
 */
function rulesOf({ field, plan, of }: Planned<Plan>, name: string): LimitRule[] {
  if (field === 'rateLimit')
    return (plan as RateLimitPlan).rules.map((rule) => ({ ...rule, id: `${rule.of ?? of} ${rule.id}` }));
  return (plan as FilterPlan).rules.map(({ limit, period, burst = 0 }, index) => ({
    ...{ id: `${name} filter[${index}]`, scope: 'local' as const, selectors: [], cost: 1, acrossRoutes: false },
    ...{ requests: limit, periodMs: parseDuration(period) ?? 0, burst },
  }));
}

/** Redis in a dry run. */
const unasked: SharedLimits = {
  ready: false,
  take: () => undefined,
  facts() {
    throw new Error('nothing is counted here');
  },
};
