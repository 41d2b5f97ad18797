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
const day = 86_400_000;
const head = (sequence: number, digit = 'a') => ({ sequence, hash: digit.repeat(64), time });

/** A ledger that has this record, or none. */
const has =
  (hash?: string, first = 1) =>
  (): Promise<LedgerPlace> =>
    Promise.resolve({ first, ...(hash === undefined ? {} : { hash }) });

t.test('the newest head is kept over restarts, and an older one never replaces it', async (t) => {
  const outDir = tempDir(t);
  const { log, withCode } = captureLog();
  const file = join(outDir, 'ledger-head.json');
  const read = (): unknown => JSON.parse(readFileSync(file, 'utf8'));
  const memory = new LedgerMemory({ outDir, log });
  memory.see(undefined);
  memory.see(head(5));
  t.same(read(), head(5));
  t.equal(statSync(file).mode & 0o777, 0o600);
  memory.see(head(7, 'b'));
  t.same(read(), head(5), 'until the CA says that it still has the record');
  await memory.confirm(has(head(5).hash), now);
  t.same(read(), head(7, 'b'));
  const again = new LedgerMemory({ outDir, log });
  again.see(head(6));
  again.see(head(6));
  t.same(read(), head(7, 'b'));
  t.match(withCode('ledger_behind'), [
    {
      level: 'error',
      sequence: 6,
      seen: 7,
      hint: /ledger-head\.json, and delete it/,
      msg: /ends with record 6, but we saw record 7 .*revocations may be forgotten/,
    },
  ]);
  t.equal(withCode('ledger_behind').length, 1, 'once');
  again.see(head(8));
  await again.confirm(has(head(7, 'b').hash), now);
  t.same(read(), head(7, 'b'), 'it stays: it is what shows that the ledger was behind');
  rmSync(file);
  again.see(head(8));
  t.same(read(), head(8), 'the operator knows why');
  again.see(head(8, 'c'));
  t.match(withCode('ledger_forked'), [{ msg: /has another record 8/ }]);
});

t.test('a ledger that went on without the record is not the one that was seen', async (t) => {
  const cases: [string, LedgerPlace, number, boolean][] = [
    ['the same record', { first: 1, hash: head(5).hash }, now, true],
    ['another record in its place', { first: 1, hash: head(5, 'c').hash }, now, false],
    ['no such record', { first: 1 }, now, false],
    ['pruned, which no CA does within a day', { first: 6 }, now + day, false],
    ['pruned later', { first: 6 }, now + day + 1, true],
    ['a CA that is older than the agent', 'unknown', now, true],
  ];
  for (const [name, place, at, believed] of cases) {
    const outDir = tempDir(t);
    const { log, withCode } = captureLog();
    const memory = new LedgerMemory({ outDir, log });
    memory.see(head(5));
    memory.see(head(9));
    await t.rejects(
      memory.confirm(() => Promise.reject(new Error('away')), at),
      /away/,
    );
    await memory.confirm(() => Promise.resolve(place), at);
    const kept = JSON.parse(readFileSync(join(outDir, 'ledger-head.json'), 'utf8'));
    t.same(kept, believed ? head(9) : head(5), name);
    t.equal(withCode('ledger_forked').length, believed ? 0 : 1, name);
  }
});

t.test('a CA that is restored, and goes on past what was seen, is found out', async (t) => {
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
  const forged = { ...second, hash: 'f'.repeat(64) };
  writeFileSync(file, JSON.stringify(forged), { mode: 0o600 });
  const restarted = await startTestAgent(t, ca, outDir);
  await ca.operator.revoke('spiffe://demo.test/ns/shop/sa/third', 'a test');
  await until(() => restarted.withCode('ledger_forked')[0], 'the complaint');
  t.same(kept(), forged);
  t.strictSame(withCode('ledger_forked'), []);
});

t.test('a damaged file is replaced by the next head, and a directory that is gone costs nothing', async (t) => {
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
  await memory.confirm(has(head(5).hash), now);
  memory.see(head(5));
  t.equal(withCode('ledger_behind').length, 1, 'it remembers it all the same');
});

t.test('what the CA sends is checked', async (t) => {
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
  t.same(readLedgerPlace({ sequence: 5, first: 1, last: 9 }, 5), { first: 1 });
});

t.test('an agent learns it from the bundle', async (t) => {
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
