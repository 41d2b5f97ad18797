// A gateway's connection to Redis, for what its processes and other gateways share. A query gets an answer in
// `timeoutMs`, or none. A Redis that is slow, away or in error counts as away: this is logged once, and it is retried
// in the background.
//
// One Redis, or one behind a name that fails over. Not Redis Cluster, whose nodes each have a part of the keys.

import { setTimeout as pause } from 'node:timers/promises';
import { reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import {
  type Client,
  connectMs,
  createClient,
  destroy,
  openClient,
  parseTarget,
  type RedisPlace,
  type Target,
} from './redis.ts';

/** The Redis, and the timeouts and limits of queries. */
export interface RedisLinkOptions extends RedisPlace {
  /** How long a query waits, milliseconds. */
  readonly timeoutMs?: number | undefined;
  readonly log?: Log | undefined;
}

const defaultTimeoutMs = 50;
const firstRetryMs = 100;
const longestRetryMs = 2000;
/** Queries that wait at once: more means that Redis is too slow. */
const maxWaiting = 10_000;

/** What each query needs: scripts, time, expiring keys. It must work on a connection before that is used. */
const probeScript = `
redis.call('TIME')
redis.call('SET', KEYS[1], '1', 'PX', 1000)
return redis.call('GET', KEYS[1])
`;

async function probe(client: Client): Promise<void> {
  const answer: unknown = await client.sendCommand(['EVAL', probeScript, '1', 'sallyport:probe']);
  if (answer !== '1') throw new SallyportError('redis_unavailable', 'unexpected response from the script');
}

/**
 * Connects, and retries in the background if that fails: a gateway does not wait for Redis.
 * @throws SallyportError `config_invalid` for an unusable URL, `config_unreadable` for an unreadable file.
 */
export async function startRedisLink(options: RedisLinkOptions): Promise<RedisLink> {
  const target = parseTarget(options, (message) => options.log?.warn({ code: 'secret_exposed' }, message));
  const link = new RedisLink(target, options);
  target.secrets();
  await link.connect();
  return link;
}

/**
 * Tries once whether a Redis can be used. Returns why it cannot be used now; undefined if it can.
 * @throws SallyportError `config_invalid` for one that can never be used.
 */
export async function tryRedis(place: RedisPlace): Promise<string | undefined> {
  const target = parseTarget(place);
  let client: Client | undefined;
  try {
    client = await createClient(target);
    client.on('error', () => {});
    const late = pause(connectMs, undefined, { ref: false }).then(() => {
      throw new Error(`it did not answer in ${connectMs} ms`);
    });
    await Promise.race([openClient(client, target.place, probe), late]);
    return undefined;
  } catch (error) {
    if (error instanceof SallyportError && error.code === 'config_invalid') throw error;
    return `Redis at ${target.place} is unavailable: ${reasonOf(error)}`;
  } finally {
    destroy(client);
  }
}

/** One connection to Redis, replaced when it fails. */
export class RedisLink {
  readonly #target: Target;
  readonly #timeoutMs: number;
  readonly #log: Log | undefined;
  #client: Client | undefined = undefined;
  /** In the order of the queries, which is that of their timeouts. */
  #waiting: Asked[] = [];
  #tick: NodeJS.Timeout | undefined = undefined;
  #retry: NodeJS.Timeout | undefined = undefined;
  #retryMs = firstRetryMs;
  #closed = false;
  #wasReady = true;
  #since = performance.now();
  /** The number of decisions without Redis so far, for the log. */
  unanswered: () => number = () => 0;
  /** `unanswered` at the beginning of the outage. */
  #unansweredBefore = 0;
  outages = 0;
  lastProblem: string | undefined = undefined;

  constructor(target: Target, { timeoutMs = defaultTimeoutMs, log }: RedisLinkOptions) {
    this.#target = target;
    this.#timeoutMs = timeoutMs;
    this.#log = log;
  }

  /** Host and port. */
  get place(): string {
    return this.#target.place;
  }

  /** True if Redis worked at its last answer. */
  get ready(): boolean {
    return this.#client !== undefined;
  }

  /**
   * Queries Redis. Returns no promise while Redis is away; resolves with undefined without an answer in time, or for an
   * error. Never rejects. `note` is called for each query, before its waiter.
   */
  ask<T>(
    question: (client: Client) => Promise<T>,
    note: (answer: T | undefined) => void = () => {},
  ): Promise<T | undefined> | undefined {
    const client = this.#client;
    if (client === undefined || this.#waiting.length >= maxWaiting) return undefined;
    return new Promise((resolve) => {
      const asked = new Asked(performance.now() + this.#timeoutMs, (answer) => {
        note(answer as T | undefined);
        resolve(answer as T | undefined);
      });
      this.#waiting.push(asked);
      this.#tick ??= setTimeout(this.#lookAgain, this.#timeoutMs).unref();
      question(client).then(
        (answer) => {
          asked.settle(answer);
          this.#forget();
        },
        (error: unknown) => {
          if (!asked.done) this.#lost(client, reasonOf(error));
          asked.settle(undefined);
        },
      );
    });
  }

  /** Retries no more. Queries in flight get no answer. */
  close(): void {
    this.#closed = true;
    clearTimeout(this.#retry);
    this.#drop();
  }

  /** One attempt: a connection of its own on which the probe has worked. */
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
    // Without a listener an error would end the process. Pending queries fail on their own.
    client.on('error', (error: unknown) => this.#lost(client, reasonOf(error)));
    // Not PING: a replica, or a Redis out of memory, answers that and then refuses every decision.
    await openClient(client, this.place, probe);
  }

  #here(client: Client): void {
    this.#client = client;
    this.#retryMs = firstRetryMs;
    if (this.#wasReady) return;
    this.#wasReady = true;
    const decisions = this.unanswered() - this.#unansweredBefore;
    this.#log?.info(
      {
        code: 'redis_available',
        redis: this.#target.place,
        decisions,
        ms: Math.round(performance.now() - this.#since),
      },
      `Redis at ${this.#target.place} is available again${decisions === 0 ? '' : `: ${decisions} decisions were made by local limits`}`,
    );
  }

  /** Drops the connection in use. */
  #lost(client: Client, reason: string): void {
    if (client !== this.#client || this.#closed) return;
    // First, so that the pending queries count as decided in this outage.
    this.#away(reason);
    this.#drop();
  }

  #away(reason: string): void {
    this.lastProblem = reason;
    if (this.#closed) return;
    if (this.#wasReady) {
      this.#wasReady = false;
      this.outages++;
      this.#since = performance.now();
      this.#unansweredBefore = this.unanswered();
      this.#log?.warn(
        { code: 'redis_unavailable', redis: this.#target.place, reason, outages: this.outages },
        `Redis at ${this.#target.place} is unavailable, each gateway has its own limits and its own cache: ${reason}`,
      );
    }
    // Many gateways lose it at once; they must not all reconnect at once.
    const delay = this.#retryMs * (0.5 + Math.random() / 2);
    this.#retryMs = Math.min(this.#retryMs * 2, longestRetryMs);
    this.#retry = setTimeout(() => void this.connect(), delay).unref();
  }

  /** Closes a connection that is given up. */
  #drop(): void {
    const client = this.#client;
    this.#client = undefined;
    clearTimeout(this.#tick);
    this.#tick = undefined;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const asked of waiting) asked.settle(undefined);
    destroy(client);
  }

  /** Answers come in the order of the queries. */
  #forget(): void {
    if (!this.#waiting[0]?.done) return;
    const first = this.#waiting.findIndex(({ done }) => !done);
    this.#waiting.splice(0, first === -1 ? this.#waiting.length : first);
  }

  /**
   * One timer for all pending queries. If this process itself was busy, the answers wait in the socket: they are read
   * before any query times out.
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

/** A query, answered once. */
class Asked {
  readonly until: number;
  readonly #resolve: (answer: unknown) => void;
  done = false;

  constructor(until: number, resolve: (answer: unknown) => void) {
    this.until = until;
    this.#resolve = resolve;
  }

  settle(answer: unknown): void {
    if (this.done) return;
    this.done = true;
    this.#resolve(answer);
  }
}
