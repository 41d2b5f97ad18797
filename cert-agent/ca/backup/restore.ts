// `ca restore`: puts a backup into the directory of a CA. A restored CA has forgotten what happened since, revocations
// too. So it refuses to go back behind a ledger that agents have seen, unless forced, and leaves a record of what is
// lost.

import { randomBytes } from 'node:crypto';
import { chmodSync, copyFileSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { type Clock, formatTime } from '../../base/clock.ts';
import { reasonOf, SallyportError } from '../../base/errors.ts';
import { makeDirectory, syncDirectory, syncFile } from '../../base/write.ts';
import { readPemBlocks } from '../../identity/bundle.ts';
import { fingerprintOf } from '../../identity/verify.ts';
import { readRootFingerprints } from '../certificates.ts';
import { caFilesOf, readCaFile, socketFileOf, storeFileOf } from '../directory.ts';
import { readLastHead, writeLastHead } from '../ledger/last-head.ts';
import type { LedgerEnd } from '../ledger/table.ts';
import type { SeenHead } from '../ledger/verify.ts';
import { whenFree } from '../operator/open.ts';
import { answersAt } from '../operator/socket.ts';
import { held, openSqliteStore } from '../store/sqlite.ts';
import type { Store } from '../store/store.ts';
import { type Manifest, readBackup, storeName } from './manifest.ts';

/** Without `seen`, only the directory itself tells how far the ledger had come. */
export interface RestoreOptions {
  /** The backup. */
  readonly from: string;
  /** The CA's directory, absolute. It is created if necessary. */
  readonly dir: string;
  /** Ends of the ledger that others saw. */
  readonly seen?: readonly SeenHead[];
  /** Goes back behind the end of a ledger. */
  readonly force?: boolean;
  readonly clock: Clock;
}

/** What was restored, and what is known to be forgotten with it. */
export interface RestoredCa {
  readonly trustDomain: string;
  /** When the backup was made, RFC 3339. */
  readonly backupTime: string;
  /** The end of the ledger in the backup. */
  readonly ledger: LedgerEnd;
  /** Records that are known to be lost. */
  readonly lost?: { readonly from: number; readonly to: number };
  /** True if nothing told how far the ledger had come. */
  readonly unknown: boolean;
  /** Where the files of before are. */
  readonly aside?: string;
}

/**
 * @throws SallyportError `backup_invalid`, `ca_exists` when the directory is not this CA's, `ca_running`, and
 * `ledger_behind` when the backup is older than what was seen.
 */
export async function restoreCa(options: RestoreOptions): Promise<RestoredCa> {
  const { from, dir, clock, force = false, seen = [] } = options;
  const manifest = await readBackup(from);
  const isEmpty = !existsSync(dir) || readdirSync(dir).every((name) => staged.test(name));
  if (await answersAt(socketFileOf(dir))) throw held(storeFileOf(dir));
  // A restore that was killed after it had set the CA's files aside left them there.
  const interrupted = isEmpty ? undefined : interruptedIn(dir);
  const places = isEmpty ? [] : [dir, ...(interrupted === undefined ? [] : [interrupted])];
  const targets: Target[] = [];
  for (const place of places) targets.push(await readTarget(place, manifest));
  if (!isEmpty) checkOwn(dir, places, manifest, targets);
  const known = targets.flatMap(({ ends = [] }) => ends);
  const why = targets.find((one) => one.why !== undefined)?.why;
  const ends = [...seen, ...known];
  if (why !== undefined && ends.length === 0 && !force)
    throw new SallyportError('ledger_behind', `it is not known how far the ledger in ${dir} had come: ${why}`, {
      hint: "give an agent's ledger-head.json with --seen, or --force to accept that revocations may be forgotten",
    });
  makeDirectory(dir);
  if (isEmpty) chmodSync(dir, 0o700);
  for (const name of readdirSync(dir)) if (staged.test(name)) rmSync(join(dir, name), { recursive: true, force: true });
  const staging = join(dir, `.restore.${randomBytes(6).toString('hex')}.tmp`);
  try {
    stage(manifest, from, staging);
    const lost = await record(staging, manifest, ends, { force, now: clock.now() });
    const aside = isEmpty ? undefined : setAside(dir, interrupted, clock.now());
    moveIn(staging, dir);
    return {
      ...{ trustDomain: manifest.trustDomain, backupTime: manifest.time, ledger: manifest.ledger },
      ...(lost === undefined ? {} : { lost }),
      unknown: ends.length === 0,
      ...(aside === undefined ? {} : { aside }),
    };
  } finally {
    rmSync(staging, { recursive: true, force: true });
    if (isEmpty && readdirSync(dir).length === 0) rmSync(dir, { recursive: true });
  }
}

/**
 * @throws SallyportError `ca_exists` unless the directory has a root of the backup's CA or, where the root was rotated
 * since, the backup's last record in its ledger.
 */
function checkOwn(
  dir: string,
  places: readonly string[],
  { roots, trustDomain }: Manifest,
  targets: readonly Target[],
): void {
  if (targets.some(({ isSame }) => isSame === true)) return;
  if (places.some((place) => rootsIn(place).some((root) => roots.includes(root)))) return;
  throw new SallyportError('ca_exists', `${dir} is not empty, and not the directory of this CA of ${trustDomain}`, {
    hint: 'restore into a new directory',
  });
}

/** SHA-256 of the roots in the directory, as far as its files can be read. */
function rootsIn(dir: string): readonly string[] {
  const files = caFilesOf(dir);
  const tries = [
    () => readRootFingerprints(dir),
    ...[files.root, files.bundlePem].map((file) => () => readPemBlocks(readCaFile(dir, file), file).map(fingerprintOf)),
  ];
  return tries.flatMap((read) => {
    try {
      return read();
    } catch {
      return [];
    }
  });
}

/** What the target's store says; nothing if there is none. */
interface Target {
  /** The end of its ledger, and the last head that it signed: one is missing in the other if the store was edited. */
  readonly ends?: readonly SeenHead[];
  /** Why the end is not known. */
  readonly why?: string;
  /** Its ledger has the last record of the backup's. */
  readonly isSame?: boolean;
}

async function readTarget(dir: string, { roots, ledger }: Manifest): Promise<Target> {
  const file = storeFileOf(dir);
  const signed = lastHeadIn(dir);
  if (!existsSync(file) && !existsSync(`${file}-wal`)) return signed;
  try {
    const all = [...new Set([...rootsIn(dir), ...roots])];
    const store = await whenFree(
      () => openSqliteStore(file, all),
      async () => undefined,
    );
    const end = await store.ledgerEnd();
    const [record] = await store.readLedger(ledger.sequence, 1);
    await store.close();
    const isSame = record?.sequence === ledger.sequence && record.hash === ledger.hash;
    return { isSame, ends: [...(end.sequence === 0 ? [] : [end]), ...(signed.ends ?? [])] };
  } catch (error) {
    if (error instanceof SallyportError && error.code === 'ca_running') throw error;
    return { ...signed, why: reasonOf(error) };
  }
}

function lastHeadIn(dir: string): Target {
  try {
    const head = readLastHead(dir);
    return head === undefined ? {} : { ends: [head] };
  } catch (error) {
    return { why: reasonOf(error) };
  }
}

/** What an interrupted restore was about to move in. */
const staged = /^\.restore\..*\.tmp$/;

/**
 * Where an interrupted restore has set files aside; undefined if none was interrupted. The bundle is the first that goes
 * and the last that comes.
 */
function interruptedIn(dir: string): string | undefined {
  if (existsSync(caFilesOf(dir).bundle)) return undefined;
  const newest = readdirSync(dir)
    .filter((name) => name.startsWith('before-restore-'))
    .toSorted()
    .at(-1);
  return newest === undefined ? undefined : join(dir, newest);
}

function stage({ files }: Manifest, from: string, staging: string): void {
  mkdirSync(staging, { mode: 0o700 });
  for (const [name, { mode }] of Object.entries(files)) {
    const to = join(staging, name);
    makeDirectory(dirname(to));
    copyFileSync(join(from, name), to);
    chmodSync(to, mode);
    syncFile(to);
    syncDirectory(dirname(to));
  }
}

interface Terms {
  readonly force: boolean;
  /** Milliseconds since 1970. */
  readonly now: number;
}

/** Compares the ledger of the backup with what was seen, and records the restore in it. Returns what is lost. */
async function record(
  staging: string,
  { roots, ledger, time }: Manifest,
  seen: readonly SeenHead[],
  { force, now }: Terms,
): Promise<RestoredCa['lost']> {
  const store = await openSqliteStore(join(staging, storeName), roots);
  try {
    const end = await store.ledgerEnd();
    if (end.sequence !== ledger.sequence || end.hash !== ledger.hash)
      throw new SallyportError('backup_invalid', 'the ledger of the backup does not end where its manifest says');
    const why = await whyBehind(store, end, seen);
    if (why !== undefined && !force) throw behind(why, time);
    const last = Math.max(0, ...seen.map(({ sequence }) => sequence));
    const lost = last > end.sequence ? { from: end.sequence + 1, to: last } : undefined;
    const details = {
      backupTime: time,
      backupEnd: end.sequence,
      ...(lost === undefined ? {} : { lostFrom: lost.from, lostTo: lost.to }),
      ...(force ? { forced: true } : {}),
    };
    const restored = await store.recordRestore(
      { act: 'restore', caller: 'operator', answer: 'restored', details },
      now,
    );
    writeLastHead(staging, restored, now);
    return lost;
  } finally {
    await store.close();
  }
}

async function whyBehind(store: Store, end: LedgerEnd, seen: readonly SeenHead[]): Promise<string | undefined> {
  for (const { sequence, hash } of seen) {
    if (sequence > end.sequence) return `it ends with record ${end.sequence}, but record ${sequence} was seen`;
    const [found] = await store.readLedger(sequence, 1);
    // A record that was pruned is covered by a signed head.
    if (found?.sequence === sequence && found.hash !== hash) return `record ${sequence} is not the one that was seen`;
  }
  return undefined;
}

function behind(why: string, time: string): SallyportError {
  return new SallyportError('ledger_behind', `the backup of ${time} is behind the ledger: ${why}`, {
    hint: 'use a newer backup; --force restores it all the same, and forgets every revocation since then',
  });
}

/**
 * Moves everything in the directory out of the way, so that old and new files never mix. Nothing is deleted. What an
 * interrupted restore had set aside stays together: files of its backup go to a directory below.
 */
function setAside(dir: string, interrupted: string | undefined, now: number): string {
  const time = formatTime(now).replaceAll(':', '-');
  const aside = interrupted ?? join(dir, `before-restore-${time}`);
  makeDirectory(aside);
  for (const name of bundleFirst(readdirSync(dir))) {
    if (/^(?:before-restore-.*|\.restore\..*)$/.test(name)) continue;
    const isTaken = existsSync(join(aside, name));
    const place = isTaken ? join(aside, `interrupted-${time}`) : aside;
    makeDirectory(place);
    renameSync(join(dir, name), join(place, name));
  }
  syncDirectory(aside);
  syncDirectory(dir);
  return aside;
}

/** The bundle comes last: without it the directory is not a CA yet, and a CA with half of its files does not start. */
function moveIn(staging: string, dir: string): void {
  for (const name of bundleFirst(readdirSync(staging)).toReversed()) renameSync(join(staging, name), join(dir, name));
  syncDirectory(dir);
}

function bundleFirst(names: readonly string[]): string[] {
  return names.toSorted((a, b) => Number(b === 'bundle.json') - Number(a === 'bundle.json'));
}
