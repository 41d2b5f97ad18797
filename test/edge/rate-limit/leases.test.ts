// Tokens on loan: whatever several workers ask at whatever times, no span of time lets through more than the limit and
// what comes back while a loan lasts; what is not used comes back; without an answer of the first, no request passes.

import t from 'tap';
import { compileLeasedLimits } from '../../../sidecar/edge/rate-limit/leased.ts';
import {
  type LeaseAsk,
  LimitLeases,
  leaseMs,
  lend,
  type Taken,
  takeBack,
} from '../../../sidecar/edge/rate-limit/leases.ts';
import { LocalLimits } from '../../../sidecar/edge/rate-limit/local.ts';
import { facts, perHeader, rule } from '../../fixtures/limits.ts';
import { createRandom } from '../../fixtures/random.ts';

interface Worker {
  readonly leases: LimitLeases;
  asked: number;
}

/** Workers over one table, without a pipe between them. */
function startWorkers(count: number, now: () => number): { local: LocalLimits; workers: Worker[] } {
  const local = new LocalLimits();
  const workers = Array.from({ length: count - 1 }, (): Worker => {
    const worker: Worker = {
      asked: 0,
      leases: new LimitLeases(
        async (asks: readonly LeaseAsk[]) => {
          worker.asked++;
          return lend(local, asks, count, now());
        },
        (all) => takeBack(local, all, now()),
        now,
      ),
    };
    return worker;
  });
  return { local, workers };
}

const bucketOf = (requests: number, periodMs: number, key = 'k') => ({
  ...{ rule: 'r', key, takeMs: periodMs / requests, spanMs: periodMs },
});

for (const [requests, periodMs] of [
  [3, 1000],
  [50, 1000],
  [400, 1000],
  [1000, 60_000],
] as const)
  t.test(`${requests} in ${periodMs} ms, requested at random by three workers`, async (t) => {
    const random = createRandom(requests);
    let now = 1000;
    const { workers } = startWorkers(4, () => now);
    const bucket = bucketOf(requests, periodMs);
    const passed: number[] = [];
    let asked = 0;
    for (let i = 0; i < 5000 + 20 * requests; i++) {
      const worker = workers[Math.floor(random.next() * workers.length)]!;
      asked++;
      if ((await worker.leases.take([bucket]))?.allowed === true) passed.push(now);
      const before = now;
      // Sometimes a burst, sometimes a pause.
      now += random.next() < 0.1 / requests ? periodMs * random.next() : (random.next() * periodMs) / requests / 3;
      if (Math.floor(before / leaseMs) !== Math.floor(now / leaseMs)) for (const one of workers) one.leases.sweep();
    }
    const rate = requests / periodMs;
    let worst = Number.NEGATIVE_INFINITY;
    for (let from = 0; from < passed.length; from += 7)
      for (let to = from; to < passed.length; to++)
        worst = Math.max(worst, to - from + 1 - requests - rate * (passed[to]! - passed[from]! + leaseMs));
    t.ok(worst <= 1e-6, `at most the limit and the refill of ${leaseMs} ms (${worst})`);
    // All returned tokens were used, apart from those on loan when the test ends.
    const had = requests + rate * (passed.at(-1)! - 1000);
    t.ok(passed.length > Math.min(asked, had) * 0.6, `${passed.length} of ${Math.min(asked, had)} passed`);
  });

t.test('a busy worker rarely asks the first worker', async (t) => {
  let now = 0;
  const { workers } = startWorkers(2, () => now);
  const [worker] = workers as [Worker];
  for (let i = 0; i < 10_000; i++) {
    now += 0.1;
    if (i % 1000 === 0) worker.leases.sweep();
    await worker.leases.take([bucketOf(1_000_000, 1000)]);
  }
  t.ok(worker.asked < 150, `${worker.asked} questions for 10000 requests`);
});

t.test('unused tokens are returned, and a flood over a limit sends no queries', async (t) => {
  let now = 0;
  const { local, workers } = startWorkers(3, () => now);
  const [one, two] = workers as [Worker, Worker];
  const bucket = bucketOf(100, 3_600_000);
  const take = async (worker: Worker): Promise<boolean> => (await worker.leases.take([bucket]))!.allowed;
  // It learns to request more, and stops.
  for (let i = 0; i < 20; i++) if (!(await take(one))) t.fail('there is room');
  let passed = 0;
  while (await take(two)) passed++;
  t.ok(passed < 80, `${passed} plus the first worker's loans`);
  const asked = two.asked;
  for (let i = 0; i < 1000; i++) if (await take(two)) t.fail('there is none');
  t.equal(two.asked, asked);
  now += leaseMs;
  one.leases.sweep();
  two.leases.sweep();
  while (await take(two)) passed++;
  t.equal(passed, 80);
  t.equal(local.facts().buckets, 1);
});

t.test('several buckets give tokens together or not at all', async (t) => {
  let now = 0;
  const { workers } = startWorkers(2, () => now);
  const [worker] = workers as [Worker];
  const [wide, narrow] = [bucketOf(10, 3_600_000, 'wide'), bucketOf(2, 3_600_000, 'narrow')];
  const allowed = async (...buckets: (typeof wide)[]): Promise<boolean> =>
    ((await worker.leases.take(buckets)) as Taken).allowed;
  t.strictSame(
    [await allowed(wide, narrow), await allowed(wide, narrow), await allowed(wide, narrow)],
    [true, true, false],
  );
  t.ok(await allowed(wide), 'the bucket that has tokens is not blocked with the other');
  now += leaseMs;
  worker.leases.sweep();
  let more = 0;
  while (await allowed(wide)) more++;
  t.equal(more, 7, 'a refused request costs nothing');
});

t.test('the limits of a route use leases', async (t) => {
  const { local, workers } = startWorkers(2, () => performance.now());
  const hourly = rule({ requests: 2, periodMs: 3_600_000 });
  const each = rule({ id: 'each', requests: 1, periodMs: 3_600_000, selectors: [perHeader('x-user')] });
  const limits = compileLeasedLimits({ rules: [hourly, each] }, workers[0]!.leases, { local });
  const ask = async (user: string) => await limits.check(facts({ headers: { 'x-user': user } }));
  t.match(await ask('ann'), { allowed: true, rule: 'each' });
  t.match(await ask('ann'), { allowed: false, rule: 'each', details: 'local_rate_limited' });
  t.match((await ask('bob')).headers, [
    ['RateLimit-Limit', '1'],
    ['RateLimit-Remaining', '0'],
    ['RateLimit-Reset', '3600'],
  ]);
  const last = await ask('eve');
  t.match(last, { allowed: false, rule: hourly.id });
  t.match(last.headers.at(-1), ['Retry-After', '1800']);
  t.match(local.facts(), { allowed: 2, limited: 2 });
});

t.test('without an answer from the first worker, no request passes', async (t) => {
  const silent = new LimitLeases(
    async () => undefined,
    () => {},
  );
  const limits = compileLeasedLimits({ rules: [rule()] }, silent, { local: new LocalLimits() });
  t.match(await limits.check(facts()), { allowed: false, retryAfterS: 1 });
});
