// `ca backup`: a directory with a consistent copy of a CA, running or stopped. It gets its name when it is complete and
// on disk, so that a kill -9 leaves no half backup under that name.

import { createHash, randomBytes } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, isAbsolute, join, relative, sep } from 'node:path';
import { type Clock, formatTime } from '../../base/clock.ts';
import { reasonOf, SallyportError } from '../../base/errors.ts';
import { makeDirectory, syncDirectory, syncFile } from '../../base/write.ts';
import { caFilesOf, rotationFilesOf } from '../directory.ts';
import type { LedgerEnd } from '../ledger/table.ts';
import type { Store } from '../store/store.ts';
import { hashOfFile, type Manifest, manifestFile, storeName } from './manifest.ts';

/** `roots` is called once for each backup, in lower-case hex. */
export interface BackupParts {
  readonly store: Store;
  /** The CA's directory, absolute. */
  readonly dir: string;
  readonly trustDomain: string;
  /** SHA-256 of the CA's roots. */
  readonly roots: () => readonly string[];
  readonly clock: Clock;
}

/** The backup on disk: its path, its files without the manifest, and the last record of the ledger in it. */
export interface MadeBackup {
  readonly out: string;
  readonly files: number;
  readonly bytes: number;
  readonly ledger: LedgerEnd;
}

/** Changes with each step of a rotation: store and files must be of the same. */
function stepOf(dir: string): string {
  const { bundle, intermediate } = caFilesOf(dir);
  const files = [rotationFilesOf(dir).state, bundle, intermediate];
  return files.map((file) => (existsSync(file) ? readFileSync(file, 'utf8') : '')).join('\0');
}

/** A CA's files are small. Whatever is larger does not belong into its directory. */
const mostBytes = 64 * 1_048_576;

/**
 * What is left out: the store, which is copied by itself; the ledger's last head, which may be newer than that copy; the
 * socket; what a restore set aside; temporary files.
 */
const leftOut = /^(?:store\.sqlite(?:-wal|-shm|-journal)?|ledger-head.*\.json|before-restore-.*|\..*)$/;

/**
 * Writes a backup to the new directory `out`, an absolute path. The keys stay as they are on disk.
 * @throws SallyportError `usage` when it cannot be there, `backup_failed`, `store_failed`.
 */
export async function createBackup(parts: BackupParts, out: string): Promise<MadeBackup> {
  checkPlace(parts.dir, out);
  const { store, clock } = parts;
  const now = clock.now();
  // On record first: a backup contains the keys.
  await store.appendLedger({ act: 'backup', caller: 'operator', answer: 'started', details: { out } }, now);
  const temporary = join(dirname(out), `.${basename(out)}.${randomBytes(6).toString('hex')}.tmp`);
  try {
    mkdirSync(temporary, { mode: 0o700 });
    const step = stepOf(parts.dir);
    const ledger = await copyStore(store, join(temporary, storeName));
    const files = copyFiles(parts.dir, temporary);
    if (stepOf(parts.dir) !== step)
      throw new SallyportError('backup_failed', 'issuer or root were rotated while the store was copied', {
        hint: 'try again',
      });
    const copied = join(temporary, storeName);
    files[storeName] = { sha256: await hashOfFile(copied), bytes: statSync(copied).size, mode: 0o600 };
    const { trustDomain, roots } = parts;
    const manifest: Manifest = { backup: 1, trustDomain, time: formatTime(now), roots: [...roots()], ledger, files };
    writeSynced(join(temporary, manifestFile), `${JSON.stringify(manifest, null, 2)}\n`, 0o600);
    syncDirectory(temporary);
    checkPlace(parts.dir, out);
    renameSync(temporary, out);
    syncDirectory(dirname(out));
    const bytes = Object.values(files).reduce((sum, one) => sum + one.bytes, 0);
    return { out, files: Object.keys(files).length, bytes, ledger };
  } catch (error) {
    rmSync(temporary, { recursive: true, force: true });
    if (error instanceof SallyportError && error.code !== 'store_failed') throw error;
    throw new SallyportError('backup_failed', `cannot write the backup ${out}: ${reasonOf(error)}`, {
      hint: 'is there room, and may the CA write there?',
      cause: error,
    });
  }
}

function checkPlace(dir: string, out: string): void {
  if (!isAbsolute(out)) throw new SallyportError('usage', `${out} is not an absolute path`);
  if (lstatSync(out, { throwIfNoEntry: false }) !== undefined)
    throw new SallyportError('usage', `${out} exists already`, { hint: 'give each backup a directory of its own' });
  if (!relative(dir, out).startsWith('..'))
    throw new SallyportError('usage', `${out} is inside of the CA's directory, and would be lost with it`, {
      hint: 'write it to another disk',
    });
}

async function copyStore(store: Store, file: string): Promise<LedgerEnd> {
  // SQLite would create it with the mode of the umask.
  closeSync(openSync(file, 'wx', 0o600));
  const end = await store.copyTo(file);
  syncFile(file);
  return end;
}

/**
 * Copies all other files of the directory. They are read in one turn, so that they are what a kill -9 would leave in
 * the midst of a rotation, which the next start completes.
 */
function copyFiles(from: string, to: string): Manifest['files'] {
  const files: Manifest['files'] = {};
  const read = filesIn(from).map((name) => ({ name, data: readFileSync(join(from, name)), mode: modeOf(from, name) }));
  for (const { name, data, mode } of read) {
    const folder = dirname(join(to, name));
    if (folder !== to) makeDirectory(folder);
    writeSynced(join(to, name), data, mode);
    files[name] = { sha256: createHash('sha256').update(data).digest('hex'), bytes: data.length, mode };
  }
  for (const folder of new Set(read.map(({ name }) => dirname(join(to, name))))) syncDirectory(folder);
  return files;
}

function filesIn(dir: string): string[] {
  let bytes = 0;
  const entries = readdirSync(dir, { withFileTypes: true, recursive: true });
  return entries.flatMap((entry) => {
    const name = relative(dir, join(entry.parentPath, entry.name));
    if (!entry.isFile() || name.split(sep).some((part) => leftOut.test(part))) return [];
    bytes += statSync(join(dir, name)).size;
    if (bytes > mostBytes)
      throw new SallyportError('backup_failed', `${dir} contains more than a CA does, such as ${name}`, {
        hint: 'move what does not belong to the CA elsewhere',
      });
    return [name];
  });
}

function modeOf(dir: string, name: string): number {
  return statSync(join(dir, name)).mode & 0o777;
}

function writeSynced(file: string, data: string | Uint8Array, mode: number): void {
  const opened = openSync(file, 'wx', mode);
  try {
    writeFileSync(opened, data);
    fsyncSync(opened);
  } finally {
    closeSync(opened);
  }
}
