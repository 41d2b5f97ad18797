import { readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { LedgerMemory, readLedgerHead } from '../../cert-agent/agent/ledger-memory.ts';
import { startAgent } from '../../cert-agent/main.ts';
import { startTestCa } from '../fixtures/ca.ts';
import { captureLog } from '../fixtures/log-lines.ts';
import { tempDir, until } from '../fixtures/process.ts';

const time = '2026-11-30T12:00:00.000Z';
const head = (sequence: number, digit = 'a') => ({ sequence, hash: digit.repeat(64), time });

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
  const again = new LedgerMemory({ outDir, log });
  again.see(head(6));
  again.see(head(6));
  t.same(read(), head(7, 'b'));
  t.match(withCode('ledger_behind'), [
    {
      level: 'error',
      sequence: 6,
      seen: 7,
      msg: /ends with record 6, but we saw record 7 .*revocations may be forgotten$/,
    },
  ]);
  t.equal(withCode('ledger_behind').length, 1, 'once');
  again.see(head(7, 'c'));
  t.match(withCode('ledger_behind')[1], { msg: /has another record 7/ });
  again.see(head(8));
  t.same(read(), head(8));
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
  memory.see(head(5));
  t.equal(withCode('ledger_behind').length, 1, 'it remembers it all the same');
});

t.test('what the CA sends is checked', async (t) => {
  for (const value of [undefined, null, 3, {}, { ...head(0) }, { ...head(1), hash: 'x' }, { ...head(1), time: 'x' }])
    t.equal(readLedgerHead(value), undefined);
  t.same(readLedgerHead({ ...head(1), more: true }), head(1));
});

t.test('an agent learns it from the bundle', async (t) => {
  const ca = await startTestCa(t);
  const dir = tempDir(t);
  const [outDir, tokenFile] = [join(dir, 'out'), join(dir, 'token')];
  const { token } = await ca.operator.createToken('spiffe://demo.test/ns/shop/sa/web', 600_000);
  writeFileSync(tokenFile, token, { mode: 0o600 });
  const caBundleFile = join(ca.dir, 'bundle.pem');
  const caUrl = `https://127.0.0.1:${ca.address.port}`;
  const agent = startAgent({ caUrl, caBundleFile, outDir, tokenFile, log: captureLog().log });
  t.teardown(() => agent.close());
  const [signed] = await ca.operator.records.heads(1, 1);
  const file = join(outDir, 'ledger-head.json');
  await until(() => statSync(file, { throwIfNoEntry: false }), 'the file');
  t.match(JSON.parse(readFileSync(file, 'utf8')), { sequence: signed!.sequence, hash: signed!.hash });
});
