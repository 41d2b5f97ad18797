// All objects that a gateway is configured by, followed at an API server. Until each kind has been listed once there is no
// snapshot. When the API server is away the last objects stay, and the log and the metrics say how old they are.

import type { ApiServer } from '../../cert-agent/base/api-server.ts';
import { every } from '../../cert-agent/base/background.ts';
import type { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import type { Bounds } from './budget.ts';
import { ApiClient, type ClientTimes } from './client.ts';
import { unreadError } from './find-kind.ts';
import { Follower, type FollowTimes } from './follow.ts';
import type { WatchedKind } from './kinds.ts';
import { Mentions, sameTexts } from './mentions.ts';
import type { KeptObject } from './objects.ts';

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

/** Documents that are in force once each kind that protects is proven to be as new. */
interface Staged {
  readonly documents: Snapshot;
  /** performance.now() when the documents were read. */
  readonly at: number;
  /** The number of changes of kinds that protect until then. */
  readonly changes: number;
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
  namespaceBytes: 32 * 1024 * 1024,
  totalBytes: 256 * 1024 * 1024,
});

/** After so many proofs in which kinds that protect changed, documents are in force that were never all there at once. */
const maxProofs = 3;
/** One part of the time goes into proofs. */
const proofShare = 5;

/** Starts to follow. Nothing of this ends the process: what fails is logged, and tried again. */
export class ClusterStore {
  readonly client: ApiClient;
  readonly #log: Log;
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
  /** Documents changed since they were last taken up. */
  #isDirty = true;
  #staged: Staged | undefined = undefined;
  /** Changes of kinds that protect, and the proofs in a row in which there was one. */
  #changes = 0;
  #proofs = 0;
  /** performance.now() from which on the next documents are proven, and what waits for it. */
  #nextProofAt = 0;
  #proofTimer: NodeJS.Timeout | undefined = undefined;
  readonly #times: StoreTimes;
  readonly #namespaces: ReadonlySet<string> | undefined;
  /** What happened in an outage, by kind and namespace: performance.now() when it began, undefined once it is logged. */
  readonly #said = new Map<Follower, Map<string, number | undefined>>();

  constructor({ server, kinds, namespaces, log, times = {} }: StoreOptions) {
    const all = { ...storeTimes, ...times };
    this.#log = log;
    this.#times = all;
    this.#namespaces = namespaces === undefined ? undefined : new Set(namespaces);
    this.client = new ApiClient(server, all);
    this.#followers = kinds.flatMap((kind) =>
      (kind.isClusterWide === true ? [undefined] : (namespaces ?? [undefined])).map((namespace): Follower => {
        const follower: Follower = new Follower(kind, namespace, this.client, all, {
          changed: () => this.#changed(follower),
          settled: () => this.#settled(),
          failed: () => this.#sayTrouble(follower),
          unread: (version) => this.#sayUnread(follower, version),
          exceeded: (name) => this.#sayExceeded(follower, name, all),
          tooMuch: (object) => this.#sayTooMuch(follower, object),
          cleared: () => {
            for (const one of this.#followers) one.answers();
            // What was held back is due.
            if (kind.mayBeStale !== true) this.#changed(follower);
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
   * All objects that documents may mean; undefined until each kind was listed. Fails closed: while a kind that protects is not followed, all
   * documents are the last complete ones. Only what they refer to still changes: Secrets, ConfigMaps and endpoints.
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
   * Takes up changed documents. A watch may be quiet because nothing happens, or because its connection is dead, and a
   * kind that was absent may be there since: a route that came after its policy must not be in force before that. So the
   * documents wait until an answer to a request that began later has proved what there is of each kind that protects. If
   * one of these kinds changed meanwhile, they are taken again, with its objects.
   */
  #takeUp(): void {
    if (this.#blindGuard() !== undefined) {
      if (this.#staged !== undefined) [this.#staged, this.#isDirty] = [undefined, true];
      return;
    }
    if (this.#staged === undefined) {
      if (!this.#isDirty || this.#mustWait()) return;
      this.#isDirty = false;
      this.#staged = { documents: this.#readDocuments(), at: performance.now(), changes: this.#changes };
      for (const one of this.#followers) if (one.kind.mayBeStale !== true) one.lookNow();
    }
    const { at, documents, changes } = this.#staged;
    if (this.#unproven() !== undefined) return;
    const { proofMs, longestWaitMs } = this.#times;
    this.#nextProofAt = at + Math.max(proofMs, Math.min(longestWaitMs, proofShare * (performance.now() - at)));
    this.#staged = undefined;
    const isSame = changes === this.#changes;
    if (!isSame && ++this.#proofs < maxProofs) {
      this.#isDirty = true;
      this.#mustWait();
      return;
    }
    this.#proofs = 0;
    [this.#documents, this.#isStale] = [isSame ? documents : this.#withNewest(documents), true];
    this.#mentions.update(this.#documents);
    if (this.#isDirty) this.#mustWait();
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
   * Changes without end of what protects must not keep out all others: what protects as it is now, with the proven routes
   * that are still there.
   */
  #withNewest(documents: Snapshot): Snapshot {
    const keyOf = ({ kind, namespace, name }: KeptObject): string => `${kind} ${namespace}/${name}`;
    const proven = new Map(documents.map((one) => [keyOf(one), one]));
    const routes = new Set(this.#followers.flatMap(({ kind }) => (kind.mayBeStale === true ? kind.kind : [])));
    return this.#readDocuments().flatMap((one) => (routes.has(one.kind) ? (proven.get(keyOf(one)) ?? []) : one));
  }

  /** Of a namespace in which a policy may be missing, because there is too much, there is no document at all. */
  #readDocuments(): Snapshot {
    const isDocument = ({ kind }: Follower): boolean => kind.isData !== true;
    const over = new Set(this.#followers.filter(isDocument).flatMap((one) => [...one.over]));
    const all = this.#objectsOf(isDocument);
    return over.size === 0 ? all : all.filter(({ namespace = '' }) => namespace === '' || !over.has(namespace));
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
    const [first = this.#documents === undefined ? (this.#blindGuard() ?? this.#unproven()) : undefined] = missing;
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

  /** A kind that protects and is not followed. */
  #blindGuard(): Follower | undefined {
    return this.#followers.find(({ kind, trouble }) => kind.mayBeStale !== true && trouble !== undefined);
  }

  /** A kind that protects and is not yet proven to be as new as the documents that wait. */
  #unproven(): Follower | undefined {
    const { at } = this.#staged ?? {};
    if (at === undefined) return undefined;
    return this.#followers.find(({ kind, provenAt }) => kind.mayBeStale !== true && provenAt < at);
  }

  #objectsOf(test: (follower: Follower) => boolean): KeptObject[] {
    const found = this.#followers.filter(test).flatMap(({ objects }) => [...objects.values()]);
    return found.filter(({ isOver }) => isOver !== true);
  }

  #isComplete(): boolean {
    return this.#followers.every(({ isComplete }) => isComplete);
  }

  #changed({ kind }: Follower): void {
    if (kind.isData === true) this.#isStale = true;
    else this.#isDirty = true;
    if (kind.mayBeStale !== true) this.#changes++;
    if (!this.#isComplete()) return;
    // For the first time there is nothing to gather.
    if (this.#documents === undefined) this.#takeUp();
    for (const listener of this.#listeners) listener();
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

  #sayExceeded(follower: Follower, namespace: string, { namespaceBytes, totalBytes }: Bounds): void {
    const { kind } = follower;
    const then =
      kind.isData === true
        ? 'what exceeds it is not read'
        : 'no document of this namespace is in force until there is less';
    this.#log.error(
      { code: 'kubernetes_invalid', kind: kind.kind, namespace },
      `${kind.plural} of namespace ${namespace} have too many bytes (${namespaceBytes} each, ${totalBytes} in all): ${then}`,
    );
  }

  #remind(): void {
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

function titleOf({ kind, namespace }: Pick<Follower, 'kind' | 'namespace'>): string {
  return namespace === undefined ? kind.plural : `${kind.plural} of namespace ${namespace}`;
}

function inForce({ isComplete }: Follower): string {
  return isComplete ? 'the last state stays in force' : 'nothing is served until they are listed';
}
