// Trust in other trust domains: their bundles, from files, beside our own and never merged with it. While a file is
// missing or broken, its last good bundle stays. Before the first good one, no peer of that domain is trusted.

import { dirname } from 'node:path';
import { asSallyportError } from '../base/errors.ts';
import { type Live, LiveCell } from '../base/live.ts';
import type { Log } from '../base/log.ts';
import { watchForChange } from '../base/watch.ts';
import { WatchedNames } from '../base/watched-names.ts';
import type { TrustBundle } from './bundle.ts';
import type { Identity } from './identity.ts';
import { readBundleFile } from './read.ts';

/** Our identity with the bundles of other trust domains. `ours` is not closed with it. */
export interface Federation {
  /** `ours` plus all bundles that could be read. */
  readonly identity: Live<Identity | undefined>;
  /** The first bundle that was never read successfully, if there is one. */
  waitingFor(): string | undefined;
  /** Stops watching; `identity` keeps its value. */
  close(): void;
}

/** Watches the files of `bundles` (path by trust domain). Never throws for their content. */
export function federate(
  ours: Live<Identity | undefined>,
  bundles: Readonly<Record<string, string>>,
  log: Log,
): Federation {
  const read = new Map<string, TrustBundle>();
  const problems = new Map<string, string>();
  const cell = new LiveCell<Identity | undefined>(undefined);

  /** True if the bundle changed. */
  const take = (trustDomain: string, file: string): boolean => {
    try {
      const bundle = readBundleFile(file, trustDomain);
      const before = read.get(trustDomain);
      problems.delete(trustDomain);
      if (before !== undefined && sameRoots(before, bundle)) return false;
      read.set(trustDomain, bundle);
      log.info(
        { code: 'bundle_loaded', trustDomain, roots: bundle.roots.length },
        `the bundle of ${trustDomain} was loaded`,
      );
      return true;
    } catch (error) {
      const { code, message } = asSallyportError(error, 'bundle_invalid', `cannot read the bundle of ${trustDomain}`);
      // Logged once, not every second.
      if (problems.get(trustDomain) !== message) {
        const stays = read.has(trustDomain)
          ? 'the last good one stays in force'
          : `no peer of ${trustDomain} is trusted`;
        log.warn({ code, trustDomain }, `${message}; ${stays}`);
      }
      problems.set(trustDomain, message);
      return false;
    }
  };
  const put = (): void => {
    const identity = ours.current();
    cell.set(
      identity === undefined
        ? undefined
        : // Our own comes last: no other file may replace it.
          Object.freeze({ ...identity, bundles: new Map([...read, ...identity.bundles]) }),
    );
  };
  const names = new WatchedNames(Object.values(bundles));
  const look = (): void => {
    names.refresh();
    const changed = Object.entries(bundles).map(([trustDomain, file]) => take(trustDomain, file));
    if (changed.includes(true)) put();
  };
  look();
  put();
  const stop = ours.onChange(put);
  const watch = watchForChange(
    () => Object.values(bundles).map((file) => dirname(file)),
    look,
    undefined,
    (name) => names.concerns(name),
  );
  return {
    identity: cell,
    waitingFor() {
      const missing = Object.keys(bundles).find((trustDomain) => !read.has(trustDomain));
      return missing === undefined ? undefined : `the bundle of ${missing} (${bundles[missing]})`;
    },
    close() {
      stop();
      watch.close();
    },
  };
}

function sameRoots(a: TrustBundle, b: TrustBundle): boolean {
  return a.roots.length === b.roots.length && a.roots.every((root, index) => root.equals(b.roots[index]!));
}
