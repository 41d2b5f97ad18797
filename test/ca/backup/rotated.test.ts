import { existsSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { systemClock } from '../../../cert-agent/base/clock.ts';
import { restoreCa } from '../../../cert-agent/ca/backup/restore.ts';
import { readCaCertificates } from '../../../cert-agent/ca/certificates.ts';
import { copyLines } from '../../../cert-agent/ca/ledger/copy.ts';
import { LedgerVerifier } from '../../../cert-agent/ca/ledger/verify.ts';
import { openOperator } from '../../../cert-agent/ca/operator/open.ts';
import type { Operator } from '../../../cert-agent/ca/operator/operator.ts';
import type { RotationStep } from '../../../cert-agent/ca/rotation/rotation.ts';
import { readPemBlocks } from '../../../cert-agent/identity/bundle.ts';
import { makeCa, startTestCa } from '../../fixtures/ca.ts';
import { tempDir } from '../../fixtures/process.ts';

const clock = systemClock;

t.test('a backup from the middle of a root rotation is restored to the same step, which then continues', async (t) => {
  const place = tempDir(t);
  const dir = await makeCa(t, { dir: join(place, 'ca') });
  const ca = await startTestCa(t, { dir });
  const steps = async (operator: Operator, ...all: readonly RotationStep[]) => {
    for (const step of all) await operator.rotate({ kind: 'root', step });
  };
  await steps(ca.operator, 'prepare');
  const backups: [string, string][] = [];
  const backUp = async () => {
    const { state } = await ca.operator.rotationStatus();
    const out = join(place, `at-${state?.step}`);
    await ca.operator.records.backup(out);
    backups.push([out, state!.step]);
  };
  await backUp();
  await steps(ca.operator, 'distribute');
  await backUp();
  await steps(ca.operator, 'activate');
  await backUp();
  await ca.close();
  const old = readPemBlocks(readFileSync(join(backups[0]![0], 'bundle.pem'), 'utf8'), 'bundle.pem');
  for (const [from, step] of backups) {
    const restored = join(place, `restored-${step}`);
    await restoreCa({ from, dir: restored, clock });
    const again = await startTestCa(t, { dir: restored });
    const { state, roots } = await again.operator.rotationStatus();
    t.equal(state?.step, step);
    t.equal(roots.length, step === 'prepared' ? 1 : 2);
    if (step === 'prepared') await steps(again.operator, 'distribute', 'activate');
    if (step === 'distributed') await steps(again.operator, 'activate');
    // Removal waits for connections to end, so once is enough.
    if (step === 'draining') await steps(again.operator, 'remove');
    await again.close();
    const isThere = readCaCertificates(restored).bundle.roots.some((root) => root.equals(old[0]!));
    t.equal(isThere, step !== 'draining', 'the old root');
    t.match(
      await verified(t, restored),
      { faultCount: 0, uncovered: 0 },
      'heads of the old root verify, also after its removal',
    );
    if (step !== 'draining') continue;
    // A backup of before: the roots have nothing in common, and the ledger knows it.
    const older = backups[0]![0];
    await t.rejects(restoreCa({ from: older, dir: restored, clock }), { code: 'ledger_behind' });
    t.match(await restoreCa({ from: older, dir: restored, clock, force: true }), {
      unknown: false,
      lost: { to: Number },
    });
    t.match(await verified(t, restored), { faultCount: 0 });
    t.ok(existsSync(join(restored, 'root.key')));
  }
});

t.test('after the issuer was rotated, heads of the old one verify, and a backup restores its chain', async (t) => {
  const place = tempDir(t);
  const dir = await makeCa(t, { dir: join(place, 'ca') });
  const ca = await startTestCa(t, { dir });
  await ca.operator.rotate({ kind: 'issuer', step: 'activate' });
  t.match(await ca.operator.records.heads(2, 10), [{}], 'a head is signed at once');
  const backup = join(place, 'backup');
  await ca.operator.records.backup(backup);
  await ca.close();
  t.match(await verified(t, dir), { faultCount: 0, heads: 3, uncovered: 0 });
  const restored = join(place, 'restored');
  await restoreCa({ from: backup, dir: restored, clock });
  const [time] = readdirSync(join(dir, 'previous'));
  for (const name of ['intermediate.pem', 'intermediate.key']) {
    const file = join('previous', time!, name);
    t.same(readFileSync(join(restored, file)), readFileSync(join(dir, file)));
    t.equal(statSync(join(restored, file)).mode, statSync(join(dir, file)).mode);
  }
  t.match(await verified(t, restored), { faultCount: 0 });
});

t.test(
  'a CA whose root is kept elsewhere is backed up without that key, and with the request for its issuer',
  async (t) => {
    const place = tempDir(t);
    const dir = await makeCa(t, { dir: join(place, 'ca') });
    rmSync(join(dir, 'root.key'));
    const before = await startTestCa(t, { dir });
    const { request } = await before.operator.rotate({ kind: 'issuer', step: 'request' });
    t.match(request, /BEGIN CERTIFICATE REQUEST/);
    const backup = join(place, 'backup');
    await before.operator.records.backup(backup);
    await before.close();
    const restored = join(place, 'restored');
    await restoreCa({ from: backup, dir: restored, clock });
    t.notOk(existsSync(join(restored, 'root.key')));
    const after = await startTestCa(t, { dir: restored });
    t.match(await after.operator.rotationStatus(), { state: { step: 'requested' }, request });
    await after.close();
  },
);

/** Verifies the ledger of a stopped CA with its present roots alone. */
async function verified(t: Test, dir: string) {
  const opened = await openOperator({ dir });
  t.teardown(() => opened.close());
  const { trustDomain, bundle } = readCaCertificates(dir);
  const verifier = new LedgerVerifier({ trustDomain, roots: bundle.roots });
  for await (const line of copyLines(opened.operator.records)) verifier.line(line);
  await opened.close();
  return verifier.end();
}
