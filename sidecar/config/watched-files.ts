// Decides which events of the watched directories may concern the configuration. An access log often lies beside
// sidecar.yaml or among its documents, and causes an event at every flush. If in doubt, an event concerns the
// configuration; a missed one is made up for by the look every second.

import { realpathSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { WatchedNames } from '../../cert-agent/base/watched-names.ts';
import type { Settings } from './settings.ts';
import { filesOf, type SourceSet } from './sources.ts';

/** The settings that name files. */
type Naming = Pick<Settings, 'policies' | 'gateway' | 'accessLog' | 'learn'>;

/** A file that this process writes. */
interface Written {
  readonly directory: string;
  isNamed(name: string): boolean;
}

/** The events of one configuration. Before the first `found`, all of them concern it. */
export class WatchedFiles {
  readonly #file: string;
  #names: WatchedNames | undefined = undefined;
  /** The directories in which any name counts, each with the files there that we write. */
  #open: ReadonlyMap<string, readonly Written[]> = new Map();

  /** `file` is sidecar.yaml or gateway.yaml. */
  constructor(file: string) {
    this.#file = file;
  }

  /** Call it after each reading of the files: what was found says which names count. */
  found(settings: Naming, { links, contents }: Pick<SourceSet, 'links' | 'contents'>): void {
    const { policies, gateway } = settings;
    const named = [policies, gateway?.errorPages, gateway?.clientCrls?.path].filter((one) => one !== undefined);
    this.#names = new WatchedNames([this.#file, ...named, ...filesOf(settings), ...links]);
    this.#names.refresh();
    const written = writtenBy(settings);
    this.#open = new Map(
      contents.map((directory) => {
        const path = realPathOf(directory);
        return [directory, path === undefined ? [] : written.filter((one) => one.directory === path)];
      }),
    );
  }

  /** Call it when the files cannot be read: until they can, every event concerns them. */
  lost(): void {
    this.#names = undefined;
  }

  /** True if an event for `name` in `directory` (from `fs.watch`) may have changed the configuration. */
  concerns(name: string | null, directory: string): boolean {
    if (name === null || this.#names === undefined || this.#names.concerns(name)) return true;
    const written = this.#open.get(directory);
    return written !== undefined && !written.some((one) => one.isNamed(name));
  }
}

/** The access log, and in learn mode the learned traffic. */
function writtenBy({ accessLog, learn }: Naming): Written[] {
  const files = [...(accessLog === 'stdout' ? [] : [accessLog]), ...(learn === undefined ? [] : [learn.file])];
  return files.flatMap((file) => {
    const directory = realPathOf(dirname(file));
    const base = withoutNumber(basename(file));
    return directory === undefined ? [] : [{ directory, isNamed: (name: string) => isWritten(name, base) }];
  });
}

/** True for the file itself, its rotations and other workers' (`.2`), and the temporary one that replaces it. */
function isWritten(name: string, base: string): boolean {
  // A document or an error page could have this name.
  if (/\.(?:ya?ml|json|html)$/.test(name)) return false;
  const replaced = /^\.(.+)\.[0-9a-f]{12}\.tmp$/.exec(name)?.[1] ?? name;
  return withoutNumber(replaced) === base;
}

function withoutNumber(name: string): string {
  return name.replace(/\.\d+$/, '');
}

/** Undefined if it cannot be resolved. */
function realPathOf(path: string): string | undefined {
  try {
    return realpathSync(path);
  } catch {
    return undefined;
  }
}
