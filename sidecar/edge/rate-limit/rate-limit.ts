// Decides whether a request may pass: every rule that applies to it counts it, and it passes if all of them have room.
// A refused request counts nowhere, so that a client over its own limit does not use up what others share with it.
//
// Redis counts rules of scope `shared`, for all gateways together. While Redis is unavailable they count here, at once
// and with the same numbers, from the last known state: an outage refills no bucket and delays no request.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { compileKey, type KeyOf, type LimitFacts } from './key.ts';
import { type Allowance, type LocalLimits, overflow, type RuleBuckets } from './local.ts';
import type { LimitRule, RateLimitPlan } from './schema.ts';
import type { SharedAnswer, SharedBucket } from './script.ts';
import type { SharedLimits } from './shared.ts';

export type { LimitFacts } from './key.ts';

/** The decision of limits on a request. */
export interface Verdict {
  readonly allowed: boolean;
  /**
   * Fields for the response, of the rule with the least left: `RateLimit-Limit`, `-Remaining`, `-Reset` (seconds; the
   * names of draft-ietf-httpapi-ratelimit-headers-03), and `Retry-After` for a refusal. Empty if no rule applied.
   */
  readonly headers: readonly (readonly [name: string, value: string])[];
  /** Whole seconds, at least 1; 0 if it may pass. */
  readonly retryAfterS: number;
  /** The rule that decided; '' if none applied. */
  readonly rule: string;
  /** Envoy's response-code details of the refusal; '' if it may pass. */
  readonly details: '' | 'local_rate_limited' | 'request_rate_limited';
}

/** The compiled limits of a route. */
export interface RateLimits {
  /** Counts the request. Returns a promise only if Redis decides; it never rejects. */
  check(facts: LimitFacts): Verdict | Promise<Verdict>;
  /** Present if it reads the facts again after it has waited. */
  readonly keepsFacts?: true;
}

/** What limits use and do not own. */
export interface LimitTools {
  readonly local: LocalLimits;
  /** The connection to what gateways share, for rules of that scope. */
  readonly redis?: SharedLimits | undefined;
  /** Milliseconds of a monotonic clock; performance.now() by default. */
  readonly now?: () => number;
}

/** A compiled rule. */
export interface Compiled extends Allowance {
  readonly rule: LimitRule;
  readonly keyOf: KeyOf;
  readonly buckets: RuleBuckets;
  /** The cost of one request, as milliseconds of refilling. */
  readonly takeMs: number;
  readonly shared: boolean;
}

/**
 * The limits of a route. Counts are in `local` and in Redis and outlive this value.
 *
 * If several rules match, all count, in any order, and the first without room refuses. The response's fields come from
 * the rule with the least left, or from the one that needs the longest to have room. This applies to Local rules, too,
 * where Envoy counts by a rule without selectors only what no other rule matches: here such a rule applies to all
 * requests, as the field's description says.
 *
 * @throws SallyportError `config_invalid` for a rule of scope `shared` without Redis: each gateway would count alone.
 */
export function compileRateLimits({ rules }: RateLimitPlan, { local, redis, now }: LimitTools): RateLimits {
  const clock = now ?? (() => performance.now());
  const compiled = rules.map((rule) => compileRule(rule, local, redis));
  const decision = new Decision(compiled.length, local);
  return {
    check(facts) {
      const at = clock();
      decision.begin(at, redis?.ready === true);
      let shared = false;
      for (const one of compiled) {
        const key = one.keyOf(facts);
        if (key === undefined) continue;
        decision.look(one, key);
        shared ||= one.shared;
      }
      if (decision.count === 0) return unlimited;
      // What is exhausted here is exhausted for all: a flood over a limit costs Redis nothing.
      if (!decision.hasRoom()) return decision.refuse();
      if (!shared || redis === undefined) return decision.spend(true);
      return askRedis(decision.split(), redis, clock);
    },
  };
}

/** Compiles one rule. @throws SallyportError `config_invalid` for scope `shared` without Redis. */
export function compileRule(rule: LimitRule, local: LocalLimits, redis: SharedLimits | undefined): Compiled {
  const shared = rule.scope === 'shared';
  if (shared && redis === undefined)
    throw new SallyportError('config_invalid', `the limit ${rule.id} is Global, but no Redis is configured`, {
      hint: 'set redis: { url: rediss://... } or make it a Local limit',
    });
  // With no requests at all nothing refills, and a bucket of size 0 refuses everything.
  const intervalMs = rule.periodMs / Math.max(1, rule.requests);
  return {
    rule,
    keyOf: compileKey(rule),
    buckets: local.rule(rule.id),
    intervalMs,
    spanMs: (rule.requests + rule.burst) * intervalMs,
    takeMs: rule.cost * intervalMs,
    shared,
  };
}

/** One decision at a time: the slots found in the table, in arrays that are reused. */
class Decision {
  readonly #local: LocalLimits;
  readonly rules: Compiled[] = [];
  readonly keys: string[] = [];
  readonly #slots: Int32Array;
  count = 0;
  at = 0;
  #asksRedis = false;

  constructor(size: number, local: LocalLimits) {
    this.#local = local;
    this.#slots = new Int32Array(size);
  }

  begin(at: number, asksRedis: boolean): void {
    this.at = at;
    this.#asksRedis = asksRedis;
    this.count = 0;
    this.#local.begin();
  }

  look(rule: Compiled, key: string): void {
    this.rules[this.count] = rule;
    this.keys[this.count] = key;
    this.#slots[this.count] = this.#local.find(key, rule.buckets, this.at);
    this.count++;
  }

  hasRoom(): boolean {
    for (let i = 0; i < this.count; i++) if (this.#waitMs(i) > 0) return false;
    return true;
  }

  /** Takes the tokens of all rules, or of the local ones; they have room. */
  spend(all: boolean): Verdict {
    for (let i = 0; i < this.count; i++) {
      const { shared, buckets, takeMs } = this.rules[i]!;
      if (all || !shared) this.#local.spend(this.#slots[i]!, buckets, takeMs, this.at);
    }
    if (all) this.#local.allowed++;
    return this.#leastLeft();
  }

  refuse(): Verdict {
    let longest = 0;
    for (let i = 1; i < this.count; i++) if (this.#waitMs(i) > this.#waitMs(longest)) longest = i;
    this.#local.limited++;
    const rule = this.rules[longest]!;
    return new Refused(rule.rule, this.#waitMs(longest), rule.shared && this.#asksRedis);
  }

  /** Takes the tokens of the local rules and returns the query for Redis: other decisions are made while it waits. */
  split(): Split {
    this.spend(false);
    const rules = this.rules.slice(0, this.count);
    const keys = this.keys.slice(0, this.count);
    return { local: this.#local, rules, keys, at: this.at, left: this.#leastLeft(false) };
  }

  #waitMs(i: number): number {
    const { buckets, takeMs, spanMs, shared } = this.rules[i]!;
    // Redis separates keys that have no room here.
    if (shared && this.#asksRedis && this.#slots[i] === overflow) return 0;
    return this.#local.waitMs(this.#slots[i]!, buckets, takeMs, spanMs, this.at);
  }

  #leastLeft(all = true): Allowed {
    let least: Allowed | undefined;
    for (let i = 0; i < this.count; i++) {
      const one = this.rules[i]!;
      if (!all && one.shared) continue;
      const verdict = allowed(one, this.#local.usedMs(this.#slots[i]!, one.buckets, this.at));
      if (least === undefined || isLess(verdict, least)) least = verdict;
    }
    return least ?? nothingSaid;
  }
}

/** A decision that waits for Redis. */
interface Split {
  readonly local: LocalLimits;
  readonly rules: readonly Compiled[];
  readonly keys: readonly string[];
  readonly at: number;
  /** What the local rules have left. */
  readonly left: Allowed;
}

function askRedis(split: Split, redis: SharedLimits, clock: () => number): Verdict | Promise<Verdict> {
  const buckets: SharedBucket[] = [];
  for (const [i, { shared, takeMs, spanMs }] of split.rules.entries())
    if (shared) buckets.push({ key: split.keys[i]!, takeMs, spanMs });
  const asked = redis.take(buckets);
  if (asked === undefined) return decideAlone(split, clock());
  return asked.then((answer) => (answer === undefined ? decideAlone(split, clock()) : follow(split, answer, clock())));
}

/** Redis's answer, which is kept here: for the next request over its limit, and for an outage. */
function follow(split: Split, answer: SharedAnswer, now: number): Verdict {
  const { local, rules, keys } = split;
  let least = split.left;
  let longest: Refused | undefined;
  let n = 0;
  local.begin();
  for (const [i, one] of rules.entries()) {
    if (!one.shared) continue;
    const usedMs = answer.usedMs[n++]!;
    local.learn(local.find(keys[i]!, one.buckets, now), usedMs, now);
    const waitMs = usedMs + one.takeMs - one.spanMs;
    if (!answer.allowed && waitMs > 0 && waitMs > (longest?.waitMs ?? 0)) longest = new Refused(one.rule, waitMs, true);
    const verdict = allowed(one, usedMs);
    if (isLess(verdict, least)) least = verdict;
  }
  if (answer.allowed) {
    local.allowed++;
    return least;
  }
  giveBack(split, now);
  local.limited++;
  return longest ?? new Refused(least.of!, 1, true);
}

/** Without an answer of Redis, the shared rules count here. */
function decideAlone(split: Split, now: number): Verdict {
  const { local, rules, keys } = split;
  const shared = new Decision(rules.length, local);
  shared.begin(now, false);
  for (const [i, one] of rules.entries()) if (one.shared) shared.look(one, keys[i]!);
  if (shared.hasRoom()) {
    const verdict = shared.spend(true) as Allowed;
    return isLess(verdict, split.left) ? verdict : split.left;
  }
  giveBack(split, now);
  return shared.refuse();
}

/** A refused request counts nowhere. */
function giveBack({ local, rules, keys, at }: Split, now: number): void {
  for (const [i, { shared, takeMs }] of rules.entries()) if (!shared) local.giveBack(keys[i]!, takeMs, at, now);
}

/** A rule's decision for a request that passes. */
export function allowed({ rule, intervalMs, spanMs }: Compiled, usedMs: number): Allowed {
  return new Allowed(rule, Math.max(0, spanMs - usedMs) / intervalMs, Math.max(0, usedMs - rule.burst * intervalMs));
}

/** True if it has less left, or as little for longer. */
export function isLess(a: Allowed, b: Allowed): boolean {
  return a.tokens < b.tokens || (a.tokens === b.tokens && a.resetMs > b.resetMs);
}

/** Its fields are written only if they are read. They leave out the burst, which clients should not rely on. */
export class Allowed implements Verdict {
  readonly allowed = true;
  readonly retryAfterS = 0;
  readonly details = '';
  readonly of: LimitRule | undefined;
  readonly tokens: number;
  readonly resetMs: number;

  constructor(rule: LimitRule | undefined, tokens: number, resetMs: number) {
    this.of = rule;
    this.tokens = tokens;
    this.resetMs = resetMs;
  }

  /** The id of the rule with the least left; empty if no rule applied. */
  get rule(): string {
    return this.of?.id ?? '';
  }

  /** The fields of that rule, with whole requests; none if no rule applied. */
  get headers(): Verdict['headers'] {
    if (this.of === undefined) return [];
    const { requests, cost } = this.of;
    // The bucket's tolerance: a token that lacks a billionth counts as whole.
    const left = Math.min(requests, Math.floor(this.tokens + 1e-6));
    return fieldsOf(requests, cost === 1 ? left : left - (left % cost), Math.ceil(this.resetMs / 1000));
  }
}

/** The decision of a rule without room. */
export class Refused implements Verdict {
  readonly allowed = false;
  readonly #rule: LimitRule;
  readonly waitMs: number;
  readonly details: 'local_rate_limited' | 'request_rate_limited';

  constructor(rule: LimitRule, waitMs: number, shared: boolean) {
    this.#rule = rule;
    this.waitMs = waitMs;
    this.details = shared ? 'request_rate_limited' : 'local_rate_limited';
  }

  /** The id of the rule that refused. */
  get rule(): string {
    return this.#rule.id;
  }

  /** Never 0: clients told to retry at once do so. */
  get retryAfterS(): number {
    return Math.max(1, Math.ceil(this.waitMs / 1000 - 1e-9));
  }

  /** The draft's section 5: with Retry-After, Reset has the same value. */
  get headers(): Verdict['headers'] {
    const { retryAfterS } = this;
    return [...fieldsOf(this.#rule.requests, 0, retryAfterS), ['Retry-After', String(retryAfterS)]];
  }
}

function fieldsOf(limit: number, remaining: number, resetS: number): Verdict['headers'] {
  return [
    ['RateLimit-Limit', String(limit)],
    ['RateLimit-Remaining', String(remaining)],
    ['RateLimit-Reset', String(resetS)],
  ];
}

/** More than any rule has left. */
export const nothingSaid = new Allowed(undefined, Number.POSITIVE_INFINITY, 0);
/** The decision if no rule applies. */
export const unlimited: Verdict = Object.freeze({
  allowed: true,
  headers: Object.freeze([]),
  retryAfterS: 0,
  rule: '',
  details: '' as const,
});
