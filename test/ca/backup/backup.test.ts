import fs, {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { systemClock } from '../../../cert-agent/base/clock.ts';
import { createBackup } from '../../../cert-agent/ca/backup/backup.ts';
import { restoreCa } from '../../../cert-agent/ca/backup/restore.ts';
import { copyLines } from '../../../cert-agent/ca/ledger/copy.ts';
import { LedgerVerifier, type SeenHead } from '../../../cert-agent/ca/ledger/verify.ts';
import { openOperator } from '../../../cert-agent/ca/operator/open.ts';
import { connectOperator } from '../../../cert-agent/ca/operator/socket.ts';
import type { Store } from '../../../cert-agent/ca/store/store.ts';
import { makeCa, startTestCa } from '../../fixtures/ca.ts';
import { tempDir } from '../../fixtures/process.ts';

const web = 'spiffe://demo.test/ns/shop/sa/web';
const clock = systemClock;

interface Made {
  readonly dir: string;
  readonly backup: string;
  readonly place: string;
  /** The end of the ledger in the backup, and after it. */
  readonly before: SeenHead;
  readonly after: SeenHead;
}

/** A CA that was backed up while it ran, then denied `web`, and is stopped. */
async function makeBackup(t: Test): Promise<Made> {
  const place = tempDir(t);
  const dir = await makeCa(t, { dir: join(place, 'ca'), passphrase: 'secret' });
  mkdirSync(join(dir, 'previous'));
  writeFileSync(join(dir, 'previous', 'intermediate.pem'), 'an older one', { mode: 0o644 });
  const ca = await startTestCa(t, { dir, passphrase: 'secret' });
  await ca.operator.revoke(`${web}-old`, 'x', { force: true });
  const backup = join(place, 'backup');
  const { ledger } = await connectOperator(ca.socket).records.backup(backup);
  await ca.operator.revoke(web, 'stolen', { force: true });
  await ca.close();
  const opened = await openOperator({ dir });
  const { end } = await opened.operator.records.state();
  await opened.close();
  return { ...{ dir, backup, place }, before: ledger, after: end };
}

const made = await makeBackup(t);
const copyOf = (t: Test): Made => {
  const place = tempDir(t);
  cpSync(made.place, place, { recursive: true });
  return { ...made, place, dir: join(place, 'ca'), backup: join(place, 'backup') };
};

t.test('a backup is complete, readable by its owner only, and without the socket and log of the store', async (t) => {
  const { backup, dir, place } = made;
  t.same(readdirSync(place).toSorted(), ['backup', 'ca']);
  t.equal(statSync(backup).mode & 0o777, 0o700);
  const names = readdirSync(backup).toSorted();
  // The ledger's last head may be newer than the copied store.
  const copied = readdirSync(dir).filter((name) => name !== 'ledger-head.json');
  t.same(names, [...copied, 'manifest.json'].toSorted());
  for (const name of ['root.key', 'intermediate.key', 'store.sqlite', 'manifest.json'])
    t.equal(statSync(join(backup, name)).mode & 0o777, 0o600, name);
  t.match(readFileSync(join(backup, 'intermediate.key'), 'utf8'), /ENCRYPTED/);
  const manifest = JSON.parse(readFileSync(join(backup, 'manifest.json'), 'utf8'));
  t.match(manifest, { backup: 1, trustDomain: 'demo.test', ledger: made.before });
  t.ok(manifest.files['previous/intermediate.pem']);
});

t.test('a backup is restored into a new directory, and the command says what it cannot know', async (t) => {
  const { backup, place } = copyOf(t);
  const dir = join(place, 'new', 'ca');
  const done = await restoreCa({ from: backup, dir, clock });
  t.match(done, { trustDomain: 'demo.test', unknown: true, ledger: made.before });
  t.equal(done.aside, undefined);
  t.equal(statSync(dir).mode & 0o777, 0o700);
  t.equal(statSync(join(dir, 'root.key')).mode & 0o777, 0o600);
  t.same(
    readdirSync(dir).filter((name) => name.startsWith('.')),
    [],
  );
  const ca = await startTestCa(t, { dir, passphrase: 'secret' });
  t.match(await ca.operator.listDenials(), [{ target: `${web}-old` }]);
  await ca.close();
});

t.test('a backup behind the ledger of the directory is refused, unless forced', async (t) => {
  const { backup, dir, before, after } = copyOf(t);
  const names = readdirSync(dir);
  await t.rejects(restoreCa({ from: backup, dir, clock }), {
    code: 'ledger_behind',
    message: new RegExp(`it ends with record ${before.sequence}, but record ${after.sequence} was seen$`),
    hint: /--force restores it all the same, and forgets every revocation/,
  });
  t.same(readdirSync(dir), names, 'nothing was changed');
  const denied = await openOperator({ dir });
  t.equal((await denied.operator.listDenials()).length, 2);
  await denied.close();

  const done = await restoreCa({ from: backup, dir, clock, force: true });
  t.match(done, { unknown: false, lost: { from: before.sequence + 1, to: after.sequence } });
  t.same(readdirSync(done.aside!).toSorted(), names.toSorted(), 'all earlier files are kept');
  const ca = await startTestCa(t, { dir, passphrase: 'secret' });
  const { records } = ca.operator;
  const { trustDomain, roots } = await records.state();
  const verifier = new LedgerVerifier({
    ...{ trustDomain, seen: [after] },
    roots: roots.map((one) => Buffer.from(one, 'base64')),
  });
  for await (const line of copyLines(records)) verifier.line(line);
  t.match(verifier.end(), {
    faultCount: 0,
    restored: [{ sequence: before.sequence + 1, lost: { from: before.sequence + 1, to: after.sequence } }],
    notCompared: [{ sequence: after.sequence, why: /a restore lost it/ }],
  });
  await ca.close();
});

t.test('a restored deny list is newer than the one that agents have', async (t) => {
  const { backup, dir } = copyOf(t);
  const sequenceIn = async () => {
    const ca = await startTestCa(t, { dir, passphrase: 'secret' });
    const page = await connectOperator(ca.socket).listDenials();
    await ca.close();
    return page.length;
  };
  const { openSqliteStore } = await import('../../../cert-agent/ca/store/sqlite.ts');
  const { readRootFingerprints } = await import('../../../cert-agent/ca/certificates.ts');
  const read = async () => {
    const store = await openSqliteStore(join(dir, 'store.sqlite'), readRootFingerprints(dir));
    const { sequence } = await store.denyList();
    await store.close();
    return sequence;
  };
  const old = await read();
  await restoreCa({ from: backup, dir, clock, force: true });
  t.ok((await read()) > old);
  t.equal(await sequenceIn(), 1);
});

t.test('a backup behind a head that an agent saw is refused', async (t) => {
  const { backup, place, before, after } = copyOf(t);
  const dir = join(place, 'new');
  await t.rejects(restoreCa({ from: backup, dir, clock, seen: [after] }), { code: 'ledger_behind' });
  t.notOk(existsSync(dir), 'nothing is left');
  const wrong = [{ ...before, hash: 'ab'.repeat(32) }];
  await t.rejects(restoreCa({ from: backup, dir, clock, seen: wrong }), {
    code: 'ledger_behind',
    message: /record \d+ is not the one that was seen$/,
  });
  t.match(await restoreCa({ from: backup, dir, clock, seen: [before] }), { unknown: false });
});

t.test('a directory whose store is damaged needs --seen or --force', async (t) => {
  const { backup, dir, before } = copyOf(t);
  writeFileSync(join(dir, 'store.sqlite'), 'x'.repeat(5000));
  rmSync(join(dir, 'ledger-head.json'));
  await t.rejects(restoreCa({ from: backup, dir, clock }), {
    code: 'ledger_behind',
    message: /^it is not known how far the ledger in .* had come: /,
  });
  t.match(await restoreCa({ from: backup, dir, clock, seen: [before] }), { aside: /before-restore-/ });
});

t.test('a directory that lost its store is restored, and its last head shows what is lost', async (t) => {
  const { backup, dir, after } = copyOf(t);
  rmSync(join(dir, 'store.sqlite'));
  await t.rejects(restoreCa({ from: backup, dir, clock }), {
    code: 'ledger_behind',
    message: new RegExp(`record ${after.sequence} was seen$`),
  });
  rmSync(join(dir, 'ledger-head.json'));
  t.match(await restoreCa({ from: backup, dir, clock }), { unknown: true });
  await (await openOperator({ dir })).close();
});

t.test('a directory of another CA, or any other that is not empty, is refused', async (t) => {
  const { backup, place } = copyOf(t);
  const other = await makeCa(t);
  const notes = join(place, 'notes');
  mkdirSync(notes);
  writeFileSync(join(notes, 'notes.txt'), 'dear diary');
  for (const dir of [other, notes])
    await t.rejects(restoreCa({ from: backup, dir, clock, force: true }), {
      code: 'ca_exists',
      message: `${dir} is not empty, and not the directory of this CA of demo.test`,
    });
  t.same(readdirSync(notes), ['notes.txt']);
});

t.test('a running CA is not overwritten by a restore', async (t) => {
  const { backup, dir } = copyOf(t);
  const ca = await startTestCa(t, { dir, passphrase: 'secret' });
  await t.rejects(restoreCa({ from: backup, dir, clock, force: true }), { code: 'ca_running' });
  await ca.close();
});

t.test('a backup whose files do not match its manifest is refused', async (t) => {
  const change = (file: string, change: (value: Record<string, unknown>) => void): void => {
    const value = JSON.parse(readFileSync(file, 'utf8'));
    change(value);
    writeFileSync(file, JSON.stringify(value));
  };
  const cases: [string, (backup: string) => void, RegExp][] = [
    ['an edited file', (at) => writeFileSync(join(at, 'bundle.pem'), 'x'), /bundle\.pem is not as it was/],
    ['a cut store', (at) => truncateSync(join(at, 'store.sqlite'), 4096), /store\.sqlite is not as it was/],
    ['a missing file', (at) => rmSync(join(at, 'root.pem')), /root\.pem is missing/],
    [
      'a link',
      (at) => {
        rmSync(join(at, 'root.pem'));
        symlinkSync('/etc/passwd', join(at, 'root.pem'));
      },
      /root\.pem is not a file/,
    ],
    ['no manifest', (at) => rmSync(join(at, 'manifest.json')), /manifest\.json cannot be read/],
    ['a cut manifest', (at) => truncateSync(join(at, 'manifest.json'), 100), /manifest\.json cannot be read/],
    [
      'a path outside the directory',
      (at) =>
        change(join(at, 'manifest.json'), ({ files }) => {
          (files as Record<string, unknown>)['../../escaped'] = { sha256: 'ab'.repeat(32), bytes: 1, mode: 0o600 };
        }),
      /manifest\.json is not valid: files/,
    ],
    [
      'a manifest without the store',
      (at) =>
        change(join(at, 'manifest.json'), ({ files }) => delete (files as Record<string, unknown>)['store.sqlite']),
      /has no store\.sqlite$/,
    ],
    [
      'another end of the ledger',
      (at) =>
        change(join(at, 'manifest.json'), (value) => {
          value['ledger'] = { sequence: 1000, hash: 'ab'.repeat(32) };
        }),
      /does not end where its manifest says/,
    ],
  ];
  for (const [name, spoil, message] of cases) {
    const { backup, place } = copyOf(t);
    spoil(backup);
    const dir = join(place, 'new');
    await t.rejects(restoreCa({ from: backup, dir, clock, force: true }), { code: 'backup_invalid', message }, name);
    t.notOk(existsSync(dir), 'nothing was written');
  }
});

t.test('a backup that would be useless is refused', async (t) => {
  const { dir, place } = copyOf(t);
  const { operator, close } = await openOperator({ dir });
  const refusal = (out: string) => operator.records.backup(out).catch((error: unknown) => error);
  t.match(await refusal(join(dir, 'backup')), { code: 'usage', message: /is inside of the CA's directory/ });
  t.match(await refusal(place), { code: 'usage', message: `${place} exists already` });
  t.match(await refusal('relative'), { code: 'usage', message: 'relative is not an absolute path' });
  t.match(await refusal(join(place, 'none', 'x')), { code: 'backup_failed', message: /ENOENT/ });
  const [one, two] = await Promise.allSettled([1, 2].map((n) => operator.records.backup(join(place, `b${n}`))));
  t.equal(one?.status, 'fulfilled');
  t.match(two, { reason: { code: 'backup_failed', message: 'another backup is being written' } });
  t.same(readdirSync(place).toSorted(), ['b1', 'backup', 'ca'], 'no half-made file is left');
  writeFileSync(join(dir, 'huge'), '');
  truncateSync(join(dir, 'huge'), 65 * 1_048_576);
  t.match(await refusal(join(place, 'b3')), {
    code: 'backup_failed',
    message: /contains more than a CA does, such as huge/,
  });
  t.same(readdirSync(place).toSorted(), ['b1', 'backup', 'ca']);
  await close();
});

t.test('no backup is made if a rotation changes the files while the store is copied', async (t) => {
  const dir = await makeCa(t);
  const place = tempDir(t);
  const store = {
    appendLedger: async () => undefined,
    async copyTo() {
      writeFileSync(join(dir, 'rotation.json'), '{}');
      return { sequence: 1, hash: '' };
    },
  } as unknown as Store;
  const parts = { store, dir, trustDomain: 'demo.test', roots: () => [], clock };
  await t.rejects(createBackup(parts, join(place, 'b')), {
    code: 'backup_failed',
    message: 'issuer or root were rotated while the store was copied',
  });
  t.same(readdirSync(place), []);
});

t.test('a backup that is made while the CA issues is consistent', async (t) => {
  const dir = await makeCa(t);
  const ca = await startTestCa(t, { dir });
  const place = tempDir(t);
  let going = true;
  let count = 0;
  const issuing = (async () => {
    while (going)
      await Promise.all(Array.from({ length: 20 }, () => ca.operator.createToken(`${web}${count++}`, 600_000)));
  })();
  for (let i = 0; i < 5; i++) {
    const { ledger } = await connectOperator(ca.socket).records.backup(join(place, `b${i}`));
    const to = join(place, `r${i}`);
    await restoreCa({ from: join(place, `b${i}`), dir: to, clock });
    const { operator, close } = await openOperator({ dir: to });
    const tokens = await operator.listTokens();
    const { end } = await operator.records.state();
    t.equal(end.sequence, ledger.sequence + 1, 'the restore is the only new record');
    const noted = new Set<string>();
    for (let from = 1; from <= end.sequence; from += 500)
      for (const { line } of await operator.records.records(from, 500)) {
        const { act, id } = JSON.parse(line);
        if (act === 'token') noted.add(id);
      }
    t.same(new Set(tokens.map(({ id }) => id)), noted, 'each token has its record, and each record its token');
    await close();
  }
  going = false;
  await issuing;
  t.notOk(ca.logged.join('').includes('store_failed'));
});

t.test('CA files that others may read keep that mode, and keys stay closed', async (t) => {
  const { dir, place } = copyOf(t);
  chmodSync(join(dir, 'bundle.pem'), 0o640);
  const { operator, close } = await openOperator({ dir });
  await operator.records.backup(join(place, 'again'));
  await close();
  await restoreCa({ from: join(place, 'again'), dir: join(place, 'new'), clock });
  t.equal(statSync(join(place, 'new', 'bundle.pem')).mode & 0o777, 0o640);
});

t.test(
  'a restore that was killed at any step can be repeated, and still knows how far the ledger had come',
  async (t) => {
    const { renameSync, rmSync: remove } = fs;
    t.teardown(() => Object.assign(fs, { renameSync, rmSync: remove }) && syncBuiltinESMExports());
    let steps = 0;
    for (let kill = 1; ; kill++) {
      const { backup, dir, before, after } = copyOf(t);
      const names = readdirSync(dir).toSorted();
      const done = await killedAfter(kill, () => restoreCa({ from: backup, dir, clock, force: true }));
      if (done) break;
      steps++;
      const isWhole = existsSync(join(dir, 'bundle.json'));
      // Only its clean-up was killed.
      if (isWhole && readdirSync(dir).some((name) => name.startsWith('before-restore-'))) continue;
      if (!isWhole)
        await t.rejects(startTestCa(t, { dir, passphrase: 'secret' }), {
          code: 'ca_missing',
          hint: `run it again: sallyport ca restore --from BACKUP --dir ${dir}`,
        });
      await t.rejects(restoreCa({ from: backup, dir, clock }), { code: 'ledger_behind' }, `killed at ${kill}`);
      const again = await restoreCa({ from: backup, dir, clock, force: true });
      t.match(again.lost, { from: before.sequence + 1, to: after.sequence }, `killed at ${kill}`);
      const kept = readdirSync(again.aside!);
      t.same(
        names.filter((name) => !kept.includes(name)),
        [],
        'all earlier files are in one place',
      );
      t.same(
        readdirSync(dir).filter((name) => name.startsWith('.')),
        [],
      );
    }
    t.ok(steps > 10, `${steps} steps`);

    /** From the n-th step on nothing is done any more. Returns true if it had fewer. */
    async function killedAfter(n: number, work: () => Promise<unknown>): Promise<boolean> {
      let left = n;
      const dead =
        <A extends unknown[]>(act: (...args: A) => void) =>
        (...args: A) => {
          if (--left <= 0) throw new Error('killed');
          act(...args);
        };
      Object.assign(fs, { renameSync: dead(renameSync), rmSync: dead(remove) });
      syncBuiltinESMExports();
      const isDone = await work().then(
        () => true,
        () => false,
      );
      Object.assign(fs, { renameSync, rmSync: remove });
      syncBuiltinESMExports();
      return isDone;
    }
  },
);
