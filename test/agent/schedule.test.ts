import t from 'tap';
import { lateFrom, refreshDelay, renewalTime, retryDelay, watchJumps } from '../../cert-agent/agent/schedule.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';

const hour = { notBefore: 0, notAfter: 3_600_000 };

t.test('renewalTime stays within 45-60 % of the lifetime', async (t) => {
  const cases = [
    { name: 'the earliest', life: hour, since: 0, random: 0, at: 1_620_000 },
    { name: 'the middle', life: hour, since: 0, random: 0.5, at: 1_890_000 },
    { name: 'nearly the latest', life: hour, since: 0, random: 0.999999, at: 2_159_999 },
    {
      name: 'a back-dated minute does not count',
      life: { notBefore: 0, notAfter: 120_000 },
      since: 60_000,
      random: 0,
      at: 87_000,
    },
    {
      name: 'a certificate from the future counts from its beginning',
      life: hour,
      since: -5000,
      random: 0,
      at: 1_620_000,
    },
    { name: 'an expired one is due at its expiry', life: hour, since: 4_000_000, random: 0.5, at: 3_600_000 },
  ];
  for (const { name, life, since, random, at } of cases)
    t.equal(
      renewalTime(life, since, () => random),
      at,
      name,
    );
});

t.test('retryDelay backs off with full jitter, and never past 90 % of the lifetime', async (t) => {
  const cases = [
    { name: 'the first failure, all of the jitter', failures: 1, now: 0, random: 0.999999, delay: 1999 },
    { name: 'the third failure, half of the jitter', failures: 3, now: 0, random: 0.5, delay: 4000 },
    { name: 'no jitter is still not at once', failures: 9, now: 0, random: 0, delay: 100 },
    { name: 'capped at 150 s', failures: 30, now: 0, random: 0.999999, delay: 149_999 },
    { name: 'never past 90 % of life', failures: 30, now: 3_200_000, random: 0.999999, delay: 40_000 },
    { name: 'every 10 s after it', failures: 30, now: 3_240_000, random: 0.3, delay: 10_000 },
    { name: 'once expired, capped at 10 s', failures: 30, now: 3_600_001, random: 0.999999, delay: 9999 },
  ];
  for (const { name, failures, now, random, delay } of cases)
    t.equal(
      retryDelay(failures, hour, now, () => random),
      delay,
      name,
    );
  t.equal(
    retryDelay(30, undefined, 0, () => 0.5),
    5000,
    'without an SVID, capped at 10 s',
  );
  t.equal(
    retryDelay(5, { notBefore: 0, notAfter: 120_000 }, 110_000, () => 0),
    2400,
    'two minutes are refreshed more often at the end',
  );
  t.equal(lateFrom(hour), 3_240_000);
});

t.test('refreshDelay follows the hint within 1-10 s', async (t) => {
  t.equal(
    refreshDelay(5, 0, () => 0.5),
    5000,
  );
  t.equal(
    refreshDelay(5, 0, () => 0),
    4000,
  );
  t.equal(
    refreshDelay(0, 0, () => 0.5),
    1000,
  );
  t.equal(
    refreshDelay(300, 0, () => 0.5),
    10_000,
  );
  t.equal(
    refreshDelay(5, 2, () => 0.5),
    10_000,
  );
  t.equal(
    refreshDelay(5, 9, () => 0.5),
    15_000,
  );
});

t.test('watchJumps compares the wall clock with the elapsed time', async (t) => {
  const clock = new ManualClock();
  const jumpedBy = watchJumps(clock);
  clock.advance(60_000);
  t.equal(jumpedBy(), 0);
  clock.jump(7000);
  clock.advance(1000);
  t.equal(jumpedBy(), 7000);
  t.equal(jumpedBy(), 0, 'the jump is reported once');
  clock.jump(-3_600_000);
  t.equal(jumpedBy(), -3_600_000);
});
