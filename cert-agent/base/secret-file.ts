// Files that hold a secret (keys, tokens, passphrases, passwords) are their owner's. One that every user may read is closed
// where it is ours to close, as OpenSSH would ask for, and refused where it is not. A group may read: containers are given
// their secrets so (an fsGroup in Kubernetes), and it is said once.

import { chmodSync, type Stats, statSync } from 'node:fs';
import { errnoOf, SallyportError } from './errors.ts';

/** The bits by which every user may read or write. */
const others = 0o006;
const group = 0o060;

/** What was said of a file's group, so that it is said once for each mode. */
const said = new Set<string>();

/**
 * Closes `file` to others if they may read or write it and it is ours; to be called before what is in it is read. Returns
 * what to warn of. What is not there is for its reader to report; pipes and devices are left alone.
 * @throws SallyportError `secret_exposed` when others may, and it is another user's or cannot be changed.
 */
export function guardSecret(file: string): string | undefined {
  const stats = statOf(file);
  if (stats === undefined) return undefined;
  const mode = octal(stats);
  if ((stats.mode & others) !== 0) {
    close(file, stats);
    return `${file} could be read or changed by every user (mode ${mode}) and is closed to others now: if others are on this machine, make anew what is in it`;
  }
  if ((stats.mode & group) === 0 || said.has(`${mode} ${file}`)) return undefined;
  said.add(`${mode} ${file}`);
  return `the group ${stats.gid} may read ${file} (mode ${mode}): chmod 600 ${file} if that is not meant`;
}

/** True while every user may read or write `file`. Changes nothing. */
export function isExposed(file: string): boolean {
  return ((statOf(file)?.mode ?? 0) & others) !== 0;
}

function close(file: string, { uid, mode }: Stats): void {
  if (uid !== process.geteuid?.()) throw exposed(file, mode, `it belongs to user ${uid}`);
  try {
    chmodSync(file, mode & 0o700);
  } catch (error) {
    throw exposed(file, mode, `it cannot be changed: ${errnoOf(error) ?? 'no reason given'}`);
  }
}

function exposed(file: string, mode: number, why: string): SallyportError {
  return new SallyportError(
    'secret_exposed',
    `${file} can be read or changed by every user (mode ${octal({ mode })}), and ${why}: it is not used`,
    { hint: `chmod 600 ${file}; in Kubernetes set defaultMode: 0440 and an fsGroup` },
  );
}

function octal({ mode }: Pick<Stats, 'mode'>): string {
  return (mode & 0o777).toString(8).padStart(4, '0');
}

function statOf(file: string): Stats | undefined {
  try {
    const stats = statSync(file);
    return stats.isFile() ? stats : undefined;
  } catch {
    // Reading it says why.
    return undefined;
  }
}
