// The table of buckets: what it forgets, what it never forgets, and what invented keys get.

import t from 'tap';
import { LocalLimits, overflow } from '../../../sidecar/edge/rate-limit/local.ts';
import { createRandom } from '../../fixtures/random.ts';

const intervalMs = 100;
const spanMs = 1000;

/** Takes a token of `key` at `now` if there is one. */
function take(table: LocalLimits, key: string, now: number, id = 'rule'): boolean {
  const rule = table.rule(id);
  table.begin();
  const slot = table.find(key, rule, now);
  if (table.waitMs(slot, rule, intervalMs, spanMs, now) > 0) return false;
  table.spend(slot, rule, intervalMs, now);
  return true;
}

function drain(table: LocalLimits, key: string, now: number): number {
  let taken = 0;
  while (taken < 100 && take(table, key, now)) taken++;
  return taken;
}

t.test('a bucket gives all its tokens, then one per interval, and never holds more than its size', async (t) => {
  const table = new LocalLimits();
  t.equal(drain(table, 'a', 0), 10);
  t.equal(take(table, 'a', 99), false);
  t.equal(take(table, 'a', 100), true);
  t.equal(take(table, 'a', 100), false);
  t.equal(drain(table, 'a', 350), 2);
  t.equal(drain(table, 'a', 1e9), 10);
});

t.test('an exhausted bucket stays exhausted, however many keys are invented', async (t) => {
  const table = new LocalLimits(1000);
  t.equal(drain(table, 'victim', 1), 10);
  let passed = 0;
  for (let i = 0; i < 20_000; i++) if (take(table, `invented-${i}`, 1)) passed++;
  t.equal(take(table, 'victim', 1), false, 'its bucket was not evicted');
  t.equal(table.facts().buckets, 500, 'one rule has half of the table');
  t.equal(passed, 499 + 10, 'those with room, and one bucket for all others');
  t.ok(table.facts().overflowed > 19_000);
});

t.test('a flooded rule leaves room for others', async (t) => {
  const table = new LocalLimits(100);
  for (let i = 0; i < 1000; i++) take(table, `flood-${i}`, 1, 'flooded');
  for (let i = 0; i < 50; i++) t.ok(take(table, `other-${i}`, 1, 'other'));
  t.match(table.facts(), { buckets: 100 });
  t.equal(take(table, 'other-0', 1, 'other'), true, 'a bucket of its own, not the shared one');
});

t.test('buckets that are full again make room', async (t) => {
  const table = new LocalLimits(100);
  for (let i = 0; i < 50; i++) take(table, `old-${i}`, 0);
  t.equal(drain(table, 'new', 50), 10, 'the shared bucket of those without room');
  t.equal(take(table, 'newer', 50), false);
  t.equal(drain(table, 'new', 100), 10, 'a bucket of its own: the old ones are full, and equal to none');
  t.equal(table.facts().buckets, 50);
});

t.test('a decision does not reuse a slot that it has just found', async (t) => {
  const table = new LocalLimits(4);
  const rule = table.rule('rule');
  table.begin();
  const slots = ['a', 'b', 'c', 'd'].map((key) => table.find(key, rule, 5));
  t.strictSame(slots, [0, 1, overflow, overflow], 'all of them are full, and none was taken for another');
  table.begin();
  t.not(table.find('c', rule, 5), overflow);
});

t.test('only tokens that have not been refilled meanwhile are given back', async (t) => {
  for (const [name, after, left] of [
    ['at once', 0, 10],
    ['half of it', 50, 10],
    ['all of it has been refilled', 100, 10],
  ] as const) {
    const table = new LocalLimits();
    take(table, 'a', 0);
    table.giveBack('a', intervalMs, 0, after);
    t.equal(drain(table, 'a', after), left, name);
  }
  const table = new LocalLimits();
  t.equal(drain(table, 'a', 0), 10);
  table.giveBack('a', intervalMs, 0, 60);
  t.equal(drain(table, 'a', 60), 1, 'refilled tokens are not given twice');
});

const random = createRandom();
t.test(`no period admits more requests than the bucket holds and refills (SEED=${random.seed})`, async (t) => {
  for (let round = 0; round < 50; round++) {
    const table = new LocalLimits(200);
    const capacity = 1 + random.below(30);
    const interval = 1 + random.next() * 200;
    const rule = table.rule('rule');
    const passed: number[] = [];
    let now = random.below(1e6);
    for (let i = 0; i < 400; i++) {
      now += random.pick([0, 0, 0.3, 5, interval, interval * 7]) * random.next();
      table.begin();
      // Inventing keys meanwhile must not change what the client gets.
      if (random.below(3) === 0) table.find(`other-${i}`, rule, now);
      const slot = table.find('a', rule, now);
      if (table.waitMs(slot, rule, interval, capacity * interval, now) > 0) continue;
      table.spend(slot, rule, interval, now);
      passed.push(now);
    }
    for (let from = 0; from < passed.length; from++)
      for (let to = from; to < passed.length; to++) {
        const most = capacity + (passed[to]! - passed[from]!) / interval + 1e-6;
        if (to - from + 1 > most) t.fail(`${to - from + 1} of at most ${most} in round ${round}`);
      }
    t.ok(passed.length >= Math.min(capacity, 400 / 10), 'some requests pass');
  }
});
