import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { onlyBundle } from '../../cert-agent/identity/bundle.ts';
import { emptyDenyList } from '../../cert-agent/identity/denied.ts';
import {
  dropPendingKey,
  pathsIn,
  pendingKey,
  stableNames,
  writeGeneration,
} from '../../cert-agent/identity/generation.ts';
import type { Identity } from '../../cert-agent/identity/identity.ts';
import { formatKey } from '../../cert-agent/identity/keys.ts';
import { parseIdentity, readIdentityTexts } from '../../cert-agent/identity/read.ts';
import { createAuthority, createSvid } from '../fixtures/pki.ts';
import { startProcess, tempDir } from '../fixtures/process.ts';

const authority = await createAuthority('demo.test');
const uri = 'spiffe://demo.test/ns/shop/sa/web';

async function makeIdentity(): Promise<Identity> {
  return { svid: await createSvid(authority, uri), bundles: onlyBundle(authority.bundle), denied: emptyDenyList };
}

t.test('a generation is a directory, and the stable names are links into it', async (t) => {
  const outDir = join(tempDir(t), 'made', 'by-us');
  const identity = await makeIdentity();
  writeGeneration(outDir, identity);
  t.equal(readlinkSync(join(outDir, 'current')), 'generations/1');
  for (const name of stableNames) t.equal(readlinkSync(join(outDir, name)), `current/${name}`);
  t.equal(readFileSync(join(outDir, 'svid.pem'), 'utf8'), identity.svid.chainPem);
  t.equal(JSON.parse(readFileSync(join(outDir, 'bundle.json'), 'utf8')).spiffe_sequence, 1);
  t.match(JSON.parse(readFileSync(join(outDir, 'denied.json'), 'utf8')), { sequence: 0, serials: [], ids: [] });
  t.match(readFileSync(join(outDir, 'bundle.pem'), 'utf8'), /BEGIN CERTIFICATE/);
});

t.test('directories are 0700 and files 0600, whatever the umask', async (t) => {
  const outDir = join(tempDir(t), 'out');
  const mask = process.umask(0);
  t.teardown(() => process.umask(mask));
  writeGeneration(outDir, await makeIdentity());
  pendingKey(outDir, undefined);
  const mode = (path: string): string => (statSync(path).mode & 0o777).toString(8);
  for (const path of ['', 'generations', 'generations/1'])
    t.equal(mode(join(outDir, path)), '700', path || 'the directory');
  for (const name of stableNames) t.equal(mode(join(outDir, name)), '600', name);
  t.equal(mode(join(outDir, 'pending.key')), '600');
});

t.test('the mode of an existing directory does not change', async (t) => {
  const outDir = join(tempDir(t), 'theirs');
  mkdirSync(outDir, { mode: 0o750 });
  writeGeneration(outDir, await makeIdentity());
  t.equal(statSync(outDir).mode & 0o777, 0o750);
});

t.test('the previous generation is kept, and older ones are removed', async (t) => {
  const outDir = tempDir(t);
  for (let i = 0; i < 4; i++) writeGeneration(outDir, await makeIdentity());
  t.same(readdirSync(join(outDir, 'generations')).sort(), ['3', '4']);
  t.equal(readlinkSync(join(outDir, 'current')), 'generations/4');
});

t.test('a half-written generation that a killed agent left is ignored', async (t) => {
  const outDir = tempDir(t);
  writeGeneration(outDir, await makeIdentity());
  mkdirSync(join(outDir, 'generations', '2'));
  writeFileSync(join(outDir, 'generations', '2', 'svid.pem'), 'half');
  const identity = await makeIdentity();
  writeGeneration(outDir, identity);
  t.same(readdirSync(join(outDir, 'generations')).sort(), ['1', '3']);
  t.equal(readFileSync(join(outDir, 'svid.pem'), 'utf8'), identity.svid.chainPem);
});

t.test('the pending key stays the same until it is part of a generation', async (t) => {
  const outDir = tempDir(t);
  const first = pendingKey(outDir, undefined);
  t.ok(existsSync(join(outDir, 'pending.key')), 'the key is on disk before it is used');
  t.ok(pendingKey(outDir, undefined).equals(first), 'the key is used again after a crash');
  const identity = await makeIdentity();
  writeFileSync(join(outDir, 'pending.key'), identity.svid.keyPem);
  t.notOk(
    formatKey(pendingKey(outDir, identity.svid)) === identity.svid.keyPem,
    'the key is never used again once it is certified',
  );
  writeFileSync(join(outDir, 'pending.key'), 'garbage');
  t.equal(pendingKey(outDir, undefined).type, 'private', 'garbage is replaced');
  dropPendingKey(outDir);
  t.notOk(existsSync(join(outDir, 'pending.key')));
});

t.test('a reader never sees two generations mixed during a write', async (t) => {
  const outDir = tempDir(t);
  const script = fileURLToPath(new URL('../fixtures/generation-writer.ts', import.meta.url));
  const writer = startProcess(t, process.execPath, [script, outDir]);
  await writer.waitFor(/writing/);
  const paths = pathsIn(outDir, 'demo.test');
  const seen = new Set<number>();
  const end = performance.now() + 20_000;
  let reads = 0;
  let mixed = 0;
  while (seen.size < 50 && performance.now() < end) {
    const read = readIdentityTexts(paths);
    if ('missing' in read) t.fail(`${read.missing} was missing`);
    else {
      // parseIdentity refuses a key that is not the certificate's.
      const { svid, bundles, denied } = parseIdentity(read.texts, paths);
      const { sequence } = bundles.get('demo.test')!;
      if (sequence !== denied.sequence || !denied.serials.has(svid.serial)) mixed += 1;
      seen.add(sequence);
      reads += 1;
    }
  }
  t.equal(mixed, 0);
  t.ok(seen.size >= 50, `${reads} reads saw ${seen.size} generations`);
  await writer.stop('SIGKILL');
  const left = readIdentityTexts(paths);
  t.ok('texts' in left && parseIdentity(left.texts, paths), 'after a kill -9 there is a complete generation');
});
