// What denies somebody is on disk: the CA's store, the agent's deny-list and bundle. One that is lost, cut or another's is
// never taken for one that is empty.

import {
  copyFileSync,
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import t, { type Test } from 'tap';
import { createLog } from '../../cert-agent/base/log.ts';
import { type CaOptions, startCa } from '../../cert-agent/ca/main.ts';
import { openOperator } from '../../cert-agent/ca/open-operator.ts';
import { makeCa, startTestCa } from '../fixtures/ca.ts';
import { runSallyport } from '../fixtures/process.ts';

const web = 'spiffe://demo.test/ns/shop/sa/web';
const log = createLog({ component: 'ca', level: 'silent' });
const start = (dir: string, options: Partial<CaOptions> = {}) =>
  startCa({ dir, listen: { host: '127.0.0.1', port: 0 }, log, ...options });

interface Place {
  readonly dir: string;
  readonly store: string;
}

/** A CA that has denied somebody and stands still. */
async function denyingCa(t: Test): Promise<Place> {
  const dir = await makeCa(t);
  const { operator, close } = await openOperator({ dir });
  await operator.revoke(web, 'stolen', { force: true });
  await close();
  return { dir, store: join(dir, 'store.sqlite') };
}

const unsafeHint =
  'restore it from a backup; ca serve --unsafe-new-store begins a new one, which forgets every revocation';

t.test('a CA does not start, and is not operated, without its store', async (t) => {
  const cases: [string, (place: Place) => void, string][] = [
    ['it is gone', ({ store }) => rmSync(store), 'it is not there'],
    ['it was cut to nothing', ({ store }) => truncateSync(store, 0), 'it is empty'],
    [
      'another program made a file of that name',
      ({ store }) => {
        rmSync(store);
        const db = new DatabaseSync(store);
        db.exec('CREATE TABLE notes (text TEXT)');
        db.close();
      },
      'it holds no tables of ours',
    ],
    [
      'its deny-list is gone',
      ({ store }) => {
        const db = new DatabaseSync(store);
        db.exec('DROP TABLE denied_ids');
        db.close();
      },
      'no such table: denied_ids',
    ],
  ];
  for (const [name, lose, why] of cases) {
    t.test(name, async (t) => {
      const place = await denyingCa(t);
      lose(place);
      const before = sizeOf(place.store);
      const error = {
        code: 'store_missing',
        message: `the store of the CA is lost: ${place.store} cannot be used, ${why}`,
        hint: unsafeHint,
      };
      await t.rejects(start(place.dir), error);
      await t.rejects(openOperator({ dir: place.dir }), error);
      t.equal(sizeOf(place.store), before, 'nothing was made in its place');
    });
  }
});

function sizeOf(file: string): number | undefined {
  return statSync(file, { throwIfNoEntry: false })?.size;
}

t.test('a store that is damaged is no empty one', async (t) => {
  const place = await denyingCa(t);
  truncateSync(place.store, Math.floor((sizeOf(place.store) ?? 0) / 2));
  await t.rejects(start(place.dir), { code: 'store_failed', message: /malformed/ });
  writeFileSync(place.store, 'x'.repeat(5000));
  await t.rejects(start(place.dir), {
    code: 'store_failed',
    message: /not a database/,
    hint: 'if it is damaged, restore it from a backup',
  });
});

t.test("another CA's store is refused, and left as it is", async (t) => {
  const [ours, theirs] = [await denyingCa(t), await denyingCa(t)];
  copyFileSync(theirs.store, ours.store);
  const error = { code: 'store_foreign', message: `${ours.store} is the store of another CA` };
  await t.rejects(start(ours.dir), error);
  await t.rejects(openOperator({ dir: ours.dir }), error);
  copyFileSync(ours.store, theirs.store);
  await (await start(theirs.dir)).close();
});

t.test('the log beside the store may be missing, and a store from a backup is taken', async (t) => {
  const place = await denyingCa(t);
  for (const name of readdirSync(place.dir)) if (/-(?:wal|shm)$/.test(name)) rmSync(join(place.dir, name));
  const backup = join(place.dir, 'backup');
  copyFileSync(place.store, backup);
  rmSync(place.store);
  copyFileSync(backup, place.store);
  const { operator, close } = await openOperator({ dir: place.dir });
  t.match(await operator.listDenials(), [{ target: web }]);
  await close();
});

t.test('a store goes along with a change of roots, while both are in the bundle', async (t) => {
  const [before, after] = [await denyingCa(t), await makeCa(t)];
  const read = (dir: string) => JSON.parse(readFileSync(join(dir, 'bundle.json'), 'utf8'));
  const [old, fresh] = [read(before.dir), read(after)];
  copyFileSync(before.store, join(after, 'store.sqlite'));
  await t.rejects(openOperator({ dir: after }), { code: 'store_foreign' });
  writeFileSync(join(after, 'bundle.json'), JSON.stringify({ ...fresh, keys: [...fresh.keys, ...old.keys] }));
  await (await openOperator({ dir: after })).close();
  writeFileSync(join(after, 'bundle.json'), JSON.stringify(fresh));
  await (await openOperator({ dir: after })).close();
});

t.test('a new store in place of a lost one is asked for by name, once, and the log says what it forgets', async (t) => {
  const place = await denyingCa(t);
  await t.rejects(start(place.dir, { unsafeNewStore: true }), {
    code: 'usage',
    message: `a new store is begun only where none is left, and ${place.store} is there`,
    hint: `leave out --unsafe-new-store; if ${place.store} is damaged, move it away first`,
  });
  rmSync(place.store);
  writeFileSync(`${place.store}-wal`, 'what may yet be put together');
  await t.rejects(start(place.dir, { unsafeNewStore: true }), {
    code: 'usage',
    message: /store\.sqlite-wal is there$/,
  });
  rmSync(`${place.store}-wal`);
  const ca = await startTestCa(t, { dir: place.dir, unsafeNewStore: true });
  t.match(ca.logged.join(''), /"code":"store_new".*what was revoked can renew; revoke it again/);
  t.same(await ca.operator.listDenials(), []);
  await ca.close();
  await (await start(place.dir)).close();
});

t.test('no second CA is made over the store of another', async (t) => {
  const place = await denyingCa(t);
  for (const name of readdirSync(place.dir)) if (name !== 'store.sqlite') rmSync(join(place.dir, name));
  await t.rejects(makeCa(t, { dir: place.dir }), {
    code: 'ca_exists',
    message: `${place.dir} already holds a CA: ${place.store} is there`,
  });
});

t.test('the commands end with 1 and say it', async (t) => {
  const { dir, store } = await denyingCa(t);
  rmSync(store);
  const [serve, ls] = await Promise.all([
    runSallyport(t, ['ca', 'serve', '--dir', dir, '--listen', '127.0.0.1:0']),
    runSallyport(t, ['ca', 'deny-list', '--dir', dir]),
  ]);
  for (const one of [serve, ls])
    t.match(one, { code: 1, stderr: `it is not there [store_missing]\nhint: ${unsafeHint}` });
  t.notOk(existsSync(store));
});
