// All objects that a gateway is configured by, followed at an API server. Until each kind has been listed once there is no
// snapshot. When the API server is away the last objects stay, and the log and the metrics say how old they are.

import type { ApiServer } from '../../cert-agent/base/api-server.ts';
import { every } from '../../cert-agent/base/background.ts';
import type { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import { type Bounds, boundsOf, Ledger } from './budget.ts';
import { ApiClient, type ClientTimes } from './client.ts';
import { unreadError } from './find-kind.ts';
import { Follower, type FollowTimes } from './follow.ts';
import type { WatchedKind } from './kinds.ts';
import { Mentions, sameTexts } from './mentions.ts';
import type { KeptObject } from './objects.ts';
import { closedRoute, type Differences, differencesOf } from './same-documents.ts';

export interface StoreOptions {
  readonly server: ApiServer;
  readonly kinds: readonly WatchedKind[];
  /** Undefined: all. */
  readonly namespaces: readonly string[] | undefined;
  readonly log: Log;
  readonly times?: Partial<StoreTimes>;
}

/** Times, and bounds in bytes. */
export type StoreTimes = ClientTimes &
  FollowTimes &
  Bounds & {
    readonly reminderMs: number;
    /** From the proof of one set of documents to the next one, at least. */
    readonly proofMs: number;
    /** For so long an API server that was away may forbid what it allows: it does not know its roles yet. */
    readonly rolesMs: number;
    /**
     * A namespace whose documents changed in every proof for so long, while no documents could be taken, is closed: it must
     * not keep out all others. Twice as long if only its routes changed.
     */
    readonly restlessMs: number;
  };

/** A state of the store: the same one until something changes that a gateway may read. */
export type Snapshot = readonly KeptObject[];

/** One kind in one namespace, for metrics and the log. */
export interface KindFacts {
  readonly kind: string;
  readonly namespace: string | undefined;
  readonly objects: number;
  /** It was listed, or is known to be absent. */
  readonly isComplete: boolean;
  /** For how long the objects have not been followed, milliseconds; 0 while they are. */
  readonly ageMs: number;
  readonly error: SallyportError | undefined;
}

/** A kind that is not followed, for those who ask how old the objects are. */
export interface StaleKind {
  readonly kind: string;
  readonly namespace: string | null;
  /** ISO 8601. */
  readonly since: string;
  readonly code: string;
  readonly message: string;
  /** What does not change meanwhile. */
  readonly holdsUp: string;
}

/** A document of a namespace of which none is in force, and why. */
export interface ClosedDocument {
  readonly object: KeptObject;
  readonly why: string;
}

/** Documents that are in force once each kind of theirs is proven to be as new. */
interface Staged {
  readonly documents: Snapshot;
  /** performance.now() when the documents were read. */
  readonly at: number;
}

/** A namespace whose documents changed in each proof since the last documents were taken. */
interface Changing {
  /** performance.now() at the first of them. */
  readonly since: number;
  readonly kinds: ReadonlySet<string>;
}

/** A namespace whose documents change all the time, and what stays of it: its routes, which answer 500. */
interface Restless {
  readonly routes: readonly KeptObject[];
}

export const storeTimes: StoreTimes = Object.freeze({
  answerMs: 30_000,
  silenceMs: 120_000,
  firstWaitMs: 1000,
  longestWaitMs: 30_000,
  resyncMs: 3_600_000,
  absentMs: 60_000,
  absentGuardMs: 5000,
  watchMs: 60_000,
  reminderMs: 60_000,
  proofMs: 1000,
  rolesMs: 10_000,
  restlessMs: 30_000,
  ...boundsOf(),
});

/** Why a namespace is closed. */
const tooManyBytes = 'has too many bytes of all kinds';
const changesAllTheTime = 'changes all the time';

/** One part of the time goes into proofs. */
const proofShare = 5;

/** Starts to follow. Nothing of this ends the process: what fails is logged, and tried again. */
export class ClusterStore {
  readonly client: ApiClient;
  readonly #log: Log;
  readonly #ledger = new Ledger();
  readonly #followers: readonly Follower[];
  readonly #listeners = new Set<() => void>();
  readonly #stopping = new AbortController();
  readonly #stops: (() => void)[] = [];
  #snapshot: Snapshot | undefined = undefined;
  /** Something of it may have changed. */
  #isStale = true;
  /** The last complete documents. */
  #documents: Snapshot | undefined = undefined;
  readonly #mentions = new Mentions();
  /** The same of documents that wait. */
  readonly #mentionsOfStaged = new Mentions();
  /** Documents changed since they were last taken up. */
  #isDirty = true;
  #staged: Staged | undefined = undefined;
  /** The documents from before the last proof. Undefined if there was none since all kinds are followed. */
  #provenBefore: Snapshot | undefined = undefined;
  readonly #changing = new Map<string, Changing>();
  readonly #restless = new Map<string, Restless>();
  /** performance.now() from which on the next documents are proven, and what waits for it. */
  #nextProofAt = 0;
  #proofTimer: NodeJS.Timeout | undefined = undefined;
  /** Those that `#documents` are of. */
  #exceeding: ReadonlySet<string> = new Set();
  readonly #times: StoreTimes;
  readonly #namespaces: ReadonlySet<string> | undefined;
  readonly #routeKinds: ReadonlySet<string>;
  /** What happened in an outage, by kind and namespace: performance.now() when it began, undefined once it is logged. */
  readonly #said = new Map<Follower, Map<string, number | undefined>>();

  constructor({ server, kinds, namespaces, log, times = {} }: StoreOptions) {
    const all = { ...storeTimes, ...times };
    this.#log = log;
    this.#times = all;
    this.#routeKinds = new Set(kinds.flatMap(({ kind, isRoute }) => (isRoute === true ? kind : [])));
    this.#namespaces = namespaces === undefined ? undefined : new Set(namespaces);
    this.client = new ApiClient(server, all);
    this.#ledger.onGiveWay = () =>
      queueMicrotask(() => {
        for (const one of this.#followers) one.giveWay();
      });
    this.#followers = kinds.flatMap((kind) =>
      (kind.isClusterWide === true ? [undefined] : (namespaces ?? [undefined])).map((namespace): Follower => {
        const follower: Follower = new Follower(kind, namespace, this.client, all, this.#ledger, {
          changed: () => this.#changed(follower),
          settled: () => this.#settled(),
          failed: () => this.#sayTrouble(follower),
          unread: (version) => this.#sayUnread(follower, version),
          exceeded: (name) => this.#sayExceeded(follower, name, all),
          tooMuch: (object) => this.#sayTooMuch(follower, object),
          cleared: () => {
            for (const one of this.#followers) one.answers();
            // What was held back is due.
            if (kind.isData !== true) this.#changed(follower);
          },
          recovered: (since) => this.#sayRecovered(follower, since),
        });
        return follower;
      }),
    );
    for (const one of this.#followers) void one.run(this.#stopping.signal);
    this.#stops.push(every('kubernetes', all.reminderMs, () => this.#remind()));
  }

  /**
   * All objects that documents may mean; undefined until each kind was listed. Fails closed: while a kind of documents
   * is not followed, all documents are the last complete ones. Only what they refer to still changes: Secrets,
   * ConfigMaps and endpoints.
   */
  snapshot(): Snapshot | undefined {
    if (!this.#isComplete()) return undefined;
    this.#takeUp();
    if (this.#documents === undefined) return undefined;
    if (!this.#isStale && this.#snapshot !== undefined) return this.#snapshot;
    this.#isStale = false;
    const data = this.#objectsOf(({ kind }) => kind.isData === true);
    const next = this.#mentions.only([...this.#documents, ...data]);
    if (this.#snapshot === undefined || !sameTexts(this.#snapshot, next)) this.#snapshot = Object.freeze(next);
    return this.#snapshot;
  }

  /**
   * Each kind has a watch of its own, and the newest event of one proves nothing of the others. A route that came after
   * its policy must not be in force before that, and one that went before its policy must not be in force after that.
   * So the documents wait until answers to requests that began later have proved what there is of each kind. Those that
   * were the same before and after were all there at once.
   */
  #takeUp(): void {
    if (this.#blind() !== undefined) {
      this.#provenBefore = undefined;
      if (this.#staged !== undefined) [this.#staged, this.#isDirty] = [undefined, true];
      return;
    }
    if (this.#staged === undefined) {
      if (!this.#isDirty || this.#mustWait()) return;
      this.#isDirty = false;
      this.#staged = { documents: this.#readDocuments(), at: performance.now() };
      for (const one of this.#followers) if (one.kind.isData !== true) one.lookNow();
    }
    if (this.#unproven() !== undefined) return;
    const { documents, at } = this.#staged;
    const { proofMs, longestWaitMs } = this.#times;
    this.#nextProofAt = at + Math.max(proofMs, Math.min(longestWaitMs, proofShare * (performance.now() - at)));
    this.#staged = undefined;
    this.#judge(documents, at);
    if (this.#isDirty) this.#mustWait();
  }

  /**
   * Takes documents that were all there at once: those that are the same as they were before the proof. If only one list
   * changes all the time, those from before the proof: that list was read after the proof of before, and everything else
   * has been the same since.
   */
  #judge(before: Snapshot, at: number): void {
    const now = this.#readDocuments();
    const earlier = this.#provenBefore;
    this.#provenBefore = before;
    const isRelevant = this.#relevance([...(earlier ?? []), ...before, ...now]);
    const relevant = (one: Snapshot): Snapshot => one.filter(isRelevant);
    this.#watchRestlessness(differencesOf(relevant(before), relevant(now)), now, at);
    const [old, middle, taken] = [earlier ?? [], before, now].map((one) => this.#withoutRestless(one)) as [
      Snapshot,
      Snapshot,
      Snapshot,
    ];
    const lately = this.#listsOf(differencesOf(relevant(middle), relevant(taken)));
    if (lately.size === 0) return this.#takeDocuments(taken);
    this.#isDirty = true;
    if (earlier === undefined) return;
    const lists = new Set([...lately, ...this.#listsOf(differencesOf(relevant(old), relevant(middle)))]);
    if (lists.size === 1) this.#takeDocuments(middle);
  }

  #takeDocuments(taken: Snapshot): void {
    this.client.isEarly = false;
    this.#changing.clear();
    [this.#documents, this.#isStale] = [taken, true];
    this.#mentions.update(taken);
  }

  /** Each is one answer of the API server: a kind, in one namespace if only some are followed. */
  #listsOf(differences: Differences): ReadonlySet<string> {
    const isOne = this.#namespaces === undefined;
    return new Set(
      [...differences].flatMap(([namespace, kinds]) =>
        [...kinds].map((kind) => (isOne ? kind : `${kind} ${namespace}`)),
      ),
    );
  }

  /**
   * What may matter to a gateway. A cluster has many Services that no document names, and namespaces without a document:
   * there, something changes in every proof.
   */
  #relevance(all: Snapshot): (object: KeptObject) => boolean {
    const isDocument = ({ kind }: KeptObject): boolean => kind !== 'Service' && kind !== 'Namespace';
    const spaces = new Set(all.filter(isDocument).map(({ namespace }) => namespace));
    this.#mentionsOfStaged.update(all.filter(isDocument));
    const named = new Set(this.#mentionsOfStaged.only(all));
    return (one) => (one.kind === 'Namespace' ? spaces.has(one.name) : !isDocument(one) ? named.has(one) : true);
  }

  /** Opens namespaces that did not change in a proof, and closes those that changed for too long. */
  #watchRestlessness(changed: Differences, now: Snapshot, at: number): void {
    for (const one of this.#changing.keys()) if (!changed.has(one)) this.#changing.delete(one);
    for (const one of this.#restless.keys())
      if (!changed.has(one)) {
        this.#restless.delete(one);
        this.#isDirty = true;
      }
    for (const [namespace, kinds] of changed) {
      const { since, kinds: before } = this.#changing.get(namespace) ?? { since: at, kinds: new Set<string>() };
      const all = new Set([...before, ...kinds]);
      this.#changing.set(namespace, { since, kinds: all });
      // Routes that change all the time delay no other document if nothing else changes. So they come last.
      const isRoutes = [...all].every((kind) => this.#routeKinds.has(kind));
      const isLong = performance.now() - since > (isRoutes ? 2 : 1) * this.#times.restlessMs;
      // What has no namespace concerns all, and only administrators can change it.
      if (isLong && namespace !== '' && !this.#restless.has(namespace)) this.#close(namespace, now);
    }
  }

  #close(namespace: string, now: Snapshot): void {
    // Without its routes, wider ones of others would take their requests.
    const routes = now.filter((one) => one.namespace === namespace && this.#routeKinds.has(one.kind)).map(closedRoute);
    this.#restless.set(namespace, { routes });
    this.#isDirty = true;
    this.#log.error(
      { code: 'kubernetes_invalid', namespace },
      `namespace ${namespace} ${changesAllTheTime}: its routes answer 500, and none of its other documents is in force, until it does not`,
    );
  }

  #withoutRestless(documents: Snapshot): Snapshot {
    if (this.#restless.size === 0) return documents;
    const others = documents.filter(({ namespace = '' }) => !this.#restless.has(namespace));
    return [...others, ...[...this.#restless.values()].flatMap(({ routes }) => routes)];
  }

  /** True if it is too soon for the next proof. They cost the API server as little however fast documents change. */
  #mustWait(): boolean {
    const ms = this.#nextProofAt - performance.now();
    if (ms <= 0) return false;
    this.#proofTimer ??= setTimeout(() => {
      this.#proofTimer = undefined;
      this.#settled();
    }, ms).unref();
    return true;
  }

  /**
   * Of a namespace in which a policy may be missing, because there is too much, or because the namespace is being
   * deleted, there is no document at all. Nor is there a route or a Gateway that is being deleted, which a finalizer may
   * keep for long after its policies.
   */
  #readDocuments(): Snapshot {
    const isDocument = ({ kind }: Follower): boolean => kind.isData !== true;
    const closed = new Set(this.#followers.filter(isDocument).flatMap((one) => [...one.over]));
    for (const one of this.#dataExceeding()) closed.add(one);
    const all = this.#objectsOf(isDocument);
    for (const { kind, name, isEnding } of all) if (kind === 'Namespace' && isEnding === true) closed.add(name);
    return all.filter(({ kind, namespace = '', isEnding }) => {
      if (isEnding === true && (kind === 'Gateway' || this.#routeKinds.has(kind))) return false;
      return !closed.has(namespace);
    });
  }

  /** The object as it was seen last, with its newest status. */
  find(kind: string, namespace: string | undefined, name: string): KeptObject | undefined {
    const key = namespace === undefined ? name : `${namespace}/${name}`;
    for (const one of this.#followers) {
      const found = one.kind.kind === kind ? one.objects.get(key) : undefined;
      if (found !== undefined) return found;
    }
    return undefined;
  }

  /** Whether objects of this namespace are followed; undefined: those without one. */
  follows(namespace: string | undefined): boolean {
    return namespace === undefined || this.#namespaces === undefined || this.#namespaces.has(namespace);
  }

  /** The kind of this name, and the version in which it is followed. */
  placeOf(kind: string): { readonly kind: WatchedKind; readonly version: string } | undefined {
    const found = this.#followers.find((one) => one.kind.kind === kind && one.version !== undefined);
    return found === undefined ? undefined : { kind: found.kind, version: found.version! };
  }

  /** What the first snapshot waits for; undefined once it is there. */
  waitingFor(): string | undefined {
    const missing = this.#followers.filter(({ isComplete }) => !isComplete);
    const [first = this.#documents === undefined ? (this.#blind() ?? this.#unproven()) : undefined] = missing;
    if (first === undefined) return undefined;
    const failed = missing.find(({ trouble }) => trouble !== undefined) ?? first;
    const more = missing.length <= 1 ? '' : ` and ${missing.length - 1} more kinds`;
    const why = failed.trouble === undefined ? '' : ` (${failed.trouble.error.message})`;
    return `the API server's list of ${titleOf(failed)}${more}${why}`;
  }

  facts(): readonly KindFacts[] {
    const now = performance.now();
    return this.#followers.map(({ kind, namespace, objects, trouble, isComplete }) => ({
      ...{ kind: kind.kind, namespace, objects: objects.size, isComplete, error: trouble?.error },
      ageMs: trouble === undefined ? 0 : now - trouble.since,
    }));
  }

  /** The kinds that are not followed. */
  stale(): readonly StaleKind[] {
    const now = performance.now();
    return this.#followers.flatMap(({ kind, namespace, trouble }) => {
      if (trouble === undefined) return [];
      const { code, message } = trouble.error;
      const since = new Date(Date.now() - (now - trouble.since)).toISOString();
      const holdsUp = kind.isData === true ? 'its own objects' : 'all documents';
      return { kind: kind.kind, namespace: namespace ?? null, since, code, message, holdsUp };
    });
  }

  /** The namespaces of which no document is in force, and why. */
  closed(): ReadonlyMap<string, string> {
    const found = new Map<string, string>();
    for (const { kind, over, objects } of this.#followers) {
      if (kind.isData === true || over.size === 0) continue;
      for (const { namespace, name, tooMuch } of objects.values())
        if (namespace !== undefined && tooMuch !== undefined)
          found.set(namespace, `${kind.kind} ${namespace}/${name} has ${tooMuch}`);
      for (const one of over) if (!found.has(one)) found.set(one, `it ${tooManyBytes}`);
    }
    for (const one of this.#dataExceeding()) if (!found.has(one)) found.set(one, `it ${tooManyBytes}`);
    for (const one of this.#restless.keys()) if (!found.has(one)) found.set(one, `it ${changesAllTheTime}`);
    found.delete('');
    return found;
  }

  /** The documents of these namespaces. */
  closedDocuments(): readonly ClosedDocument[] {
    const closed = this.closed();
    if (closed.size === 0) return [];
    const documents = this.#objectsOf(({ kind }) => kind.isData !== true);
    return documents.flatMap((object) => {
      const why = closed.get(object.namespace ?? '');
      return why === undefined ? [] : { object, why };
    });
  }

  /** The kinds whose objects are passed over, because no version of theirs is read here. */
  unread(): readonly SallyportError[] {
    return this.#followers.flatMap(({ kind, unread }) => (unread === undefined ? [] : unreadError(kind, unread)));
  }

  /** Called at each change, and at the first complete snapshot. May be called more than once for one change. */
  onChange(listener: () => void): void {
    this.#listeners.add(listener);
  }

  async close(): Promise<void> {
    clearTimeout(this.#proofTimer);
    this.#stopping.abort();
    for (const stop of this.#stops) stop();
    await this.client.close();
  }

  /** A kind of documents that is not followed. */
  #blind(): Follower | undefined {
    return this.#followers.find(isBlind);
  }

  /** A kind that is not yet proven to be as new as the documents that wait. */
  #unproven(): Follower | undefined {
    const staged = this.#staged;
    if (staged === undefined) return undefined;
    return this.#followers.find(({ kind, provenAt }) => kind.isData !== true && provenAt < staged.at);
  }

  #objectsOf(test: (follower: Follower) => boolean): KeptObject[] {
    const found = this.#followers.filter(test).flatMap(({ objects }) => [...objects.values()]);
    return found.filter(({ isOver }) => isOver !== true);
  }

  #isComplete(): boolean {
    return this.#followers.every(({ isComplete }) => isComplete);
  }

  #changed({ kind }: Follower): void {
    if (kind.isData === true) this.#dataChanged();
    else this.#isDirty = true;
    if (!this.#isComplete()) return;
    // For the first time there is nothing to gather.
    if (this.#documents === undefined) this.#takeUp();
    for (const listener of this.#listeners) listener();
  }

  #dataChanged(): void {
    this.#isStale = true;
    const exceeding = this.#dataExceeding();
    if (sameSet(exceeding, this.#exceeding)) return;
    [this.#exceeding, this.#isDirty] = [exceeding, true];
  }

  /**
   * Namespaces with too much, of which it is Secrets, ConfigMaps or endpoints that are not kept. They are closed as if it
   * were documents: which it is depends on what came first, and after a restart that may be the other.
   */
  #dataExceeding(): ReadonlySet<string> {
    return new Set(this.#followers.flatMap(({ kind, exceeded }) => (kind.isData === true ? [...exceeded] : [])));
  }

  /** Documents may have waited for this. */
  #settled(): void {
    if (this.#stopping.signal.aborted || !this.#isComplete()) return;
    const before = this.#documents;
    this.#takeUp();
    if (this.#documents !== before) for (const listener of this.#listeners) listener();
  }

  /**
   * An API server that is away fails in several ways until it is back: that is one line, and then the reminder. What
   * needs a change by an administrator is a line of its own.
   */
  #sayTrouble(follower: Follower): void {
    const { error, isOrdinary } = follower.trouble!;
    const said = this.#said.get(follower) ?? new Map<string, number | undefined>();
    this.#said.set(follower, said);
    const what = isOrdinary ? 'ordinary' : error.code === 'kubernetes_unavailable' ? error.code : error.message;
    if (isOrdinary && said.size > 0) return;
    const now = performance.now();
    if (error.code === 'kubernetes_forbidden' && said.has('kubernetes_unavailable')) {
      if (!said.has(what)) said.set(what, now);
      const since = said.get(what);
      if (since === undefined || now - since < this.#times.rolesMs) return;
    } else if (said.has(what)) return;
    said.set(what, undefined);
    this.#log[isOrdinary ? 'info' : 'error'](
      { code: error.code, kind: follower.kind.kind, hint: error.hint },
      `${error.message}: ${inForce(follower)}`,
    );
  }

  #sayRecovered(follower: Follower, since: number): void {
    this.#said.delete(follower);
    const seconds = Math.round((performance.now() - since) / 1000);
    this.#log.info(
      { code: 'kubernetes_followed', kind: follower.kind.kind },
      `${titleOf(follower)} are followed again after ${seconds} s`,
    );
  }

  #sayUnread({ kind }: Follower, version: string): void {
    const { code, message, hint } = unreadError(kind, version);
    this.#log.warn({ code, kind: kind.kind, hint }, `${message}: its objects are passed over`);
  }

  #sayTooMuch({ kind }: Follower, { namespace, name, tooMuch }: KeptObject): void {
    const place = namespace === undefined ? name : `${namespace}/${name}`;
    const isAlone = kind.isData === true || namespace === undefined;
    const then = isAlone ? 'it is not read' : `no document of namespace ${namespace} is in force until that is changed`;
    this.#log.error(
      { code: 'kubernetes_invalid', kind: kind.kind, namespace, name },
      `${kind.kind} ${place} has ${tooMuch}: ${then}`,
    );
  }

  /** Once for a namespace, of whatever kind it is. */
  #sayExceeded(follower: Follower, namespace: string, { namespaceBytes, totalBytes }: Bounds): void {
    if (this.#followers.some((one) => one !== follower && one.exceeded.has(namespace))) return;
    const { kind } = follower.kind;
    const who = namespace === '' ? 'what has no namespace' : `namespace ${namespace}`;
    const bounds = `the bound is ${namespaceBytes}, and ${totalBytes} for all together`;
    this.#log.error(
      {
        ...{ code: 'kubernetes_invalid', kind, namespace },
        hint: 'bounds follow from the memory that the gateway may have: OPERATIONS.md, Sizing',
      },
      `${who} ${tooManyBytes} (${bounds}): no document of it is in force until there is less`,
    );
  }

  #remind(): void {
    // What was too much may fit since there is less of another kind, or of another namespace.
    this.#ledger.letBack(this.#times);
    for (const one of this.#followers) if (one.exceeded.size > 0) one.lookNow();
    const behind = this.#followers.filter(({ trouble }) => trouble !== undefined);
    if (behind.length === 0) return;
    const oldest = behind.reduce((a, b) => (a.trouble!.since <= b.trouble!.since ? a : b));
    const { error, since } = oldest.trouble!;
    const seconds = Math.round((performance.now() - since) / 1000);
    this.#log.error(
      { code: error.code, kinds: behind.map(titleOf), ageSeconds: seconds, hint: error.hint },
      `objects of ${behind.length} kinds are up to ${seconds} s old: ${error.message}`,
    );
  }
}

/** Of a kind without namespaces, too many bytes concern all: the last documents stay, as if it could not be read. */
function isBlind({ kind, trouble, over }: Follower): boolean {
  return kind.isData !== true && (trouble !== undefined || over.has(''));
}

function sameSet(a: ReadonlySet<string>, b: ReadonlySet<string>): boolean {
  return a.size === b.size && [...a].every((one) => b.has(one));
}

function titleOf({ kind, namespace }: Pick<Follower, 'kind' | 'namespace'>): string {
  return namespace === undefined ? kind.plural : `${kind.plural} of namespace ${namespace}`;
}

function inForce({ isComplete }: Follower): string {
  return isComplete ? 'the last state stays in force' : 'nothing is served until they are listed';
}
