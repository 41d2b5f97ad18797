// What has to be one of logins over all gateways, in Redis: see session-memory.ts for the contract. Of keys and ids Redis sees
// hashes, and answers come sealed: whoever reads it learns nothing that opens a session. While it is away nobody's session
// ends, but what would have to be unique is not done: a login that comes back, and a refresh, are refused with 503.
//
// Logouts are not asked for at each request: each process asks twice a second what has been added, and knows the rest.

import { hash, randomBytes } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { every } from '../../../cert-agent/base/background.ts';
import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { Client } from '../redis.ts';
import type { RedisLink } from '../redis-link.ts';
import { type Claim, LocalSessions, type SessionMemory } from './session-memory.ts';

/** A logout is known to all after this and a round trip. */
const lookMs = 500;
/** A connection that was lost is made again in a tenth of that: whoever asks meanwhile need not be refused. */
const defaultPatienceMs = 2000;
const retryMs = 50;
const page = 1000;

// The value is L and the owner while somebody has the right, A and the answer afterwards. Asked again by the owner, whose
// connection was lost before the answer came, it is theirs.
const claimScript = `
local had = redis.call('GET', KEYS[1])
if had and had ~= 'L' .. ARGV[1] then return had end
redis.call('SET', KEYS[1], 'L' .. ARGV[1], 'PX', ARGV[2])
return 'L' .. ARGV[1]
`;
// A Redis that has forgotten who had the right takes the answer all the same.
const settleScript = `
local had = redis.call('GET', KEYS[1])
if had and had ~= 'L' .. ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], 'A' .. ARGV[2], 'PX', ARGV[3]) end
return 1
`;
// Numbered as they come, under a name that is new when Redis has forgotten them; the oldest go when they would have ended by themselves (the time is milliseconds since 1970).
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

export class RedisSessions implements SessionMemory {
  readonly #link: RedisLink;
  readonly #patienceMs: number;
  /** What this process knows of sessions that have ended, by the hash of their id. */
  readonly #local = new LocalSessions();
  /** Logouts that Redis has not taken yet, as they are written there. */
  readonly #untold = new Set<string>();
  /** The number of the last logout that was seen, and what they are numbered under; null where there are none. */
  #seen = 0;
  #epoch: string | null | undefined = undefined;
  readonly #stop: () => void;

  /** `patienceMs`: how long a login or a refresh waits for a connection that is lost. */
  constructor(link: RedisLink, patienceMs: number = defaultPatienceMs) {
    this.#link = link;
    this.#patienceMs = patienceMs;
    this.#stop = every('logouts', lookMs, () => this.#look());
  }

  /** Resolves when the logouts of the past are known, as far as Redis can be asked. */
  async start(): Promise<void> {
    await this.#look();
  }

  async spend(key: string, until: number): Promise<boolean> {
    const owner = randomBytes(12).toString('base64url');
    return (await this.claim(`state ${key}`, owner, Math.max(1, until - Date.now()))) === 'mine';
  }

  async claim(key: string, owner: string, leaseMs: number): Promise<Claim> {
    const said = await this.#ask((client) =>
      run(client, claimScript, [keyOf(key)], [owner, String(Math.ceil(leaseMs))]),
    );
    if (said === `L${owner}`) return 'mine';
    return typeof said === 'string' && said.startsWith('A') ? { answer: said.slice(1) } : 'busy';
  }

  async settle(key: string, owner: string, answer: string | undefined, keepMs: number): Promise<void> {
    await this.#ask((client) => run(client, settleScript, [keyOf(key)], [owner, answer ?? '', String(keepMs)]));
  }

  async end(id: string, until: number): Promise<void> {
    const name = nameOf(id);
    this.#local.end(name, until);
    this.#untold.add(`${Math.ceil(until)}:${name}`);
    await this.#tell();
  }

  isEnded(id: string): boolean {
    return this.#local.isEnded(nameOf(id));
  }

  close(): void {
    this.#stop();
  }

  async #look(): Promise<void> {
    await this.#tell();
    for (;;) {
      const from = this.#seen;
      const said = await this.#link.ask((client) => readFrom(client, from));
      if (said === undefined) return;
      // One that numbers them anew has lost what it knew: it is told, and read from the beginning.
      if (said.epoch !== this.#epoch) {
        this.#epoch = said.epoch;
        this.#seen = 0;
        for (const [name, until] of this.#local.ended()) this.#untold.add(`${Math.ceil(until)}:${name}`);
        await this.#tell();
        continue;
      }
      for (const [member, number] of said.added) {
        const at = member.indexOf(':');
        this.#local.end(member.slice(at + 1), Number(member.slice(0, at)));
        this.#seen = Math.max(this.#seen, number);
      }
      if (said.added.length < page) return;
    }
  }

  async #tell(): Promise<void> {
    while (this.#untold.size > 0) {
      const some = [...this.#untold].slice(0, page);
      const told = await this.#link.ask((client) =>
        run(client, endScript, [endedKey, countKey, epochKey], [...some, randomBytes(9).toString('base64url')]),
      );
      if (told === undefined) return;
      for (const one of some) this.#untold.delete(one);
    }
  }

  /** @throws SallyportError `redis_unavailable` when there is no answer in time. */
  async #ask<T>(question: (client: Client) => Promise<T>): Promise<T> {
    const until = performance.now() + this.#patienceMs;
    for (;;) {
      const answer = await this.#link.ask(question);
      if (answer !== undefined) return answer;
      if (performance.now() > until)
        throw new SallyportError(
          'redis_unavailable',
          `Redis at ${this.#link.place} cannot be asked, which keeps logins and refreshes apart`,
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
