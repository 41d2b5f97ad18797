// Who can write to the CA's store cannot have the CA sign what they made of its ledger: at its start it compares it with
// the last head, which it keeps outside of the store as well.

import { cpSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import t, { type Test } from 'tap';
import { lastRecords } from '../../cert-agent/ca/ledger/look.ts';
import { type LedgerRecord, nextRecord } from '../../cert-agent/ca/ledger/record.ts';
import { makeCa, startTestCa } from '../fixtures/ca.ts';
import { runSallyport, tempDir } from '../fixtures/process.ts';

const made = await makeCa(t);
for (let run = 0; run < 2; run++) {
  const ca = await startTestCa(t, { dir: made });
  await ca.operator.revoke(`spiffe://demo.test/ns/shop/sa/thief-${run}`, 'stolen', { force: true });
  await ca.close();
}
const remembered = JSON.parse(readFileSync(join(made, 'ledger-head.json'), 'utf8'));

/** A copy of the CA's directory whose store was changed by SQL. */
function changed(t: Test, change: (db: DatabaseSync) => void): string {
  const dir = join(tempDir(t), 'ca');
  cpSync(made, dir, { recursive: true });
  const db = new DatabaseSync(join(dir, 'store.sqlite'));
  change(db);
  db.close();
  return dir;
}

function cut(db: DatabaseSync, after: number): LedgerRecord {
  db.exec(`DELETE FROM ledger WHERE sequence > ${after}; DELETE FROM ledger_heads WHERE sequence > ${after}`);
  return db.prepare('SELECT * FROM ledger ORDER BY sequence DESC LIMIT 1').get() as unknown as LedgerRecord;
}

/** Records of harmless refusals, up to `to`. */
function pad(db: DatabaseSync, last: LedgerRecord, to: number): void {
  for (let one = last; one.sequence < to; ) {
    one = nextRecord(one, Date.now(), { act: 'refuse', caller: '10.0.0.7', answer: 'svid_missing' });
    db.prepare('INSERT INTO ledger VALUES (?, ?, ?, ?)').run(one.sequence, Date.now(), one.line, one.hash);
  }
}

const attacks: readonly (readonly [string, string, RegExp, (db: DatabaseSync) => void])[] = [
  [
    'cut with its heads',
    'ledger_behind',
    new RegExp(
      `^the ledger ends with record 1, but the CA has signed record ${remembered.sequence}: the end is missing$`,
    ),
    (db) => cut(db, 1),
  ],
  [
    'truncated with its heads, and padded past the last seen head',
    'ledger_forked',
    /is not the one that the CA has signed$/,
    (db) => pad(db, cut(db, 1), remembered.sequence + 5),
  ],
  [
    'without records before the last head',
    'ledger_forked',
    /which the CA has signed, is missing$/,
    (db) => {
      pad(db, cut(db, remembered.sequence), remembered.sequence + 3);
      db.exec(`DELETE FROM ledger WHERE sequence = ${remembered.sequence}`);
    },
  ],
  [
    'with an edited record after the last head',
    'ledger_forked',
    /the hash of record \d+ does not match$/,
    (db) => {
      pad(db, cut(db, remembered.sequence), remembered.sequence + 3);
      db.exec(
        `UPDATE ledger SET line = replace(line, '10.0.0.7', '10.0.0.8') WHERE sequence > ${remembered.sequence + 1}`,
      );
    },
  ],
  [
    'with a gap after the last head',
    'ledger_forked',
    /record \d+ is missing$/,
    (db) => {
      pad(db, cut(db, remembered.sequence), remembered.sequence + 3);
      db.exec(`DELETE FROM ledger WHERE sequence = ${remembered.sequence + 2}`);
    },
  ],
];

for (const [name, code, message, attack] of attacks)
  t.test(`a ledger ${name} is refused`, async (t) => {
    const dir = changed(t, attack);
    const before = readFileSync(join(dir, 'store.sqlite'));
    await t.rejects(startTestCa(t, { dir }), { code, message, hint: /ca restore; ca serve --accept-ledger/ });
    t.same(readFileSync(join(dir, 'store.sqlite')), before, 'nothing was signed');
    const ca = await startTestCa(t, { dir, acceptLedger: true });
    const [start] = await lastRecords(ca.operator.records, { limit: 1, acts: ['start'] });
    t.match(start?.details['accepted'], message);
    await ca.close();
    const kept = readdirSync(dir).find((one) => one.startsWith('ledger-head-'));
    t.same(JSON.parse(readFileSync(join(dir, kept!), 'utf8')), remembered, 'the evidence is kept');
    await t.rejects(startTestCa(t, { dir, acceptLedger: true }), { code: 'usage', message: /nothing to accept/ });
    await (await startTestCa(t, { dir })).close();
  });

t.test('records after the last head, as a kill leaves them, are accepted', async (t) => {
  const dir = changed(t, (db) => pad(db, cut(db, remembered.sequence), remembered.sequence + 1200));
  await (await startTestCa(t, { dir })).close();
  // The directory of an older version has no file.
  rmSync(join(dir, 'ledger-head.json'));
  await (await startTestCa(t, { dir })).close();
  t.match(await runSallyport(t, ['ca', 'ledger', 'verify', '--dir', dir]), { code: 0 });
});

t.test('a new store in place of a lost one keeps the old head', async (t) => {
  const dir = changed(t, () => {});
  rmSync(join(dir, 'store.sqlite'));
  await (await startTestCa(t, { dir, unsafeNewStore: true })).close();
  t.ok(readdirSync(dir).some((one) => one.startsWith('ledger-head-')));
  await (await startTestCa(t, { dir })).close();
});
