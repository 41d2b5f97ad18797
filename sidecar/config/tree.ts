// Walks a directory of documents: which files are read, and which are passed over. Each file that is not read is
// reported, because it may contain a DENY policy. An unreadable directory or a link loop is an error: the last good
// configuration stays. Hidden names belong to the kubelet (`..data`) and to editors and are not read, as in the
// kubelet.

import { lstatSync, readdirSync, realpathSync, type Stats, statSync } from 'node:fs';
import { join } from 'node:path';
import { errnoOf, type Problem, reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';

/** The contents of a directory and its subdirectories. Paths begin with the path of the directory as given. */
export interface Tree {
  /** The files to read, directory by directory, sorted by name. */
  readonly files: readonly string[];
  /** The directory and its subdirectories, to be watched. */
  readonly directories: readonly string[];
  /** The links that lead to files and directories of it. */
  readonly links: readonly string[];
  /** The files that are not read, with the reason. */
  readonly passedOver: readonly Problem[];
}

/** The kubelet's names in a volume: `..data`, its temporary link, and the directories that they point to. */
const kubelets = /^\.\.(?:data|data_tmp|\d[\d_.]*)$/;

/** Far above any real number, and few enough to walk each second: `policies: /` is a mistake. */
const mostEntries = 20_000;
const mostLevels = 16;

/** @throws SallyportError `config_unreadable` for unreadable directories, link loops, or too many files. */
export function readTree(directory: string): Tree {
  const walk = new Walk();
  walk.enter(directory, real(directory), []);
  walk.nameUnlinked();
  return walk;
}

class Walk implements Tree {
  readonly files: string[] = [];
  readonly directories: string[] = [];
  readonly links: string[] = [];
  readonly passedOver: Problem[] = [];
  /** The files to read: real path to the first name of it. Of two names for one file, the first counts. */
  readonly #read = new Map<string, string>();
  /** The kubelet's directories, whose files are read through links. */
  readonly #mounted: string[] = [];
  #entries = 0;

  enter(directory: string, realPath: string, above: readonly string[]): void {
    if (above.includes(realPath)) throw unreadable(directory, 'it is a link that leads back to a directory above it');
    if (above.length > mostLevels) throw unreadable(directory, `it is more than ${mostLevels} levels down`);
    if (this.#isRead(directory, realPath)) return;
    this.directories.push(directory);
    const names = namesOf(directory);
    const isMounted = names.includes('..data');
    for (const name of names) {
      if (++this.#entries > mostEntries) throw unreadable(directory, `there are more than ${mostEntries} files`);
      // Its files are read through the links to them.
      if (isMounted && kubelets.test(name)) {
        this.#mounted.push(join(directory, name));
        continue;
      }
      this.#take(name, join(directory, name), join(realPath, name), [...above, realPath]);
    }
  }

  #take(name: string, path: string, realPath: string, above: readonly string[]): void {
    // A name that is not UTF-8 cannot be opened by its decoded text.
    if (name.includes('\ufffd')) throw unreadable(path, 'its name is not UTF-8');
    if (name.startsWith('.')) return this.#passOver(path, 'hidden files and directories are not read');
    const own = lookAt(path, lstatSync);
    // It was removed after its directory was read.
    if (own === undefined) return;
    const isLink = own.isSymbolicLink();
    const meant = isLink ? lookAt(path, statSync) : own;
    if (meant === undefined) throw unreadable(path, 'it is a link to a missing file');
    if (isLink) this.links.push(path);
    const target = isLink ? real(path) : realPath;
    if (meant.isDirectory()) this.enter(path, target, above);
    else if (!/\.(?:ya?ml|json)$/.test(name)) this.#passOver(path, whyNot(name));
    else if (!meant.isFile()) throw unreadable(path, 'it is not a file');
    else if (!this.#isRead(path, target)) this.files.push(path);
  }

  /** Reports files in the kubelet's directories that no link points to: they are not the kubelet's. */
  nameUnlinked(): void {
    const seen = new Set<string>();
    const look = (path: string, level: number): void => {
      const found = lookAt(path, statSync);
      if (found === undefined) return;
      if (level > mostLevels) throw unreadable(path, `it is more than ${mostLevels} levels down`);
      const target = real(path);
      if (seen.has(target)) return;
      seen.add(target);
      if (!found.isDirectory()) {
        if (!this.#read.has(target)) this.#passOver(path, 'no link in the directory above points to it');
        return;
      }
      for (const name of namesOf(path)) {
        if (++this.#entries > mostEntries) throw unreadable(path, `there are more than ${mostEntries} files`);
        look(join(path, name), level + 1);
      }
    };
    for (const path of this.#mounted) look(path, 1);
  }

  #isRead(path: string, target: string): boolean {
    const before = this.#read.get(target);
    if (before === undefined) this.#read.set(target, path);
    else this.#passOver(path, `it is the same file as ${before}, which is read`);
    return before !== undefined;
  }

  #passOver(file: string, why: string): void {
    this.passedOver.push({ file, line: 1, column: 1, message: `this file is not read: ${why}` });
  }
}

function whyNot(name: string): string {
  return /\.(?:ya?ml|json)$/i.test(name)
    ? 'its extension is not lower case'
    : 'only files that end in .yaml, .yml or .json are read';
}

function namesOf(directory: string): string[] {
  try {
    return readdirSync(directory).toSorted();
  } catch (error) {
    throw unreadable(directory, reasonOf(error));
  }
}

/** Undefined if it does not exist. */
function lookAt(path: string, look: (path: string) => Stats): Stats | undefined {
  try {
    return look(path);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw unreadable(path, reasonOf(error));
  }
}

function real(path: string): string {
  try {
    return realpathSync(path);
  } catch (error) {
    throw unreadable(path, reasonOf(error));
  }
}

function unreadable(path: string, why: string): SallyportError {
  return new SallyportError('config_unreadable', `the documents in ${path} cannot be read: ${why}`, {
    hint: "create the directory, or correct 'documents' in gateway.yaml or 'policies' in sidecar.yaml (without policies everything is denied)",
  });
}
