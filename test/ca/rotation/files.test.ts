// Each step of a rotation, interrupted at each file that it moves: opening the directory finishes it.

import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { systemClock } from '../../../cert-agent/base/clock.ts';
import { openAuthority } from '../../../cert-agent/ca/authority.ts';
import { readCaCertificates } from '../../../cert-agent/ca/certificates.ts';
import { caFilesOf, rotationFilesOf } from '../../../cert-agent/ca/directory.ts';
import {
  activateFiles,
  cancelFiles,
  distributeFiles,
  finishStep,
  prepareFiles,
  previousTimes,
  readRootSigner,
  removeFiles,
} from '../../../cert-agent/ca/rotation/files.ts';
import { type RotationKind, readState, writeState } from '../../../cert-agent/ca/rotation/state.ts';
import { onlyBundle } from '../../../cert-agent/identity/bundle.ts';
import { emptyDenyList } from '../../../cert-agent/identity/denied.ts';
import { parseSpiffeId } from '../../../cert-agent/identity/spiffe-id.ts';
import { fingerprintOf, verifyChain } from '../../../cert-agent/identity/verify.ts';
import { makeCa, newKey } from '../../fixtures/ca.ts';
import { publicKeyOf } from '../../fixtures/pki.ts';
import { tempDir } from '../../fixtures/process.ts';

const passphrase = undefined;
const id = parseSpiffeId('spiffe://demo.test/ns/shop/sa/web');

async function prepared(t: Test, kind: RotationKind) {
  const dir = await makeCa(t);
  const root = readRootSigner(dir, undefined, passphrase);
  const options = { by: 'operator', root, passphrase, now: Date.now() } as const;
  return { dir, root, state: await prepareFiles(dir, kind, options) };
}

/** A leaf signed now, with its chain. */
async function leafFrom(dir: string): Promise<Buffer[]> {
  const authority = openAuthority(dir, passphrase, systemClock);
  const { certificate } = await authority.signLeaf(id, publicKeyOf((await newKey()).key), 600_000);
  return authority.chainOf(certificate).map((one) => Buffer.from(one));
}

const verify = (chain: Buffer[], dir: string) =>
  verifyChain(chain, onlyBundle(readCaCertificates(dir).bundle), emptyDenyList, Date.now());

t.test('a new issuer signs at once and verifies by the same root, and the old one stays for its leaves', async (t) => {
  const { dir, state } = await prepared(t, 'issuer');
  const old = await leafFrom(dir);
  const authority = openAuthority(dir, passphrase, systemClock);
  activateFiles(dir, state, 1234);
  authority.reload();
  t.equal(fingerprintOf(authority.above[0]!), state.newIssuer);
  t.equal(readState(dir), undefined, 'no workload blocks the step');
  t.strictSame(previousTimes(dir), [1234]);
  t.match(verify(await leafFrom(dir), dir), { id });
  t.strictSame(authority.chainOf(old[0]!), old, 'a leaf of the old issuer has its old chain');
  t.match(verify(old, dir), { id });
});

t.test('clients that only have the old root accept a new root until the old one is removed', async (t) => {
  const { dir, state } = await prepared(t, 'root');
  const { bundle: before } = readCaCertificates(dir);
  const old = await leafFrom(dir);
  const distributed = distributeFiles(dir, state);
  const both = readCaCertificates(dir).bundle;
  t.equal(both.roots.length, 2);
  t.equal(both.sequence, before.sequence + 1);
  t.strictSame(distributeFiles(dir, distributed), distributed, 'once');
  t.equal(readCaCertificates(dir).bundle.sequence, both.sequence);
  const draining = activateFiles(dir, distributed, 1234);
  const fresh = await leafFrom(dir);
  t.equal(fresh.length, 3, 'leaf, issuer, and the new root certified by the old one');
  for (const bundle of [before, both])
    t.match(verifyChain(fresh, onlyBundle(bundle), emptyDenyList, Date.now()), { id });
  t.match(verify(old, dir), { id }, 'certificates of the old root are good until it is removed');
  removeFiles(dir, draining);
  t.equal(readCaCertificates(dir).bundle.sequence, both.sequence + 1);
  t.throws(() => verify(old, dir), { code: 'svid_untrusted' });
  const last = await leafFrom(dir);
  t.equal(last.length, 2);
  t.match(verify(last, dir), { id });
  t.strictSame([previousTimes(dir), readState(dir)], [[], undefined]);
});

t.test('a cancelled rotation leaves everything unchanged, with a newer bundle', async (t) => {
  const { dir, state } = await prepared(t, 'root');
  const { bundle } = readCaCertificates(dir);
  cancelFiles(dir, distributeFiles(dir, state));
  const after = readCaCertificates(dir).bundle;
  t.strictSame(after.roots, bundle.roots);
  t.equal(after.sequence, bundle.sequence + 2, 'agents never accept an older bundle');
  t.equal(existsSync(rotationFilesOf(dir).next), false);
});

/** All files of a directory, with their contents. */
function contentOf(dir: string): Record<string, string> {
  const names = readdirSync(dir, { recursive: true, withFileTypes: true });
  return Object.fromEntries(
    names
      .filter((one) => one.isFile() && !/^(?:store\.sqlite|rotation\.json)/.test(one.name))
      .map((one) => join(one.parentPath, one.name))
      .map((path) => [path.slice(dir.length), readFileSync(path, 'latin1')]),
  );
}

for (const kind of ['issuer', 'root'] as const)
  t.test(
    `an activation of the ${kind} that is killed after any of its moves is completed at the next start`,
    async (t) => {
      const { dir, state: first } = await prepared(t, kind);
      const state = kind === 'root' ? distributeFiles(dir, first) : first;
      const copy = join(tempDir(t), 'copy');
      cpSync(dir, copy, { recursive: true });
      activateFiles(copy, state, 1234);
      const wanted = { ...contentOf(copy), state: readState(copy) };
      // The moves, in their order: old file away, new file in its place.
      const files = Object.values(caFilesOf(dir)).slice(0, 4) as string[];
      const moves: [string, string][] = [];
      for (const path of [...files, rotationFilesOf(dir).cross]) {
        const name = path.slice(dir.length + 1);
        const from = join(rotationFilesOf(dir).next, name);
        if (!existsSync(from)) continue;
        if (existsSync(path)) moves.push([path, join(rotationFilesOf(dir).previous, '1234', name)]);
        moves.push([from, path]);
      }
      t.ok(moves.length >= 4);
      for (let done = 0; done <= moves.length; done++) {
        const place = join(tempDir(t), `after-${done}`);
        cpSync(dir, place, { recursive: true });
        writeState(place, { ...state, step: 'activating', activatedAt: 1234 });
        mkdirSync(join(rotationFilesOf(place).previous, '1234'), { recursive: true });
        const at = (path: string): string => place + path.slice(dir.length);
        for (const [from, to] of moves.slice(0, done)) renameSync(at(from), at(to));
        finishStep(place);
        t.strictSame({ ...contentOf(place), state: readState(place) }, wanted, `after ${done} moves`);
        t.match(verify(await leafFrom(place), place), { id });
      }
    },
  );

t.test('a removal that is killed is completed at the next start', async (t) => {
  const { dir, state } = await prepared(t, 'root');
  const draining = activateFiles(dir, distributeFiles(dir, state), 1234);
  writeState(dir, { ...draining, step: 'removing' });
  rmSync(rotationFilesOf(dir).cross);
  finishStep(dir);
  t.equal(readCaCertificates(dir).bundle.roots.length, 1);
  t.strictSame([previousTimes(dir), readState(dir)], [[], undefined]);
});

t.test('a key or certificate that cannot sign is refused', async (t) => {
  const dir = await makeCa(t);
  const other = await makeCa(t);
  const { rootKey } = caFilesOf(dir);
  t.throws(() => readRootSigner(dir, caFilesOf(other).rootKey, passphrase), { code: 'key_mismatch' });
  rmSync(rootKey);
  t.throws(() => readRootSigner(dir, undefined, passphrase), { code: 'root_key_missing', hint: /--root-key/ });
});
