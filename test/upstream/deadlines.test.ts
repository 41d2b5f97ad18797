// Many deadlines, one timer: each fires once, never early and hardly late, and not if it was dropped.

import t from 'tap';
import { type Deadline, Deadlines } from '../../sidecar/upstream/deadlines.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';
import { createRandom } from '../fixtures/random.ts';

t.test('each deadline fires in time', async (t) => {
  const clock = new ManualClock();
  const deadlines = new Deadlines(clock);
  const random = createRandom(7).next;
  const late: number[] = [];
  const dropped: Deadline[] = [];
  for (let i = 0; i < 2000; i++) {
    clock.advance(Math.floor(random() * 7));
    const due = clock.monotonic() + Math.floor(random() * 30_000);
    const one = deadlines.set(due - clock.monotonic(), () => late.push(clock.monotonic() - due));
    if (i % 4 === 0) dropped.push(one);
  }
  // Those that have not fired yet.
  const before = late.length;
  let left = 0;
  for (const one of dropped) {
    if (one.isSet) left++;
    deadlines.drop(one);
    deadlines.drop(one);
  }
  t.equal(deadlines.size, 2000 - before - left);
  clock.advance(40_000);
  t.equal(deadlines.size, 0);
  t.equal(late.length, 2000 - left);
  t.ok(
    late.every((ms) => ms >= 0 && ms <= 40),
    `${Math.min(...late)} to ${Math.max(...late)} ms late`,
  );
});

t.test('a deadline that fires may set and remove others', async (t) => {
  const clock = new ManualClock();
  const deadlines = new Deadlines(clock);
  const said: string[] = [];
  const victim = { one: undefined as Deadline | undefined };
  deadlines.set(100, () => {
    said.push('first');
    deadlines.drop(victim.one);
    deadlines.set(100, () => said.push('third'));
  });
  victim.one = deadlines.set(5000, () => said.push('never'));
  clock.advance(150);
  t.same(said, ['first']);
  clock.advance(6000);
  t.same(said, ['first', 'third']);
  deadlines.set(0, () => said.push('at once'));
  clock.advance(40);
  t.same(said.at(-1), 'at once');
});

t.test('after a long pause of the event loop no deadline is lost', async (t) => {
  let now = 0;
  let run: (() => void) | undefined;
  const deadlines = new Deadlines({
    now: () => now,
    monotonic: () => now,
    after(_ms, what) {
      run = what;
      return () => {};
    },
  });
  const said: number[] = [];
  for (const ms of [50, 5000, 15_000, 90_000]) deadlines.set(ms, () => said.push(ms));
  now = 60_000;
  run!();
  t.same(said, [50, 5000, 15_000], 'in their order');
  now = 100_000;
  run!();
  t.equal(said.at(-1), 90_000);
});

t.test('a deadline in the past fires at the next turn, not after the wheel has turned once', async (t) => {
  const clock = new ManualClock();
  const deadlines = new Deadlines(clock);
  const said: number[] = [];
  deadlines.set(60_000, () => {});
  clock.advance(1000);
  for (const ms of [-1, -25, -500, -20_000, Number.NEGATIVE_INFINITY]) deadlines.set(ms, () => said.push(ms));
  clock.advance(40);
  t.equal(said.length, 5);
  t.equal(deadlines.size, 1);
});
