// Dry-run policies: what would be decided if they were in force, beside what is. Counted for every request; kept by
// kind where the two differ, so that an operator can see what would break, and since when. Bounded.

import { formatTime } from '../../cert-agent/base/clock.ts';

/** One kind of request whose decision would change; plain data. */
export interface ShadowChange {
  readonly from: string;
  readonly request: string;
  readonly decision: 'allow' | 'deny';
  readonly policy: string;
  readonly shadowDecision: 'allow' | 'deny';
  /** The rule that would decide; `none` if no ALLOW rule would match. */
  readonly shadowPolicy: string;
  readonly count: number;
  /** RFC 3339. */
  readonly firstSeen: string;
  readonly lastSeen: string;
}

/**
 * The page `/shadow-report`. `counts` are since the start of the process, `changes` since `since`; times are RFC 3339.
 */
export interface ShadowFacts {
  /** Since when there are dry-run policies; null if there are none. */
  readonly since: string | null;
  /** By `decision shadow_decision`: `allow deny`. */
  readonly counts: Readonly<Record<string, number>>;
  readonly changes: readonly ShadowChange[];
  /** Kinds that were not kept for lack of room. */
  readonly notKept: number;
}

interface LiveChange extends Omit<ShadowChange, 'count' | 'firstSeen' | 'lastSeen'> {
  count: number;
  readonly first: number;
  last: number;
}

const maxChanges = 1000;

/** One for each process. `restart` begins a new trial. */
export class Shadow {
  readonly #changes = new Map<string, LiveChange>();
  readonly #counts = new Map<string, number>();
  #since: number | undefined = undefined;
  #notKept = 0;

  /** Counts a request that was evaluated both ways. `now` is milliseconds since 1970. */
  note(change: Omit<ShadowChange, 'count' | 'firstSeen' | 'lastSeen'>, now: number): void {
    this.#since ??= now;
    const pair = `${change.decision} ${change.shadowDecision}`;
    this.#counts.set(pair, (this.#counts.get(pair) ?? 0) + 1);
    if (change.decision === change.shadowDecision) return;
    const key = [change.from, change.request, change.policy, change.shadowPolicy].join('\n');
    const known = this.#changes.get(key);
    if (known !== undefined) {
      known.count++;
      known.last = now;
    } else if (this.#changes.size < maxChanges) this.#changes.set(key, { ...change, count: 1, first: now, last: now });
    else this.#notKept++;
  }

  /** Clears the counts: results under other dry-run policies do not apply to these. */
  restart(): void {
    this.#changes.clear();
    this.#since = undefined;
    this.#notKept = 0;
  }

  /** For metrics: live, by `decision shadow_decision`. */
  counts(): ReadonlyMap<string, number> {
    return this.#counts;
  }

  /** A copy, for the admin port and for merging the workers'. */
  facts(): ShadowFacts {
    return {
      since: this.#since === undefined ? null : formatTime(this.#since),
      counts: Object.fromEntries(this.#counts),
      changes: [...this.#changes.values()].map(({ first, last, ...rest }) => ({
        ...rest,
        firstSeen: formatTime(first),
        lastSeen: formatTime(last),
      })),
      notKept: this.#notKept,
    };
  }
}
