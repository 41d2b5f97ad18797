// Local limits of a gateway with several workers: the buckets are the first's, and the others have tokens of them on
// loan, so that the limit that is written holds for all of them together and nearly no request waits for another
// process.
//
// What is lent is taken from the bucket there and then. A loan is good for `leaseMs` and is given back unused: in any
// span of time there passes no more than the limit, and what comes back in `leaseMs` on top. How much is lent follows
// what was used; of what a bucket holds a worker gets a share that leaves room for the others, and of the last tokens
// one at a time. Of a worker that dies the loans are spent, and come back as all that was spent does.

import { every } from '../../../cert-agent/base/background.ts';
import type { LocalLimits } from './local.ts';

/** How long a token may be on loan, milliseconds. */
export const leaseMs = 100;
const mostLent = 1000;

/** One bucket that a request is counted in, and how many of its requests the asker would like to be lent. */
export interface LeaseAsk {
  /** The rule that the bucket is of, and its key. */
  readonly rule: string;
  readonly key: string;
  readonly takeMs: number;
  readonly spanMs: number;
  readonly want: number;
}

/** What was lent: 0 where one of the buckets has no room. `usedMs`: what is now missing, as in token-bucket.ts. */
export interface Lease {
  readonly granted: number;
  readonly usedMs: number;
}

/** What was not used, as time in which it comes back, and for how long it was on loan. */
export interface GivenBack {
  readonly key: string;
  readonly takeMs: number;
  readonly ageMs: number;
}

/**
 * The first's side: lends of all buckets of a request, or of none. `sharers` is the number of workers; `now`
 * milliseconds that never go back.
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

/** The first's side: what the others have not used. */
export function takeBack(local: LocalLimits, all: readonly GivenBack[], now: number = performance.now()): void {
  for (const { key, takeMs, ageMs } of all) local.giveBack(key, takeMs, now - ageMs, now);
}

/** What a worker knows of a bucket. */
interface Loan {
  /** Requests that may pass without asking. */
  tokens: number;
  /** When the oldest of them was asked for, and until when they are good. */
  from: number;
  until: number;
  /** How many to ask for next, and how many were used since that was looked at. */
  want: number;
  used: number;
  /** What was missing when the first last said so. */
  usedMs: number;
  at: number;
  /** There was no room: nobody need ask before. */
  refusedUntil: number;
  readonly takeMs: number;
  readonly spanMs: number;
}

/** A bucket that a request is to be counted in. */
export type LeasedBucket = Omit<LeaseAsk, 'want'>;

/** What became of a request: `usedMs` of each of its buckets. */
export interface Taken {
  readonly allowed: boolean;
  readonly usedMs: readonly number[];
}

/** The side of a worker. */
export class LimitLeases {
  readonly #loans = new Map<string, Loan>();
  readonly #ask: (asks: readonly LeaseAsk[]) => Promise<readonly Lease[] | undefined>;
  readonly #giveBack: (all: readonly GivenBack[]) => void;
  readonly #now: () => number;

  /** `ask` gives undefined where the first does not answer, and never rejects. */
  constructor(
    ask: (asks: readonly LeaseAsk[]) => Promise<readonly Lease[] | undefined>,
    giveBack: (all: readonly GivenBack[]) => void,
    now: () => number = () => performance.now(),
  ) {
    this.#ask = ask;
    this.#giveBack = giveBack;
    this.#now = now;
  }

  /** Gives back what is over, from now on, until the function that it gives is called. */
  start(): () => void {
    return every('limit_leases', leaseMs, () => this.sweep());
  }

  /** Counts a request in all of its buckets, or in none. Undefined: nobody can say, and it must not pass. */
  take(buckets: readonly LeasedBucket[]): Taken | Promise<Taken | undefined> {
    const now = this.#now();
    const loans = buckets.map((one) => this.#loanOf(one));
    if (loans.some(({ refusedUntil }) => refusedUntil > now)) return tell(loans, false, now);
    const lacking = loans.flatMap((loan, i) => (loan.tokens > 0 && loan.until > now ? [] : [i]));
    // Those that are lacking are spent by whoever lends.
    for (const [i, loan] of loans.entries()) if (!lacking.includes(i)) use(loan, 1);
    if (lacking.length === 0) return tell(loans, true, now);
    const asks = lacking.map((i): LeaseAsk => {
      const loan = loans[i]!;
      // Used up before its time: there is more of that.
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

  /** A request that was counted is refused after all. */
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

  /** What is over goes back; whoever used little begins small again. Each `leaseMs`. */
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

/** What was lent, or that there was nothing, asked for at `from`. */
function learn(loan: Loan, { granted, usedMs }: Lease, from: number, now: number): void {
  loan.usedMs = usedMs;
  loan.at = now;
  if (granted === 0) {
    // It may be another bucket of the request that has none; and a flood over a limit asks the first ten times a
    // second.
    loan.refusedUntil = now + Math.min(leaseMs, usedMs + loan.takeMs - loan.spanMs);
    return;
  }
  // Of loans that meet the older one's end is that of both.
  const isFresh = loan.tokens <= 0 || loan.until <= now;
  // What came too late to be used goes back with the next look at it.
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
