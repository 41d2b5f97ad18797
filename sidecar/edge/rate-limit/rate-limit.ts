// How much may pass: a request is counted by every rule that is about it, and passes when all of them have room. A
// request that is refused is counted by none, so that a client over its own limit does not use up what others share
// with it.
//
// Rules of scope `shared` are counted in Redis, by all gateways together. While Redis cannot be asked they are counted
// here, at once and with the same numbers, from what was last known: an outage refills nobody's bucket and lets no
// request wait.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { compileKey, type KeyOf, type LimitFacts } from './key.ts';
import { type Allowance, type LocalLimits, overflow, type RuleBuckets } from './local.ts';
import type { LimitRule, RateLimitPlan } from './plan.ts';
import type { SharedAnswer, SharedBucket } from './script.ts';
import type { SharedLimits } from './shared.ts';

export type { LimitFacts } from './key.ts';

/** What limits say of a request. */
export interface Verdict {
  readonly allowed: boolean;
  /**
   * Fields for the answer, of the rule that has least left: `RateLimit-Limit`, `-Remaining`, `-Reset` (seconds; the
   * names of draft-ietf-httpapi-ratelimit-headers-03), and `Retry-After` where it is refused. None where no rule was
   * asked.
   */
  readonly headers: readonly (readonly [name: string, value: string])[];
  /** Whole seconds, at least 1; 0 where it may pass. */
  readonly retryAfterS: number;
  /** The rule that answers; '' where none was asked. */
  readonly rule: string;
  /** Envoy's words for who refuses it; '' where it may pass. */
  readonly details: '' | 'local_rate_limited' | 'request_rate_limited';
}

export interface RateLimits {
  /** Counts the request. Gives a promise only where Redis is asked; it never rejects. */
  check(facts: LimitFacts): Verdict | Promise<Verdict>;
  /** Present where it looks at the facts again after it has waited. */
  readonly keepsFacts?: true;
}

export interface LimitTools {
  readonly local: LocalLimits;
  /** What the process shares with others, for rules of that scope. */
  readonly redis?: SharedLimits | undefined;
  /** Milliseconds that never go back; performance.now() by default. */
  readonly now?: () => number;
}

/** A rule, ready to be asked. */
export interface Compiled extends Allowance {
  readonly rule: LimitRule;
  readonly keyOf: KeyOf;
  readonly buckets: RuleBuckets;
  /** What one request costs, in milliseconds of coming back. */
  readonly takeMs: number;
  readonly shared: boolean;
}

/**
 * The limits of a route. What was counted is in `local` and in Redis and outlives this value.
 *
 * Of several rules that match, all count, whatever their order, and the first without room refuses; the answer's fields
 * are of the one that has least left, or of that which takes longest to have room. It is so for Local too, where Envoy
 * counts by a rule without selectors only what no other matches: here that one holds for all, as the field's
 * description has it.
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

export function compileRule(rule: LimitRule, local: LocalLimits, redis: SharedLimits | undefined): Compiled {
  const shared = rule.scope === 'shared';
  if (shared && redis === undefined)
    throw new SallyportError('config_invalid', `the limit ${rule.id} is Global, and there is no Redis to count it in`, {
      hint: 'set redis: { url: rediss://... } or make it a Local limit',
    });
  // With no requests at all nothing comes back, and the span of 0 refuses everything.
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

/** One decision at a time: what was found in the table, in arrays that are used again for each. */
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

  /** Takes the tokens of all rules, or of the local ones, which have room. */
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

  /** Takes the tokens of the local rules, and gives what there is to ask of Redis: others decide while it is asked. */
  split(): Split {
    this.spend(false);
    const rules = this.rules.slice(0, this.count);
    const keys = this.keys.slice(0, this.count);
    return { local: this.#local, rules, keys, at: this.at, left: this.#leastLeft(false) };
  }

  #waitMs(i: number): number {
    const { buckets, takeMs, spanMs, shared } = this.rules[i]!;
    // Redis tells those apart for whom there is no room here.
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

/** What Redis answered, which is remembered here: for the next that is over its limit, and for when Redis is away. */
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

/** Redis did not answer: the shared rules are counted here. */
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

/** A request that is refused is counted by none. */
function giveBack({ local, rules, keys, at }: Split, now: number): void {
  for (const [i, { shared, takeMs }] of rules.entries()) if (!shared) local.giveBack(keys[i]!, takeMs, at, now);
}

export function allowed({ rule, intervalMs, spanMs }: Compiled, usedMs: number): Allowed {
  return new Allowed(rule, Math.max(0, spanMs - usedMs) / intervalMs, Math.max(0, usedMs - rule.burst * intervalMs));
}

/** Has it less left, or as little for longer? */
export function isLess(a: Allowed, b: Allowed): boolean {
  return a.tokens < b.tokens || (a.tokens === b.tokens && a.resetMs > b.resetMs);
}

/** Its fields are written only for those who read them. What a burst allows on top is nobody's to plan with. */
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

  get rule(): string {
    return this.of?.id ?? '';
  }

  get headers(): Verdict['headers'] {
    if (this.of === undefined) return [];
    const { requests, cost } = this.of;
    // The tolerance is that of the bucket: a whole token that lacks a billionth is a token.
    const left = Math.min(requests, Math.floor(this.tokens + 1e-6));
    return fieldsOf(requests, cost === 1 ? left : left - (left % cost), Math.ceil(this.resetMs / 1000));
  }
}

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

  get rule(): string {
    return this.#rule.id;
  }

  /** Never 0: who is told to come at once comes at once. */
  get retryAfterS(): number {
    return Math.max(1, Math.ceil(this.waitMs / 1000 - 1e-9));
  }

  /** The draft's section 5: with Retry-After, Reset means the same time. */
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

/** More left than anything. */
export const nothingSaid = new Allowed(undefined, Number.POSITIVE_INFINITY, 0);
export const unlimited: Verdict = Object.freeze({
  allowed: true,
  headers: Object.freeze([]),
  retryAfterS: 0,
  rule: '',
  details: '' as const,
});
