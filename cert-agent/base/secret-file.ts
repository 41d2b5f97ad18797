// Only the owner may read a file with a secret (key, token, passphrase, password). If every user may read it, we remove
// that permission where the file is ours, which OpenSSH would ask for, and refuse the file where it is not. A group may
// read it, because containers receive secrets that way (an fsGroup in Kubernetes); that is logged once. A file is
// opened once, so the file that is checked, changed and read is the same one, even if its path is replaced meanwhile.

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

/** Files whose group permission was reported, by mode, so that each is reported once. */
const reported = new Set<string>();

/**
 * Removes other users' access to `file` if the file is ours. Call it before reading the content. Returns a warning, if
 * there is one. A missing file is for its reader to report. Pipes and devices are left alone.
 * @throws SallyportError `secret_exposed` when others have access and the file belongs to another user, cannot be
 * changed, or is a symbolic link that leads out of its directory.
 */
export function guardSecret(file: string): string | undefined {
  if (statOf(file) === undefined) return undefined;
  let opened: number;
  try {
    opened = openSecret(file);
  } catch {
    // The read that follows reports why.
    return undefined;
  }
  try {
    return guard(file, opened);
  } finally {
    closeSync(opened);
  }
}

/**
 * The text of `file`, guarded like guardSecret, and read from the same descriptor. `warn` receives a warning.
 * @throws SallyportError like guardSecret, and the system's error when the file cannot be read.
 */
export function readSecret(file: string, warn: (message: string) => void): string {
  // Reading a pipe waits for its writer, which openSecret does not.
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

/** Does not wait for a writer if a pipe replaced the file after the check. */
function openSecret(file: string): number {
  return openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
}

function guard(file: string, opened: number): string | undefined {
  const stats = fstatSync(opened);
  if (!stats.isFile()) return undefined;
  const mode = octal(stats);
  if ((stats.mode & others) !== 0) {
    close(file, opened, stats);
    return `${file} could be read or changed by every user (mode ${mode}); access is now removed: if this machine has other users, replace the secret`;
  }
  if ((stats.mode & group) === 0 || reported.has(`${mode} ${file}`)) return undefined;
  reported.add(`${mode} ${file}`);
  return `group ${stats.gid} can read ${file} (mode ${mode}): run chmod 600 ${file} if that is not intended`;
}

/** True if every user may read or write `file`. Changes nothing. */
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
    throw exposed(file, mode, `its mode cannot be changed: ${errnoOf(error) ?? 'no reason given'}`);
  }
}

/**
 * A user who can write to a directory can link to any file of ours from it, and we must not change the file through
 * that link. Links within one directory are allowed: Kubernetes and our agent replace files that way (`svid.key` to
 * `..data/svid.key`).
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
    `${file} can be read or changed by every user (mode ${octal({ mode })}), and ${why}: the file is not used`,
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
    // The read that follows reports why.
    return undefined;
  }
}
