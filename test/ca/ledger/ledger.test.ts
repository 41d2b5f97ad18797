import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { copyLines } from '../../../cert-agent/ca/ledger/copy.ts';
import { eachRecord, lastRecords, readRecord } from '../../../cert-agent/ca/ledger/look.ts';
import { LedgerVerifier, type Verification } from '../../../cert-agent/ca/ledger/verify.ts';
import type { Records } from '../../../cert-agent/ca/operator/records.ts';
import { connectOperator } from '../../../cert-agent/ca/operator/socket.ts';
import { ask, makeCa, startTestCa } from '../../fixtures/ca.ts';
import { ManualClock } from '../../fixtures/manual-clock.ts';

const day = 86_400_000;
const web = 'spiffe://demo.test/ns/shop/sa/web';

async function verified(records: Records, since?: number): Promise<Verification> {
  const { trustDomain, roots } = await records.state();
  const verifier = new LedgerVerifier({
    ...{ trustDomain, part: since !== undefined },
    roots: roots.map((one) => Buffer.from(one, 'base64')),
  });
  for await (const line of copyLines(records, since)) verifier.line(line);
  return verifier.end();
}

t.test('heads are signed at the start, every hour with new records, and at the stop', async (t) => {
  const clock = new ManualClock();
  const ca = await startTestCa(t, { dir: await makeCa(t, { clock }), clock });
  const { records } = connectOperator(ca.socket);
  t.equal((await records.heads(1, 10)).length, 1);
  await ca.operator.createToken(web, 600_000);
  await ca.upkeep();
  t.equal((await records.heads(1, 10)).length, 1);
  t.match(await verified(records), { faultCount: 0, heads: 1 });
  clock.advance(3_600_000);
  await ca.upkeep();
  t.equal((await records.heads(1, 10)).length, 2);
  t.match(await verified(records), { faultCount: 0, heads: 2, uncovered: 0 });
});

t.test('the bundle contains the last signed head', async (t) => {
  const clock = new ManualClock();
  const ca = await startTestCa(t, { dir: await makeCa(t, { clock }), clock });
  const root = readFileSync(join(ca.dir, 'bundle.pem'), 'utf8');
  const read = async () => (await ask(ca.address.port, root, { path: '/v1/bundle', now: clock.now() })).json;
  const first = (await read()).sallyport_ledger;
  const [head] = await ca.operator.records.heads(1, 1);
  t.match(first, { sequence: head!.sequence, hash: head!.hash, time: /Z$/ });
  await ca.operator.createToken(web, 600_000);
  clock.advance(3_600_000);
  await ca.upkeep();
  t.ok((await read()).sallyport_ledger.sequence > first.sequence);
});

t.test('old records are pruned up to a signed head, and the rest verifies', async (t) => {
  const clock = new ManualClock();
  const dir = await makeCa(t, { clock });
  const ca = await startTestCa(t, { dir, clock, ledgerKeepMs: 10 * day });
  const { records } = ca.operator;
  for (let i = 0; i < 15; i++) {
    await ca.operator.createToken(`${web}${i}`, 600_000);
    clock.advance(day);
    await ca.upkeep();
    await ca.upkeep();
  }
  const { first, end } = await records.state();
  t.ok(first > 1, `begins at ${first}`);
  const [oldest] = await records.records(first, 1);
  t.ok(clock.now() - Date.parse(readRecord(oldest!).time) <= 11 * day);
  const { checkpoint, faultCount, records: number } = await verified(records);
  t.same(
    { checkpoint, faultCount, number },
    { checkpoint: first - 1, faultCount: 0, number: end.sequence - first + 1 },
  );
  const [pruned] = await lastRecords(records, { limit: 1, acts: ['checkpoint'] });
  t.match(pruned, { caller: 'self', answer: 'pruned', details: { upTo: first - 1, records: Number, token: Number } });
  t.match(ca.logged.join(''), '"code":"ledger_pruned"');
  t.match(await verified(records, clock.now() - 2 * day), { faultCount: 0 }, 'a part is pruned too');
  await ca.close();
});

t.test('without --ledger-keep nothing is pruned, and less than a day is refused', async (t) => {
  const clock = new ManualClock();
  const dir = await makeCa(t, { clock });
  await t.rejects(startTestCa(t, { dir, clock, ledgerKeepMs: day - 1 }), { code: 'ttl_out_of_range' });
  const ca = await startTestCa(t, { dir, clock });
  clock.advance(300 * day);
  await ca.upkeep();
  t.equal((await ca.operator.records.state()).first, 1);
});

t.test('a long ledger is read in pages through the socket', async (t) => {
  const ca = await startTestCa(t);
  await Promise.all(Array.from({ length: 1200 }, (_, i) => ca.operator.createToken(`${web}${i}`, 600_000)));
  const { records } = connectOperator(ca.socket);
  t.equal((await records.records(1, 100_000)).length, 500);
  const { end } = await records.state();
  t.match(await verified(records), { faultCount: 0, records: end.sequence });
  let next = 1;
  for await (const { sequence } of eachRecord(records)) t.equal(sequence, next++, 'in order') || t.bailout();
  const last = await lastRecords(records, { limit: 3, identity: `${web}0` });
  t.match(last, [{ act: 'token', id: `${web}0` }]);
  await t.rejects(records.records(Number.NaN, 1), { code: 'body_invalid', message: 'from is not a number' });
  await t.rejects(records.records(-1, 1), { code: 'body_invalid' });
});

t.test('after a root rotation, the new root alone verifies everything at once', async (t) => {
  const ca = await startTestCa(t);
  for (const step of ['prepare', 'distribute', 'activate', 'remove'] as const)
    await ca.operator.rotate({ kind: 'root', step });
  t.equal((await ca.operator.records.state()).roots.length, 1);
  t.match(await verified(ca.operator.records), { faultCount: 0, checkpoint: 0 });
});

t.test('a denial is covered by a signed head at once, so that a backup from before it is refused', async (t) => {
  const ca = await startTestCa(t);
  await ca.operator.createToken('spiffe://demo.test/ns/shop/sa/web', 60_000);
  for (const act of [
    () => ca.operator.revoke('spiffe://demo.test/ns/shop/sa/web', 'stolen'),
    () => ca.operator.allow('spiffe://demo.test/ns/shop/sa/web'),
  ]) {
    await act();
    const { end } = await ca.operator.records.state();
    t.equal((await ca.operator.records.headUpTo(end.sequence))?.sequence, end.sequence);
  }
});
