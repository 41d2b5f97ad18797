// The state of logins that all gateways share, in Redis: see session-memory.ts for the contract. Redis holds hashes of
// keys and IDs, and sealed results, so its readers learn nothing that opens a session. While Redis is unavailable,
// sessions continue, but what must happen only once is refused with 503: completing a login, and a refresh.
//
// Requests do not ask Redis about logouts: each process fetches new ones twice a second, and remembers the rest.

import { hash, randomBytes } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { every } from '../../../cert-agent/base/background.ts';
import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { Client } from '../redis.ts';
import type { RedisLink } from '../redis-link.ts';
import { type Claim, LocalSessions, type SessionMemory } from './session-memory.ts';

/** Every process knows of a logout after this time and a round trip. */
const lookMs = 500;
/** A lost connection is usually restored in a tenth of that, so requests wait for it instead of being refused. */
const defaultPatienceMs = 2000;
const retryMs = 50;
const page = 1000;

// The value is L and the owner while the claim is held, and A and the result afterwards. An owner that lost its
// connection before the reply may claim again, and still holds the claim.
const claimScript = `
local had = redis.call('GET', KEYS[1])
if had and had ~= 'L' .. ARGV[1] then return had end
redis.call('SET', KEYS[1], 'L' .. ARGV[1], 'PX', ARGV[2])
return 'L' .. ARGV[1]
`;
// A Redis that has lost the claim accepts the result anyway.
const settleScript = `
local had = redis.call('GET', KEYS[1])
if had and had ~= 'L' .. ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], 'A' .. ARGV[2], 'PX', ARGV[3]) end
return 1
`;
// Logouts are numbered in order. The epoch changes when Redis has lost them. The oldest are removed once their sessions
// would have expired (milliseconds since 1970).
const endScript = `
local t = redis.call('TIME')
local now = t[1] * 1000
for _, one in ipairs(redis.call('ZRANGE', KEYS[1], 0, 99)) do
  if tonumber(string.match(one, '^%d+')) < now then redis.call('ZREM', KEYS[1], one) end
end
redis.call('SET', KEYS[3], table.remove(ARGV), 'NX')
for _, one in ipairs(ARGV) do
  if not redis.call('ZSCORE', KEYS[1], one) then redis.call('ZADD', KEYS[1], redis.call('INCR', KEYS[2]), one) end
end
return 1
`;

const prefix = 'sallyport:session:';
const endedKey = `${prefix}ended`;
const countKey = `${prefix}ended-count`;
const epochKey = `${prefix}ended-since`;

/** Call `start` before the first request, and `close` after the last. */
export class RedisSessions implements SessionMemory {
  readonly #link: RedisLink;
  readonly #patienceMs: number;
  /** The ended sessions that this process knows, by the hash of their ID. */
  readonly #local = new LocalSessions();
  /** Logouts that are not yet written to Redis, in the form written there. */
  readonly #unsent = new Set<string>();
  /** The number of the last logout that was read, and the epoch of the numbers; null if Redis has none. */
  #seen = 0;
  #epoch: string | null | undefined = undefined;
  readonly #stop: () => void;

  /** `patienceMs`: how long a login or a refresh waits for a lost connection. */
  constructor(link: RedisLink, patienceMs: number = defaultPatienceMs) {
    this.#link = link;
    this.#patienceMs = patienceMs;
    this.#stop = every('logouts', lookMs, () => this.#look());
  }

  /** Resolves once earlier logouts are known, if Redis is available. */
  async start(): Promise<void> {
    await this.#look();
  }

  /** False if another gateway has spent it. @throws SallyportError while Redis is away. */
  async spend(key: string, until: number): Promise<boolean> {
    const owner = randomBytes(12).toString('base64url');
    return (await this.claim(`state ${key}`, owner, Math.max(1, until - Date.now()))) === 'mine';
  }

  /**
   * A lease ends by itself, so that a gateway that dies blocks no session. @throws SallyportError while Redis is away.
   */
  async claim(key: string, owner: string, leaseMs: number): Promise<Claim> {
    const held = await this.#ask((client) =>
      run(client, claimScript, [keyOf(key)], [owner, String(Math.ceil(leaseMs))]),
    );
    if (held === `L${owner}`) return 'mine';
    return typeof held === 'string' && held.startsWith('A') ? { answer: held.slice(1) } : 'busy';
  }

  /** Only the owner's counts; `undefined` gives the claim up. @throws SallyportError while Redis is away. */
  async settle(key: string, owner: string, answer: string | undefined, keepMs: number): Promise<void> {
    await this.#ask((client) => run(client, settleScript, [keyOf(key)], [owner, answer ?? '', String(keepMs)]));
  }

  /** Counts here at once; others hear of it within a second, or when Redis is back. Never throws. */
  async end(id: string, until: number): Promise<void> {
    const name = nameOf(id);
    this.#local.end(name, until);
    this.#unsent.add(`${Math.ceil(until)}:${name}`);
    await this.#send();
  }

  /** From this process's memory: it never waits. */
  isEnded(id: string): boolean {
    return this.#local.isEnded(nameOf(id));
  }

  /** Fetches no more. The connection to Redis is closed by its owner. */
  close(): void {
    this.#stop();
  }

  async #look(): Promise<void> {
    await this.#send();
    for (;;) {
      const from = this.#seen;
      const read = await this.#link.ask((client) => readFrom(client, from));
      if (read === undefined) return;
      // A new epoch means that Redis has lost the logouts: send them all again, and read from the beginning.
      if (read.epoch !== this.#epoch) {
        this.#epoch = read.epoch;
        this.#seen = 0;
        for (const [name, until] of this.#local.ended()) this.#unsent.add(`${Math.ceil(until)}:${name}`);
        await this.#send();
        continue;
      }
      for (const [member, number] of read.added) {
        const at = member.indexOf(':');
        this.#local.end(member.slice(at + 1), Number(member.slice(0, at)));
        this.#seen = Math.max(this.#seen, number);
      }
      if (read.added.length < page) return;
    }
  }

  async #send(): Promise<void> {
    while (this.#unsent.size > 0) {
      const some = [...this.#unsent].slice(0, page);
      const done = await this.#link.ask((client) =>
        run(client, endScript, [endedKey, countKey, epochKey], [...some, randomBytes(9).toString('base64url')]),
      );
      if (done === undefined) return;
      for (const one of some) this.#unsent.delete(one);
    }
  }

  /** @throws SallyportError `redis_unavailable` if Redis does not respond in time. */
  async #ask<T>(question: (client: Client) => Promise<T>): Promise<T> {
    const until = performance.now() + this.#patienceMs;
    for (;;) {
      const answer = await this.#link.ask(question);
      if (answer !== undefined) return answer;
      if (performance.now() > until)
        throw new SallyportError(
          'redis_unavailable',
          `Redis at ${this.#link.place} is unavailable: logins and refreshes need it to happen only once`,
        );
      await pause(retryMs);
    }
  }
}

async function run(client: Client, script: string, keys: string[], values: readonly string[]): Promise<unknown> {
  return client.sendCommand(['EVAL', script, String(keys.length), ...keys, ...values]);
}

async function readFrom(
  client: Client,
  from: number,
): Promise<{ readonly epoch: string | null; readonly added: readonly (readonly [string, number])[] }> {
  const [epoch, flat] = await Promise.all([
    client.sendCommand(['GET', epochKey]),
    client.sendCommand(['ZRANGEBYSCORE', endedKey, `(${from}`, '+inf', 'WITHSCORES', 'LIMIT', '0', String(page)]),
  ]);
  const list = (Array.isArray(flat) ? flat : []).map(String);
  const added = list.flatMap((one, i) =>
    i % 2 === 0 && /^\d+:./.test(one) ? [[one, Number(list[i + 1])] as const] : [],
  );
  return { epoch: epoch === null || epoch === undefined ? null : String(epoch), added };
}

function keyOf(key: string): string {
  return `${prefix}${nameOf(key)}`;
}

function nameOf(key: string): string {
  return hash('sha256', key, 'base64url').slice(0, 32);
}
