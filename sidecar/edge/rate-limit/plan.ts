// Rate limits of two policies, one of which is inherited.

import { isDeepStrictEqual } from 'node:util';
import type { LimitRule, RateLimitPlan } from './schema.ts';

/** True if every rule of `below` is also in `above`: limits may be added. */
export function isKept(below: RateLimitPlan, above: RateLimitPlan): boolean {
  return below.rules.every((rule) => above.rules.some((one) => isSame(one, rule)));
}

/** A rule of the parent counts in the parent's bucket: a client that has used it up elsewhere has used it up here. */
export function inherited(merged: RateLimitPlan, parent: RateLimitPlan, of: string): RateLimitPlan {
  const rules = merged.rules.map((rule) => {
    const own = parent.rules.find((one) => isSame(one, rule));
    return own === undefined ? rule : { ...rule, of, id: own.id };
  });
  return { ...merged, rules };
}

/** Without their names. */
function isSame(a: LimitRule, b: LimitRule): boolean {
  return isDeepStrictEqual({ ...a, id: '', of: undefined }, { ...b, id: '', of: undefined });
}
