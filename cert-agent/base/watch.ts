// Notices changed files. Watching their directories notices at once (a watch on a file ends at its first rename).
// Looking again every second covers bind mounts and network file systems, where events get lost.

import { type FSWatcher, watch } from 'node:fs';
import { every, guard } from './background.ts';

/** `look` calls `onLook` at once, also without a change. */
export interface ChangeWatch {
  /** Looks now. */
  look(): void;
  /** Stops; `onLook` is not called any more. */
  close(): void;
}

/**
 * Calls `onLook` after an event in one of `directories()`, which is called each time, and also every `everyMs`. Events
 * for which `concerns` returns false are ignored; by default none are. `name` is null where the platform gives none.
 */
export function watchForChange(
  directories: () => Iterable<string>,
  onLook: () => void,
  everyMs = 1000,
  concerns: (name: string | null, directory: string) => boolean = () => true,
): ChangeWatch {
  const watchers = new Map<string, FSWatcher>();
  let soon: NodeJS.Immediate | undefined;
  const lookSoon = (): void => {
    clearImmediate(soon);
    soon = setImmediate(() => guard('files', onLook));
  };
  const watchAll = (): void => {
    const wanted = new Set(directories());
    for (const [path, watcher] of watchers) {
      if (wanted.has(path)) continue;
      watcher.close();
      watchers.delete(path);
    }
    for (const path of wanted) if (!watchers.has(path)) start(path);
  };
  const start = (path: string): void => {
    try {
      const watcher = watch(path, { persistent: false }, (_event, name) => {
        if (concerns(name, path)) lookSoon();
      });
      watcher.on('error', () => {
        watcher.close();
        watchers.delete(path);
      });
      watchers.set(path, watcher);
    } catch {
      // It does not exist yet, or no watches are left (ENOSPC). The look every second works without one and tries
      // again.
    }
  };
  const stop = every('files', everyMs, () => {
    watchAll();
    onLook();
  });
  watchAll();
  return {
    look: onLook,
    close() {
      stop();
      clearImmediate(soon);
      for (const watcher of watchers.values()) watcher.close();
      watchers.clear();
    },
  };
}
