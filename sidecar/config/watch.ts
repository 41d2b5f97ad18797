// The configuration as a Live value: sidecar.yaml and the policies beside it, read together as one generation. After an
// invalid change, the last good generation stays, and the reason is logged and counted.

import { dirname, resolve } from 'node:path';
import { asSallyportError, formatProblem, type Problem, SallyportError } from '../../cert-agent/base/errors.ts';
import { type Live, LiveCell } from '../../cert-agent/base/live.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import { watchForChange } from '../../cert-agent/base/watch.ts';
import type { IstioDocuments } from '../documents/istio/documents.ts';
import { fixedOfGateway, fixedSettings } from './fixed-settings.ts';
import type { GatewayConfig } from './gateway-config.ts';
import type { Reading } from './read.ts';
import { readApart } from './read-apart.ts';
import type { Settings } from './settings.ts';
import { digestOf, emptiedSince, readSources, type Source, samePassedOver, sameSources } from './sources.ts';
import { WatchedFiles } from './watched-files.ts';

/** When to retry after a reader failed to start or died: the machine may have been out of memory. */
const againMs = 10_000;

/** An emptied file counts as empty only after this time: an editor may empty it for a moment while it writes. */
const emptyMs = 1000;

/** How many files are listed; the rest is counted. */
const mostNamed = 50;

/** Settings and policies from one reading. */
export interface Configuration {
  /** Grows by one with each accepted change. */
  readonly generation: number;
  readonly settings: Settings;
  readonly documents: IstioDocuments;
  /** Present for a gateway. */
  readonly gateway?: GatewayConfig | undefined;
  /** Hash of the source files, in a running gateway. */
  readonly digest?: string | undefined;
}

/** `configuration` always has a value. */
export interface ConfigurationWatch {
  readonly configuration: Live<Configuration>;
  /** Number of rejected changes. */
  failures(): number;
  /** Why the newest change was rejected; undefined if it was accepted. */
  lastProblem(): SallyportError | undefined;
  /** Looks now. Unchanged files are read again only if they could not be read before. */
  reload(): void;
  /** Stops watching. A reading that is under way still takes effect. */
  close(): void;
}

/**
 * Reads the configuration and watches it: by events of the file system, and by a look every `everyMs`. `adapt` derives
 * this process's settings. `readFile` reads it, by default in a separate process.
 * @throws SallyportError `config_invalid` or `config_unreadable` when the first reading fails.
 */
export async function watchConfiguration(
  file: string,
  log: Log,
  adapt: (settings: Settings) => Settings | Promise<Settings> = (settings) => settings,
  readFile: (file: string) => Promise<Reading> = readApart,
  everyMs = 1000,
): Promise<ConfigurationWatch> {
  const read = async (): Promise<Reading> => {
    const reading = await readFile(file);
    return { ...reading, settings: await adapt(reading.settings) };
  };
  const first = await read();
  /** The text of the last accepted or rejected configuration. */
  let seen: readonly Source[] = first.sources;
  let passedOver: readonly Problem[] = [];
  /** performance.now() when files were first seen empty. */
  let emptiedAt: number | undefined;
  /** The directories to watch, from the last successful look. */
  let directories: readonly string[] = [];
  let reading = false;
  /** performance.now() when the reader failed: the configuration may be good and is read again later. */
  let unreadSince: number | undefined;
  let closed = false;
  let failures = 0;
  let problem: SallyportError | undefined;
  /** True if the files could not be listed. That ends as soon as they can, valid or not. */
  let unseen = false;
  const cell = new LiveCell<Configuration>(freeze(first, 1));
  const watched = new WatchedFiles(resolve(file));

  const look = (asked = false): void => {
    // Changes during a reading are seen by the next look.
    if (reading) return;
    try {
      const { settings } = cell.current();
      const found = readSources(file, settings);
      watched.found(settings, found);
      const now = found.sources;
      directories = found.directories;
      emptiedAt = emptiedSince(seen, now) ? (emptiedAt ?? performance.now()) : undefined;
      if (emptiedAt !== undefined && performance.now() - emptiedAt < emptyMs) return;
      sayPassedOver(found.passedOver);
      if (unseen) problem = undefined;
      const again = unseen || (unreadSince !== undefined && (asked || performance.now() - unreadSince > againMs));
      unseen = false;
      if (sameSources(now, seen) && !again) return;
      seen = now;
      unreadSince = undefined;
    } catch (error) {
      watched.lost();
      keepLast(error);
      unseen = true;
      return;
    }
    reading = true;
    void read()
      .then(take, keepLast)
      .finally(() => {
        reading = false;
        if (!closed) look();
      });
  };

  /** Each of these files may contain a DENY policy that the operator believes to be in force. */
  const sayPassedOver = (now: readonly Problem[]): void => {
    if (samePassedOver(now, passedOver)) return;
    const known = new Set(passedOver.map(formatProblem));
    passedOver = now;
    const fresh = now.filter((one) => !known.has(formatProblem(one)));
    for (const { file: path, message } of fresh.slice(0, mostNamed))
      log.warn({ code: 'file_passed_over', file: path }, `${path}: ${message}`);
    if (fresh.length > mostNamed)
      log.warn({ code: 'file_passed_over' }, `and ${fresh.length - mostNamed} more files that are not read`);
  };

  const take = (next: Reading): void => {
    const { settings, generation } = cell.current();
    try {
      refuseUnreloadable(settings, next.settings);
    } catch (error) {
      keepLast(error);
      return;
    }
    seen = next.sources;
    problem = undefined;
    log.info(
      { code: 'config_loaded', generation: generation + 1, policies: policiesIn(next) },
      `configuration generation ${generation + 1} is in force`,
    );
    cell.set(freeze(next, generation + 1));
  };

  const keepLast = (error: unknown): void => {
    const known = asSallyportError(error, 'config_unreadable', 'cannot read the configuration');
    // A missing file may appear where this look does not reach: in a directory of the new settings.
    const mayCome = known.code === 'internal' || known.code === 'config_unreadable';
    unreadSince = mayCome ? performance.now() : undefined;
    // The same broken file is seen every second; it is logged and counted once.
    if (problem?.message === known.message) return;
    problem = known;
    failures++;
    const problems = known.problems.map(formatProblem);
    log.error(
      { code: known.code, problems, hint: known.hint },
      `the new configuration was rejected, generation ${cell.current().generation} stays in force: ${known.message}`,
    );
  };

  look();
  const watch = watchForChange(
    () => {
      const { policies } = cell.current().settings;
      return [dirname(resolve(file)), ...(policies === undefined ? [] : [policies]), ...directories];
    },
    () => look(),
    everyMs,
    (name, directory) => watched.concerns(name, directory),
  );

  return {
    configuration: cell,
    failures: () => failures,
    lastProblem: () => problem,
    reload: () => look(true),
    close() {
      closed = true;
      watch.close();
    },
  };
}

function policiesIn({ documents, gateway }: Reading): number {
  const { securityPolicies = [], trafficPolicies = [], ownPolicies = [], broken = [] } = gateway ?? {};
  const ofMesh: readonly (readonly unknown[])[] = Object.values(documents);
  const lists = [...ofMesh, securityPolicies, trafficPolicies, ownPolicies, broken];
  return lists.reduce((sum, { length }) => sum + length, 0);
}

function freeze({ settings, documents, gateway, sources }: Reading, generation: number): Configuration {
  const digest = gateway === undefined ? undefined : digestOf(sources);
  return Object.freeze({ generation, settings, documents, gateway, digest });
}

/** Refuses changes of settings that a running process cannot change. */
function refuseUnreloadable(old: Settings, next: Settings): void {
  const changed: string[] = fixedSettings.filter((key) => JSON.stringify(old[key]) !== JSON.stringify(next[key]));
  for (const key of fixedOfGateway)
    if (JSON.stringify(old.gateway?.[key]) !== JSON.stringify(next.gateway?.[key])) changed.push(key);
  if ((old.gateway === undefined) !== (next.gateway === undefined)) changed.push('documents');
  if (changed.length === 0) return;
  throw new SallyportError('config_invalid', `${changed.join(', ')} cannot change while the sidecar runs`, {
    hint: 'restart it to apply this change',
  });
}
