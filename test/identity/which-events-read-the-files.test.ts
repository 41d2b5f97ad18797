// A directory of identity files often contains others, such as an access log with an event for each line. Only events
// that may change the identity cause a reading.

import { appendFileSync, mkdirSync, renameSync, symlinkSync, type WatchListener, watch, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { WatchedNames } from '../../cert-agent/base/watched-names.ts';
import { watchIdentityFiles } from '../../cert-agent/identity/files.ts';
import { captureLog } from '../fixtures/log-lines.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';
import { createAuthority, createCredential } from '../fixtures/pki.ts';
import { tempDir, until } from '../fixtures/process.ts';

const authority = await createAuthority('demo.test');

/** Each reading asks for the time once; nothing else does while this clock stands still. */
class CountingClock extends ManualClock {
  asked = 0;

  override now(): number {
    this.asked++;
    return super.now();
  }
}

/** Writes a set of files to a directory and returns its chain. */
async function writeSet(directory: string): Promise<string> {
  const { chainPem, keyPem } = await createCredential(authority, 'spiffe://demo.test/ns/shop/sa/web');
  writeFileSync(join(directory, 'svid.key'), keyPem, { mode: 0o600 });
  writeFileSync(join(directory, 'svid.pem'), chainPem);
  writeFileSync(join(directory, 'bundle.pem'), authority.bundlePem);
  return chainPem;
}

interface Watched {
  readonly clock: CountingClock;
  chain(): string | undefined;
  /** Runs `change`, and returns after its event for `name` was delivered to all watchers and handled. */
  after(name: string, change: () => void): Promise<void>;
}

/** Watches the files of a directory by events alone: the clock stands still. */
function follow(t: Test, directory: string): Watched {
  const clock = new CountingClock();
  const at = (name: string): string => join(directory, name);
  const paths = { svid: at('svid.pem'), key: at('svid.key'), bundle: at('bundle.pem'), trustDomain: 'demo.test' };
  const files = watchIdentityFiles(paths, { log: captureLog().log, clock });
  t.teardown(() => files.close());
  return {
    clock,
    chain: () => files.identity.current()?.svid.chainPem,
    async after(name, change) {
      const { promise, resolve } = Promise.withResolvers<void>();
      const listener: WatchListener<string> = (_event, seen) => seen === name && resolve();
      const own = watch(directory, listener);
      change();
      await promise;
      own.close();
      // An event is handled in the turn after it.
      await turn();
      await turn();
    },
  };
}

t.test('a file that is written beside the identity causes no reload', async (t) => {
  const directory = tempDir(t);
  const chain = await writeSet(directory);
  const log = join(directory, 'access.log');
  writeFileSync(log, '');
  const watched = follow(t, directory);
  t.equal(watched.chain(), chain);
  const { asked } = watched.clock;
  for (let line = 0; line < 5; line++) await watched.after('access.log', () => appendFileSync(log, `line ${line}\n`));
  await watched.after('access.log.1', () => renameSync(log, `${log}.1`));
  t.equal(watched.clock.asked, asked, 'neither a line nor a rotation of the log');
  const next = await writeSet(directory);
  await until(() => watched.chain() === next, 'the next identity');
  t.ok(watched.clock.asked > asked);
});

t.test('files that are written in place are read', async (t) => {
  const directory = tempDir(t);
  await writeSet(directory);
  const watched = follow(t, directory);
  const next = await writeSet(directory);
  await until(() => watched.chain() === next, 'the next identity');
});

t.test('files that are renamed over the old ones are read, as editors and agents write them', async (t) => {
  const directory = tempDir(t);
  const beside = tempDir(t);
  await writeSet(directory);
  const watched = follow(t, directory);
  const next = await writeSet(beside);
  for (const name of ['svid.key', 'svid.pem', 'bundle.pem']) {
    const temporary = join(directory, `.${name}.tmp`);
    renameSync(join(beside, name), temporary);
    renameSync(temporary, join(directory, name));
  }
  await until(() => watched.chain() === next, 'the next identity');
});

t.test("a Kubernetes volume is read when '..data' is switched, whose event names no identity file", async (t) => {
  const directory = tempDir(t);
  const write = async (version: string): Promise<string> => {
    mkdirSync(join(directory, version));
    const chain = await writeSet(join(directory, version));
    symlinkSync(version, join(directory, '..data_tmp'));
    renameSync(join(directory, '..data_tmp'), join(directory, '..data'));
    return chain;
  };
  const first = await write('..2026_1');
  for (const name of ['svid.key', 'svid.pem', 'bundle.pem']) symlinkSync(`..data/${name}`, join(directory, name));
  const watched = follow(t, directory);
  t.equal(watched.chain(), first);
  for (const version of ['..2026_2', '..2026_3']) {
    const next = await write(version);
    await until(() => watched.chain() === next, version);
  }
  const { asked } = watched.clock;
  await watched.after('notes', () => writeFileSync(join(directory, 'notes'), ''));
  t.equal(watched.clock.asked, asked, 'a file beside the links causes none');
});

t.test('which names of events count', async (t) => {
  const directory = tempDir(t);
  const at = (name: string): string => join(directory, name);
  mkdirSync(at('..1'));
  symlinkSync('..1', at('..data'));
  symlinkSync('..data/svid.pem', at('svid.pem'));
  symlinkSync(at('ring'), at('ring'));
  const names = new WatchedNames([at('svid.pem'), at('Köln.pem')]);
  t.ok(names.concerns('access.log'), 'before the first refresh every name counts');
  names.refresh();
  for (const name of ['svid.pem', '..data', '..1', 'Köln.pem']) t.ok(names.concerns(name), `${name} is on the way`);
  for (const name of ['..data_tmp', 'access.log', 'svid.pem.tmp', '..2'])
    t.notOk(names.concerns(name), `${name} is not`);
  t.ok(names.concerns(directory.split('/').at(-1)!), 'the directory itself, when it is moved or removed');
  t.ok(names.concerns('SVID.PEM'), 'in another case');
  t.ok(names.concerns('Köln.pem'.normalize('NFD')), 'with a decomposed accent');
  t.ok(names.concerns(null), 'a platform that reports no names');
  t.ok(names.concerns('\ufffd'), 'a name that is not UTF-8');
  const ring = new WatchedNames([at('ring')]);
  ring.refresh();
  t.ok(ring.concerns('access.log'), 'a loop of links: the names are unknown');
});
