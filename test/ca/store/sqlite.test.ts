import { existsSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { createSqliteStore, openSqliteStore } from '../../../cert-agent/ca/store/sqlite.ts';
import { tempDir } from '../../fixtures/process.ts';
import { testStoreContract } from './contract.ts';

const dir = tempDir(t);

const root = 'aa'.repeat(32);

/** Opens the store in `file`, and creates it if it does not exist. */
async function open(file: string, options = {}) {
  if (!existsSync(file)) await createSqliteStore(file, root);
  return openSqliteStore(file, [root], options);
}

testStoreContract(t, (place) => open(join(dir, `${place.replaceAll(' ', '-')}.sqlite`)));

t.test('a second opener is refused while the first holds the store', async (t) => {
  const file = join(dir, 'held.sqlite');
  const first = await open(file);
  await t.rejects(open(file), { code: 'ca_running', message: `another process holds ${file}` });
  await first.close();
  const second = await open(file);
  await second.close();
});

t.test('the file is readable by its owner only', async (t) => {
  const file = join(dir, 'mode.sqlite');
  const store = await open(file);
  await store.denyId('spiffe://demo.test/a', 'x', 1, 'test');
  for (const one of [file, `${file}-wal`]) t.equal(statSync(one).mode & 0o777, 0o600, one);
  await store.close();
});

t.test('calls of one event-loop turn share a commit', async (t) => {
  const commits: number[] = [];
  const store = await open(join(dir, 'group.sqlite'), {
    onCommit: (_ms: number, calls: number) => commits.push(calls),
  });
  t.teardown(() => store.close());
  const add = (index: number) =>
    store.addToken({ hash: `h${index}`, id: 'spiffe://demo.test/a', createdAt: 1, expiresAt: 2 }, 'test');
  await Promise.all(Array.from({ length: 50 }, (_, index) => add(index)));
  t.same(commits, [50]);
});

t.test('a file that is not a store is refused with the reason', async (t) => {
  const file = join(dir, 'broken.sqlite');
  writeFileSync(file, 'this is not a database, and long enough to be looked at as one'.repeat(20));
  await t.rejects(open(file), { code: 'store_failed', message: /broken\.sqlite failed: .*not a database/ });
});

t.test('a store of a later version is refused', async (t) => {
  const file = join(dir, 'later.sqlite');
  const { DatabaseSync } = await import('node:sqlite');
  const db = new DatabaseSync(file);
  db.exec('CREATE TABLE x (y); PRAGMA user_version = 7');
  db.close();
  await t.rejects(open(file), {
    code: 'store_failed',
    message: /the store has version 7, but this build supports up to 4/,
  });
});

t.test('a missing directory is refused with the reason', async (t) => {
  const file = join(dir, 'none', 'x.sqlite');
  await t.rejects(createSqliteStore(file, root), { code: 'store_failed', message: /ENOENT/ });
  await t.rejects(openSqliteStore(file, [root]), { code: 'store_missing', message: /it does not exist$/ });
});
