// Kind 5, lifetimes: a pooled or kept connection rests on certificates. It ends politely before they expire, in both
// directions, and is never used after. Node's own HTTP/2 server and clients take part; test/soak/rotation.ts does the
// same for longer.

import t from 'tap';
import { retirementOf } from '../../cert-agent/identity/retirement.ts';
import { faultsOf, runRotation } from '../fixtures/rotation.ts';

t.test('the time at which a connection ends', async (t) => {
  const rows: [string, number, number, number][] = [
    // Life left, random value, and how long before the end nothing new is accepted; milliseconds.
    ['an hour', 3_600_000, 0, 360_000],
    ['an hour, late', 3_600_000, 1, 900_000],
    ['a minute', 60_000, 0, 6000],
    ['little: time for requests in flight', 20_000, 0, 5000],
    ['very little: half of it', 6000, 0.5, 3000],
    ['none', 0, 0.5, 0],
  ];
  for (const [name, left, random, before] of rows)
    t.equal(
      retirementOf(1_000_000 + left, 1_000_000, () => random),
      1_000_000 + left - before,
      name,
    );
  t.equal(retirementOf(995_000, 1_000_000), 995_000, 'already expired');
  t.equal(retirementOf(Number.POSITIVE_INFINITY, 0), Number.POSITIVE_INFINITY);
});

t.test('connections end while certificates of twelve seconds are renewed at half of their lifetime', async (t) => {
  const report = await runRotation(t, { lifeMs: 12_000, forMs: 14_000 });
  t.strictSame(faultsOf(report), []);
  t.ok(report.rotations >= 2, 'the certificates were renewed');
  for (const [name, counts] of Object.entries(report.counts))
    t.ok((counts['200'] ?? 0) > 0, `${name}: ${JSON.stringify(counts)}`);
});
