// The cost of a limit. A local decision is measured by the number of matching rules and of known keys, under a flood of
// new keys, and in a worker that is not the first. Then a round trip to a private Redis on this machine is measured,
// one at a time and many at once.
//
//   npm run perf:limits

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { connect } from 'node:net';
import { freePort } from '../examples/two-services/demo/ports.ts';
import type { LimitFacts } from '../sidecar/edge/rate-limit/key.ts';
import { LocalLimits } from '../sidecar/edge/rate-limit/local.ts';
import { compileRateLimits, type RateLimits, type Verdict } from '../sidecar/edge/rate-limit/rate-limit.ts';
import type { LimitRule, LimitSelector } from '../sidecar/edge/rate-limit/schema.ts';
import { parseIp } from '../sidecar/policy/ip.ts';
import { startSharedLimits } from '../test/fixtures/shared-limits.ts';
import { workerCosts } from './limits-worker.ts';

const perUser: LimitSelector = {
  ...{ queryParams: [], methods: [], jwtClaims: [] },
  headers: [{ name: 'x-user', type: 'Distinct', value: '', invert: false }],
};

/** Limits that are never reached, so that every request counts against all of them. */
function rules(count: number, scope: LimitRule['scope'], keyed: boolean): LimitRule[] {
  const plain = { scope, periodMs: 60_000, burst: 0, cost: 1, acrossRoutes: false } as const;
  return Array.from({ length: count }, (_, i) => ({
    ...plain,
    id: `perf/limits rule ${i + 1}`,
    requests: 1_000_000_000,
    selectors: keyed ? [perUser] : [],
  }));
}

const clientIp = parseIp('192.0.2.1');
const factsOf = (user: string): LimitFacts => ({
  ...{ route: 'shop/web/0', method: 'GET', path: '/v1/orders', query: '', clientIp },
  ...{ clientId: undefined, principal: undefined, claims: undefined },
  header: (name) => (name === 'x-user' ? user : undefined),
});

const rounds = 400_000;

/** Microseconds per decision, the best of three runs. */
function local(limits: RateLimits, facts: readonly LimitFacts[], withHeaders = false): number {
  let best = Number.POSITIVE_INFINITY;
  for (let turn = 0; turn < 3; turn++) {
    const started = performance.now();
    for (let i = 0; i < rounds; i++) {
      const verdict = limits.check(facts[i % facts.length]!) as Verdict;
      if (withHeaders && verdict.headers.length === 0) throw new Error('the limit returned no header fields');
    }
    best = Math.min(best, ((performance.now() - started) * 1000) / rounds);
  }
  return best;
}

const print = (name: string, us: number): void => console.log(`| ${name} | ${us.toPrecision(3)} |`);
const many = Array.from({ length: 100_000 }, (_, i) => factsOf(`user-${i}`));

console.log('| decision | us |\n|---|---|');
for (const count of [1, 5]) {
  const matching = count === 1 ? '1 rule' : `${count} rules`;
  const make = (keyed: boolean, capacity = 1_200_000): RateLimits =>
    compileRateLimits({ rules: rules(count, 'local', keyed) }, { local: new LocalLimits(capacity) });
  print(`local, ${matching}, 1 key`, local(make(false), [factsOf('ann')]));
  print(`local, ${matching}, 1 key, with its header fields`, local(make(false), [factsOf('ann')], true));
  print(`local, ${matching}, 100,000 keys`, local(make(true), many));
}
const slow = rules(1, 'local', true).map((one) => ({ ...one, requests: 10, periodMs: 86_400_000 }));
print(
  'local, 1 rule, a flood of invented keys on a full table',
  local(compileRateLimits({ rules: slow }, { local: new LocalLimits(10_000) }), many),
);

for (const [name, us] of await workerCosts(rules(1, 'local', true), factsOf('ann'), many)) print(name, us);

if (spawnSync('redis-server', ['--version']).status === 0) await shared();
else console.log('| Redis | skipped: redis-server is not installed |');

async function shared(): Promise<void> {
  const port = await freePort();
  const redis = spawn('redis-server', ['--port', String(port), '--save', '', '--bind', '127.0.0.1'], {
    stdio: 'ignore',
  });
  try {
    await listening(redis, port);
    const limits = await startSharedLimits({ url: `redis://127.0.0.1:${port}`, timeoutMs: 1000 });
    for (const count of [1, 5])
      for (const atOnce of [1, 64]) {
        const made = compileRateLimits(
          { rules: rules(count, 'shared', true) },
          { local: new LocalLimits(), redis: limits },
        );
        const us = await roundTrips(made, atOnce);
        print(`Redis, ${count === 1 ? '1 rule' : `${count} rules`}, ${atOnce} at once`, us);
      }
    const { fallback } = limits.facts();
    if (fallback > 0) throw new Error(`${fallback} decisions were not made by Redis`);
    limits.close();
  } finally {
    redis.kill('SIGKILL');
  }
}

async function listening(redis: ChildProcess, port: number): Promise<void> {
  while (redis.exitCode === null) {
    const open = await new Promise<boolean>((resolve) => {
      const socket = connect(port, '127.0.0.1', () => resolve(true)).on('error', () => resolve(false));
      socket.unref().on('connect', () => socket.destroy());
    });
    if (open) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error('redis-server did not start');
}

/** Microseconds per decision with `atOnce` in flight: the total time divided by their number. */
async function roundTrips(limits: RateLimits, atOnce: number): Promise<number> {
  const total = 20_000;
  let left = total;
  const connection = async (): Promise<void> => {
    while (left-- > 0) if (!(await limits.check(many[left % 1000]!)).allowed) throw new Error('unexpected refusal');
  };
  const started = performance.now();
  await Promise.all(Array.from({ length: atOnce }, connection));
  return ((performance.now() - started) * 1000) / total;
}
