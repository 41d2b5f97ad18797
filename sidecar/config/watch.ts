// The configuration as a Live value: sidecar.yaml and the policies beside it, read together as one generation. After an
// invalid change, the last good generation stays, and the reason is logged and counted.

import { dirname, resolve } from 'node:path';
import { guard } from '../../cert-agent/base/background.ts';
import { asSallyportError, formatProblem, type Problem, SallyportError } from '../../cert-agent/base/errors.ts';
import { type Live, LiveCell } from '../../cert-agent/base/live.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import { watchForChange } from '../../cert-agent/base/watch.ts';
import type { ClusterStore, Snapshot } from '../cluster/store.ts';
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

/** The pause between two readings of objects, as a multiple of the last one's time: they may change all the time. */
const objectsPause = 4;
const leastPauseMs = 1000;
const mostPauseMs = 30_000;

/** How long objects are gathered after a change. Nothing else happens at a change: there may be thousands a second. */
const gatherMs = 100;

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
  /** The objects of the API server that gateway.yaml names; undefined without one. */
  readonly store: ClusterStore | undefined;
  /**
   * What the documents of an API server wait for; undefined once they are in force. `served` is the generation that
   * the ports have.
   */
  waitingFor(served: number): string | undefined;
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
  readFile: (file: string, objects?: Snapshot) => Promise<Reading> = readApart,
  everyMs = 1000,
): Promise<ConfigurationWatch> {
  const read = async (objects?: Snapshot): Promise<Reading> => {
    const reading = await readFile(file, objects);
    return { ...reading, settings: await adapt(reading.settings) };
  };
  const first = await read();
  const store = await startStore(first, log);
  /** The objects of the last accepted or rejected configuration. */
  let seenObjects: Snapshot | undefined;
  /** The first generation with documents of the API server. */
  let firstWithObjects: number | undefined;
  /** performance.now() from which objects may be read again. */
  let objectsFrom = 0;
  /** The text of the last accepted or rejected configuration. */
  let seen: readonly Source[] = first.sources;
  /** The text and the content of the configuration in force. */
  let inForce: readonly Source[] = first.sources;
  let { content } = first;
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
    let objects: Snapshot | undefined;
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
      const isDue = performance.now() >= objectsFrom;
      objects = isDue || !sameSources(now, seen) || again ? store?.snapshot() : seenObjects;
      const isNew = objects !== seenObjects;
      if (sameSources(now, seen) && !isNew && !again) return;
      seen = now;
      seenObjects = objects;
      unreadSince = undefined;
    } catch (error) {
      watched.lost();
      keepLast(error);
      unseen = true;
      return;
    }
    reading = true;
    const begunAt = performance.now();
    void read(objects)
      .then((next) => take(next, objects), keepLast)
      .finally(() => {
        reading = false;
        const now = performance.now();
        objectsFrom = now + Math.min(mostPauseMs, Math.max(leastPauseMs, objectsPause * (now - begunAt)));
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

  const take = (next: Reading, objects: Snapshot | undefined): void => {
    const { settings, generation } = cell.current();
    try {
      refuseUnreloadable(settings, next.settings);
    } catch (error) {
      keepLast(error);
      return;
    }
    seen = next.sources;
    problem = undefined;
    // Objects changed that are another controller's, or nothing that is read of ours.
    const isSame = objects !== undefined && next.content === content && sameSources(next.sources, inForce);
    [content, inForce] = [next.content, next.sources];
    if (objects !== undefined) firstWithObjects ??= isSame ? generation : generation + 1;
    if (isSame) return;
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

  let gathering: NodeJS.Timeout | undefined;
  // It is not set again by further changes: a look comes at a time that no stream of changes can put off.
  store?.onChange(() => {
    gathering ??= setTimeout(
      () => {
        gathering = undefined;
        guard('configuration', () => closed || look());
      },
      Math.max(gatherMs, objectsFrom - performance.now()),
    );
  });
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
    store,
    waitingFor(served) {
      if (store === undefined || (firstWithObjects !== undefined && served >= firstWithObjects)) return undefined;
      return (
        store.waitingFor() ??
        (problem === undefined ? 'the documents to be read' : `documents without errors (${problem.message})`)
      );
    },
    reload: () => look(true),
    close() {
      closed = true;
      clearTimeout(gathering);
      void store?.close();
      watch.close();
    },
  };
}

/** The store is loaded by gateways that have a use for it only. */
async function startStore({ settings, watched }: Reading, log: Log): Promise<ClusterStore | undefined> {
  const { kubernetes } = settings.gateway ?? {};
  if (kubernetes === undefined) return undefined;
  const { ClusterStore: Store } = await import('../cluster/store.ts');
  return new Store({ server: kubernetes.server, namespaces: kubernetes.namespaces, kinds: watched ?? [], log });
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
  const isOther = JSON.stringify(old.gateway?.kubernetes) !== JSON.stringify(next.gateway?.kubernetes);
  if ((old.gateway === undefined) !== (next.gateway === undefined) || isOther) changed.push('documents');
  if (changed.length === 0) return;
  throw new SallyportError('config_invalid', `${changed.join(', ')} cannot change while the sidecar runs`, {
    hint: 'restart it to apply this change',
  });
}
