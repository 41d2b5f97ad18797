// Follows one kind in one namespace, or in all: a list, then a watch from its version on. After each failure it waits
// longer, and goes on from the last version; after 410 Gone, and after an answer that cannot be true, it lists again. Until
// a list is complete the objects of before stay. Beside that, it proves what there was at a version that the store asks for.

import { setTimeout as wait } from 'node:timers/promises';
import { asSallyportError, SallyportError } from '../../cert-agent/base/errors.ts';
import { type Bounds, Budget, type Ledger } from './budget.ts';
import { type ApiClient, parsed } from './client.ts';
import type { CutEvent } from './cut-event.ts';
import { findKind } from './find-kind.ts';
import { pathOf, protects, type WatchedKind } from './kinds.ts';
import { absentError, goneError, type Listed, listAll, type Refused, refusalOf } from './list.ts';
import { type Asked, invalid, type KeptObject, keep, keepCut, keyOfObject, treeOf } from './objects.ts';

/** Milliseconds. */
export interface FollowTimes {
  /** The first wait after a failure; each further one is twice as long. */
  readonly firstWaitMs: number;
  readonly longestWaitMs: number;
  /** After this, everything is listed again, in case that an event was lost. */
  readonly resyncMs: number;
  /** How often a kind without CRD is looked for. */
  readonly absentMs: number;
  /** The same for a kind that protects. A kind that was there is gone only by looks that are so far apart. */
  readonly absentGuardMs: number;
  /** How long the API server keeps one watch open; up to 1.6 times as long, which must be less than `silenceMs`. */
  readonly watchMs: number;
  /** Between two events of a watch. A kind without changes has none, not even bookmarks: its watch ends before that. */
  readonly silenceMs: number;
}

export interface Trouble {
  readonly error: SallyportError;
  /** An API server that has just started, or is busy, answers so for a moment: HTTP 410 or 429. */
  readonly isOrdinary: boolean;
  /** performance.now() when the last proof ended that our objects are those of the API server. */
  readonly since: number;
}

export interface FollowEvents {
  /** Objects changed, or are complete for the first time. A change of statuses alone is none. */
  changed(): void;
  /** A try failed: `trouble` is set. */
  failed(): void;
  /** There is no list at the version that was asked for, and there will be none. */
  refused(): void;
  /** It was listed, or another look has proved that it is absent. */
  settled(): void;
  /** `trouble` is over: the objects are those of the API server. */
  cleared(): void;
  /** It counts as absent, and the API server has it in this version, which is not read here. */
  unread(version: string): void;
  /** A watch is open again. The first failure after the last one was at `since`. */
  recovered(since: number): void;
  /** Objects of a namespace, or of all, exceed a bound from now on, and are not kept. */
  exceeded(namespace: string): void;
  /** This object is too large or too deep from now on, and is not kept. */
  tooMuch(object: KeptObject): void;
}

/** All kinds are listed for it, at one version. */
export interface Round {
  /** The resourceVersion of the lists; undefined for the first of them, which gives it. */
  readonly version: string | undefined;
}

/** What there was of a kind. */
export interface Proof {
  /** What the proof was asked for with. */
  readonly round: Round;
  /** Undefined: there is no such kind. */
  readonly version: string | undefined;
  readonly objects: ReadonlyMap<string, KeptObject>;
}

/** What a list beside a watch found, if the watch must end. */
type Looked = { readonly listed: Listed; readonly round: Round | undefined } | { readonly thrown: unknown } | Refused;

/** How many looks in a row must prove that there is no such kind. */
const absencesNeeded = 2;

/** We may not watch it, or nobody may. */
const unwatchable: ReadonlySet<number> = new Set([403, 405]);

/** An answer that says nothing of the version of a list: it is asked for again. */
const keepsRound: ReadonlySet<number> = new Set([401, 403, 429, 500, 502, 503]);

/** Who we are, and how busy the API server is: after these a watch goes on from its version. */
const keepsVersion: ReadonlySet<number> = new Set([401, 403, 429, 500, 503]);
const ordinary: ReadonlySet<number> = new Set([410, 429]);
const refusalsToList = 3;
const instantEndsToList = 3;

/** One kind. Starts with `run`, and ends with the signal. */
export class Follower {
  readonly kind: WatchedKind;
  readonly namespace: string | undefined;
  readonly #client: ApiClient;
  readonly #times: FollowTimes & Bounds;
  readonly #events: FollowEvents;
  #objects: ReadonlyMap<string, KeptObject> = new Map();
  readonly #ledger: Ledger;
  #budget: Budget;
  #isComplete = false;
  #trouble: Trouble | undefined = undefined;
  #version: string | undefined = undefined;
  #unread: string | undefined = undefined;
  #resourceVersion: string | undefined = undefined;
  #listedAt = 0;
  /** The looks in a row that proved that there is no such kind: performance.now() when the first began. */
  #absences: { readonly count: number; readonly first: number } | undefined = undefined;
  /** A watch was open. */
  #wasWatched = false;
  /** The last watch was refused, and not because the API server is busy: lists are no way to follow it. */
  #isUnwatchable = false;
  /** Everything of this version was listed. */
  #isListed = false;
  /** Ends a pause between looks for an absent kind. */
  #look: AbortController | undefined = undefined;
  /** A list is asked for that has not begun. */
  #isLookAsked = false;
  /** To be proven, until it is, whatever ends meanwhile. */
  #wanted: Round | undefined = undefined;
  #proof: Proof | undefined = undefined;
  /** Lists beside the watch that is open. */
  #lookBeside: (() => void) | undefined = undefined;
  /** The version that was found answered 404. */
  #isVersionInDoubt = false;
  /** Refusals of watches in a row, and watches in a row that ended at once. */
  #refusals = 0;
  #instantEnds = 0;
  #failures = 0;
  /** The answers that were refusals since a watch was open for long enough, and those to watches: lists end the others. */
  #answered = 0;
  #answeredWatches = 0;
  #isWatching = false;
  /** Ends a pause because the API server did not answer. */
  #away: AbortController | undefined = undefined;
  #isAway = false;
  /** performance.now() at the first failure since a watch was open. */
  #outageSince: number | undefined = undefined;

  constructor(
    kind: WatchedKind,
    namespace: string | undefined,
    client: ApiClient,
    times: FollowTimes & Bounds,
    ledger: Ledger,
    events: FollowEvents,
  ) {
    this.kind = kind;
    this.namespace = namespace;
    this.#client = client;
    this.#times = times;
    this.#ledger = ledger;
    this.#budget = new Budget(times, ledger);
    this.#events = events;
  }

  /** By `namespace/name`. */
  get objects(): ReadonlyMap<string, KeptObject> {
    return this.#objects;
  }

  /** The namespaces with objects that are not kept. */
  get over(): ReadonlySet<string> {
    return this.#budget.over;
  }

  /** The namespaces with objects that are not kept because there are too many bytes. */
  get exceeded(): ReadonlySet<string> {
    return this.#budget.exceeded;
  }

  /** True from the first list on, until the kind is known to be gone. */
  get isListed(): boolean {
    return this.#isListed;
  }

  /**
   * What there was in this round; undefined if that is not proven. An open watch proves nothing: its connection may be dead,
   * and its events may be late. But what was never watched is not followed.
   */
  proofOf(round: Round): Proof | undefined {
    if (!this.#isComplete || (this.#isListed && !this.#wasWatched)) return undefined;
    return this.#proof?.round === round ? this.#proof : undefined;
  }

  /** Asks for the proof of a round, by a list, or a look for an absent kind, that begins from now on; undefined: of none. */
  prove(round: Round | undefined): void {
    this.#wanted = round;
    if (round === undefined) return;
    this.#look?.abort();
    this.#lookBeside?.();
  }

  /** Asks for a list that begins from now on. */
  lookNow(): void {
    this.#isLookAsked = true;
    this.#look?.abort();
    this.#lookBeside?.();
  }

  /** True if a list, or a look for an absent kind, is to begin. */
  get #isAsked(): boolean {
    return this.#isLookAsked || this.#unproven() !== undefined;
  }

  #unproven(): Round | undefined {
    return this.#wanted === this.#proof?.round ? undefined : this.#wanted;
  }

  /** Adds the bytes of what each namespace has, kept or not. */
  weigh(sizes: Map<string, number>): void {
    for (const { namespace = '', weight } of this.#objects.values())
      sizes.set(namespace, (sizes.get(namespace) ?? 0) + weight);
  }

  /** Forgets what it has of namespaces that gave way to others. */
  giveWay(): void {
    const before = this.#budget.exceeded;
    const objects = this.#objects as Map<string, KeptObject>;
    let isChanged = false;
    for (const [key, one] of objects) {
      if (one.isOver === true || !this.#ledger.gaveWay(one.namespace ?? '')) continue;
      objects.set(key, this.#budget.giveUp(one));
      isChanged = true;
    }
    if (!isChanged) return;
    this.#sayExceeded(before);
    this.#events.changed();
  }

  /** Another kind got an answer: no more waiting because there was none. */
  answers(): void {
    this.#away?.abort();
  }

  /** True once everything was listed, or the kind is known to be absent. */
  get isComplete(): boolean {
    return this.#isComplete;
  }

  /** Why the objects may be out of date; undefined while they are followed. */
  get trouble(): Trouble | undefined {
    return this.#trouble;
  }

  /** As in `apiVersion`, without its group; undefined until it is found. */
  get version(): string | undefined {
    return this.#version;
  }

  /** The version of a kind that counts as absent because no version of it is read here. */
  get unread(): string | undefined {
    return this.#unread;
  }

  /** Never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      let pauseMs: number | undefined;
      try {
        pauseMs = this.#failed(await this.#turn(signal));
      } catch (error) {
        if (signal.aborted) return;
        this.#absences = undefined;
        const known = asSallyportError(error, 'internal', `cannot follow ${this.kind.plural}`);
        // What made no sense may have hidden an event.
        if (known.code !== 'kubernetes_unavailable') this.#resourceVersion = undefined;
        pauseMs = this.#failed({ error: known });
      }
      if (pauseMs !== undefined) await this.#pause(pauseMs, signal);
    }
  }

  /** A look that is asked for ends a pause between looks, and none after a failure. */
  async #pause(ms: number, signal: AbortSignal): Promise<void> {
    const isBetweenLooks = this.#trouble === undefined && this.#absences !== undefined && this.#isComplete;
    if (isBetweenLooks && this.#isAsked) return;
    this.#look = isBetweenLooks ? new AbortController() : undefined;
    this.#away = this.#isAway ? new AbortController() : undefined;
    const ends = [signal, ...[this.#look, this.#away].flatMap((one) => one?.signal ?? [])];
    await wait(ms, undefined, { signal: AbortSignal.any(ends), ref: false }).catch(() => {});
    [this.#look, this.#away, this.#isAway] = [undefined, undefined, false];
  }

  /** For a list that may replace our objects. */
  #newBudget(): Budget {
    return new Budget(this.#times, this.#ledger, this.#budget);
  }

  /** One list or one watch. Gives why it failed, or how long to wait. */
  async #turn(signal: AbortSignal): Promise<Refused | number | undefined> {
    this.#isWatching = false;
    if (this.#version === undefined || this.#isVersionInDoubt) return this.#find(signal);
    const asked = { kind: this.kind, version: this.#version, namespace: this.namespace };
    const isDue = performance.now() - this.#listedAt > this.#times.resyncMs;
    if (isDue || this.#isAsked) this.#resourceVersion = undefined;
    if (this.#resourceVersion !== undefined) return this.#watch(asked, this.#resourceVersion, signal);
    const { listed, round } = await this.#list(asked, signal);
    if ('error' in listed) return this.#refused(listed);
    this.#listed(listed, round);
    return undefined;
  }

  /** A list, for the round that is to be proven. */
  async #list(asked: Asked, signal: AbortSignal): Promise<{ listed: Listed | Refused; round: Round | undefined }> {
    const round = this.#unproven();
    this.#isLookAsked = false;
    const counting = { budget: this.#newBudget(), known: this.#objects };
    return { listed: await listAll(this.#client, asked, counting, signal, round?.version), round };
  }

  async #find(signal: AbortSignal): Promise<Refused | number | undefined> {
    this.#isLookAsked = false;
    const round = this.#unproven();
    const begunAt = performance.now();
    const found = await findKind(this.#client, this.kind, this.namespace, () => this.#newBudget(), signal);
    if ('unread' in found) return this.#absent(begunAt, found.unread, round);
    this.#absences = undefined;
    if ('error' in found) return this.#refused(found);
    this.#version = found.version;
    this.#unread = undefined;
    this.#isVersionInDoubt = false;
    this.#listed(found.listed, undefined);
    return undefined;
  }

  #listed({ objects, resourceVersion, budget }: Listed, round: Round | undefined): void {
    this.#resourceVersion = resourceVersion;
    // A copy: events change our objects.
    this.#proves(round, resourceVersion, new Map(objects));
    this.#listedAt = performance.now();
    const before = this.#budget.exceeded;
    budget.count();
    this.#budget = budget;
    this.#sayExceeded(before);
    for (const [key, one] of objects)
      if (one.tooMuch !== undefined && one.tooMuch !== this.#objects.get(key)?.tooMuch) this.#events.tooMuch(one);
    this.#isListed = true;
    this.#complete(objects);
    // Of a namespace that gave way meanwhile, it may still have something.
    this.giveWay();
    this.#answered = this.#answeredWatches;
    this.#failures = Math.min(this.#failures, this.#answered);
    if (!this.#isUnwatchable) this.#clear();
    this.#events.settled();
  }

  #proves(round: Round | undefined, version: string | undefined, objects: ReadonlyMap<string, KeptObject>): void {
    if (round !== undefined) this.#proof = { round, version, objects };
  }

  /**
   * There is no such kind, by two witnesses. An API server that starts may deny a kind for a moment, so one look proves
   * nothing. That a kind that was there is gone takes looks that are seconds apart: until then its objects stay.
   */
  #absent(begunAt: number, unread: string | undefined, round: Round | undefined): Refused | number {
    if (this.kind.isRequired === true) return absentError(this.kind);
    const { count, first } = this.#absences ?? { count: 0, first: begunAt };
    this.#absences = { count: count + 1, first };
    const { firstWaitMs, absentGuardMs, absentMs } = this.#times;
    if (this.#version !== undefined) {
      if (count + 1 < absencesNeeded || begunAt - first < absentGuardMs) return goneError(this.kind);
      [this.#version, this.#resourceVersion] = [undefined, undefined];
      [this.#isVersionInDoubt, this.#isListed] = [false, false];
      this.#budget = this.#newBudget();
      this.#budget.count();
      this.#complete(new Map());
    } else if (!this.#isComplete) {
      if (count + 1 < absencesNeeded) return firstWaitMs;
      this.#complete(this.#objects);
    }
    this.#clear();
    this.#recovered();
    if (unread !== undefined && unread !== this.#unread) this.#events.unread(unread);
    this.#unread = unread;
    this.#proves(round, undefined, new Map());
    this.#events.settled();
    return protects(this.kind) ? absentGuardMs : absentMs;
  }

  async #watch(asked: Asked, from: string, signal: AbortSignal): Promise<Refused | number | undefined> {
    const { watchMs, resyncMs, firstWaitMs, silenceMs } = this.#times;
    const seconds = Math.ceil((Math.min(watchMs, resyncMs) * (1 + 0.6 * Math.random())) / 1000);
    const query = new URLSearchParams({
      ...{ watch: '1', resourceVersion: from, allowWatchBookmarks: 'true', timeoutSeconds: String(seconds) },
      ...(asked.kind.fieldSelector === undefined ? {} : { fieldSelector: asked.kind.fieldSelector }),
    });
    this.#isWatching = true;
    const openedAt = performance.now();
    const over = new AbortController();
    // Bytes that are no event prove nothing, and an API server may forget to end the watch.
    let isSilent = false;
    const end = setTimeout(() => over.abort(), seconds * 1000 + silenceMs);
    const silence = setTimeout(() => {
      isSilent = true;
      over.abort();
    }, silenceMs);
    let lines = 0;
    let opened: NodeJS.Timeout | undefined;
    let isLooking = false;
    let looked: Looked | undefined;
    const both = AbortSignal.any([signal, over.signal]);
    this.#lookBeside = (): void => {
      // Once it ends, the next turn lists.
      if (isLooking || over.signal.aborted) return;
      isLooking = true;
      void this.#compare(asked, both).then((found) => {
        isLooking = false;
        if (over.signal.aborted) return;
        looked = found;
        if (found !== undefined) over.abort();
        else if (this.#isAsked) this.#lookBeside?.();
      });
    };
    try {
      const path = `${pathOf(asked.kind, asked.version, asked.namespace)}?${query}`;
      const stream = await this.#client.stream(path, both);
      if (!('lines' in stream)) {
        this.#isUnwatchable = unwatchable.has(stream.status);
        return this.#refused(refusalOf(stream, asked, 'watch'));
      }
      this.#isUnwatchable = false;
      this.#clear();
      if (!this.#wasWatched) {
        this.#wasWatched = true;
        this.#events.settled();
      }
      // It may be open only to say that the version is too old.
      opened = setTimeout(() => this.#recovered(), firstWaitMs);
      for await (const line of stream.lines) {
        lines++;
        silence.refresh();
        const refused = this.#take(line, asked);
        if (refused !== undefined) return this.#refused(refused);
        this.#recovered();
        if (performance.now() - openedAt > firstWaitMs) this.#proven();
      }
    } catch (error) {
      if (isSilent) throw silent(asked);
      if (!over.signal.aborted) throw error;
    } finally {
      over.abort();
      this.#lookBeside = undefined;
      if (isLooking) this.#isLookAsked = true;
      clearTimeout(opened);
      clearTimeout(end);
      clearTimeout(silence);
    }
    if (looked === undefined) return this.#ended(lines, performance.now() - openedAt, asked);
    this.#isWatching = false;
    if ('thrown' in looked) throw looked.thrown;
    if ('error' in looked) return this.#refused(looked);
    this.#listed(looked.listed, looked.round);
    return undefined;
  }

  /**
   * Lists, and proves that our objects are the same. If they are not, events are missing or were faster than the list:
   * gives the list, from which a new watch must go on. Never rejects.
   */
  async #compare(asked: Asked, signal: AbortSignal): Promise<Looked | undefined> {
    try {
      const { listed, round } = await this.#list(asked, signal);
      if ('error' in listed) return listed;
      const { objects, resourceVersion, budget } = listed;
      if (!sameObjects(this.#objects, objects)) return { listed, round };
      budget.drop();
      this.#proves(round, resourceVersion, objects);
    } catch (thrown) {
      return { thrown };
    }
    this.#events.settled();
    return undefined;
  }

  /** A watch ended as it should. One that ends at once, again and again, has no events to give: a list has them. */
  #ended(lines: number, tookMs: number, asked: Asked): Refused | number | undefined {
    const { firstWaitMs } = this.#times;
    this.#refusals = 0;
    if (tookMs >= firstWaitMs || lines > 0) this.#instantEnds = 0;
    if (tookMs >= firstWaitMs) {
      this.#proven();
      return undefined;
    }
    if (lines === 0 && ++this.#instantEnds >= instantEndsToList) {
      this.#instantEnds = 0;
      this.#resourceVersion = undefined;
      return { error: new SallyportError('kubernetes_unavailable', `watches of ${asked.kind.plural} end at once`) };
    }
    return firstWaitMs;
  }

  /** Another answer than those that say nothing of our version means that it may not be known: a list gives a new one. */
  #refused(refused: Refused): Refused {
    const { status = 0, isGone } = refused;
    this.#refusals++;
    if (status === 404 && this.kind.isBuiltIn !== true) this.#isVersionInDoubt = true;
    if (isGone === true || !keepsVersion.has(status) || this.#refusals >= refusalsToList) {
      this.#refusals = 0;
      this.#resourceVersion = undefined;
    }
    return refused;
  }

  /** One event. */
  #take(line: string | CutEvent, asked: Asked): Refused | undefined {
    if (typeof line !== 'string') {
      const { type, object } = keepCut(line, asked);
      if (!isChange(type)) throw invalid(asked, 'it is no event of a watch');
      this.#change(type, object);
      return undefined;
    }
    const { type, object } = treeOf(parsed(line));
    if (type === 'ERROR')
      return refusalOf(
        { status: Number(treeOf(object)['code']), value: object, retryAfterMs: undefined },
        asked,
        'watch',
      );
    if (type === 'BOOKMARK') {
      const { resourceVersion } = treeOf(treeOf(object)['metadata']);
      if (typeof resourceVersion !== 'string' || resourceVersion === '')
        throw invalid(asked, 'a bookmark has no version');
      this.#resourceVersion = resourceVersion;
      return undefined;
    }
    if (!isChange(type)) throw invalid(asked, 'it is no event of a watch');
    this.#change(type, keep(object, asked));
    return undefined;
  }

  #change(type: string, next: KeptObject): void {
    const key = keyOfObject(next);
    const known = this.#objects.get(key);
    const objects = this.#objects as Map<string, KeptObject>;
    const before = this.#budget.exceeded;
    if (type === 'DELETED' && known !== undefined) this.#budget.remove(known);
    const kept = type === 'DELETED' ? undefined : this.#budget.add(next, known);
    if (kept === undefined) objects.delete(key);
    else objects.set(key, kept);
    this.#resourceVersion = next.resourceVersion;
    this.#sayExceeded(before);
    if (kept?.tooMuch !== undefined && kept.tooMuch !== known?.tooMuch) this.#events.tooMuch(kept);
    // What was not kept may fit now: only a list has it.
    if (before.size > 0) this.#listedAt = Number.NEGATIVE_INFINITY;
    if (known?.text !== kept?.text) this.#events.changed();
  }

  #sayExceeded(before: ReadonlySet<string>): void {
    for (const namespace of this.#budget.exceeded) if (!before.has(namespace)) this.#events.exceeded(namespace);
  }

  #complete(objects: ReadonlyMap<string, KeptObject>): void {
    const before = this.#objects;
    const isChanged =
      !this.#isComplete ||
      before.size !== objects.size ||
      [...objects].some(([key, { text }]) => before.get(key)?.text !== text);
    this.#objects = objects;
    this.#isComplete = true;
    if (isChanged) this.#events.changed();
  }

  #clear(): void {
    if (this.#trouble === undefined) return;
    this.#trouble = undefined;
    this.#events.cleared();
  }

  #recovered(): void {
    const since = this.#outageSince;
    this.#outageSince = undefined;
    if (since !== undefined) this.#events.recovered(since);
  }

  /** A watch was open for long enough: the next failure is the first one. */
  #proven(): void {
    [this.#failures, this.#answered, this.#answeredWatches] = [0, 0, 0];
  }

  /** Milliseconds to wait before the next try. */
  #failed(result: Refused | number | undefined): number | undefined {
    if (typeof result !== 'object') return result;
    const { error, isGone: mustList, status = 0, retryAfterMs = 0 } = result;
    const isSilent = status === 0 && error.code === 'kubernetes_unavailable';
    if (!this.#isWatching && !isSilent && !keepsRound.has(status) && this.#unproven() !== undefined)
      this.#events.refused();
    const { firstWaitMs, longestWaitMs } = this.#times;
    // Of many gateways that lost the API server, not all come back at once.
    const tries = this.#count(status > 0);
    const pauseMs = Math.min(longestWaitMs, firstWaitMs * 2 ** tries) * (0.5 + Math.random() / 2);
    this.#failures = Math.min(tries + 1, 16);
    this.#isAway = isSilent;
    // The first 410 is the ordinary end of an old version.
    if (mustList && this.#failures === 1) return undefined;
    // Its events and those of other kinds may come in any order now: a list brings it up to date at once.
    if (protects(this.kind)) this.#resourceVersion = undefined;
    const isOrdinary = mustList === true || ordinary.has(status);
    this.#trouble = { error, isOrdinary, since: this.#trouble?.since ?? performance.now() };
    this.#outageSince ??= this.#trouble.since;
    this.#events.failed();
    return Math.max(pauseMs, Math.min(retryAfterMs, longestWaitMs));
  }

  /** The failures before this one. Once it answers, how long it did not has no part in the wait. */
  #count(isAnswered: boolean): number {
    if (!isAnswered) return this.#failures;
    this.#answered++;
    if (this.#isWatching) this.#answeredWatches++;
    return Math.min(this.#failures, this.#answered - 1);
  }
}

function sameObjects(a: ReadonlyMap<string, KeptObject>, b: ReadonlyMap<string, KeptObject>): boolean {
  if (a.size !== b.size) return false;
  return [...b].every(([key, { text, isOver, tooMuch }]) => {
    const one = a.get(key);
    return one?.text === text && one.isOver === isOver && one.tooMuch === tooMuch;
  });
}

function isChange(type: unknown): type is string {
  return type === 'ADDED' || type === 'MODIFIED' || type === 'DELETED';
}

function silent({ kind }: Asked): SallyportError {
  return new SallyportError(
    'kubernetes_unavailable',
    `the API server cannot be asked: a watch of ${kind.plural} has no events`,
  );
}
