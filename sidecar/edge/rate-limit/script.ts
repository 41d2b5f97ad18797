// The script that decides in Redis, and its call.

import { hash } from 'node:crypto';
import { reasonOf, SallyportError } from '../../../cert-agent/base/errors.ts';
import type { Client } from '../redis.ts';

/** A bucket's key, the cost of a request, and the bucket's size, both in milliseconds of refilling. */
export interface SharedBucket {
  readonly key: string;
  readonly takeMs: number;
  readonly spanMs: number;
}

/** The script's answer. */
export interface SharedAnswer {
  /** True if all had room and were charged; else none was. */
  readonly allowed: boolean;
  /** What is missing from each now, as the time in which it refills. */
  readonly usedMs: readonly number[];
}

// Times are microseconds since 2025, which a double holds to a hundredth for decades. A bucket is the time at which it
// is full again. Its key expires then, so that unused buckets take no memory. If Redis's clock is set back, no bucket
// is emptier than empty.
const script = `
local t = redis.call('TIME')
local now = (t[1] - 1735689600) * 1000000 + t[2]
local used, answer = {}, { 1 }
for i, key in ipairs(KEYS) do
  local take, span = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local full = tonumber(redis.call('GET', key) or now) or now
  used[i] = math.min(math.max(full - now, 0), span)
  if used[i] + take > span + 0.01 then answer[1] = 0 end
end
for i, key in ipairs(KEYS) do
  if answer[1] == 1 then
    used[i] = used[i] + tonumber(ARGV[2 * i - 1])
    redis.call('SET', key, string.format('%.17g', now + used[i]), 'PX', math.ceil(used[i] / 1000))
  end
  answer[i + 1] = math.ceil(used[i])
end
return answer
`;
const scriptHash = hash('sha1', script);

/** A bucket's name in Redis, from which nothing about a client can be read. */
export function redisKey(key: string): string {
  return `sallyport:limit:${hash('sha256', key, 'base64url').slice(0, 22)}`;
}

/**
 * Takes tokens, in one round trip.
 * @throws Error of the connection or of Redis; SallyportError `redis_unavailable` for an unexpected response.
 */
export async function runScript(client: Client, buckets: readonly SharedBucket[]): Promise<SharedAnswer> {
  const rest = [String(buckets.length), ...buckets.map(({ key }) => redisKey(key))];
  for (const { takeMs, spanMs } of buckets) rest.push(String(takeMs * 1000), String(spanMs * 1000));
  let answer: unknown;
  try {
    answer = await client.sendCommand(['EVALSHA', scriptHash, ...rest]);
  } catch (error) {
    // Redis forgets scripts at a restart or by command.
    if (!reasonOf(error).startsWith('NOSCRIPT')) throw error;
    answer = await client.sendCommand(['EVAL', script, ...rest]);
  }
  if (!Array.isArray(answer) || answer.length !== buckets.length + 1 || !answer.every(Number.isInteger))
    throw new SallyportError('redis_unavailable', 'unexpected response from the script');
  const [verdict, ...used] = answer as number[];
  return { allowed: verdict === 1, usedMs: used.map((us) => us / 1000) };
}
