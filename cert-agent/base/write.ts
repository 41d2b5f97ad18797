// Writes files under a temporary name, syncs and renames them. A kill -9 leaves the old file or the new one.

import { randomBytes } from 'node:crypto';
import { closeSync, fsyncSync, mkdirSync, openSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { basename, dirname, isAbsolute, join, resolve } from 'node:path';
import { SallyportError } from './errors.ts';

/**
 * Makes `path` absolute. Every path of an option is made absolute once, at the start: the working directory of a
 * running process can be deleted.
 * @throws SallyportError `config_unreadable` for a relative path after that.
 */
export function absolutePath(path: string): string {
  try {
    return resolve(path);
  } catch (error) {
    throw new SallyportError('config_unreadable', `${path} cannot be found: the working directory was deleted`, {
      hint: 'start from a directory that exists, or use absolute paths',
      cause: error,
    });
  }
}

/**
 * Creates the absolute directory `path` and its parents with mode 0700. Existing directories stay as they are.
 * @throws TypeError for a relative path: in a deleted working directory, Node's mkdir would never return.
 */
export function makeDirectory(path: string): void {
  if (!isAbsolute(path)) throw new TypeError(`${path} is not an absolute path`);
  mkdirSync(path, { recursive: true, mode: 0o700 });
}

/** Replaces `path` with `data` atomically, with `mode` (default 0600). The data is on disk when it returns. */
export function writeFileDurably(path: string, data: string | Uint8Array, mode = 0o600): void {
  const temporary = temporaryName(path);
  try {
    // 'wx': an attacker's file under this name is an error, not a target.
    const file = openSync(temporary, 'wx', mode);
    try {
      writeFileSync(file, data);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
  syncDirectory(dirname(path));
}

/** Makes `path` a symbolic link to `target` atomically, replacing an existing link. */
export function linkDurably(target: string, path: string): void {
  const temporary = temporaryName(path);
  symlinkSync(target, temporary);
  renameSync(temporary, path);
  syncDirectory(dirname(path));
}

/** Writes what the system holds of a file to the disk. */
export function syncFile(path: string): void {
  const file = openSync(path, 'r+');
  try {
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

/** A rename is on disk only when its directory is synced. */
export function syncDirectory(path: string): void {
  const directory = openSync(path, 'r');
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
}

function temporaryName(path: string): string {
  return join(dirname(path), `.${basename(path)}.${randomBytes(6).toString('hex')}.tmp`);
}
