// Rate limits as they were read: plain data that crosses from the process that reads documents.

import { isDeepStrictEqual } from 'node:util';

/** How a value is compared: with a value, with an expression, or not at all: each value is somebody else. */
export type MatchType = 'Exact' | 'RegularExpression' | 'Distinct';

export interface NamedTest {
  /** Of a header in lower case; of a query parameter as written; of a claim dotted. */
  readonly name: string;
  readonly type: MatchType;
  /** '' with Distinct. */
  readonly value: string;
  readonly invert: boolean;
}

export interface ValueTest {
  readonly type: 'Exact' | 'Distinct';
  /** '' with Distinct. */
  readonly value: string;
}

/** What must hold of a request; everything that is said. */
export interface LimitSelector {
  readonly headers: readonly NamedTest[];
  readonly queryParams: readonly NamedTest[];
  /** Any of them. */
  readonly methods: readonly { readonly value: string; readonly invert: boolean }[];
  readonly path?: {
    readonly type: 'Exact' | 'PathPrefix' | 'RegularExpression';
    readonly value: string;
    readonly invert: boolean;
  };
  /** `value` is a block of addresses. */
  readonly sourceCIDR?: ValueTest;
  readonly jwtClaims: readonly NamedTest[];
  /** Whom an API key, a password or a certificate shows. */
  readonly clientId?: ValueTest;
  /** The SPIFFE ID of the client's certificate. */
  readonly principal?: ValueTest;
}

/**
 * A token bucket: `requests` come back in each `periodMs`, one at a time, and `requests + burst` fit in. So in any span
 * of time t no more than `requests + burst + requests * t / periodMs` pass.
 */
export interface LimitRule {
  /** `namespace/name` of the policy that the rule was inherited from; absent for a policy's own. */
  readonly of?: string;
  /** Names it in logs and tells it from others: the same in all gateways that share it. */
  readonly id: string;
  /** Shared: counted in Redis, by all gateways together. */
  readonly scope: 'local' | 'shared';
  readonly selectors: readonly LimitSelector[];
  readonly requests: number;
  readonly periodMs: number;
  readonly burst: number;
  /** Tokens that one request takes. */
  readonly cost: number;
  /** One bucket for all routes that the policy is attached to, and not one for each. */
  readonly acrossRoutes: boolean;
}

export interface RateLimitPlan {
  readonly rules: readonly LimitRule[];
}

/** Whether every rule of `below` also stands in `above`: limits may be added to. */
export function isKept(below: RateLimitPlan, above: RateLimitPlan): boolean {
  return below.rules.every((rule) => above.rules.some((one) => isSame(one, rule)));
}

/**
 * A rule that the parent says counts in the parent's bucket: a client that has used that up has done so here as well.
 */
export function inherited(merged: RateLimitPlan, parent: RateLimitPlan, of: string): RateLimitPlan {
  const rules = merged.rules.map((rule) => {
    const own = parent.rules.find((one) => isSame(one, rule));
    return own === undefined ? rule : { ...rule, of, id: own.id };
  });
  return { ...merged, rules };
}

/** But for what they are called. */
function isSame(a: LimitRule, b: LimitRule): boolean {
  return isDeepStrictEqual({ ...a, id: '', of: undefined }, { ...b, id: '', of: undefined });
}
