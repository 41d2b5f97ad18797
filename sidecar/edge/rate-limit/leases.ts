// Local limits of a gateway with several workers. The first worker owns the buckets and lends tokens to the others, so
// that the configured limit applies to all of them together, and nearly no request waits for another process.
//
// A lent token is taken from the bucket at once. A loan is valid for `leaseMs`, and unused tokens are returned: in any
// span of time no more passes than the limit plus what is returned in `leaseMs`. The size of a loan follows past use. A
// worker gets a share of what a bucket holds that leaves room for the others, and of the last tokens one at a time. The
// loans of a worker that dies count as spent, and refill like everything spent.

import { every } from '../../../cert-agent/base/background.ts';
import type { LocalLimits } from './local.ts';

/** How long a token may be on loan, milliseconds. */
export const leaseMs = 100;
const mostLent = 1000;

/** One bucket that a request counts in, and how many requests the worker would like to borrow. */
export interface LeaseAsk {
  /** The bucket's rule, and its key. */
  readonly rule: string;
  readonly key: string;
  readonly takeMs: number;
  readonly spanMs: number;
  readonly want: number;
}

/** What was lent: 0 if one of the buckets is empty. `usedMs`: what is missing now, as in local.ts. */
export interface Lease {
  readonly granted: number;
  readonly usedMs: number;
}

/** What was not used, as the time in which it refills, and how long it was on loan. */
export interface GivenBack {
  readonly key: string;
  readonly takeMs: number;
  readonly ageMs: number;
}

/**
 * The first's side: lends from all buckets of a request, or from none. `sharers` is the number of workers; `now` is
 * milliseconds of a monotonic clock.
 */
export function lend(
  local: LocalLimits,
  asks: readonly LeaseAsk[],
  sharers: number,
  now: number = performance.now(),
): Lease[] {
  local.begin();
  const found = asks.map((ask) => {
    const buckets = local.rule(ask.rule);
    return { ...ask, buckets, slot: local.find(ask.key, buckets, now) };
  });
  const hasRoom = found.every(
    ({ slot, buckets, takeMs, spanMs }) => local.waitMs(slot, buckets, takeMs, spanMs, now) === 0,
  );
  return found.map(({ slot, buckets, takeMs, spanMs, want }) => {
    const usedMs = local.usedMs(slot, buckets, now);
    if (!hasRoom) return { granted: 0, usedMs };
    const room = takeMs === 0 ? 1 : (spanMs - usedMs) / takeMs / (2 * sharers);
    const granted = Math.max(1, Math.floor(Math.min(want, room, mostLent)));
    local.spend(slot, buckets, granted * takeMs, now);
    return { granted, usedMs: usedMs + granted * takeMs };
  });
}

/** The first's side: takes back what the others have not used. */
export function takeBack(local: LocalLimits, all: readonly GivenBack[], now: number = performance.now()): void {
  for (const { key, takeMs, ageMs } of all) local.giveBack(key, takeMs, now - ageMs, now);
}

/** A worker's view of a bucket. */
interface Loan {
  /** Requests that may pass without a query. */
  tokens: number;
  /** When the oldest of them was borrowed, and when they expire. */
  from: number;
  until: number;
  /** How many to borrow next, and how many were used since the last adjustment. */
  want: number;
  used: number;
  /** What was missing at the first's last answer. */
  usedMs: number;
  at: number;
  /** The bucket was empty: no query before this time. */
  refusedUntil: number;
  readonly takeMs: number;
  readonly spanMs: number;
}

/** A bucket that a request counts in. */
export type LeasedBucket = Omit<LeaseAsk, 'want'>;

/** A request's result: `usedMs` of each of its buckets. */
export interface Taken {
  readonly allowed: boolean;
  readonly usedMs: readonly number[];
}

/** A worker's side. */
export class LimitLeases {
  readonly #loans = new Map<string, Loan>();
  readonly #ask: (asks: readonly LeaseAsk[]) => Promise<readonly Lease[] | undefined>;
  readonly #giveBack: (all: readonly GivenBack[]) => void;
  readonly #now: () => number;

  /** `ask` resolves with undefined if the first does not answer, and never rejects. */
  constructor(
    ask: (asks: readonly LeaseAsk[]) => Promise<readonly Lease[] | undefined>,
    giveBack: (all: readonly GivenBack[]) => void,
    now: () => number = () => performance.now(),
  ) {
    this.#ask = ask;
    this.#giveBack = giveBack;
    this.#now = now;
  }

  /** Returns surplus tokens from now on, until the returned function is called. */
  start(): () => void {
    return every('limit_leases', leaseMs, () => this.sweep());
  }

  /** Counts a request in all of its buckets, or in none. Undefined: unknown, and the request must not pass. */
  take(buckets: readonly LeasedBucket[]): Taken | Promise<Taken | undefined> {
    const now = this.#now();
    const loans = buckets.map((one) => this.#loanOf(one));
    if (loans.some(({ refusedUntil }) => refusedUntil > now)) return tell(loans, false, now);
    const lacking = loans.flatMap((loan, i) => (loan.tokens > 0 && loan.until > now ? [] : [i]));
    // The first worker spends the missing tokens itself.
    for (const [i, loan] of loans.entries()) if (!lacking.includes(i)) use(loan, 1);
    if (lacking.length === 0) return tell(loans, true, now);
    const asks = lacking.map((i): LeaseAsk => {
      const loan = loans[i]!;
      // Used up early: borrow more next time.
      if (loan.until > now) loan.want = Math.min(loan.want * 2, mostLent);
      return { ...buckets[i]!, want: loan.want };
    });
    return this.#ask(asks).then((leases) => {
      const later = this.#now();
      const isGranted = leases?.every(({ granted }) => granted > 0) === true;
      for (const [n, i] of lacking.entries()) if (leases !== undefined) learn(loans[i]!, leases[n]!, now, later);
      if (!isGranted) for (const [i, loan] of loans.entries()) if (!lacking.includes(i)) use(loan, -1);
      return leases === undefined ? undefined : tell(loans, isGranted, later);
    });
  }

  /** A counted request was refused after all. */
  putBack(buckets: readonly LeasedBucket[]): void {
    const now = this.#now();
    for (const one of buckets) {
      const loan = this.#loans.get(one.key);
      if (loan !== undefined && loan.until > now) use(loan, -1);
      else this.#giveBack([{ key: one.key, takeMs: one.takeMs, ageMs: leaseMs }]);
    }
  }

  #loanOf({ key, takeMs, spanMs }: LeasedBucket): Loan {
    const known = this.#loans.get(key);
    if (known !== undefined) return known;
    const loan: Loan = {
      ...{ tokens: 0, from: 0, until: 0, want: 1, used: 0, takeMs, spanMs },
      ...{ usedMs: 0, at: 0, refusedUntil: 0 },
    };
    this.#loans.set(key, loan);
    return loan;
  }

  /** Returns the surplus; a worker that used little borrows little again. Each `leaseMs`. */
  sweep(): void {
    const now = this.#now();
    const back: GivenBack[] = [];
    for (const [key, loan] of this.#loans) {
      if (loan.until > now || loan.refusedUntil > now) continue;
      if (loan.tokens > 0) back.push({ key, takeMs: loan.tokens * loan.takeMs, ageMs: now - loan.from });
      loan.tokens = 0;
      loan.want = Math.max(1, loan.used);
      if (loan.used === 0) this.#loans.delete(key);
      loan.used = 0;
    }
    if (back.length > 0) this.#giveBack(back);
  }
}

function use(loan: Loan, count: number): void {
  loan.tokens -= count;
  loan.used += count;
}

/** A loan, or an empty bucket, borrowed at `from`. */
function learn(loan: Loan, { granted, usedMs }: Lease, from: number, now: number): void {
  loan.usedMs = usedMs;
  loan.at = now;
  if (granted === 0) {
    // Another bucket of the request may be the empty one; and a flood over a limit queries the first ten times a
    // second.
    loan.refusedUntil = now + Math.min(leaseMs, usedMs + loan.takeMs - loan.spanMs);
    return;
  }
  // If loans overlap, the older one's expiry counts for both.
  const isFresh = loan.tokens <= 0 || loan.until <= now;
  // A loan that came too late is returned at the next adjustment.
  loan.from = isFresh ? from : Math.min(loan.from, from);
  loan.until = isFresh ? from + leaseMs : Math.min(loan.until, from + leaseMs);
  loan.tokens += granted - 1;
  loan.used++;
}

function tell(loans: readonly Loan[], allowed: boolean, now: number): Taken {
  return {
    allowed,
    usedMs: loans.map((one) => Math.max(0, one.usedMs - Math.max(0, one.tokens) * one.takeMs - (now - one.at))),
  };
}
