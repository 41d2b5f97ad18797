import { mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { formatTime } from '../../cert-agent/base/clock.ts';
import { onlyBundle } from '../../cert-agent/identity/bundle.ts';
import { emptyDenyList, formatDenyList } from '../../cert-agent/identity/denied.ts';
import { type IdentityWatch, watchIdentityFiles } from '../../cert-agent/identity/files.ts';
import { pathsIn, writeGeneration } from '../../cert-agent/identity/generation.ts';
import type { IdentityPaths } from '../../cert-agent/identity/identity.ts';
import { readBundleFile, readIdentityTexts } from '../../cert-agent/identity/read.ts';
import { type CapturedLog, captureLog } from '../fixtures/log-lines.ts';
import { ManualClock } from '../fixtures/manual-clock.ts';
import { createAuthority, createCredential, createSvid } from '../fixtures/pki.ts';
import { tempDir, until } from '../fixtures/process.ts';

const authority = await createAuthority('demo.test');
const uri = 'spiffe://demo.test/ns/shop/sa/web';

interface World {
  readonly directory: string;
  readonly paths: IdentityPaths;
  readonly clock: ManualClock;
  readonly captured: CapturedLog;
  open(paths?: Partial<IdentityPaths>): IdentityWatch;
}

function createWorld(t: Test): World {
  const directory = tempDir(t);
  const clock = new ManualClock();
  const captured = captureLog();
  const paths = {
    svid: join(directory, 'svid.pem'),
    key: join(directory, 'svid.key'),
    bundle: join(directory, 'bundle.pem'),
    trustDomain: 'demo.test',
  };
  return {
    directory,
    paths,
    clock,
    captured,
    open(changes = {}) {
      const watched = watchIdentityFiles({ ...paths, ...changes }, { log: captured.log, clock });
      t.teardown(() => watched.close());
      return watched;
    },
  };
}

async function writeFlat(world: World, changes: Parameters<typeof createCredential>[2] = {}): Promise<string> {
  const { chainPem, keyPem } = await createCredential(authority, uri, changes);
  writeFileSync(world.paths.svid, chainPem);
  writeFileSync(world.paths.key, keyPem);
  writeFileSync(world.paths.bundle, authority.bundlePem);
  return chainPem;
}

t.test('an SVID of our own on the deny list is reported by the log and the status', async (t) => {
  for (const by of ['serial', 'id'] as const) {
    const world = createWorld(t);
    await writeFlat(world);
    const denied = join(world.directory, 'denied.json');
    const write = (list: { serials?: string[]; ids?: string[] }): void =>
      writeFileSync(
        denied,
        JSON.stringify({ sequence: 1, time: formatTime(world.clock.now()), serials: [], ids: [], ...list }),
      );
    write({ serials: ['0a'], ids: ['spiffe://demo.test/other'] });
    const files = world.open({ denied });
    t.equal(files.waitingFor(), undefined, 'other subscribers are called');
    const serial = files.identity.current()?.svid.serial ?? '';
    write(by === 'serial' ? { serials: [serial.toUpperCase()] } : { ids: [uri] });
    files.reload();
    t.equal(files.waitingFor(), `another SVID: the ${by} of ${uri} is on the deny list ${denied}`);
    t.not(files.identity.current(), undefined, 'the SVID is still presented, and peers refuse it');
    await writeFlat(world);
    files.reload();
    t.equal(
      files.waitingFor() === undefined,
      by === 'serial',
      'a new certificate is enough where only the old one is denied',
    );
    write({});
    files.reload();
    t.equal(files.waitingFor(), undefined);
  }
});

t.test('the first read is immediate', async (t) => {
  const world = createWorld(t);
  const chainPem = await writeFlat(world);
  const files = world.open();
  const identity = files.identity.current();
  t.equal(identity?.svid.chainPem, chainPem);
  t.equal(identity?.bundles.get('demo.test')?.roots.length, 1);
  t.equal(identity?.denied, emptyDenyList, 'without a deny list no peer is denied');
  t.equal(files.waitingFor(), undefined);
  t.equal(files.failures(), 0);
  t.ok(Object.isFrozen(identity));
});

t.test('waits for each missing file by name and logs it once', async (t) => {
  const world = createWorld(t);
  const denied = join(world.directory, 'denied.json');
  const files = world.open({ denied });
  t.equal(files.waitingFor(), world.paths.svid);
  world.clock.advance(10_000);
  t.equal(world.captured.withCode('waiting').length, 1);
  t.equal(world.captured.withCode('waiting')[0]?.msg, `waiting for ${world.paths.svid}`);
  await writeFlat(world);
  world.clock.advance(1000);
  t.equal(files.waitingFor(), denied, 'a configured deny list is required');
  t.equal(files.identity.current(), undefined);
  writeFileSync(denied, JSON.stringify(formatDenyList({ ...emptyDenyList, sequence: 3 })));
  world.clock.advance(1000);
  t.equal(files.identity.current()?.denied.sequence, 3);
  t.equal(files.failures(), 0, 'waiting is not a failure');
});

t.test('an event in the directory triggers a read without the clock', async (t) => {
  const world = createWorld(t);
  writeGeneration(world.directory, {
    svid: await createSvid(authority, uri),
    bundles: onlyBundle(authority.bundle),
    denied: emptyDenyList,
  });
  const files = world.open(pathsIn(world.directory, 'demo.test'));
  const first = files.identity.current();
  t.ok(first);
  const svid = await createSvid(authority, uri);
  writeGeneration(world.directory, { svid, bundles: onlyBundle(authority.bundle), denied: emptyDenyList });
  await until(() => files.identity.current()?.svid.serial === svid.serial, 'the next generation');
});

t.test('a half-written rotation by another writer is not an error', async (t) => {
  const world = createWorld(t);
  await writeFlat(world);
  const files = world.open();
  const first = files.identity.current();
  // Like spire-agent and spiffe-helper: one file after the other, or removed and created again.
  const { chainPem, keyPem } = await createCredential(authority, uri);
  writeFileSync(world.paths.svid, chainPem);
  files.reload();
  t.equal(files.identity.current(), first, 'the half-written set is not used');
  rmSync(world.paths.key);
  files.reload();
  t.equal(files.identity.current(), first, 'the last good one stays');
  world.clock.advance(900);
  writeFileSync(world.paths.key, keyPem);
  files.reload();
  t.equal(files.identity.current()?.svid.chainPem, chainPem);
  t.equal(files.failures(), 0, 'nothing failed');
  t.equal(world.captured.withCode('waiting').length, 0);
  t.strictSame(
    world.captured.lines.filter(
      ({ level, code }) => level === 'error' || (level === 'warn' && code !== 'secret_exposed'),
    ),
    [],
    'nothing is logged',
  );
  // The next one stays broken.
  writeFileSync(world.paths.svid, (await createCredential(authority, uri)).chainPem);
  world.clock.advance(1000);
  world.clock.advance(1000);
  t.equal(files.lastProblem()?.code, 'key_mismatch');
  t.equal(files.failures(), 1);
});

t.test('without any event, the content is compared every second', async (t) => {
  const world = createWorld(t);
  await writeFlat(world);
  const files = world.open();
  const first = files.identity.current();
  const second = await writeFlat(world);
  world.clock.advance(1000);
  t.not(files.identity.current(), first);
  t.equal(files.identity.current()?.svid.chainPem, second);
  const kept = files.identity.current();
  world.clock.advance(60_000);
  t.equal(files.identity.current(), kept, 'unchanged content does not become a new value');
});

t.test('a broken set keeps the last good generation; it is counted, logged once and shown in the status', async (t) => {
  const cases = [
    {
      name: 'the key of another certificate',
      breakIt: async (world: World) => writeFileSync(world.paths.key, (await createCredential(authority, uri)).keyPem),
      code: 'key_mismatch',
      message: (world: World) =>
        `the key in ${world.paths.key} does not belong to the certificate in ${world.paths.svid}`,
    },
    {
      name: 'an empty bundle',
      breakIt: async (world: World) => writeFileSync(world.paths.bundle, '{"keys":[]}'),
      code: 'bundle_empty',
      message: (world: World) =>
        `${world.paths.bundle} contains no certificate, so no peer of demo.test can be verified`,
    },
    {
      name: 'garbage for a certificate',
      breakIt: async (world: World) => writeFileSync(world.paths.svid, 'garbage'),
      code: 'certificate_unreadable',
      message: (world: World) => `${world.paths.svid} contains no certificate`,
    },
    {
      name: 'a directory for a key',
      breakIt: async (world: World) => {
        rmSync(world.paths.key);
        mkdirSync(world.paths.key);
      },
      code: 'config_unreadable',
      message: (world: World) => `${world.paths.key} cannot be read: EISDIR`,
    },
  ];
  for (const { name, breakIt, code, message } of cases) {
    t.test(name, async (t) => {
      const world = createWorld(t);
      await writeFlat(world);
      const reported: string[] = [];
      const files = watchIdentityFiles(world.paths, {
        log: world.captured.log,
        clock: world.clock,
        onProblem: (error) => reported.push(error.code),
      });
      t.teardown(() => files.close());
      const good = files.identity.current();
      await breakIt(world);
      world.clock.advance(5000);
      t.equal(files.identity.current(), good);
      t.equal(files.failures(), 1);
      t.match(files.lastProblem(), { code, message: message(world) });
      t.same(reported, [code]);
      t.equal(files.waitingFor(), undefined, 'the last identity is in use');
      rmSync(world.paths.key, { recursive: true });
      const healed = await writeFlat(world);
      world.clock.advance(1000);
      t.equal(files.identity.current()?.svid.chainPem, healed);
      t.equal(files.lastProblem(), undefined);
    });
  }
});

t.test('when a file disappears, the last identity stays in use', async (t) => {
  const world = createWorld(t);
  await writeFlat(world);
  const files = world.open();
  rmSync(world.paths.svid);
  world.clock.advance(3000);
  t.ok(files.identity.current());
  t.match(world.captured.withCode('waiting'), [
    { msg: `${world.paths.svid} is missing; the last identity stays in use until it expires` },
  ]);
});

t.test('an SVID of another trust domain is refused', async (t) => {
  const world = createWorld(t);
  await writeFlat(world);
  const files = world.open({ trustDomain: 'other.test' });
  t.equal(files.identity.current(), undefined);
  t.match(files.lastProblem(), {
    code: 'svid_invalid',
    message: `the SVID in ${world.paths.svid} is ${uri}, but the configured trust domain is other.test`,
  });
  t.equal(files.waitingFor(), `a valid identity in ${world.paths.svid}`);
});

t.test('an expired SVID is reported and not used', async (t) => {
  const world = createWorld(t);
  const notAfter = world.clock.now() - 600_000;
  await writeFlat(world, { notBefore: notAfter - 600_000, notAfter });
  const files = world.open();
  t.equal(files.identity.current(), undefined);
  t.match(files.lastProblem(), {
    code: 'svid_expired',
    message: `the SVID in ${world.paths.svid} expired at ${formatTime(notAfter)}; now it is ${formatTime(world.clock.now())}`,
  });
  world.clock.advance(30_000);
  t.equal(files.failures(), 1, 'the expiry is not counted each second');
});

t.test('an SVID that expires is withdrawn at once, and a successor is published', async (t) => {
  const world = createWorld(t);
  const notAfter = world.clock.now() + 90_000;
  await writeFlat(world, { notAfter });
  const files = world.open();
  const seen: boolean[] = [];
  files.identity.onChange((identity) => seen.push(identity !== undefined));
  world.clock.advance(90_000);
  t.ok(files.identity.current(), 'valid until its last millisecond');
  world.clock.advance(1);
  t.equal(files.identity.current(), undefined, 'fails closed');
  t.match(files.lastProblem(), { code: 'svid_expired' });
  await writeFlat(world);
  world.clock.advance(1000);
  t.ok(files.identity.current());
  t.same(seen, [false, true]);
});

t.test('an SVID from the future is used once it is valid', async (t) => {
  const world = createWorld(t);
  await writeFlat(world, { notBefore: world.clock.now() + 60_000 });
  const files = world.open();
  t.match(files.lastProblem(), { code: 'svid_not_yet_valid', message: /off by 1m: clock skew\?$/ });
  world.clock.advance(60_000);
  t.ok(files.identity.current());
});

t.test('reload reads even if nothing changed', async (t) => {
  const world = createWorld(t);
  await writeFlat(world);
  const files = world.open();
  const first = files.identity.current();
  files.reload();
  t.not(files.identity.current(), first);
  t.equal(files.identity.current()?.svid.serial, first?.svid.serial);
});

t.test('the layout of a Kubernetes volume is also read through its link', async (t) => {
  const world = createWorld(t);
  const at = (...parts: string[]): string => join(world.directory, ...parts);
  const write = async (version: string): Promise<string> => {
    const { chainPem, keyPem } = await createCredential(authority, uri);
    mkdirSync(at(version));
    writeFileSync(at(version, 'svid.pem'), chainPem);
    writeFileSync(at(version, 'svid.key'), keyPem);
    writeFileSync(at(version, 'bundle.pem'), authority.bundlePem);
    symlinkSync(version, at('..data_tmp'));
    renameSync(at('..data_tmp'), at('..data'));
    return chainPem;
  };
  const first = await write('..1');
  for (const name of ['svid.pem', 'svid.key', 'bundle.pem']) symlinkSync(`..data/${name}`, at(name));
  const files = world.open();
  t.equal(files.identity.current()?.svid.chainPem, first);
  const second = await write('..2');
  rmSync(at('..1'), { recursive: true });
  world.clock.advance(1000);
  t.equal(files.identity.current()?.svid.chainPem, second);
});

t.test('a loop of links is an error', async (t) => {
  const world = createWorld(t);
  symlinkSync('svid.pem', world.paths.svid);
  t.throws(() => readIdentityTexts(world.paths), {
    code: 'config_unreadable',
    message: `${world.paths.svid} goes through more than 16 links`,
  });
});

t.test('a bundle file determines its trust domain', async (t) => {
  const world = createWorld(t);
  const file = world.paths.bundle;
  writeFileSync(file, authority.bundlePem);
  t.equal(readBundleFile(file).trustDomain, 'demo.test');
  t.equal(readBundleFile(file, 'demo.test').trustDomain, 'demo.test');
  t.throws(() => readBundleFile(file, 'other.test'), {
    code: 'config_invalid',
    message: `${file} contains a root of demo.test, not of other.test`,
  });
  writeFileSync(file, authority.bundlePem + (await createAuthority('other.test')).bundlePem);
  t.throws(() => readBundleFile(file), {
    code: 'config_invalid',
    message: `${file} contains several trust domains (demo.test, other.test)`,
    hint: 'set the trust domain with --trust-domain',
  });
});
