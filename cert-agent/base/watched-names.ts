// Decides which events of a watched directory may concern our files. The directory often contains others: an access log
// beside an SVID causes an event for each line. If in doubt, an event concerns them.

import { lstatSync, readlinkSync } from 'node:fs';
import { dirname, isAbsolute, join, parse, resolve, sep } from 'node:path';

/** A longer chain of links is a loop. */
const maxLinks = 40;

/** The names on the paths to some files: their own, those of their directories, and those of all links on the way. */
export class WatchedNames {
  readonly #paths: readonly string[];
  #names: ReadonlySet<string> | undefined;

  /** Until the first `refresh`, every event concerns the paths. */
  constructor(paths: readonly string[]) {
    this.#paths = paths;
  }

  /** Follows the links again. Call it before each reading: a switched link leads through other names. */
  refresh(): void {
    try {
      const targets = new Map<string, string | undefined>();
      this.#names = new Set(this.#paths.flatMap((path) => namesOf(path, targets)).map(fold));
    } catch {
      // No permission, or a loop of links: the names are unknown.
      this.#names = undefined;
    }
  }

  /** True if an event for `name` (from `fs.watch`) may have changed the targets of the paths. */
  concerns(name: string | null): boolean {
    // Some platforms give no name, and a name that is not UTF-8 arrives altered.
    if (name === null || name.includes('\ufffd') || this.#names === undefined) return true;
    return this.#names.has(fold(name));
  }
}

/** On some file systems, names that differ in case or in the encoding of accents are the same. */
function fold(name: string): string {
  return name.normalize('NFC').toLowerCase();
}

/**
 * `targets` caches the target of each link, since the paths share most of their directories. @throws Error for a loop.
 */
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
    if (++links > maxLinks) throw new Error(`${path} goes through a loop of links`);
    if (isAbsolute(target)) at = parse(target).root;
    left = [...partsOf(isAbsolute(target) ? target.slice(at.length) : target), ...left];
  }
  return names;
}

function partsOf(path: string): string[] {
  return path.split(sep).filter((part) => part !== '' && part !== '.');
}

/** The target of a link; undefined if it is not a link. */
function linkOf(path: string): string | undefined {
  return lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() === true ? readlinkSync(path) : undefined;
}
