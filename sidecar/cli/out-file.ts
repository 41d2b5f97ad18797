// What a command writes to a file that --out names: readable by its owner only, and whole or not at all.

import { statSync, writeFileSync } from 'node:fs';
import { errnoOf, reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';

/** Replaces `file` with `text`, mode 0600. @throws SallyportError `config_unreadable` when it cannot be written. */
export async function writeOut(file: string, text: string): Promise<void> {
  const { writeFileDurably } = await import('../../cert-agent/base/write.ts');
  try {
    // A pipe or a device takes what is written; a rename would put a file in its place.
    if (statSync(file, { throwIfNoEntry: false })?.isFile() === false) writeFileSync(file, text);
    else writeFileDurably(file, text);
  } catch (error) {
    throw new SallyportError('config_unreadable', `${file} cannot be written: ${errnoOf(error) ?? reasonOf(error)}`, {
      hint: 'name a file in a directory that you may write to with --out',
      cause: error,
    });
  }
}
