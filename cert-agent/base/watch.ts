// Files that people and agents change: noticed at once by watching their directories (a watch on a file dies at its
// first rename), and within a second by looking again, because events get lost on bind mounts and network file systems.

import { type FSWatcher, watch } from 'node:fs';
import { every, guard } from './background.ts';

export interface ChangeWatch {
  /** Looks now. */
  look(): void;
  close(): void;
}

/**
 * Calls `onLook` after an event in one of `directories()` (asked anew each time) and every second besides. An event whose
 * name does not concern us is passed over; by default all do.
 */
export function watchForChange(
  directories: () => Iterable<string>,
  onLook: () => void,
  everyMs = 1000,
  concerns: (name: string | null) => boolean = () => true,
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
        if (concerns(name)) lookSoon();
      });
      watcher.on('error', () => {
        watcher.close();
        watchers.delete(path);
      });
      watchers.set(path, watcher);
    } catch {
      // Not there yet, or no watches left (ENOSPC): looking every second does without, and tries again.
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
