// Stored responses in Redis, shared by the workers of several gateways. It comes after the memory of each: read before
// a fetch, written after it. Without a timely reply it counts as empty.
//
// A URL's responses are two hashes, heads and bodies, so that only the wanted body is read. Their keys contain the
// policy's epoch: a purge by prefix or tag begins a new one. A purge by URL deletes, and for a while keeps out what
// other gateways fetched before it.

import { createHash } from 'node:crypto';
import { type Fields, fieldName, isSafeField } from '../../exchange/message.ts';
import type { Client } from '../redis.ts';
import type { RedisLink } from '../redis-link.ts';
import { readTerms, storedFields, whyNotStored } from './response.ts';
import { Entry, type Place, type Purge } from './store.ts';

/** A larger body is kept in memory only: other commands, such as rate limits, wait for the same connection. */
const maxBytes = 64 * 1024;

/** How long after a purge of a URL no gateway writes a response for it. Earlier fetches should have ended by then. */
const quietMs = 30_000;

/** A URL's variants here, and the size of a head, bytes: all heads of a URL are read to choose one. */
const maxVariants = 32;
const maxHeadBytes = 8 * 1024;

const readScript = `
local epoch = redis.call('GET', KEYS[1]) or '0'
local time = redis.call('TIME')
return {epoch, time[1], redis.call('HGETALL', KEYS[2] .. ':' .. epoch .. ':heads')}
`;

const writeScript = `
local epoch = redis.call('GET', KEYS[1]) or '0'
if epoch ~= ARGV[1] or redis.call('EXISTS', KEYS[2] .. ':quiet') == 1 then return 0 end
local heads = KEYS[2] .. ':' .. epoch .. ':heads'
local bodies = KEYS[2] .. ':' .. epoch .. ':bodies'
if redis.call('HEXISTS', heads, ARGV[2]) == 0 and redis.call('HLEN', heads) >= tonumber(ARGV[6]) then
  local other = redis.call('HKEYS', heads)[1]
  redis.call('HDEL', heads, other)
  redis.call('HDEL', bodies, other)
end
redis.call('HSET', heads, ARGV[2], redis.call('TIME')[1] .. ' ' .. ARGV[4])
redis.call('HSET', bodies, ARGV[2], ARGV[5])
for _, key in ipairs({heads, bodies}) do
  if redis.call('PTTL', key) < tonumber(ARGV[3]) then redis.call('PEXPIRE', key, ARGV[3]) end
end
return 1
`;

const purgeUrlScript = `
local epoch = redis.call('GET', KEYS[1]) or '0'
redis.call('SET', KEYS[2] .. ':quiet', '1', 'PX', ARGV[1])
return redis.call('DEL', KEYS[2] .. ':' .. epoch .. ':heads', KEYS[2] .. ':' .. epoch .. ':bodies')
`;

/** A head as it is written. */
interface Head {
  readonly partition: string;
  readonly status: number;
  readonly reason: string;
  readonly fields: readonly (readonly [string, string])[];
  readonly selection: readonly (readonly [string, string | null])[];
  readonly tags: readonly string[];
  /** Its age when it was written, seconds. */
  readonly age: number;
}

const buffers = { typeMapping: { 36: Buffer } } as const;

/** The content of Redis for a place: an entry, if any, and the epoch that a later write must still match. */
export interface Held {
  readonly epoch: string;
  readonly entry: Entry | undefined;
}

/** The responses of one policy in Redis. */
export class RedisStore {
  readonly #link: RedisLink;
  readonly #prefix: string;
  readonly #heuristic: boolean;
  /** Purges that Redis has missed, and how many of them have been repeated. */
  #missed = 0;
  #settled = 0;

  /** @param policy with its plan: responses stored under another plan are not shared */
  constructor(link: RedisLink, policy: string, heuristic: boolean) {
    this.#link = link;
    this.#prefix = `sallyport:cache:2:${digest(policy).slice(0, 16)}`;
    this.#heuristic = heuristic;
  }

  /** A purge has not reached Redis yet: its content may have been purged. */
  get isBehind(): boolean {
    return this.#settled !== this.#missed;
  }

  /**
   * The most recent response that `wants` selects (RFC 9111 section 4.1). Undefined while Redis is away or lacks a
   * purge. Never rejects.
   */
  async find({ url, partition }: Place, wants: (entry: Entry) => boolean): Promise<Held | undefined> {
    if (this.isBehind) return undefined;
    const key = this.#keyOf(url);
    const answer = await this.#link.ask((client) => run(client, readScript, [this.#epochKey, key], []));
    if (!Array.isArray(answer) || this.isBehind) return undefined;
    const epoch = String(answer[0]);
    const now = Number(answer[1]);
    const flat = Array.isArray(answer[2]) ? (answer[2] as readonly Buffer[]) : [];
    let found: { readonly entry: Entry; readonly at: number; readonly variant: Buffer } | undefined;
    for (let i = 0; i + 1 < flat.length; i += 2) {
      const read = this.#entryFrom(url, flat[i + 1]!, now);
      if (read === undefined || read.entry.partition !== partition || !wants(read.entry)) continue;
      if (found === undefined || isNewer(read, found)) found = { ...read, variant: flat[i]! };
    }
    if (found === undefined) return { epoch, entry: undefined };
    const { entry, variant } = found;
    const from = `${key}:${epoch}:bodies`;
    const body = await this.#link.ask((client) => client.sendCommand(['HGET', from, variant], buffers));
    if (!Buffer.isBuffer(body) || (bodiless.has(entry.status) && body.length > 0)) return { epoch, entry: undefined };
    entry.body = Buffer.from(new Uint8Array(body).buffer);
    return { epoch, entry };
  }

  /** Writes a complete response, unless it was purged since `epoch` was read. No request waits for it. */
  put(entry: Entry, epoch: string): void {
    const { terms, body } = entry;
    const leftMs = Math.floor((terms.lifetime - entry.age) * 1000);
    if (leftMs <= 0 || body.length > maxBytes || this.isBehind) return;
    const { partition, status, reason, fields, selection, tags } = entry;
    const head = JSON.stringify({
      ...{ partition, status, reason, tags, age: entry.age },
      fields: fields.names.map(({ lower }, i) => [lower, fields.values[i]!]),
      selection: selection.map(([name, value]) => [name, value ?? null]),
    });
    if (head.length > maxHeadBytes) return;
    const variant = digest(JSON.stringify([partition, selection]));
    const keys = [this.#epochKey, this.#keyOf(entry.url)];
    const args = [epoch, variant, String(leftMs), head, body, String(maxVariants)];
    void this.#link.ask((client) => run(client, writeScript, keys, args));
  }

  /**
   * Removes the responses of a URL, or all of them for a prefix or a tag. False if Redis has not confirmed it: then
   * nothing is read or written until `catchUp` has removed everything.
   */
  async purge({ url }: Purge): Promise<boolean> {
    const answer = await this.#link.ask((client) =>
      url === undefined
        ? client.sendCommand(['INCR', this.#epochKey])
        : run(client, purgeUrlScript, [this.#epochKey, this.#keyOf(url)], [String(quietMs)]),
    );
    if (answer === undefined) this.#missed++;
    return answer !== undefined;
  }

  /** Repeats purges that Redis has missed. False if it could not. */
  async catchUp(): Promise<boolean> {
    const missed = this.#missed;
    if (this.#settled === missed) return true;
    const answer = await this.#link.ask((client) => client.sendCommand(['INCR', this.#epochKey]));
    if (answer !== undefined) this.#settled = missed;
    return !this.isBehind;
  }

  get #epochKey(): string {
    return `${this.#prefix}:epoch`;
  }

  #keyOf(url: string): string {
    return `${this.#prefix}:${digest(url)}`;
  }

  /** The clock of Redis measures how long a response was there: the clocks of two gateways may differ. */
  #entryFrom(url: string, text: Buffer, now: number): { readonly entry: Entry; readonly at: number } | undefined {
    const space = text.indexOf(' ');
    const at = Number(text.toString('latin1', 0, Math.max(space, 0)) || Number.NaN);
    const head = parseHead(text.subarray(space + 1));
    if (head === undefined || !Number.isFinite(at)) return undefined;
    const { partition, status, reason, tags, age } = head;
    const said: Fields = {
      names: head.fields.map(([name]) => fieldName(name)),
      values: head.fields.map(([, value]) => value),
    };
    const here = Date.now();
    const terms = readTerms({ status, fields: said }, here, here, this.#heuristic);
    // No gateway wrote a response that would not be stored here.
    const rules = { heuristic: this.#heuristic, shareIdentities: false };
    if (whyNotStored({ status, fields: said, framing: 0 }, terms, rules, false) !== undefined) return undefined;
    const fields = storedFields({ fields: said, hopFields: undefined }, terms.directives);
    const initialAge = Math.max(terms.initialAge, age + Math.max(0, now - at));
    const selection = head.selection.map(([name, value]) => [name, value ?? undefined] as const);
    const parts = { url, partition, status, reason, fields, selection, tags, terms: { ...terms, initialAge } };
    return { entry: new Entry(parts), at };
  }
}

interface Dated {
  readonly entry: Entry;
  readonly at: number;
}

function isNewer(one: Dated, other: Dated): boolean {
  const [date, before] = [one.entry.terms.date, other.entry.terms.date];
  return date > before || (date === before && one.at > other.at);
}

/** Statuses whose responses have no body: with one, the client would read it as the next response. */
const bodiless: ReadonlySet<number> = new Set([204, 205, 304]);

/** Redis is shared, so its content is untrusted: it must not break a response. */
function parseHead(text: Buffer): Head | undefined {
  const head = parseJson(text.toString()) as Partial<Head> | undefined;
  if (typeof head !== 'object' || head === null) return undefined;
  const { partition, status, reason, fields, selection, tags, age } = head;
  const isWhole =
    typeof partition === 'string' &&
    Number.isFinite(age) &&
    Number.isInteger(status) &&
    status! >= 200 &&
    status! < 600 &&
    age! >= 0 &&
    typeof reason === 'string' &&
    /^[\t\x20-\x7e]*$/.test(reason) &&
    isList(fields, ([name, value]) => isSafe(name, value)) &&
    isList(selection, ([name, value]) => typeof name === 'string' && (value === null || typeof value === 'string')) &&
    Array.isArray(tags) &&
    tags.every((tag) => typeof tag === 'string');
  return isWhole ? (head as Head) : undefined;
}

function isList(value: unknown, isGood: (pair: readonly unknown[]) => boolean): boolean {
  return Array.isArray(value) && value.every((pair) => Array.isArray(pair) && pair.length === 2 && isGood(pair));
}

function isSafe(name: unknown, value: unknown): boolean {
  return typeof name === 'string' && typeof value === 'string' && isSafeField(name, value);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function run(client: Client, script: string, keys: readonly string[], args: readonly (string | Buffer)[]) {
  return client.sendCommand(['EVAL', script, String(keys.length), ...keys, ...args], buffers);
}

/** Redis sees the URL of a response only as a hash. */
function digest(text: string): string {
  return createHash('sha256').update(text).digest('base64url');
}
