// Identity files as a Live value. A missing file is waited for. With a broken set, the last good generation stays. An
// expired SVID is withdrawn: fails closed. The directories are watched, because a watch on a file ends at its first
// rename, and the content is compared each second, because events get lost (bind mounts, network file systems).

import { type FSWatcher, lstatSync, watch } from 'node:fs';
import { dirname } from 'node:path';
import { guard } from '../base/background.ts';
import { type Clock, formatTime, systemClock } from '../base/clock.ts';
import { asSallyportError, type SallyportError } from '../base/errors.ts';
import { type Live, LiveCell } from '../base/live.ts';
import type { Log } from '../base/log.ts';
import { guardSecret } from '../base/secret-file.ts';
import { WatchedNames } from '../base/watched-names.ts';
import { deniedBy } from './denied.ts';
import type { Identity, IdentityPaths } from './identity.ts';
import { type IdentityTexts, parseIdentity, readIdentityTexts } from './read.ts';
import { checkValidity } from './verify.ts';

/** Without `clock`: the system's. */
export interface WatchOptions {
  readonly log: Log;
  readonly clock?: Clock;
  /** Called for each problem that `failures` counts. */
  onProblem?(error: SallyportError): void;
}

/** An identity that is read from files until it is closed. */
export interface IdentityWatch {
  /** Undefined until there is a valid identity, and again after it expired without a successor. */
  readonly identity: Live<Identity | undefined>;
  /**
   * What is missing, as an object for 'waiting for ...'; undefined while there is an identity that peers can accept.
   */
  waitingFor(): string | undefined;
  /** How often a set of files was rejected. */
  failures(): number;
  /** Why the newest set was rejected; undefined if it was accepted. */
  lastProblem(): SallyportError | undefined;
  /** Reads now, even if nothing changed. */
  reload(): void;
  /** Stops watching; `identity` keeps its value. */
  close(): void;
}

const compareMs = 1000;
/** Writers that replace one file after the other (spire-agent, spiffe-helper) have finished by then. */
const settleMs = 1000;

/** Reads the identity at once and keeps it fresh until closed. Never throws for the content of the files. */
export function watchIdentityFiles(paths: IdentityPaths, options: WatchOptions): IdentityWatch {
  return new FileWatch(paths, options);
}

class FileWatch implements IdentityWatch {
  readonly #paths: IdentityPaths;
  readonly #options: WatchOptions;
  readonly #clock: Clock;
  readonly #cell = new LiveCell<Identity | undefined>(undefined);
  readonly #watchers = new Map<string, FSWatcher>();
  readonly #names: WatchedNames;
  #seen: IdentityTexts | undefined;
  /** The validity of an SVID that was rejected for its dates: it may become valid when the clock is corrected. */
  #outside: { readonly notBefore: number; readonly notAfter: number } | undefined;
  #waiting: string | undefined;
  /** Since when the files have been invalid, on the monotonic clock; undefined while they are valid. */
  #unsettledSince: number | undefined;
  #problem: SallyportError | undefined;
  #failures = 0;
  #cancelTick = (): void => {};
  #lookSoon: NodeJS.Immediate | undefined;
  #closed = false;

  constructor(paths: IdentityPaths, options: WatchOptions) {
    this.#paths = paths;
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    const { svid, key, bundle, denied } = paths;
    this.#names = new WatchedNames([svid, key, bundle, ...(denied === undefined ? [] : [denied])]);
    this.#tick();
  }

  get identity(): Live<Identity | undefined> {
    return this.#cell;
  }

  waitingFor(): string | undefined {
    const identity = this.#cell.current();
    if (identity === undefined) return this.#waiting;
    const { svid, denied } = identity;
    const by = deniedBy(denied, svid);
    // It is still presented, and peers refuse it.
    return by && `another SVID: the ${by} of ${svid.id.uri} is on the deny list ${this.#paths.denied}`;
  }

  failures(): number {
    return this.#failures;
  }

  lastProblem(): SallyportError | undefined {
    return this.#problem;
  }

  reload(): void {
    this.#seen = undefined;
    this.#problem = undefined;
    this.#look();
  }

  close(): void {
    this.#closed = true;
    this.#cancelTick();
    clearImmediate(this.#lookSoon);
    for (const watcher of this.#watchers.values()) watcher.close();
    this.#watchers.clear();
  }

  #tick(): void {
    if (this.#closed) return;
    // Armed first: the rest may throw, and must be retried anyway.
    this.#armIn(compareMs);
    this.#watchDirectories();
    this.#expire();
    this.#look();
    const left = (this.#cell.current()?.svid.notAfter ?? Number.POSITIVE_INFINITY) - this.#clock.now() + 1;
    this.#armIn(Math.max(0, Math.min(compareMs, left)));
  }

  #armIn(ms: number): void {
    this.#cancelTick();
    this.#cancelTick = this.#clock.after(ms, () => guard('identity_files', () => this.#tick()));
  }

  #look(): void {
    this.#names.refresh();
    const now = this.#clock.now();
    if (this.#outside !== undefined && now >= this.#outside.notBefore && now <= this.#outside.notAfter) {
      this.#seen = undefined;
      this.#outside = undefined;
    }
    const texts = this.#read();
    if (texts === undefined || sameTexts(texts, this.#seen) || !this.#guardKey()) return;
    this.#seen = texts;
    const identity = this.#parse(texts, now);
    if (identity !== undefined) this.#adopt(identity);
  }

  /** A key that every user may read proves nothing. It is checked again each second until its mode is corrected. */
  #guardKey(): boolean {
    try {
      const warning = guardSecret(this.#paths.key);
      if (warning !== undefined) this.#options.log.warn({ code: 'secret_exposed' }, warning);
      return true;
    } catch (error) {
      this.#refuse(asSallyportError(error, 'secret_exposed', 'cannot use the key'));
      return false;
    }
  }

  #read(): IdentityTexts | undefined {
    try {
      const read = readIdentityTexts(this.#paths);
      if ('texts' in read) return read.texts;
      this.#await(read.missing);
    } catch (error) {
      this.#refuse(asSallyportError(error, 'config_unreadable', 'cannot read the identity files'));
    }
    // The next set counts as changed, even if it equals the previous one.
    this.#seen = undefined;
    return undefined;
  }

  #parse(texts: IdentityTexts, now: number): Identity | undefined {
    try {
      const identity = parseIdentity(texts, this.#paths);
      this.#outside = identity.svid;
      checkValidity(identity.svid, `the SVID in ${this.#paths.svid}`, now);
      this.#outside = undefined;
      return identity;
    } catch (error) {
      this.#refuse(asSallyportError(error, 'config_unreadable', 'cannot read the identity files'));
      return undefined;
    }
  }

  #adopt(identity: Identity): void {
    const { svid } = identity;
    this.#waiting = undefined;
    this.#problem = undefined;
    this.#unsettledSince = undefined;
    this.#options.log.info(
      { code: 'identity_loaded', id: svid.id.uri, serial: svid.serial, notAfter: formatTime(svid.notAfter) },
      `loaded identity ${svid.id.uri}`,
    );
    this.#cell.set(identity);
  }

  /** A missing file is not a failure at start. Later it is one, and the last good generation stays. */
  #await(missing: string): void {
    if (this.#waiting === missing) return;
    const serving = this.#cell.current() !== undefined;
    if (this.#isSettling()) return;
    this.#waiting = missing;
    this.#options.log.warn(
      { code: 'waiting', file: missing },
      serving ? `${missing} is missing; the last identity stays in use until it expires` : `waiting for ${missing}`,
    );
  }

  /** An invalid set is read again before it is reported: another writer may be in the middle of replacing the files. */
  #refuse(error: SallyportError): void {
    if (this.#problem?.message === error.message) return;
    if (this.#isSettling()) this.#seen = undefined;
    else this.#report(error);
  }

  /** True if the files were valid before and first became invalid within the last second. */
  #isSettling(): boolean {
    if (this.#cell.current() === undefined) return false;
    const now = this.#clock.monotonic();
    this.#unsettledSince ??= now;
    return now - this.#unsettledSince < settleMs;
  }

  #report(error: SallyportError): void {
    if (this.#problem?.message === error.message) return;
    this.#waiting = `a valid identity in ${this.#paths.svid}`;
    this.#problem = error;
    this.#failures += 1;
    const { code, hint } = error;
    const stays = this.#cell.current() === undefined ? '' : '; the last good identity stays in use';
    this.#options.log.error({ code, hint }, `the identity files were rejected: ${error.message}${stays}`);
    this.#options.onProblem?.(error);
  }

  #expire(): void {
    const svid = this.#cell.current()?.svid;
    const now = this.#clock.now();
    if (svid === undefined || now <= svid.notAfter) return;
    this.#outside = svid;
    this.#cell.set(undefined);
    try {
      checkValidity(svid, `the SVID in ${this.#paths.svid}`, now);
    } catch (error) {
      this.#report(asSallyportError(error, 'svid_expired', 'the SVID expired'));
    }
  }

  /**
   * Watches what exists now: the directories of the files and, if one of them is a link, the directory of that link.
   */
  #watchDirectories(): void {
    const { svid, key, bundle, denied } = this.#paths;
    for (const path of [svid, key, bundle, denied]) {
      if (path === undefined) continue;
      const directory = dirname(path);
      this.#watchDirectory(isLink(directory) ? dirname(directory) : directory);
    }
  }

  #watchDirectory(path: string): void {
    if (this.#watchers.has(path)) return;
    try {
      const watcher = watch(path, { persistent: false }, (_event, name) => {
        if (this.#names.concerns(name)) this.#soon();
      });
      watcher.on('error', () => {
        watcher.close();
        this.#watchers.delete(path);
      });
      this.#watchers.set(path, watcher);
    } catch {
      // It does not exist yet, or no watches are left (ENOSPC). The comparison each second works without one and tries
      // again.
    }
  }

  /** One write causes several events; they lead to one read. */
  #soon(): void {
    if (this.#closed) return;
    clearImmediate(this.#lookSoon);
    this.#lookSoon = setImmediate(() => guard('identity_files', () => this.#look()));
  }
}

function sameTexts(a: IdentityTexts, b: IdentityTexts | undefined): boolean {
  return b !== undefined && a.svid === b.svid && a.key === b.key && a.bundle === b.bundle && a.denied === b.denied;
}

function isLink(path: string): boolean {
  try {
    return lstatSync(path).isSymbolicLink();
  } catch {
    return false;
  }
}
