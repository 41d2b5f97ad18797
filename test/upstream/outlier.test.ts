// Which endpoints are ejected for their responses, for how long, and how many may be.

import t from 'tap';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import { Conduct, grpcOutcome, Outliers } from '../../sidecar/upstream/outlier.ts';
import type { OutlierPlan } from '../../sidecar/upstream/traffic.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';

const plan: OutlierPlan = {
  consecutive5xx: 5,
  consecutiveGateway: 0,
  intervalMs: 10_000,
  baseEjectionMs: 30_000,
  maxEjectionPercent: 10,
};
const connect = new SallyportError('upstream_connect', 'no');
const full = new SallyportError('overloaded', 'full');

function make(changes: Partial<OutlierPlan>, endpoints = 10) {
  const clock = new ManualClock();
  const all = Array.from({ length: endpoints }, () => new Conduct());
  const outliers = new Outliers({ ...plan, ...changes }, () => clock.monotonic());
  const say = (index: number, ...outcomes: (number | SallyportError)[]): boolean =>
    outcomes.map((one) => outliers.note(all[index]!, one, all)).includes(true);
  return { clock, all, outliers, say };
}

const cases: [string, Partial<OutlierPlan>, (number | SallyportError)[], boolean][] = [
  ['five errors in a row', {}, [500, 501, 502, 503, 599], true],
  ['four', {}, [500, 500, 500, 500], false],
  ['a good response between them', {}, [500, 500, 500, 200, 500, 500], false],
  ['a 404 is a good response', {}, [500, 500, 500, 500, 404, 500], false],
  ['our own failures count with them', {}, [500, connect, connect, 503, connect], true],
  ['a failure with another cause does not', {}, [500, 500, 500, 500, full], false],
  ['gateway errors alone', { consecutive5xx: 0, consecutiveGateway: 3 }, [502, 503, 504], true],
  ['another error between them', { consecutive5xx: 0, consecutiveGateway: 3 }, [502, 503, 500, 504], false],
  ['a count of 0 is switched off', { consecutive5xx: 0 }, Array(50).fill(500), false],
  ['split: our own failures are counted separately', { consecutiveLocal: 2 }, [500, connect, connect], true],
  ['split: and a response clears them', { consecutiveLocal: 2 }, [connect, 500, connect, 500, 500], false],
  ['split: nor do they count as responses', { consecutiveLocal: 9 }, [500, 500, 500, 500, connect], false],
];
for (const [name, changes, outcomes, expected] of cases)
  t.test(name, async (t) => t.equal(make(changes).say(0, ...outcomes), expected));

const bad = Array(5).fill(500) as number[];

t.test('one endpoint may always be ejected, more only within the limit', async (t) => {
  const { all, outliers, say } = make({ maxEjectionPercent: 20 });
  t.ok(say(0, ...bad));
  t.ok(say(1, ...bad), 'two of ten are 20 %');
  t.notOk(say(2, ...bad), 'a third would be more');
  t.equal(outliers.prevented, 1);
  t.equal(outliers.ejections, 2);
  t.equal(all[2]!.ejectedUntil, undefined);
  t.notOk(say(2, ...bad), 'the count starts again');
  t.equal(outliers.prevented, 2);
  const two = make({ maxEjectionPercent: 10 }, 2);
  t.ok(two.say(0, ...bad), 'one of two is 50 %, and the first is always allowed');
  t.notOk(two.say(1, ...bad));
});

t.test('an ejection lasts the base time times its count, and ends at a sweep', async (t) => {
  const { clock, all, outliers, say } = make({});
  const [one] = all;
  say(0, ...bad);
  t.equal(one!.ejectedUntil, clock.monotonic() + 30_000);
  clock.advance(29_000);
  t.notOk(outliers.sweep(all));
  clock.advance(2000);
  t.notOk(outliers.sweep(all), 'between two sweeps nothing happens');
  clock.advance(8000);
  t.ok(outliers.sweep(all));
  t.equal(one!.ejectedUntil, undefined);
  t.notOk(say(0, 500, 500, 500, 500), 'with a clean record');
  t.ok(say(0, 500));
  t.equal(one!.ejectedUntil, clock.monotonic() + 60_000, 'the second time twice as long');
  clock.advance(60_000);
  outliers.sweep(all);
  for (let i = 0; i < 5; i++) {
    clock.advance(10_000);
    outliers.sweep(all);
  }
  t.equal(one!.times, 0, 'a good endpoint recovers, a sweep at a time');
  for (let i = 0; i < 30; i++) {
    say(0, ...bad);
    clock.advance(300_000);
    outliers.sweep(all);
  }
  say(0, ...bad);
  t.equal(one!.ejectedUntil, clock.monotonic() + 300_000, 'never for longer than five minutes');
});

t.test('gRPC statuses count as failures', async (t) => {
  t.same([0, 2, 4, 5, 13, 14, 16].map(grpcOutcome), [200, 500, 504, 200, 500, 503, 200]);
});
