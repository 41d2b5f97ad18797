// Buckets that several gateways share, in Redis: one round trip of one script for all rules of a request, so that no two
// gateways spend the same token, by Redis's own clock, so that theirs need not agree. Of what a bucket is for Redis sees a
// hash. Whoever asks gets an answer in `timeoutMs` or none: Redis slow, away or in error is Redis away, said once, and tried
// again in the background until it works.
//
// One Redis, or one behind a name that fails over; not Redis Cluster, whose scripts take keys of one shard only.

import { reasonOf } from '../../cert-agent/base/errors.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import {
  type Client,
  connectMs,
  createClient,
  destroy,
  parseTarget,
  type RedisPlace,
  type Target,
} from './redis-client.ts';
import { runScript, type SharedAnswer, type SharedBucket } from './redis-script.ts';

export interface SharedLimits {
  /** Whether Redis answered when it was last heard of. */
  readonly ready: boolean;
  /** Asks for tokens. No promise where Redis is away, and undefined where it did not answer: decide without it. Never rejects. */
  take(buckets: readonly SharedBucket[]): Promise<SharedAnswer | undefined> | undefined;
  facts(): SharedLimitFacts;
  close(): void;
}

/** For metrics and pages: plain numbers. */
export interface SharedLimitFacts {
  /** Host and port. */
  readonly redis: string;
  readonly ready: boolean;
  /** Decisions that Redis made, and of those how many refused. */
  readonly shared: number;
  readonly allowed: number;
  readonly limited: number;
  /** Decisions that it should have made and did not. */
  readonly fallback: number;
  readonly outages: number;
  readonly lastProblem: string | null;
}

export interface SharedLimitOptions extends RedisPlace {
  /** How long a decision waits, milliseconds. */
  readonly timeoutMs?: number | undefined;
  readonly log?: Log | undefined;
}

const defaultTimeoutMs = 50;
const firstRetryMs = 100;
const longestRetryMs = 2000;
/** Decisions that wait at once: more means that Redis does not keep up. */
const maxWaiting = 10_000;

/** Whom the script is tried with. It takes what comes back in a millisecond. */
const probe: SharedBucket = { key: 'probe', takeMs: 1, spanMs: 1_000_000 };

/**
 * Connects, and goes on trying in the background where that fails: a gateway does not wait for Redis.
 * @throws SallyportError `config_invalid` for a URL that cannot be used, `config_unreadable` for a file that cannot be read.
 */
export async function startSharedLimits(options: SharedLimitOptions): Promise<SharedLimits> {
  const target = parseTarget(options, (message) => options.log?.warn({ code: 'secret_exposed' }, message));
  const limits = new RedisLimits(target, options);
  target.secrets();
  await limits.connect();
  return limits;
}

class RedisLimits implements SharedLimits {
  readonly #target: Target;
  readonly #timeoutMs: number;
  readonly #log: Log | undefined;
  #client: Client | undefined = undefined;
  /** In the order in which they were asked, which is that in which their time runs out. */
  #waiting: Asked[] = [];
  #tick: NodeJS.Timeout | undefined = undefined;
  #retry: NodeJS.Timeout | undefined = undefined;
  #retryMs = firstRetryMs;
  #closed = false;
  #wasReady = true;
  #since = performance.now();
  #shared = 0;
  #limited = 0;
  #fallback = 0;
  /** What `#fallback` was when the outage began. */
  #fallbackBefore = 0;
  #outages = 0;
  #lastProblem: string | undefined = undefined;

  constructor(target: Target, { timeoutMs = defaultTimeoutMs, log }: SharedLimitOptions) {
    this.#target = target;
    this.#timeoutMs = timeoutMs;
    this.#log = log;
  }

  get ready(): boolean {
    return this.#client !== undefined;
  }

  take(buckets: readonly SharedBucket[]): Promise<SharedAnswer | undefined> | undefined {
    const client = this.#client;
    if (client === undefined || this.#waiting.length >= maxWaiting) {
      this.#fallback++;
      return undefined;
    }
    return new Promise((resolve) => {
      const asked = new Asked(performance.now() + this.#timeoutMs, resolve);
      this.#waiting.push(asked);
      this.#tick ??= setTimeout(this.#lookAgain, this.#timeoutMs).unref();
      runScript(client, buckets).then(
        (answer) => this.#answered(asked, answer),
        (error: unknown) => {
          if (!asked.done) this.#lost(client, reasonOf(error));
          this.#unanswered(asked);
        },
      );
    });
  }

  facts(): SharedLimitFacts {
    return {
      redis: this.#target.place,
      ready: this.ready,
      shared: this.#shared,
      allowed: this.#shared - this.#limited,
      limited: this.#limited,
      fallback: this.#fallback,
      outages: this.#outages,
      lastProblem: this.#lastProblem ?? null,
    };
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#retry);
    this.#drop();
  }

  /** One attempt: a connection of its own on which the script has answered. */
  async connect(): Promise<void> {
    if (this.#closed) return;
    const fresh: { client?: Client } = {};
    let late: NodeJS.Timeout | undefined;
    try {
      const time = new Promise<never>((_, reject) => {
        late = setTimeout(() => reject(new Error(`it did not answer in ${connectMs} ms`)), connectMs).unref();
      });
      await Promise.race([this.#open(fresh), time]);
    } catch (error) {
      destroy(fresh.client);
      this.#away(reasonOf(error));
      return;
    } finally {
      clearTimeout(late);
    }
    if (this.#closed) return destroy(fresh.client);
    this.#here(fresh.client!);
  }

  async #open(fresh: { client?: Client }): Promise<void> {
    const client = await createClient(this.#target);
    fresh.client = client;
    // Without somebody who listens an error would end the process. What it means for decisions they are told themselves.
    client.on('error', (error: unknown) => this.#lost(client, reasonOf(error)));
    await client.connect();
    // Not PING: a replica, or a Redis without memory left, answers that and then refuses every decision.
    await runScript(client, [probe]);
  }

  #here(client: Client): void {
    this.#client = client;
    this.#retryMs = firstRetryMs;
    if (this.#wasReady) return;
    this.#wasReady = true;
    const decisions = this.#fallback - this.#fallbackBefore;
    this.#log?.info(
      {
        code: 'redis_available',
        redis: this.#target.place,
        decisions,
        ms: Math.round(performance.now() - this.#since),
      },
      `Redis at ${this.#target.place} answers again: ${decisions} decisions were made by local limits`,
    );
  }

  /** The connection that was in use is of no more use. */
  #lost(client: Client, reason: string): void {
    if (client !== this.#client || this.#closed) return;
    // First, so that those who are waiting count as decided in this outage.
    this.#away(reason);
    this.#drop();
  }

  #away(reason: string): void {
    this.#lastProblem = reason;
    if (this.#closed) return;
    if (this.#wasReady) {
      this.#wasReady = false;
      this.#outages++;
      this.#since = performance.now();
      this.#fallbackBefore = this.#fallback;
      this.#log?.warn(
        { code: 'redis_unavailable', redis: this.#target.place, reason, outages: this.#outages },
        `Redis at ${this.#target.place} cannot be asked, each gateway limits on its own: ${reason}`,
      );
    }
    // Many gateways lose it at once; they must not come back at once.
    const delay = this.#retryMs * (0.5 + Math.random() / 2);
    this.#retryMs = Math.min(this.#retryMs * 2, longestRetryMs);
    this.#retry = setTimeout(() => void this.connect(), delay).unref();
  }

  /** Nobody waits for a connection that is given up. */
  #drop(): void {
    const client = this.#client;
    this.#client = undefined;
    clearTimeout(this.#tick);
    this.#tick = undefined;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const asked of waiting) this.#unanswered(asked);
    destroy(client);
  }

  #answered(asked: Asked, answer: SharedAnswer): void {
    if (asked.done) return;
    this.#shared++;
    if (!answer.allowed) this.#limited++;
    asked.settle(answer);
    this.#forget();
  }

  #unanswered(asked: Asked): void {
    if (asked.done) return;
    this.#fallback++;
    asked.settle(undefined);
  }

  /** Answers come in the order of the questions. */
  #forget(): void {
    if (!this.#waiting[0]?.done) return;
    const first = this.#waiting.findIndex(({ done }) => !done);
    this.#waiting.splice(0, first === -1 ? this.#waiting.length : first);
  }

  /**
   * One timer for all that wait. When we ourselves were busy the answers lie in the socket: they are read before anybody is
   * told that his time ran out.
   */
  readonly #lookAgain = (): void => {
    setImmediate(() => {
      this.#tick = undefined;
      const [oldest] = this.#waiting;
      if (oldest === undefined || this.#client === undefined) return;
      const left = oldest.until - performance.now();
      if (left <= 0) this.#lost(this.#client, `it did not answer in ${this.#timeoutMs} ms`);
      else this.#tick ??= setTimeout(this.#lookAgain, left).unref();
    });
  };
}

/** A question, answered once. */
class Asked {
  readonly until: number;
  readonly #resolve: (answer: SharedAnswer | undefined) => void;
  done = false;

  constructor(until: number, resolve: (answer: SharedAnswer | undefined) => void) {
    this.until = until;
    this.#resolve = resolve;
  }

  settle(answer: SharedAnswer | undefined): void {
    this.done = true;
    this.#resolve(answer);
  }
}
