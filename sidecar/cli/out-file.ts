// What a command writes to a file that --out names: readable by its owner only, and whole or not at all.

import { accessSync, constants, statSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { errnoOf, reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';

/** Whether `file` could be written, before anything is made that goes there. @throws SallyportError `config_unreadable`. */
export function checkOut(file: string): void {
  try {
    const found = statSync(file, { throwIfNoEntry: false });
    if (found?.isDirectory() === true) throw Object.assign(new Error('it is a directory'), { code: 'EISDIR' });
    // A file is replaced by renaming another onto it: it is the directory that must take it.
    accessSync(found === undefined || found.isFile() ? dirname(file) : file, constants.W_OK);
  } catch (error) {
    throw unwritable(file, error);
  }
}

/** Replaces `file` with `text`, mode 0600. @throws SallyportError `config_unreadable` when it cannot be written. */
export async function writeOut(file: string, text: string): Promise<void> {
  const { writeFileDurably } = await import('../../cert-agent/base/write.ts');
  try {
    // A pipe or a device takes what is written; a rename would put a file in its place.
    if (statSync(file, { throwIfNoEntry: false })?.isFile() === false) writeFileSync(file, text);
    else writeFileDurably(file, text);
  } catch (error) {
    throw unwritable(file, error);
  }
}

function unwritable(file: string, error: unknown): SallyportError {
  return new SallyportError('config_unreadable', `${file} cannot be written: ${errnoOf(error) ?? reasonOf(error)}`, {
    hint: 'name a file in a directory that you may write to with --out',
    cause: error,
  });
}
