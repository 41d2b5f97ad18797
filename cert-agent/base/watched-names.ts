// Which events of a watched directory may concern a file. A directory often holds more than the files that are read from it:
// an access log beside an SVID has an event for each line. What cannot be told concerns them.

import { lstatSync, readlinkSync } from 'node:fs';
import { dirname, isAbsolute, join, parse, resolve, sep } from 'node:path';

/** A chain of links longer than this is a circle. */
const maxLinks = 40;

/** The names on the way to some files: their own, those of the directories above, and those of every link between. */
export class WatchedNames {
  readonly #paths: readonly string[];
  #names: ReadonlySet<string> | undefined;

  /** Until the first `refresh` every event concerns the paths. */
  constructor(paths: readonly string[]) {
    this.#paths = paths;
  }

  /** Follows the links anew. To be called before each reading: a link that is switched leads through other names. */
  refresh(): void {
    try {
      const targets = new Map<string, string | undefined>();
      this.#names = new Set(this.#paths.flatMap((path) => namesOf(path, targets)).map(fold));
    } catch {
      // No permission to look, or a circle of links: the names are not known.
      this.#names = undefined;
    }
  }

  /** Whether an event of `name` may have changed what the paths lead to; `name` as `fs.watch` gives it. */
  concerns(name: string | null): boolean {
    // Not every platform gives a name, and one that is not UTF-8 is not given as it is.
    if (name === null || name.includes('\ufffd') || this.#names === undefined) return true;
    return this.#names.has(fold(name));
  }
}

/** Some file systems take names for one that differ in case, or in how an accent is written. */
function fold(name: string): string {
  return name.normalize('NFC').toLowerCase();
}

/** `targets` remembers what each place links to, since the paths share most of their way. @throws Error for a circle. */
function namesOf(path: string, targets: Map<string, string | undefined>): string[] {
  const absolute = resolve(path);
  const names: string[] = [];
  let { root: at } = parse(absolute);
  let left = partsOf(absolute.slice(at.length));
  let links = 0;
  for (let name = left.shift(); name !== undefined; name = left.shift()) {
    if (name === '..') {
      at = dirname(at);
      continue;
    }
    names.push(name);
    const here = join(at, name);
    if (!targets.has(here)) targets.set(here, linkOf(here));
    const target = targets.get(here);
    if (target === undefined) {
      at = here;
      continue;
    }
    if (++links > maxLinks) throw new Error(`${path} leads through a circle of links`);
    if (isAbsolute(target)) at = parse(target).root;
    left = [...partsOf(isAbsolute(target) ? target.slice(at.length) : target), ...left];
  }
  return names;
}

function partsOf(path: string): string[] {
  return path.split(sep).filter((part) => part !== '' && part !== '.');
}

/** Where a link leads; undefined where there is none. */
function linkOf(path: string): string | undefined {
  return lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() === true ? readlinkSync(path) : undefined;
}
