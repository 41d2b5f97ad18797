// Whom a step of the root's rotation would lock out, decided on all of them, and whom an operator goes on without.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { RotationStep } from '../../../cert-agent/ca/rotation/rotation.ts';
import { ask, makeCa, newKey, startTestCa } from '../../fixtures/ca.ts';
import { ManualClock } from '../../fixtures/manual-clock.ts';

const idOf = (path: string): string => `spiffe://demo.test/ns/${path}`;

/** A CA whose new root is distributed, and workloads with certificates and without an agent. */
async function startDistributed(t: Test, ids: readonly string[]) {
  const ca = await startTestCa(t);
  const rootPem = readFileSync(join(ca.dir, 'bundle.pem'), 'utf8');
  const { csr } = await newKey();
  for (const id of ids) {
    const { token } = await ca.operator.createToken(id, 60_000);
    t.equal((await ask(ca.address.port, rootPem, { path: '/v1/svid', body: { csr, token } })).status, 200);
  }
  const take = (step: 'prepare' | 'distribute' | 'activate', except?: string[]) =>
    ca.operator.rotate({ kind: 'root', step, ...(except === undefined ? {} : { except }) });
  await take('prepare');
  await take('distribute');
  return { ca, take };
}

t.test('the gate counts all workloads, however many there are', async (t) => {
  const first = Array.from({ length: 104 }, (_, n) => idOf(`a${String(n).padStart(3, '0')}/sa/default`));
  const last = idOf('zz/sa/payments');
  const { ca, take } = await startDistributed(t, [...first, last]);
  const status = await ca.operator.rotationStatus();
  t.match(status, { by: 0, of: 105, more: 5 });
  t.equal(status.stragglers.length, 100);
  await t.rejects(take('activate', first), { code: 'rotation_refused', message: /^1 known workload .*payments$/ });
  await t.rejects(take('activate'), { message: /^105 known workloads .* and 95 more$/ });
});

t.test('an exception is a whole ID, or the last part of one that blocks', async (t) => {
  const [shop, pay, web] = [idOf('shop/sa/db'), idOf('pay/sa/db'), idOf('shop/sa/web')];
  const { ca, take } = await startDistributed(t, [shop, pay, web]);
  const refused = (message: RegExp) => ({ code: 'rotation_refused', message });
  await t.rejects(
    take('activate', ['db', 'web']),
    refused(/--except db names 2 workloads: .*pay\/sa\/db, .*shop\/sa\/db$/),
  );
  await t.rejects(take('activate', ['wbe']), refused(/--except wbe names none of the blocking workloads/));
  await t.rejects(take('activate', [shop, 'web']), refused(/^1 known workload .*pay\/sa\/db$/));
  await t.rejects(take('activate', ['spiffe://demo.test/a//b']), { code: 'spiffe_id_invalid' });
  // One that is not in the way does no harm.
  const done = await take('activate', [shop, pay, 'web', idOf('shop/sa/ready')]);
  t.same(done.excepted, [pay, shop, web]);
  t.equal(done.state?.step, 'draining');
  const records = await ca.operator.records.records(1, 100);
  const step = records.find(({ line }) => line.includes('"answer":"activate"'));
  t.match(step?.line, `"except":"${[pay, shop, web].join(' ')}"`);
  const steps = records.map(({ line }) => JSON.parse(line)).filter(({ act }) => act === 'rotate');
  const refusal = { answer: 'refused', step: 'activate', caller: 'operator' };
  t.match(steps.slice(-6), [
    { ...refusal, code: 'rotation_refused' },
    { ...refusal, code: 'rotation_refused' },
    { ...refusal, code: 'rotation_refused' },
    { ...refusal, code: 'spiffe_id_invalid' },
    { answer: 'begun', step: 'activate' },
    { answer: 'activate' },
  ]);
});

t.test('a workload whose certificate has expired and may still renew blocks', async (t) => {
  const clock = new ManualClock();
  const ca = await startTestCa(t, { dir: await makeCa(t, { clock }), clock });
  const rootPem = readFileSync(join(ca.dir, 'bundle.pem'), 'utf8');
  const enrol = async (id: string) => {
    const { token } = await ca.operator.createToken(id, 60_000);
    const { csr } = await newKey();
    t.equal(
      (await ask(ca.address.port, rootPem, { path: '/v1/svid', body: { token, csr }, now: clock.now() })).status,
      200,
    );
  };
  const away = idOf('shop/sa/away');
  await enrol(away);
  clock.advance(2 * 3_600_000);
  await ca.upkeep();
  const step = (step: RotationStep) => ca.operator.rotate({ kind: 'root', step });
  for (const one of ['prepare', 'distribute'] as const) await step(one);
  const refused = { code: 'rotation_refused', message: /^1 known workload does not trust the new root yet: .*\/away$/ };
  await t.rejects(step('activate'), refused);
  t.match((await ca.operator.rotationStatus()).stragglers, [{ id: away, notConnected: 1 }]);
  clock.advance(23 * 3_600_000 + 1000);
  await ca.upkeep();
  await step('activate');
  t.match(await ca.operator.rotationStatus(), { state: { step: 'draining' } });
});
