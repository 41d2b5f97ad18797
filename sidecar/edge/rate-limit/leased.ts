// The limits of a route in a worker that is not the first: local rules by tokens that the first lends (leases.ts),
// shared ones in Redis as everywhere.

import type { LeasedBucket, LimitLeases, Taken } from './leases.ts';
import {
  type Allowed,
  allowed,
  type Compiled,
  compileRateLimits,
  compileRule,
  isLess,
  type LimitTools,
  nothingSaid,
  type RateLimits,
  Refused,
  unlimited,
  type Verdict,
} from './rate-limit.ts';
import type { RateLimitPlan } from './schema.ts';

/** As `compileRateLimits`. @throws SallyportError `config_invalid` for a rule of scope `shared` without Redis. */
export function compileLeasedLimits({ rules }: RateLimitPlan, leases: LimitLeases, tools: LimitTools): RateLimits {
  const { local, redis } = tools;
  const own = rules.filter(({ scope }) => scope === 'local').map((rule) => compileRule(rule, local, redis));
  const rest = rules.filter(({ scope }) => scope === 'shared');
  const shared = rest.length === 0 ? undefined : compileRateLimits({ rules: rest }, tools);
  if (own.length === 0 && shared !== undefined) return shared;
  return {
    keepsFacts: true,
    check(facts) {
      const asked: Compiled[] = [];
      const buckets: LeasedBucket[] = [];
      for (const one of own) {
        const key = one.keyOf(facts);
        if (key === undefined) continue;
        asked.push(one);
        buckets.push({ rule: one.rule.id, key, takeMs: one.takeMs, spanMs: one.spanMs });
      }
      if (asked.length === 0) return shared?.check(facts) ?? unlimited;
      const follow = (taken: Taken | undefined): Verdict | Promise<Verdict> => {
        const verdict = decide(asked, taken);
        if (verdict instanceof Refused) {
          local.limited++;
          return verdict;
        }
        if (shared === undefined) {
          local.allowed++;
          return verdict;
        }
        // The shared limits count the request in the metrics.
        const other = shared.check(facts);
        if (!(other instanceof Promise)) return both(verdict, other);
        return other.then((one) => both(verdict, one));
      };
      const both = (verdict: Allowed, other: Verdict): Verdict => {
        if (!other.allowed) leases.putBack(buckets);
        return other.allowed && isLess(verdict, other as Allowed) ? verdict : other;
      };
      const taken = leases.take(buckets);
      return taken instanceof Promise ? taken.then(follow) : follow(taken);
    },
  };
}

/** Fails closed if the first worker does not answer. */
function decide(asked: readonly Compiled[], taken: Taken | undefined): Allowed | Refused {
  if (taken === undefined) return new Refused(asked[0]!.rule, 1000, false);
  let least = nothingSaid;
  let longest: Refused | undefined;
  for (const [i, one] of asked.entries()) {
    const usedMs = taken.usedMs[i]!;
    const waitMs = usedMs + one.takeMs - one.spanMs;
    if (waitMs > (longest?.waitMs ?? Number.NEGATIVE_INFINITY)) longest = new Refused(one.rule, waitMs, false);
    const verdict = allowed(one, usedMs);
    if (isLess(verdict, least)) least = verdict;
  }
  return taken.allowed ? least : longest!;
}
