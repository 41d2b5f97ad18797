// Who can write to the CA's store, or to an exported copy of its ledger, cannot change what the CA did without being
// found by `ca ledger verify`: it needs the CA's roots, and for a ledger that was cut together with its heads one head
// that an agent saw. Who has the issuer's key as well can write another ledger: an agent's head shows that too.

import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import t, { type Test } from 'tap';
import { systemClock } from '../../cert-agent/base/clock.ts';
import { openAuthority } from '../../cert-agent/ca/authority.ts';
import { readCaCertificates } from '../../cert-agent/ca/certificates.ts';
import { type Act, genesis, hashOf, type LedgerRecord, nextRecord } from '../../cert-agent/ca/ledger/record.ts';
import { verifyCopy } from '../../cert-agent/ca/ledger/verify.ts';
import { ask, makeCa, newKey, startTestCa } from '../fixtures/ca.ts';
import { runCommand } from '../fixtures/command.ts';
import { tempDir } from '../fixtures/process.ts';

const web = 'spiffe://demo.test/ns/shop/sa/web';
const thief = 'spiffe://demo.test/ns/shop/sa/thief';

/** A CA that ran twice, issued, refused and revoked. */
async function makeHistory(): Promise<string> {
  const dir = await makeCa(t);
  for (let run = 0; run < 2; run++) {
    const ca = await startTestCa(t, { dir });
    const root = readFileSync(join(dir, 'bundle.pem'), 'utf8');
    const { token } = await ca.operator.createToken(web, 600_000);
    const { csr } = await newKey();
    await ask(ca.address.port, root, { path: '/v1/svid', body: { token, csr } });
    await ask(ca.address.port, root, { path: '/v1/svid', body: { token: 'ab'.repeat(32), csr } });
    await ca.operator.revoke(`${thief}-${run}`, 'stolen', { force: true });
    await ca.close();
  }
  return dir;
}

const made = await makeHistory();
const store = new DatabaseSync(join(made, 'store.sqlite'));
const all = store.prepare('SELECT * FROM ledger ORDER BY sequence').all() as unknown as LedgerRecord[];
const heads = store.prepare('SELECT * FROM ledger_heads ORDER BY sequence').all() as {
  sequence: number;
  hash: string;
}[];
store.close();
const newest = heads.at(-1)!;
const middle = all.find(({ line }) => line.includes('"act":"revoke"'))!.sequence;
const run = (...args: string[]) => runCommand(t, ['ca', 'ledger', ...args]);

/** A copy of the CA's directory whose store was changed by SQL. */
function changed(t: Test, change: (db: DatabaseSync, dir: string) => void): string {
  const dir = join(tempDir(t), 'ca');
  cpSync(made, dir, { recursive: true });
  const db = new DatabaseSync(join(dir, 'store.sqlite'));
  change(db, dir);
  db.close();
  return dir;
}

/** Writes all records anew, as the CA would hash them. */
function rewrite(db: DatabaseSync, lines: readonly string[]): LedgerRecord[] {
  db.exec('DELETE FROM ledger');
  let hash = genesis;
  return lines.map((line, i) => {
    hash = hashOf(hash, line);
    db.prepare('INSERT INTO ledger VALUES (?, ?, ?, ?)').run(i + 1, Date.now(), line, hash);
    return { sequence: i + 1, line, hash };
  });
}

const forgedLines = all.map(({ line, sequence }) => (sequence === middle ? line.replace('thief', 'other') : line));

const attacks: readonly (readonly [string, RegExp, (db: DatabaseSync, dir: string) => void])[] = [
  [
    'a record is changed',
    new RegExp(`^record ${middle} was changed: its hash does not match\n`),
    (db) => db.exec(`UPDATE ledger SET line = replace(line, 'thief', 'other') WHERE sequence = ${middle}`),
  ],
  [
    'a record is deleted',
    new RegExp(`^record ${middle} is missing\n`),
    (db) => db.exec(`DELETE FROM ledger WHERE sequence = ${middle}`),
  ],
  [
    'a record is deleted, and the others get its number',
    /^the signed head of record \d+ does not match: records were replaced between/,
    (db) => {
      const rest = all.filter(({ sequence }) => sequence !== middle);
      rewrite(
        db,
        rest.map(({ line }, i) => line.replace(/"sequence":\d+/, `"sequence":${i + 1}`)),
      );
      db.prepare('DELETE FROM ledger_heads WHERE sequence > ?').run(rest.length);
    },
  ],
  [
    'two records change places',
    new RegExp(`^record ${middle} is missing\n`),
    (db) => {
      const line = (n: number) => all[n - 1]!.line;
      for (const [at, from] of [
        [middle, middle + 1],
        [middle + 1, middle],
      ] as const)
        db.prepare('UPDATE ledger SET line = ? WHERE sequence = ?').run(line(from), at);
    },
  ],
  [
    'the last records are deleted',
    /^it ends with record \d+, but a head covers \d+: the end is missing\n/,
    (db) => {
      db.exec(`DELETE FROM ledger WHERE sequence > ${middle}`);
    },
  ],
  [
    'the first records are deleted, as if they had been pruned',
    /no record says that they were pruned|^records 1 to \d+ are missing\n/,
    (db) => db.exec(`DELETE FROM ledger WHERE sequence <= ${heads[0]!.sequence}`),
  ],
  [
    'all hashes are made anew',
    /^the signed head of record \d+ does not match: records were replaced between/,
    (db) => {
      rewrite(db, forgedLines);
    },
  ],
  [
    'all hashes are made anew, and all heads are deleted',
    /^no signed head covers any record: nothing proves that these are the records of the CA\n/,
    (db) => {
      rewrite(db, forgedLines);
      db.exec('DELETE FROM ledger_heads');
    },
  ],
  [
    'a head is moved to other records',
    /^the head of record \d+ proves nothing: its signature does not match\n/,
    (db) => {
      const records = rewrite(db, forgedLines);
      for (const { sequence } of heads)
        db.prepare('UPDATE ledger_heads SET hash = ? WHERE sequence = ?').run(records[sequence - 1]!.hash, sequence);
    },
  ],
];

t.test('an unchanged ledger verifies', async (t) => {
  const dir = changed(t, () => {});
  t.match(await run('verify', '--dir', dir, '--head', `${newest.sequence}:${newest.hash}`), {
    code: 0,
    stdout: /^verified: /,
  });
});

for (const [name, message, attack] of attacks)
  t.test(`${name} in the store is detected`, async (t) => {
    const dir = changed(t, attack);
    t.match(await run('verify', '--dir', dir), { code: 1, stdout: message });
    // The copy shows it as well, with the roots of before.
    const copy = join(tempDir(t), 'copy.jsonl');
    t.equal((await run('export', '--dir', dir, '--out', copy)).code, 0);
    t.match(await run('verify', copy, '--ca-bundle', join(made, 'bundle.pem')), { code: 1, stdout: /NOT verified: / });
  });

t.test('heads that another CA of the same name signed prove nothing', async (t) => {
  const other = openAuthority(await makeCa(t), undefined, systemClock);
  const dir = changed(t, (db) => {
    const records = rewrite(db, forgedLines);
    db.exec('DELETE FROM ledger_heads');
    const { sequence, hash, time, signature, issuer } = other.signHead(records.at(-1)!, Date.now());
    db.prepare('INSERT INTO ledger_heads VALUES (?, ?, ?, ?, ?)').run(sequence, hash, time, signature, issuer);
  });
  t.match(await run('verify', '--dir', dir), { code: 1, stdout: /its signer is not an issuer of this CA\n/ });
});

t.test('a root that only forged records confirm proves nothing', async (t) => {
  const otherDir = await makeCa(t);
  const other = openAuthority(otherDir, undefined, systemClock);
  const roots = readCaCertificates(otherDir)
    .bundle.roots.map((one) => one.toString('base64'))
    .join(' ');
  const dir = changed(t, (db) => {
    const act: Act = { act: 'start', caller: 'self', answer: 'started', details: { roots } };
    const { line } = nextRecord({ sequence: middle - 1, hash: genesis }, Date.now(), act);
    const records = rewrite(db, forgedLines.with(middle - 1, line));
    db.exec('DELETE FROM ledger_heads');
    for (const record of records) {
      const { sequence, hash, time, signature, issuer } = other.signHead(record, Date.now());
      db.prepare('INSERT INTO ledger_heads VALUES (?, ?, ?, ?, ?)').run(sequence, hash, time, signature, issuer);
    }
  });
  t.match(await run('verify', '--dir', dir), { code: 1, stdout: /its signer is not an issuer of this CA\n/ });
});

t.test("a known head exposes a ledger that was cut with its heads or signed again with the issuer's key", async (t) => {
  const seen = join(tempDir(t), 'ledger-head.json');
  writeFileSync(seen, JSON.stringify({ sequence: newest.sequence, hash: newest.hash, time: new Date().toISOString() }));
  const cut = changed(t, (db) => {
    db.exec(`DELETE FROM ledger WHERE sequence > ${heads[0]!.sequence}`);
    db.exec(`DELETE FROM ledger_heads WHERE sequence > ${heads[0]!.sequence}`);
  });
  t.match(await run('verify', '--dir', cut), { code: 0 }, 'the ledger itself does not show it');
  t.match(await run('verify', '--dir', cut, '--head', seen), { code: 1, stdout: /the end is missing\n/ });
  const signed = changed(t, (db, dir) => {
    const records = rewrite(db, forgedLines);
    db.exec('DELETE FROM ledger_heads');
    const head = openAuthority(dir, undefined, systemClock).signHead(records.at(-1)!, Date.now());
    const { sequence, hash, time, signature, issuer } = head;
    db.prepare('INSERT INTO ledger_heads VALUES (?, ?, ?, ?, ?)').run(sequence, hash, time, signature, issuer);
  });
  t.match(await run('verify', '--dir', signed), { code: 0 }, 'the export does not show it either');
  t.match(await run('verify', '--dir', signed, '--head', seen), { code: 1, stdout: /is not the one that was seen/ });
});

t.test('a changed byte or a cut anywhere in a copy is detected', async (t) => {
  const copy = join(tempDir(t), 'copy.jsonl');
  await run(
    'export',
    '--dir',
    changed(t, () => {}),
    '--out',
    copy,
  );
  const bytes = readFileSync(copy);
  const { trustDomain, bundle } = readCaCertificates(made);
  const options = { trustDomain, roots: bundle.roots, seen: [newest] };
  t.match(await verifyCopy([bytes], options), { faultCount: 0 });
  // Bytes behind the certificate of a head's signer, which its DER does not count.
  for (const more of [1, 2, 3]) {
    const padded = bytes.toString().replace(/"issuer":"([^"]+)"/, (_, issuer: string) => {
      const der = Buffer.concat([Buffer.from(issuer, 'base64'), Buffer.alloc(more, 0x3d)]);
      return `"issuer":"${der.toString('base64')}"`;
    });
    t.not(padded, bytes.toString());
    t.not((await verifyCopy([Buffer.from(padded)], options)).faultCount, 0, `${more} bytes after a certificate`);
  }
  const missed: number[] = [];
  for (let at = 0; at < bytes.length; at += 3) {
    const edited = Buffer.from(bytes);
    edited[at]! ^= 1 << (at % 7);
    if ((await verifyCopy([edited], options)).faultCount === 0) missed.push(at);
  }
  t.same(missed, [], `no edit passes`);
  const lines = bytes.toString().trimEnd().split('\n');
  for (let count = 0; count < lines.length - 1; count++) {
    const whole = `${lines.slice(0, count).join('\n')}\n`;
    const half = whole + lines[count]!.slice(0, lines[count]!.length / 2);
    for (const text of [whole, half])
      t.ok((await verifyCopy([Buffer.from(text)], options)).faultCount > 0, `cut after line ${count}`);
  }
});
