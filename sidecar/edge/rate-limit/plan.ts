// Rate limits as read: plain data from the process that reads documents.

import { isDeepStrictEqual } from 'node:util';

/** How a value is compared: with a value, with an expression, or not at all: then each value has its own bucket. */
export type MatchType = 'Exact' | 'RegularExpression' | 'Distinct';

/** A condition on a named value. */
export interface NamedTest {
  /** A header's in lower case; a query parameter's as written; a claim's with dots. */
  readonly name: string;
  readonly type: MatchType;
  /** '' with Distinct. */
  readonly value: string;
  readonly invert: boolean;
}

/** A condition on a value. */
export interface ValueTest {
  readonly type: 'Exact' | 'Distinct';
  /** '' with Distinct. */
  readonly value: string;
}

/** Conditions on a request; all that are present must match. */
export interface LimitSelector {
  readonly headers: readonly NamedTest[];
  readonly queryParams: readonly NamedTest[];
  /** One of them must match. */
  readonly methods: readonly { readonly value: string; readonly invert: boolean }[];
  readonly path?: {
    readonly type: 'Exact' | 'PathPrefix' | 'RegularExpression';
    readonly value: string;
    readonly invert: boolean;
  };
  /** `value` is a block of addresses. */
  readonly sourceCIDR?: ValueTest;
  readonly jwtClaims: readonly NamedTest[];
  /** The name from an API key, a password or a certificate. */
  readonly clientId?: ValueTest;
  /** The SPIFFE ID of the client's certificate. */
  readonly principal?: ValueTest;
}

/**
 * A token bucket: `requests` refill in each `periodMs`, one at a time, and it holds `requests + burst`. So in any span
 * of time t at most `requests + burst + requests * t / periodMs` pass.
 */
export interface LimitRule {
  /** `namespace/name` of the policy that the rule was inherited from; absent for a policy's own. */
  readonly of?: string;
  /** Its name in logs, and its identity: the same in all gateways that share it. */
  readonly id: string;
  /** Shared: counted in Redis, by all gateways together. */
  readonly scope: 'local' | 'shared';
  readonly selectors: readonly LimitSelector[];
  readonly requests: number;
  readonly periodMs: number;
  readonly burst: number;
  /** Tokens that one request takes. */
  readonly cost: number;
  /** One bucket for all routes of the policy, instead of one for each. */
  readonly acrossRoutes: boolean;
}

/** The rules of one policy. */
export interface RateLimitPlan {
  readonly rules: readonly LimitRule[];
}

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
