// What denies an identity is on disk: the CA's store, the agent's deny list and bundle. A lost, truncated or foreign
// one is never treated as an empty one.

import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import t, { type Test } from 'tap';
import { createLog } from '../../cert-agent/base/log.ts';
import { type CaOptions, startCa } from '../../cert-agent/ca/main.ts';
import { openOperator } from '../../cert-agent/ca/operator/open.ts';
import { generationsIn, writeGeneration } from '../../cert-agent/identity/generation.ts';
import { type Agent, startAgent } from '../../cert-agent/main.ts';
import { makeCa, startTestCa } from '../fixtures/ca.ts';
import { type FakeCa, refusal, startFakeCa } from '../fixtures/fake-ca.ts';
import { type CapturedLog, captureLog } from '../fixtures/log-lines.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';
import { createAuthority, createSvid } from '../fixtures/pki.ts';
import { runSallyport, tempDir, until } from '../fixtures/process.ts';

const web = 'spiffe://demo.test/ns/shop/sa/web';
const log = createLog({ component: 'ca', level: 'silent' });
const start = (dir: string, options: Partial<CaOptions> = {}) =>
  startCa({ dir, listen: { host: '127.0.0.1', port: 0 }, log, ...options });

interface Place {
  readonly dir: string;
  readonly store: string;
}

async function makeDenyingCa(): Promise<string> {
  const dir = await makeCa(t);
  const { operator, close } = await openOperator({ dir });
  await operator.revoke(web, 'stolen', { force: true });
  await close();
  return dir;
}

const made = await makeDenyingCa();

/**
 * A CA of its own for each test, which has denied an identity and is stopped: copied, since making one takes a while.
 */
async function denyingCa(t: Test, from = made): Promise<Place> {
  const dir = join(tempDir(t), 'ca');
  cpSync(from, dir, { recursive: true });
  return { dir, store: join(dir, 'store.sqlite') };
}

const unsafeHint =
  'restore it from a backup; ca serve --unsafe-new-store creates a new one, which forgets every revocation';

t.test('a CA without its store does not start and refuses commands', async (t) => {
  const cases: [string, (place: Place) => void, string][] = [
    ['the store is gone', ({ store }) => rmSync(store), 'it does not exist'],
    ['the store was truncated to nothing', ({ store }) => truncateSync(store, 0), 'it is empty'],
    [
      'another program created a file of that name',
      ({ store }) => {
        rmSync(store);
        const db = new DatabaseSync(store);
        db.exec('CREATE TABLE notes (text TEXT)');
        db.close();
      },
      'it has no tables of ours',
    ],
    [
      'the deny list is gone',
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
        message: `the store of the CA is lost: cannot use ${place.store}: ${why}`,
        hint: unsafeHint,
      };
      await t.rejects(start(place.dir), error);
      await t.rejects(openOperator({ dir: place.dir }), error);
      t.equal(sizeOf(place.store), before, 'no store was created in its place');
    });
  }
});

function sizeOf(file: string): number | undefined {
  return statSync(file, { throwIfNoEntry: false })?.size;
}

t.test('a damaged store is not treated as an empty one', async (t) => {
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

t.test("another CA's store is refused and left unchanged", async (t) => {
  const [ours, theirs] = [await denyingCa(t), await denyingCa(t, await makeDenyingCa())];
  copyFileSync(theirs.store, ours.store);
  const error = { code: 'store_foreign', message: `${ours.store} is the store of another CA` };
  await t.rejects(start(ours.dir), error);
  await t.rejects(openOperator({ dir: ours.dir }), error);
  copyFileSync(ours.store, theirs.store);
  await (await start(theirs.dir)).close();
});

t.test('the log beside the store may be missing, and a store from a backup is accepted', async (t) => {
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

t.test('a store survives a change of roots while both are in the bundle', async (t) => {
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

t.test('a new store in place of a lost one must be requested once, and the log says what it forgets', async (t) => {
  const place = await denyingCa(t);
  await t.rejects(start(place.dir, { unsafeNewStore: true }), {
    code: 'usage',
    message: `a new store is created only if none is left, but ${place.store} exists`,
    hint: `leave out --unsafe-new-store; if ${place.store} is damaged, move it away first`,
  });
  rmSync(place.store);
  writeFileSync(`${place.store}-wal`, 'what may yet be put together');
  await t.rejects(start(place.dir, { unsafeNewStore: true }), {
    code: 'usage',
    message: /store\.sqlite-wal exists$/,
  });
  rmSync(`${place.store}-wal`);
  const ca = await startTestCa(t, { dir: place.dir, unsafeNewStore: true });
  t.match(ca.logged.join(''), /"code":"store_new".*revoked workloads can renew; revoke them again/);
  t.same(await ca.operator.listDenials(), []);
  await ca.close();
  await (await start(place.dir)).close();
});

t.test('no second CA is created over the store of another', async (t) => {
  const place = await denyingCa(t);
  for (const name of readdirSync(place.dir)) if (name !== 'store.sqlite') rmSync(join(place.dir, name));
  await t.rejects(makeCa(t, { dir: place.dir }), {
    code: 'ca_exists',
    message: `${place.dir} already contains a CA: ${place.store} exists`,
  });
});

t.test('the commands report it and exit with 2', async (t) => {
  const { dir, store } = await denyingCa(t);
  rmSync(store);
  const [serve, ls] = await Promise.all([
    runSallyport(t, ['ca', 'serve', '--dir', dir, '--listen', '127.0.0.1:0']),
    runSallyport(t, ['ca', 'deny-list', '--dir', dir]),
  ]);
  for (const one of [serve, ls])
    t.match(one, { code: 2, stderr: `it does not exist [store_missing]\nhint: ${unsafeHint}` });
  t.notOk(existsSync(store));
});

// -- the agent --------------------------------------------------------------------------------------------------------

const authority = await createAuthority('demo.test');
const denied = { sequence: 7, time: 7000, serials: new Set(['ab']), ids: new Set([`${web}-stolen`]) };

interface Held {
  readonly ca: FakeCa;
  readonly clock: ManualClock;
  readonly captured: CapturedLog;
  readonly outDir: string;
  /** About the SVID that an earlier run left, with its bundle and the deny list. */
  readonly serial: string;
  start(tokenFile?: string): Agent;
}

/** An agent's directory after a good run; there is no token any more, and the CA is down until it is started. */
async function heldSvid(t: Test): Promise<Held> {
  const clock = new ManualClock();
  const captured = captureLog();
  const ca = await startFakeCa(t, { authority, clock, away: true });
  ca.denied = denied;
  const dir = tempDir(t);
  const [outDir, caBundleFile] = [join(dir, 'out'), join(dir, 'root.pem')];
  writeFileSync(caBundleFile, authority.bundlePem);
  const svid = await createSvid(authority, web);
  writeGeneration(outDir, { svid, bundles: authority.bundles, denied });
  return {
    ...{ ca, clock, captured, outDir, serial: svid.serial },
    start(tokenFile) {
      const options = { caUrl: ca.url, caBundleFile, outDir, log: captured.log, clock, random: () => 0.5, tokenFile };
      const agent = startAgent(options);
      t.teardown(() => agent.close());
      return agent;
    },
  };
}

/** Ways in which a file is lost, with the message for it. */
const losses: Readonly<Record<string, (file: string) => void>> = {
  'truncated in the middle': (file) => truncateSync(file, Math.floor(statSync(file).size / 2)),
  empty: (file) => truncateSync(file, 0),
  gone: (file) => rmSync(file),
  unreadable(file) {
    rmSync(file);
    mkdirSync(file);
  },
};

const isWhole = (outDir: string): boolean =>
  ['denied.json', 'bundle.json'].every((name) => {
    JSON.parse(readFileSync(join(outDir, name), 'utf8'));
    return true;
  });

for (const name of ['denied.json', 'bundle.json', 'both'])
  for (const [how, lose] of Object.entries(losses))
    t.test(
      `an agent keeps its SVID when it starts with ${name} ${how}, and presents it when both are renewed`,
      async (t) => {
        const held = await heldSvid(t);
        const names = name === 'both' ? ['denied.json', 'bundle.json'] : [name];
        for (const one of names) lose(join(held.outDir, 'current', one));
        const agent = held.start();
        t.equal(
          agent.identity.current(),
          undefined,
          'no peer is checked against a deny list that may be shorter than the last',
        );
        const file = join(held.outDir, names[0]!);
        t.match(held.captured.withCode('generation_damaged'), [
          {
            level: 'error',
            msg: /the SVID is kept; nothing is served until the CA has sent bundle and deny list$/,
          },
        ]);
        t.ok(String(held.captured.withCode('generation_damaged')[0]?.['msg']).includes(file));
        t.match(agent.status(), { state: 'waiting', waitingFor: `bundle and deny list from the CA at ${held.ca.url}` });
        await until(() => agent.status().lastError, 'that the CA is away');
        await held.ca.start();
        held.clock.advance(20_000);
        await until(() => agent.identity.current(), 'bundle and deny list');
        t.equal(agent.identity.current()?.svid.serial, held.serial, 'the same SVID, without a token');
        t.ok(agent.identity.current()?.denied.serials.has('ab'));
        t.ok(isWhole(held.outDir));
        t.equal(held.ca.count('/v1/svid'), 0);
      },
    );

t.test('an agent whose bundle does not match its SVID keeps the SVID and asks the CA', async (t) => {
  const held = await heldSvid(t);
  const other = await createAuthority('demo.test');
  writeFileSync(
    join(held.outDir, 'bundle.json'),
    JSON.stringify({ keys: [{ use: 'x509-svid', x5c: [pemBody(other.bundlePem)] }] }),
  );
  await held.ca.start();
  const agent = held.start();
  t.equal(agent.identity.current(), undefined);
  await until(() => agent.identity.current(), 'the bundle');
  t.equal(agent.identity.current()?.svid.serial, held.serial);
});

const pemBody = (pem: string): string => pem.replace(/-----[^-]*-----|\s/g, '');

t.test('a damaged SVID is restored from the previous generation, and the unreadable file is set aside', async (t) => {
  for (const file of ['svid.pem', 'svid.key']) {
    const held = await heldSvid(t);
    writeGeneration(held.outDir, { svid: await createSvid(authority, web), bundles: authority.bundles, denied });
    truncateSync(join(held.outDir, file), 40);
    const agent = held.start();
    t.equal(agent.identity.current()?.svid.serial, held.serial, `${file}: the deny list is complete, so it is served`);
    t.match(held.captured.withCode('generation_damaged'), [{ msg: /the SVID is kept$/ }]);
    held.clock.advance(1000);
    t.equal(basename(generationsIn(held.outDir)[0]!), '3', 'the file is written again');
    await agent.close();

    for (const generation of generationsIn(held.outDir)) truncateSync(join(generation, file), 40);
    const lost = held.start();
    t.equal(lost.identity.current(), undefined);
    const aside = join(held.outDir, 'damaged', '3');
    t.match(held.captured.withCode('generation_unusable'), [{ msg: new RegExp(`; a copy is in ${aside}$`) }]);
    t.equal(statSync(join(aside, file)).size, 40);
    t.equal(statSync(join(aside, 'svid.key')).mode & 0o77, 0);
  }
});

t.test('a running agent rewrites damaged files, asks the CA, and presents the same SVID throughout', async (t) => {
  const held = await heldSvid(t);
  await held.ca.start();
  const agent = held.start();
  const shown = agent.identity.current();
  t.equal(shown?.svid.serial, held.serial);
  await until(() => agent.status().refreshedAt !== undefined, 'the first refresh');
  const changes: unknown[] = [];
  agent.identity.onChange((value) => changes.push(value));
  const ways: [string, (file: string) => void][] = [
    ...Object.entries(losses),
    [
      'emptied',
      (file) => writeFileSync(file, JSON.stringify({ sequence: 0, time: new Date(0), serials: [], ids: [] })),
    ],
  ];
  for (const name of ['denied.json', 'bundle.json', 'bundle.pem', 'svid.pem', 'svid.key'])
    for (const [how, lose] of ways) {
      const file = join(held.outDir, name);
      const before = readFileSync(file, 'utf8');
      const asked = held.ca.count('/v1/bundle');
      lose(join(held.outDir, 'current', name));
      held.clock.advance(1000);
      t.equal(readFileSync(file, 'utf8'), before, `${name} ${how}`);
      await until(() => held.ca.count('/v1/bundle') > asked, `${name} ${how}: a request to the CA`);
    }
  t.same(changes, []);
  t.match(held.captured.withCode('generation_damaged')[0]?.['msg'], /is damaged: .*; writing it again$/);
  writeFileSync(join(held.outDir, 'denied.json.new'), 'theirs');
  rmSync(join(held.outDir, 'denied.json'));
  mkdirSync(join(held.outDir, 'denied.json'));
  held.clock.advance(1000);
  t.ok(isWhole(held.outDir), 'a name that links elsewhere is corrected');
  t.ok(statSync(join(held.outDir, 'denied.json.before')).isDirectory(), 'the previous file is kept');
});

t.test('an agent whose SVID the CA no longer knows joins with a token', async (t) => {
  const held = await heldSvid(t);
  held.ca.onSvid = ({ body }, right) => (body.token === undefined ? refusal(403, 'svid_untrusted', 'not ours') : right);
  await held.ca.start();
  const tokenFile = join(held.outDir, 'token');
  writeFileSync(tokenFile, 'join-me', { mode: 0o600 });
  const agent = held.start(tokenFile);
  agent.renewNow();
  await until(() => agent.status().lastError, 'the refusal');
  t.equal(agent.identity.current()?.svid.serial, held.serial, 'meanwhile the agent serves its SVID');
  held.clock.advance(10_000);
  await until(() => agent.identity.current()?.svid.serial !== held.serial, 'another SVID');
  t.equal(held.ca.count('/v1/svid'), 1);
});
