// Writes the file of --out: readable by its owner only, and complete or not at all.

import { accessSync, constants, statSync, writeFileSync } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { errnoOf, reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import { inParts } from './terminal.ts';

/** Checks that `file` can be written, before its content is created. @throws SallyportError `config_unreadable`. */
export function checkOut(file: string): void {
  try {
    const found = statSync(file, { throwIfNoEntry: false });
    if (found?.isDirectory() === true) throw Object.assign(new Error('it is a directory'), { code: 'EISDIR' });
    // A file is replaced by renaming another onto it, so its directory must be writable.
    accessSync(found === undefined || found.isFile() ? dirname(file) : file, constants.W_OK);
  } catch (error) {
    throw unwritable(file, error);
  }
}

/** Replaces `file` with `text`, mode 0600. @throws SallyportError `config_unreadable` when it cannot be written. */
export async function writeOut(file: string, text: string): Promise<void> {
  const { writeFileDurably } = await import('../../cert-agent/base/write.ts');
  try {
    // A pipe or a device is written directly; a rename would replace it with a file.
    if (statSync(file, { throwIfNoEntry: false })?.isFile() === false) writeFileSync(file, text);
    else writeFileDurably(file, text);
  } catch (error) {
    throw unwritable(file, error);
  }
}

/** Replaces `file` with `lines`, mode 0600, complete or not at all. @throws SallyportError `config_unreadable`. */
export async function writeLinesOut(file: string, lines: AsyncIterable<string>): Promise<void> {
  const isFile = statSync(file, { throwIfNoEntry: false })?.isFile() !== false;
  const target = isFile ? `${file}.${process.pid}.tmp` : file;
  let handle: Awaited<ReturnType<typeof open>> | undefined;
  try {
    handle = await open(target, isFile ? 'wx' : 'w', 0o600);
    for await (const part of inParts(lines)) await handle.writeFile(part);
    if (isFile) {
      await handle.sync();
      await rename(target, file);
    }
  } catch (error) {
    if (isFile && handle !== undefined) await rm(target, { force: true });
    throw error instanceof SallyportError ? error : unwritable(file, error);
  } finally {
    await handle?.close();
  }
}

function unwritable(file: string, error: unknown): SallyportError {
  return new SallyportError('config_unreadable', `cannot write ${file}: ${errnoOf(error) ?? reasonOf(error)}`, {
    hint: 'give --out a file in a directory that you can write to',
    cause: error,
  });
}
