// Files that hold a secret (keys, tokens, passphrases, passwords) are their owner's. One that every user may read is closed
// where it is ours to close, as OpenSSH would ask for, and refused where it is not. A group may read: containers are given
// their secrets so (an fsGroup in Kubernetes), and it is said once. A file is opened once: what is judged, closed and read is
// the same one, whatever is put in its place meanwhile.

import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  lstatSync,
  openSync,
  readFileSync,
  realpathSync,
  type Stats,
  statSync,
} from 'node:fs';
import { dirname, sep } from 'node:path';
import { errnoOf, SallyportError } from './errors.ts';

/** The bits by which every user may read or write. */
const others = 0o006;
const group = 0o060;

/** What was said of a file's group, so that it is said once for each mode. */
const said = new Set<string>();

/**
 * Closes `file` to others if they may read or write it and it is ours; to be called before what is in it is read. Returns
 * what to warn of. What is not there is for its reader to report; pipes and devices are left alone.
 * @throws SallyportError `secret_exposed` when others may, and it is another user's, cannot be changed, or is a symbolic
 * link that leads out of its directory.
 */
export function guardSecret(file: string): string | undefined {
  if (statOf(file) === undefined) return undefined;
  let opened: number;
  try {
    opened = openSecret(file);
  } catch {
    // Reading it says why.
    return undefined;
  }
  try {
    return guard(file, opened);
  } finally {
    closeSync(opened);
  }
}

/**
 * The text of `file`, guarded as guardSecret does: of the very file that was judged. `warn` is told what to warn of.
 * @throws SallyportError as guardSecret does, and the system's error when it cannot be read.
 */
export function readSecret(file: string, warn: (message: string) => void): string {
  // A pipe is waited for, which openSecret does not.
  if (statSync(file, { throwIfNoEntry: false })?.isFile() === false) return readFileSync(file, 'utf8');
  const opened = openSecret(file);
  try {
    const warning = guard(file, opened);
    if (warning !== undefined) warn(warning);
    return readFileSync(opened, 'utf8');
  } finally {
    closeSync(opened);
  }
}

/** Does not wait for the writer of a pipe that was put there after the look. */
function openSecret(file: string): number {
  return openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
}

function guard(file: string, opened: number): string | undefined {
  const stats = fstatSync(opened);
  if (!stats.isFile()) return undefined;
  const mode = octal(stats);
  if ((stats.mode & others) !== 0) {
    close(file, opened, stats);
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

function close(file: string, opened: number, stats: Stats): void {
  const { uid, mode } = stats;
  if (uid !== process.geteuid?.()) throw exposed(file, mode, `it belongs to user ${uid}`);
  if (!isWhereItIsNamed(file, stats)) throw exposed(file, mode, 'it is a symbolic link to somewhere else');
  try {
    fchmodSync(opened, mode & 0o700);
  } catch (error) {
    throw exposed(file, mode, `it cannot be changed: ${errnoOf(error) ?? 'no reason given'}`);
  }
}

/**
 * Whoever may write a directory can name any file of ours there, which is not to be changed through that name. Links that
 * stay within their directory are how Kubernetes and our agent replace files: `svid.key` to `..data/svid.key`.
 */
function isWhereItIsNamed(file: string, { dev, ino }: Stats): boolean {
  try {
    const path = realpathSync(file);
    const directory = realpathSync(dirname(file));
    const found = lstatSync(path);
    return (
      found.dev === dev && found.ino === ino && path.startsWith(directory.endsWith(sep) ? directory : directory + sep)
    );
  } catch {
    return false;
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
