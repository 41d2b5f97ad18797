// How much of its allowance each key has used, in a table of bounded size. A bucket is one number, the time at which it
// is full again (the generic cell rate algorithm, ITU-T I.371: a token bucket that refills continuously without a
// timer). A full bucket holds no information and may be dropped at any time; one in use is never dropped.

/** A rule's rate and size of a bucket. */
export interface Allowance {
  /** Milliseconds in which one token refills. */
  readonly intervalMs: number;
  /** Milliseconds in which an empty bucket refills: all its tokens. */
  readonly spanMs: number;
}

/** A rule's part of the table. */
export interface RuleBuckets {
  readonly id: string;
  /** Slots with its keys. */
  held: number;
  /** When the bucket that keys without room share is full again. */
  overflowFullAt: number;
}

/** The table's counts and size. */
export interface LocalLimitFacts {
  readonly allowed: number;
  readonly limited: number;
  readonly buckets: number;
  /** Decisions on the bucket that keys without room share: a client invents keys, or the table is too small. */
  readonly overflowed: number;
}

/** Means: in the bucket shared for lack of room. */
export const overflow = -1;

/** Rounding errors in sums of fractions of milliseconds must not cost the last token. */
const tolerance = 1e-6;
/** How many slots are searched for one that may be dropped: 100 ns at most. */
const probes = 64;
const maxRules = 4096;

/** The buckets of a process. They outlive the policies that use them: what was spent before a reload stays spent. */
export class LocalLimits {
  readonly #capacity: number;
  readonly #perRule: number;
  readonly #slots = new Map<string, number>();
  readonly #rules = new Map<string, RuleBuckets>();
  readonly #keys: string[] = [];
  readonly #owners: RuleBuckets[] = [];
  #fullAt = new Float64Array(1024);
  /** The decision that last used a slot: it must not drop what it has just found. */
  #looked = new Uint32Array(1024);
  #decision = 0;
  #hand = 0;
  #overflowed = 0;
  allowed = 0;
  limited = 0;

  /** @param capacity the number of keys; one rule may have half of them, so that none displaces all others */
  constructor(capacity = 100_000) {
    this.#capacity = capacity;
    this.#perRule = Math.max(1, Math.ceil(capacity / 2));
  }

  /** The part of the rule `id`: the same for each policy that has it. */
  rule(id: string): RuleBuckets {
    const known = this.#rules.get(id) ?? { id, held: 0, overflowFullAt: 0 };
    // Rules of policies that are gone.
    if (this.#rules.size >= maxRules)
      for (const [key, { held }] of this.#rules) if (held === 0) this.#rules.delete(key);
    this.#rules.set(id, known);
    return known;
  }

  /** Begins a decision: slots found from here on are kept until the next begins. */
  begin(): void {
    this.#decision = (this.#decision + 1) >>> 0;
  }

  /** The slot of `key`; `overflow` if it is new and there is no room for it. */
  find(key: string, rule: RuleBuckets, now: number): number {
    let slot = this.#slots.get(key);
    if (slot === undefined) {
      slot = this.#makeRoom(rule, now);
      if (slot === overflow) {
        this.#overflowed++;
        return overflow;
      }
      this.#slots.set(key, slot);
      this.#keys[slot] = key;
      this.#owners[slot] = rule;
      this.#fullAt[slot] = 0;
      rule.held++;
    }
    this.#looked[slot] = this.#decision;
    return slot;
  }

  /** Milliseconds until `takeMs` worth of tokens are in the bucket; 0 if they are. */
  waitMs(slot: number, rule: RuleBuckets, takeMs: number, spanMs: number, now: number): number {
    const wait = this.usedMs(slot, rule, now) + takeMs - spanMs;
    return wait > tolerance ? wait : 0;
  }

  /** What is missing from the bucket, as the time in which it refills. */
  usedMs(slot: number, rule: RuleBuckets, now: number): number {
    const fullAt = slot === overflow ? rule.overflowFullAt : this.#fullAt[slot]!;
    return fullAt > now ? fullAt - now : 0;
  }

  /** Takes tokens, whether there are enough or not. */
  spend(slot: number, rule: RuleBuckets, takeMs: number, now: number): void {
    const fullAt = now + this.usedMs(slot, rule, now) + takeMs;
    if (slot === overflow) rule.overflowFullAt = fullAt;
    else this.#fullAt[slot] = fullAt;
  }

  /**
   * Returns what was taken at `takenAt` for a request that was refused after all. What has refilled since is not added.
   */
  giveBack(key: string, takeMs: number, takenAt: number, now: number): void {
    const slot = this.#slots.get(key);
    if (slot !== undefined) this.#fullAt[slot]! -= Math.max(0, takeMs - (now - takenAt));
  }

  /** Records that at least so much is missing, from others' counts. */
  learn(slot: number, usedMs: number, now: number): void {
    if (slot !== overflow && this.#fullAt[slot]! < now + usedMs) this.#fullAt[slot] = now + usedMs;
  }

  /** For metrics. `overflowed` counts keys for which there was no room. */
  facts(): LocalLimitFacts {
    const { allowed, limited } = this;
    return { allowed, limited, buckets: this.#slots.size, overflowed: this.#overflowed };
  }

  /**
   * A slot for a new key: an empty one, or one whose bucket is full, which equals an empty one. A client that invents
   * keys can neither grow the table nor turn an exhausted bucket into a full one: if all slots are in use, new keys of
   * a rule share one bucket.
   */
  #makeRoom(rule: RuleBuckets, now: number): number {
    const used = this.#keys.length;
    const mayGrow = rule.held < this.#perRule;
    if (mayGrow && used < this.#capacity) {
      if (used === this.#fullAt.length) this.#grow();
      return used;
    }
    for (let probe = Math.min(probes, used); probe > 0; probe--) {
      const slot = this.#hand < used ? this.#hand : 0;
      this.#hand = slot + 1;
      if (this.#fullAt[slot]! > now || this.#looked[slot] === this.#decision) continue;
      const owner = this.#owners[slot]!;
      if (!mayGrow && owner !== rule) continue;
      this.#slots.delete(this.#keys[slot]!);
      owner.held--;
      return slot;
    }
    return overflow;
  }

  #grow(): void {
    const size = Math.min(this.#fullAt.length * 2, Math.max(this.#capacity, 1024));
    const fullAt = new Float64Array(size);
    fullAt.set(this.#fullAt);
    const looked = new Uint32Array(size);
    looked.set(this.#looked);
    this.#fullAt = fullAt;
    this.#looked = looked;
  }
}
