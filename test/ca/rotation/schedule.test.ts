// The schedule replaces the issuer at half of its life. What keeps it from doing so is in the ledger and in the log, but
// not at every beat of the CA.

import { rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { makeCa, startTestCa } from '../../fixtures/ca.ts';
import { ManualClock } from '../../fixtures/manual-clock.ts';

t.test('a failed attempt is repeated after an hour', async (t) => {
  const clock = new ManualClock();
  const ca = await startTestCa(t, { dir: await makeCa(t, { clock }), clock });
  const steps = async () => {
    const records = await ca.operator.records.records(1, 1000);
    return records.map(({ line }) => JSON.parse(line)).filter(({ act }) => act === 'rotate');
  };
  const before = (await ca.operator.rotationStatus()).issuer.fingerprint;
  // The old key has nowhere to go.
  const previous = join(ca.dir, 'previous');
  symlinkSync(join(ca.dir, 'nowhere', 'at', 'all'), previous);
  clock.advance(200 * 86_400_000);
  for (let i = 0; i < 5; i++) await ca.upkeep();
  t.match(await steps(), [
    { answer: 'begun', step: 'activate', caller: 'self' },
    { answer: 'refused', step: 'activate', code: 'internal', errno: /^E[A-Z]+$/ },
  ]);
  t.equal((await steps()).length, 2);
  rmSync(previous);
  clock.advance(3_599_000);
  await ca.upkeep();
  t.equal((await steps()).length, 2);
  clock.advance(1000);
  await ca.upkeep();
  t.match((await steps()).slice(2), [{ answer: 'begun' }, { answer: 'activate' }]);
  t.not((await ca.operator.rotationStatus()).issuer.fingerprint, before);
});

t.test('without the root key, no rotation is recorded', async (t) => {
  const clock = new ManualClock();
  const ca = await startTestCa(t, { dir: await makeCa(t, { clock }), clock });
  rmSync(join(ca.dir, 'root.key'));
  clock.advance(200 * 86_400_000);
  for (let i = 0; i < 5; i++) await ca.upkeep();
  const records = await ca.operator.records.records(1, 1000);
  t.equal(records.filter(({ line }) => line.includes('"rotate"')).length, 0);
});
