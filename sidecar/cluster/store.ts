// All objects that a gateway is configured by, followed at an API server. Until each kind has been listed once there is no
// snapshot. When the API server is away the last objects stay, and the log and the metrics say how old they are.

import type { ApiServer } from '../../cert-agent/base/api-server.ts';
import { every } from '../../cert-agent/base/background.ts';
import type { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import { type Bounds, boundsOf, Ledger } from './budget.ts';
import { ApiClient, type ClientTimes } from './client.ts';
import { unreadError } from './find-kind.ts';
import { Follower, type FollowTimes, type Proof, type Round } from './follow.ts';
import type { WatchedKind } from './kinds.ts';
import { Mentions, sameTexts } from './mentions.ts';
import type { KeptObject, Snapshot } from './objects.ts';

export type { Snapshot } from './objects.ts';

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
  };

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

/** What all kinds of documents are listed for. */
interface Proving {
  /** performance.now() when it began. */
  readonly at: number;
  /** Its list is the newest, and gives the version of the others. Undefined if there is no kind at all. */
  readonly leader: Follower | undefined;
  readonly first: Round;
  /** Of the other kinds; undefined until there is a version. */
  readonly rest: Round | undefined;
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
  ...boundsOf(),
});

/** Why a namespace is closed. */
const tooManyBytes = 'has too many bytes of all kinds';

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
  /** Documents changed since the last proof began. */
  #isDirty = true;
  #proving: Proving | undefined = undefined;
  /** The proofs in a row that were given up. */
  #givenUp = 0;
  /** performance.now() of the first change that is not in force. */
  #changedAt: number | undefined = performance.now();
  /** performance.now() from which on the next documents are proven, and what waits for it. */
  #nextProofAt = 0;
  #proofTimer: NodeJS.Timeout | undefined = undefined;
  /** Those that `#documents` are of. */
  #exceeding: ReadonlySet<string> = new Set();
  readonly #times: StoreTimes;
  readonly #namespaces: ReadonlySet<string> | undefined;
  readonly #routeKinds: ReadonlySet<string>;
  /** Kinds and namespaces with an object that was too much, since the last reminder. */
  readonly #saidTooMuch = new Set<string>();
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
          refused: () => this.#giveUp(),
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
   * its policy must not be in force before that, and one that went before its policy must not be in force after that. So
   * an event is only the reason to look: all kinds are listed at one version, and what there was then is in force.
   */
  #takeUp(): void {
    if (this.#proving === undefined) {
      if (!this.#isDirty || this.#blind() !== undefined || this.#mustWait()) return;
      this.#isDirty = false;
      const leader = this.#followers.find(({ kind, isListed }) => kind.isData !== true && isListed);
      this.#proving = { at: performance.now(), leader, first: { version: undefined }, rest: undefined };
      leader?.prove(this.#proving.first);
    }
    this.#proveRest(this.#proving);
    const proving = this.#proving;
    if (this.#unproven() !== undefined) return;
    this.#proving = undefined;
    const { proofMs, longestWaitMs } = this.#times;
    const pauseMs = Math.min(longestWaitMs, proofShare * (performance.now() - proving.at));
    this.#nextProofAt = proving.at + Math.max(proofMs, pauseMs);
    this.#take(proving);
    if (this.#isDirty) this.#mustWait();
  }

  /**
   * The version cannot be listed: of all kinds there will be none at it. What was proven stays true as long as it takes,
   * so a kind that does not answer for a while is waited for instead.
   */
  #giveUp(): void {
    if (this.#proving === undefined) return;
    [this.#proving, this.#isDirty] = [undefined, true];
    const { proofMs, longestWaitMs } = this.#times;
    this.#nextProofAt = performance.now() + Math.min(longestWaitMs, proofMs * 2 ** Math.min(this.#givenUp++, 16));
    for (const one of this.#followers) one.prove(undefined);
    this.#mustWait();
  }

  /** Asks for the lists of the other kinds, once there is a version. */
  #proveRest(proving: Proving): void {
    const { leader, first, rest } = proving;
    const proof = leader?.proofOf(first);
    if (rest !== undefined || (leader !== undefined && proof === undefined)) return;
    const round = { version: proof?.version };
    this.#proving = { ...proving, rest: round };
    for (const one of this.#followers) if (one.kind.isData !== true && one !== leader) one.prove(round);
  }

  /** Takes what there was of all kinds in a proof that is complete. */
  #take(proving: Proving): void {
    const proofs = this.#followers.flatMap((one) => proofIn(proving, one) ?? []);
    // Without a first list nothing gives a version, and kinds that have just come may be of several.
    if (new Set(proofs.flatMap(({ version }) => version ?? [])).size > 1) {
      this.#isDirty = true;
      return;
    }
    const documents = this.#documentsOf(proofs);
    if (documents === undefined) return;
    this.client.isEarly = false;
    [this.#documents, this.#isStale] = [documents, true];
    this.#mentions.update(documents);
    this.#givenUp = 0;
    this.#changedAt = this.#isDirty ? proving.at : undefined;
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
   * keep for long after its policies. Undefined if there was too much of what has no namespace, which concerns all.
   */
  #documentsOf(proofs: readonly Proof[]): Snapshot | undefined {
    const all = proofs.flatMap(({ objects }) => [...objects.values()]);
    const closed = new Set(this.#dataExceeding());
    for (const { kind, name, namespace, isOver, isEnding } of all) {
      if (isOver === true && namespace === undefined) return undefined;
      if (isOver === true) closed.add(namespace!);
      if (kind === 'Namespace' && isEnding === true) closed.add(name);
    }
    return all.filter(({ kind, namespace = '', isOver, isEnding }) => {
      if (isEnding === true && (kind === 'Gateway' || this.#routeKinds.has(kind))) return false;
      return isOver !== true && !closed.has(namespace);
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

  /** A kind of documents of which it is not yet known what there is in the proof that is under way. */
  #unproven(): Follower | undefined {
    const proving = this.#proving;
    if (proving === undefined) return undefined;
    return this.#followers.find((one) => one.kind.isData !== true && proofIn(proving, one) === undefined);
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
    else {
      this.#isDirty = true;
      this.#changedAt ??= performance.now();
    }
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

  /** Once for a kind in a namespace and a reminder's time: a tenant that changes one back and forth must not fill the log. */
  #sayTooMuch({ kind }: Follower, { namespace, name, tooMuch }: KeptObject): void {
    const where = `${kind.kind} ${namespace}`;
    if (this.#saidTooMuch.has(where)) return;
    this.#saidTooMuch.add(where);
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

  /** For how long the oldest change of documents waits, in milliseconds; 0 if none does. */
  get waitsMs(): number {
    return this.#changedAt === undefined ? 0 : performance.now() - this.#changedAt;
  }

  /** That changed documents wait for too long, and for what; undefined if they do not. */
  get worry(): string | undefined {
    if (this.waitsMs < this.#times.reminderMs) return undefined;
    const late = this.#unproven();
    const what = late === undefined ? 'lists of all kinds at one version' : `the list of ${titleOf(late)}`;
    return `changed documents have waited for ${Math.round(this.waitsMs / 1000)} s for ${what}`;
  }

  #remind(): void {
    // What was too much may fit since there is less of another kind, or of another namespace.
    if (this.#followers.some(({ exceeded }) => exceeded.size > 0)) {
      const sizes = new Map<string, number>();
      for (const one of this.#followers) one.weigh(sizes);
      this.#ledger.letBack(sizes, this.#times);
    }
    for (const one of this.#followers) if (one.exceeded.size > 0) one.lookNow();
    if (this.worry !== undefined) this.#log.error({ code: 'kubernetes_unavailable' }, this.worry);
    this.#saidTooMuch.clear();
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

/** What there was of this kind of documents, if that is known. */
function proofIn({ leader, first, rest }: Proving, one: Follower): Proof | undefined {
  const round = one === leader ? first : rest;
  return round === undefined || one.kind.isData === true ? undefined : one.proofOf(round);
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
