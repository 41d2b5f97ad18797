import { readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import {
  type LedgerHead,
  LedgerMemory,
  type LedgerPlace,
  readLedgerHead,
  readLedgerPlace,
} from '../../cert-agent/agent/ledger-memory.ts';
import { startAgent } from '../../cert-agent/main.ts';
import { startTestCa, type TestCa } from '../fixtures/ca.ts';
import { captureLog } from '../fixtures/log-lines.ts';
import { tempDir, until } from '../fixtures/process.ts';

const time = '2026-11-30T12:00:00.000Z';
const now = Date.parse(time);
const hour = 3_600_000;
const head = (sequence: number, digit = 'a') => ({ sequence, hash: digit.repeat(64), time });

/** A ledger with these records: the newest ones that an agent may ask for. */
const ledgerOf =
  (...heads: readonly LedgerHead[]) =>
  (sequence: number): Promise<LedgerPlace> => {
    const found = heads.find((one) => one.sequence === sequence);
    return Promise.resolve(found === undefined ? { first: 1 } : { first: 1, hash: found.hash });
  };

/** A memory in a new directory. */
function newMemory(t: Test, outDir = tempDir(t)) {
  const { log, withCode } = captureLog();
  const file = join(outDir, 'ledger-head.json');
  const read = (): unknown => JSON.parse(readFileSync(file, 'utf8'));
  return { memory: new LedgerMemory({ outDir, log }), withCode, file, read, outDir };
}

t.test('the newest head is on disk at once, and the previous one is kept until the CA has confirmed it', async (t) => {
  const { memory, file, read, withCode, outDir } = newMemory(t);
  memory.see(undefined);
  memory.see(head(5));
  t.same(read(), head(5));
  t.equal(statSync(file).mode & 0o777, 0o600);
  memory.see(head(7, 'b'));
  t.same(read(), { ...head(7, 'b'), before: [head(5)] });
  // As after a kill.
  const again = newMemory(t, outDir);
  again.memory.see(head(8));
  t.same(read(), { ...head(8), before: [head(5), head(7, 'b')] });
  const asked: number[] = [];
  await again.memory.confirm((sequence) => {
    asked.push(sequence);
    return ledgerOf(head(5), head(7, 'b'))(sequence);
  }, now);
  t.same(asked, [5, 7], 'the newest head is not confirmed: the CA has just sent it');
  t.same(read(), head(8));
  await again.memory.confirm(() => Promise.reject(new Error('not asked')), now);
  t.strictSame([...withCode('ledger_behind'), ...again.withCode('ledger_forked')], []);
});

t.test('an older head is suspect until the CA is asked: it may only have arrived late', async (t) => {
  const { memory, read, withCode } = newMemory(t);
  memory.see(head(12));
  memory.see(head(11));
  await memory.confirm(ledgerOf(head(11), head(12)), now);
  t.strictSame(withCode('ledger_behind'), []);
  memory.see(head(9));
  await memory.confirm(ledgerOf(head(9)), now);
  const expected = { level: 'error', sequence: 9, seen: 12, hint: /ledger-head\.json, and delete it/ };
  t.match(withCode('ledger_behind'), [
    { ...expected, msg: /ends with record 9 and lacks record 12, .*revocations may be forgotten/ },
  ]);
  memory.see(head(20));
  await memory.confirm(ledgerOf(head(20)), now);
  t.same(read(), head(12), 'the evidence is kept');
  t.equal(withCode('ledger_behind').length, 1, 'once');
});

t.test('a CA that is too old to be asked is checked by the heads that it sends', async (t) => {
  const { memory, withCode } = newMemory(t);
  const unknown = (): Promise<LedgerPlace> => Promise.resolve('unknown');
  memory.see(head(12));
  memory.see(head(13));
  await memory.confirm(unknown, now);
  t.strictSame(withCode('ledger_behind'), []);
  memory.see(head(9));
  await memory.confirm(unknown, now);
  t.equal(withCode('ledger_behind').length, 1);
});

t.test('a restore is detected even if the newest head was not confirmed', async (t) => {
  const { memory, read, withCode } = newMemory(t);
  memory.see(head(20));
  memory.see(head(30));
  memory.see(head(25, 'c'));
  await memory.confirm(ledgerOf(head(20), head(25, 'c')), now);
  t.match(withCode('ledger_behind'), [{ sequence: 25, seen: 30 }]);
  t.same(read(), { ...head(30), before: [head(20)] });
});

t.test('deleting the file removes everything about the other ledger', async (t) => {
  const { memory, file, read, withCode } = newMemory(t);
  memory.see(head(20));
  memory.see(head(30, 'c'));
  await memory.confirm(ledgerOf(head(20, 'd'), head(30, 'c')), now);
  t.match(withCode('ledger_forked'), [{ sequence: 30, seen: 20, msg: /has another record 20/ }]);
  t.same(read(), head(20));
  rmSync(file);
  memory.see(head(22));
  t.same(read(), head(22));
  memory.see(head(23));
  await memory.confirm(ledgerOf(head(22), head(23)), now);
  t.same(read(), head(23));
  t.equal(withCode('ledger_behind').length, 0);
});

t.test('heads that arrive while the CA is asked are kept', async (t) => {
  const { memory, read, withCode } = newMemory(t);
  memory.see(head(20));
  memory.see(head(30));
  await memory.confirm((sequence) => {
    memory.see(head(40));
    memory.see(head(35, 'c'));
    return ledgerOf(head(20))(sequence);
  }, now);
  t.same(read(), { ...head(40), before: [head(30)] });
  await memory.confirm(ledgerOf(head(30), head(35, 'c')), now);
  t.match(withCode('ledger_behind'), [{ sequence: 35, seen: 40 }]);
});

t.test('a head that cannot be confirmed is reported, and the file stays small', async (t) => {
  const { memory, read, withCode } = newMemory(t);
  for (let i = 1; i <= 40; i++) memory.see(head(i));
  const { before } = read() as { before: LedgerHead[] };
  t.same([before[0], before[1], before.at(-1), before.length], [head(1), head(25), head(39), 16]);
  const away = (): Promise<LedgerPlace> => Promise.reject(new Error('away'));
  for (const at of [now, now + 59_999]) await t.rejects(memory.confirm(away, at), /away/);
  t.equal(withCode('ledger_unconfirmed').length, 0);
  for (const at of [now + 60_000, now + 90_000]) await t.rejects(memory.confirm(away, at), /away/);
  t.match(withCode('ledger_unconfirmed'), [{ level: 'warn', msg: /away/ }]);
  t.equal(withCode('ledger_unconfirmed').length, 1);
});

t.test('a ledger that continues without the record is reported as another ledger', async (t) => {
  const cases: [string, LedgerPlace, number, boolean][] = [
    ['the same record', { first: 1, hash: head(5).hash }, now, true],
    ['another record in its place', { first: 1, hash: head(5, 'c').hash }, now, false],
    ['no such record', { first: 1 }, now, false],
    ['a pruned record, although no CA prunes within a day', { first: 6 }, now + 22 * hour, false],
    ['pruned later', { first: 6 }, now + 22 * hour + 1, true],
    ['a CA that is older than the agent', 'unknown', now, true],
  ];
  for (const [name, place, at, believed] of cases) {
    const { memory, read, withCode } = newMemory(t);
    memory.see(head(5));
    memory.see(head(9));
    await memory.confirm(() => Promise.resolve(place), at);
    t.same(read(), believed ? head(9) : head(5), name);
    t.equal(withCode('ledger_forked').length, believed ? 0 : 1, name);
  }
});

t.test('a CA that is restored and then issues past the last seen head is detected', async (t) => {
  const ca = await startTestCa(t);
  // Known to the CA, so that they can be denied.
  for (const name of ['other', 'third'])
    await ca.operator.createToken(`spiffe://demo.test/ns/shop/sa/${name}`, 600_000);
  const { agent, outDir, withCode } = await startTestAgent(t, ca);
  const file = join(outDir, 'ledger-head.json');
  const kept = (): LedgerHead | undefined => {
    const text = statSync(file, { throwIfNoEntry: false }) && readFileSync(file, 'utf8');
    return text ? JSON.parse(text) : undefined;
  };
  const first = await until(kept, 'the file');
  // A denial is signed at once, and so is sent to agents.
  await ca.operator.revoke('spiffe://demo.test/ns/shop/sa/other', 'a test');
  const second = await until(() => (kept()!.sequence > first.sequence ? kept() : undefined), 'a newer head');
  await agent.close();
  const forged = { ...first, sequence: second.sequence, hash: 'f'.repeat(64) };
  writeFileSync(file, JSON.stringify(forged), { mode: 0o600 });
  const restarted = await startTestAgent(t, ca, outDir);
  await ca.operator.revoke('spiffe://demo.test/ns/shop/sa/third', 'a test');
  await until(() => restarted.withCode('ledger_forked')[0], 'the complaint');
  t.same(kept(), forged);
  t.strictSame(withCode('ledger_forked'), []);
});

t.test('a damaged file is replaced by the next head, and a missing directory does no harm', async (t) => {
  const outDir = tempDir(t);
  const { log, withCode } = captureLog();
  const file = join(outDir, 'ledger-head.json');
  writeFileSync(file, '{"sequence":"x"}');
  const memory = new LedgerMemory({ outDir, log });
  t.match(withCode('generation_damaged'), [{ msg: /ledger-head\.json is not used/ }]);
  memory.see(head(5));
  t.same(JSON.parse(readFileSync(file, 'utf8')), head(5));
  rmSync(outDir, { recursive: true });
  memory.see(head(6));
  memory.see(head(5));
  await memory.confirm(ledgerOf(head(5)), now);
  t.equal(withCode('ledger_behind').length, 1, 'the agent remembers it anyway');
});

t.test('invalid heads from the CA are refused', async (t) => {
  for (const value of [undefined, null, 3, {}, { ...head(0) }, { ...head(1), hash: 'x' }, { ...head(1), time: 'x' }])
    t.equal(readLedgerHead(value), undefined);
  t.same(readLedgerHead({ ...head(1), more: true }), head(1));
  for (const value of [
    null,
    3,
    {},
    { sequence: 4, first: 1 },
    { sequence: 5, first: 0 },
    { sequence: 5, first: 1, hash: 'x' },
  ])
    t.equal(readLedgerPlace(value, 5), undefined);
  t.same(readLedgerPlace({ sequence: 5, first: 1, more: 9 }, 5), { first: 1 });
});

t.test('an agent records the head of the bundle', async (t) => {
  const ca = await startTestCa(t);
  const { outDir } = await startTestAgent(t, ca);
  const [signed] = await ca.operator.records.heads(1, 1);
  const file = join(outDir, 'ledger-head.json');
  await until(() => statSync(file, { throwIfNoEntry: false }), 'the file');
  t.match(JSON.parse(readFileSync(file, 'utf8')), { sequence: signed!.sequence, hash: signed!.hash });
});

/** An agent in `outDir`, which joins with a token if it has no SVID there. */
async function startTestAgent(t: Test, ca: TestCa, outDir = join(tempDir(t), 'out')) {
  const tokenFile = join(tempDir(t), 'token');
  const { token } = await ca.operator.createToken('spiffe://demo.test/ns/shop/sa/web', 600_000);
  writeFileSync(tokenFile, token, { mode: 0o600 });
  const caBundleFile = join(ca.dir, 'bundle.pem');
  const caUrl = `https://127.0.0.1:${ca.address.port}`;
  const { log, withCode } = captureLog();
  const agent = startAgent({ caUrl, caBundleFile, outDir, tokenFile, log });
  t.teardown(() => agent.close());
  return { agent, outDir, withCode };
}
