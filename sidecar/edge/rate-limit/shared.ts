// Buckets that several gateways share, in Redis: one round trip of one script for all rules of a request, so that no two
// gateways spend the same token, by Redis's own clock, so that theirs need not agree. Of what a bucket is for Redis sees a
// hash. Whoever asks gets an answer in `timeoutMs` or none, and decides without Redis.

import { setTimeout as pause } from 'node:timers/promises';
import { reasonOf, SallyportError } from '../../../cert-agent/base/errors.ts';
import { type Client, connectMs, createClient, destroy, openClient, parseTarget, type RedisPlace } from '../redis.ts';
import { RedisLink, type RedisLinkOptions } from '../redis-link.ts';
import { runScript, type SharedAnswer, type SharedBucket } from './script.ts';

export interface SharedLimits {
  /** Whether Redis answered when it was last heard of. */
  readonly ready: boolean;
  /** Asks for tokens. No promise where Redis is away, and undefined where it did not answer: decide without it. Never rejects. */
  take(buckets: readonly SharedBucket[]): Promise<SharedAnswer | undefined> | undefined;
  facts(): SharedLimitFacts;
  close(): void;
}

/** With the connection that other things of a gateway share. */
export interface RedisLimits extends SharedLimits {
  readonly link: RedisLink;
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

/** Whom the script is tried with. It takes what comes back in a millisecond. */
const probe: SharedBucket = { key: 'probe', takeMs: 1, spanMs: 1_000_000 };

export type SharedLimitOptions = RedisLinkOptions;

/**
 * Connects, and goes on trying in the background where that fails: a gateway does not wait for Redis.
 * @throws SallyportError `config_invalid` for a URL that cannot be used, `config_unreadable` for a file that cannot be read.
 */
export async function startSharedLimits(options: SharedLimitOptions): Promise<RedisLimits> {
  const target = parseTarget(options, (message) => options.log?.warn({ code: 'secret_exposed' }, message));
  const limits = new LimitsInRedis(new RedisLink(target, options, (client) => runScript(client, [probe]), unanswered));
  function unanswered(): number {
    return limits.facts().fallback;
  }
  target.secrets();
  await limits.link.connect();
  return limits;
}

/**
 * Asks a Redis once whether it could be used. Gives why it cannot be asked now, undefined where it can.
 * @throws SallyportError `config_invalid` for one that never can.
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
    await Promise.race([openClient(client, target.place, (one) => runScript(one, [probe])), late]);
    return undefined;
  } catch (error) {
    if (error instanceof SallyportError && error.code === 'config_invalid') throw error;
    return `Redis at ${target.place} cannot be asked: ${reasonOf(error)}`;
  } finally {
    destroy(client);
  }
}

class LimitsInRedis implements RedisLimits {
  readonly link: RedisLink;
  #shared = 0;
  #limited = 0;
  #fallback = 0;

  constructor(link: RedisLink) {
    this.link = link;
  }

  get ready(): boolean {
    return this.link.ready;
  }

  take(buckets: readonly SharedBucket[]): Promise<SharedAnswer | undefined> | undefined {
    const asked = this.link.ask((client) => runScript(client, buckets), this.#note);
    if (asked === undefined) this.#fallback++;
    return asked;
  }

  readonly #note = (answer: SharedAnswer | undefined): void => {
    if (answer === undefined) this.#fallback++;
    else {
      this.#shared++;
      if (!answer.allowed) this.#limited++;
    }
  };

  facts(): SharedLimitFacts {
    const { place, ready, outages, lastProblem } = this.link;
    return {
      ...{ redis: place, ready, outages, lastProblem: lastProblem ?? null },
      ...{ shared: this.#shared, allowed: this.#shared - this.#limited, limited: this.#limited },
      fallback: this.#fallback,
    };
  }

  close(): void {
    this.link.close();
  }
}
