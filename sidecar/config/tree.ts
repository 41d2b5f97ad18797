// A directory of documents with all that is below it: which files are read, and which are passed over. Each file that is
// not read is named, for a DENY may stand in it. What cannot be looked at, or leads back to where it came from, is an error:
// the last good configuration stays. Hidden names are the kubelet's (`..data`) and editors': not read, as the kubelet has it.

import { lstatSync, readdirSync, realpathSync, type Stats, statSync } from 'node:fs';
import { join } from 'node:path';
import { errnoOf, type Problem, reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';

/** What is in a directory and below it; paths begin with that of the directory, as it was given. */
export interface Tree {
  /** The files that are read, directory by directory in the order of their names. */
  readonly files: readonly string[];
  /** The directory itself and those below: what has to be watched. */
  readonly directories: readonly string[];
  /** Each file that is not read, and why. */
  readonly passedOver: readonly Problem[];
}

/** The kubelet's own, in a volume: `..data`, the link that takes its place, and the directories that these lead to. */
const kubelets = /^\.\.(?:data|data_tmp|\d[\d_.]*)$/;

/** Far more than there ever are, and few enough to be walked each second: `policies: /` is a mistake. */
const mostEntries = 20_000;
const mostLevels = 16;

/** @throws SallyportError `config_unreadable` for what cannot be read, loops, or is too much. */
export function readTree(directory: string): Tree {
  const walk = new Walk();
  walk.enter(directory, real(directory), []);
  walk.nameUnlinked();
  return walk;
}

class Walk implements Tree {
  readonly files: string[] = [];
  readonly directories: string[] = [];
  readonly passedOver: Problem[] = [];
  /** Real paths of what was read, and the name that it was read by: of two names for one file the first counts. */
  readonly #read = new Map<string, string>();
  /** The kubelet's, whose files are read where a link leads to them. */
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
      // What is in there is read by the links that lead to it.
      if (isMounted && kubelets.test(name)) {
        this.#mounted.push(join(directory, name));
        continue;
      }
      this.#take(name, join(directory, name), join(realPath, name), [...above, realPath]);
    }
  }

  #take(name: string, path: string, realPath: string, above: readonly string[]): void {
    // A name that is not UTF-8 cannot be asked for by the text that stands for it.
    if (name.includes('\ufffd')) throw unreadable(path, 'its name is not UTF-8');
    if (name.startsWith('.')) return this.#passOver(path, 'hidden files and directories are not read');
    const own = lookAt(path, lstatSync);
    // Gone since its directory was read.
    if (own === undefined) return;
    const isLink = own.isSymbolicLink();
    const meant = isLink ? lookAt(path, statSync) : own;
    if (meant === undefined) throw unreadable(path, 'it is a link to what is not there');
    const target = isLink ? real(path) : realPath;
    if (meant.isDirectory()) this.enter(path, target, above);
    else if (!/\.(?:ya?ml|json)$/.test(name)) this.#passOver(path, whyNot(name));
    else if (!meant.isFile()) throw unreadable(path, 'it is no file');
    else if (!this.#isRead(path, target)) this.files.push(path);
  }

  /** Names the files among the kubelet's that no link led to: somebody else has put them there. */
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
        if (!this.#read.has(target)) this.#passOver(path, 'no link in the directory above leads to it');
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
    else this.#passOver(path, `it is the same as ${before}, which is read`);
    return before !== undefined;
  }

  #passOver(file: string, why: string): void {
    this.passedOver.push({ file, line: 1, column: 1, message: `this is not read: ${why}` });
  }
}

function whyNot(name: string): string {
  return /\.(?:ya?ml|json)$/i.test(name)
    ? 'its ending is not in lower case'
    : 'files that are read end in .yaml, .yml or .json';
}

function namesOf(directory: string): string[] {
  try {
    return readdirSync(directory).toSorted();
  } catch (error) {
    throw unreadable(directory, reasonOf(error));
  }
}

/** Undefined where there is nothing. */
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
    hint: "make the directory, or mend 'documents' in gateway.yaml, 'policies' in sidecar.yaml (without it nothing passes)",
  });
}
