// Stored responses in Redis, shared by the workers of several gateways. It is behind the memory of each: asked before
// the backend, written after it. Without an answer in time it is as if it held nothing.
//
// A URL's responses are two hashes, heads and bodies, so that only the body that is wanted is read. Their keys have the
// policy's epoch: a purge by prefix or tag begins a new one. A purge by URL deletes, and for a while keeps out what
// other gateways fetched before it.

import { createHash } from 'node:crypto';
import { type Fields, fieldName, isSafeField } from '../../exchange/message.ts';
import type { Client } from '../redis.ts';
import type { RedisLink } from '../redis-link.ts';
import { readTerms } from './response.ts';
import { Entry, type Place, type Purge } from './store.ts';

/** A larger body is kept in memory only: others wait for the same connection, limits among them. */
const maxBytes = 64 * 1024;

/** How long after a purge of a URL no gateway writes a response for it. A fetch that began before should be over. */
const quietMs = 30_000;

/** Purges are read from a stream that keeps this many. */
const keptPurges = 1000;

const purges = 'sallyport:cache:purges';

const readScript = `
local epoch = redis.call('GET', KEYS[1]) or '0'
return {epoch, redis.call('HGETALL', KEYS[2] .. ':' .. epoch .. ':heads')}
`;

const writeScript = `
local epoch = redis.call('GET', KEYS[1]) or '0'
if epoch ~= ARGV[1] or redis.call('EXISTS', KEYS[2] .. ':quiet') == 1 then return 0 end
for i, part in ipairs({'heads', 'bodies'}) do
  local key = KEYS[2] .. ':' .. epoch .. ':' .. part
  redis.call('HSET', key, ARGV[2], ARGV[3 + i])
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
  /** When it was written, milliseconds since 1970, and how old it was then, seconds. */
  readonly at: number;
  readonly age: number;
}

const buffers = { typeMapping: { 36: Buffer } } as const;

/** What Redis has for a place: an entry, if any, and the epoch that a later write must still be in. */
export interface Held {
  readonly epoch: string;
  readonly entry: Entry | undefined;
}

/** The responses of one policy in Redis. */
export class RedisStore {
  readonly #link: RedisLink;
  readonly #prefix: string;
  readonly #heuristic: boolean;

  /** @param policy with its plan: what was stored under another one is not shared */
  constructor(link: RedisLink, policy: string, heuristic: boolean) {
    this.#link = link;
    this.#prefix = `sallyport:cache:${digest(policy).slice(0, 16)}`;
    this.#heuristic = heuristic;
  }

  /** The response that `wants` chooses. Undefined while Redis is away. Never rejects. */
  async find({ url, partition }: Place, wants: (entry: Entry) => boolean): Promise<Held | undefined> {
    const key = this.#keyOf(url);
    const answer = await this.#link.ask((client) => run(client, readScript, [this.#epochKey, key], []));
    if (!Array.isArray(answer)) return undefined;
    const epoch = String(answer[0]);
    const flat = Array.isArray(answer[1]) ? (answer[1] as readonly Buffer[]) : [];
    for (let i = 0; i + 1 < flat.length; i += 2) {
      const entry = this.#entryFrom(url, flat[i + 1]!);
      if (entry === undefined || entry.partition !== partition || !wants(entry)) continue;
      const from = `${key}:${epoch}:bodies`;
      const body = await this.#link.ask((client) => client.sendCommand(['HGET', from, flat[i]!], buffers));
      if (!Buffer.isBuffer(body)) return { epoch, entry: undefined };
      entry.body = Buffer.from(new Uint8Array(body).buffer);
      return { epoch, entry };
    }
    return { epoch, entry: undefined };
  }

  /** Writes a complete response, unless it was purged since `epoch` was read. Nobody waits for it. */
  put(entry: Entry, epoch: string): void {
    const { terms, body } = entry;
    const leftMs = Math.floor((terms.lifetime - entry.age) * 1000);
    if (leftMs <= 0 || body.length > maxBytes) return;
    const { partition, status, reason, fields, selection, tags } = entry;
    const head = JSON.stringify({
      ...{ partition, status, reason, tags, at: Date.now(), age: entry.age },
      fields: fields.names.map(({ lower }, i) => [lower, fields.values[i]!]),
      selection: selection.map(([name, value]) => [name, value ?? null]),
    });
    const variant = digest(JSON.stringify([partition, selection]));
    const keys = [this.#epochKey, this.#keyOf(entry.url)];
    void this.#link.ask((client) => run(client, writeScript, keys, [epoch, variant, String(leftMs), head, body]));
  }

  /** Removes what it holds of a URL, or everything for a prefix or a tag. */
  purge({ url }: Purge): void {
    if (url === undefined) void this.#link.ask((client) => client.sendCommand(['INCR', this.#epochKey]));
    else {
      const keys = [this.#epochKey, this.#keyOf(url)];
      void this.#link.ask((client) => run(client, purgeUrlScript, keys, [String(quietMs)]));
    }
  }

  get #epochKey(): string {
    return `${this.#prefix}:epoch`;
  }

  #keyOf(url: string): string {
    return `${this.#prefix}:${digest(url)}`;
  }

  #entryFrom(url: string, text: Buffer): Entry | undefined {
    const head = parseHead(text);
    if (head === undefined) return undefined;
    const { partition, status, reason, tags, at, age } = head;
    const fields: Fields = {
      names: head.fields.map(([name]) => fieldName(name)),
      values: head.fields.map(([, value]) => value),
    };
    const now = Date.now();
    const terms = readTerms({ status, fields }, now, now, this.#heuristic);
    const initialAge = Math.max(terms.initialAge, age + Math.max(0, now - at) / 1000);
    const selection = head.selection.map(([name, value]) => [name, value ?? undefined] as const);
    return new Entry({ url, partition, status, reason, fields, selection, tags, terms: { ...terms, initialAge } });
  }
}

/** Redis is shared, and what stands in it may be anything: it must not break a response. */
function parseHead(text: Buffer): Head | undefined {
  const head = parseJson(text.toString()) as Partial<Head> | undefined;
  if (typeof head !== 'object' || head === null) return undefined;
  const { partition, status, reason, fields, selection, tags, at, age } = head;
  const isWhole =
    typeof partition === 'string' &&
    [status, at, age].every(Number.isFinite) &&
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

/** Tells other gateways of purges, and hears of theirs. */
export class PurgeStream {
  readonly #link: RedisLink;
  readonly #apply: (purge: Purge) => void;
  readonly #clear: () => void;
  /** The last purge that was heard; undefined before the first look. */
  #last: string | undefined = undefined;
  /** The outages of Redis until the last look. */
  #outages = 0;

  /**
   * @param apply another gateway, or this one, has purged
   * @param clear purges may have been missed: what memory holds cannot be trusted
   */
  constructor(link: RedisLink, apply: (purge: Purge) => void, clear: () => void) {
    this.#link = link;
    this.#apply = apply;
    this.#clear = clear;
  }

  tell(purge: Purge): void {
    const text = JSON.stringify(purge);
    void this.#link.ask((client) =>
      client.sendCommand(['XADD', purges, 'MAXLEN', '~', String(keptPurges), '*', 'p', text]),
    );
  }

  /** Looks for new purges. Never rejects. */
  async look(): Promise<void> {
    const from = this.#last;
    const answer = await this.#link.ask((client) =>
      from === undefined
        ? client.sendCommand(['XREVRANGE', purges, '+', '-', 'COUNT', '1'])
        : client.sendCommand(['XRANGE', purges, `(${from}`, '+']),
    );
    if (!Array.isArray(answer)) return;
    const records = answer as readonly (readonly [id: string, pairs: readonly string[]])[];
    const { outages } = this.#link;
    if (from === undefined || outages !== this.#outages || records.length >= keptPurges) this.#clear();
    else for (const [, [, text]] of records) this.#read(text);
    this.#outages = outages;
    this.#last = records.at(-1)?.[0] ?? from ?? '0-0';
  }

  #read(text: string | undefined): void {
    const said = parseJson(text ?? '') as Purge | undefined;
    if (typeof said !== 'object' || said === null) return;
    const { url, prefix, tag } = said;
    if ([url, prefix, tag].every((one) => one === undefined || typeof one === 'string'))
      this.#apply({ url, prefix, tag });
  }
}

function run(client: Client, script: string, keys: readonly string[], args: readonly (string | Buffer)[]) {
  return client.sendCommand(['EVAL', script, String(keys.length), ...keys, ...args], buffers);
}

/** Redis sees what a response is for only as a hash. */
function digest(text: string): string {
  return createHash('sha256').update(text).digest('base64url');
}
