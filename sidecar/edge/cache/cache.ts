// A shared cache by RFC 9111 for the rules of one policy. A request is served from the store, joins a response that
// is still arriving, or fetches one. Authorization has already permitted the request.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { noBody } from '../../exchange/answer.ts';
import type { ConnectionFacts } from '../../exchange/connection-facts.ts';
import { type Exchange, Slot } from '../../exchange/exchange.ts';
import { addFields, filterFields } from '../../exchange/fields.ts';
import type { Fields, Reply } from '../../exchange/message.ts';
import { noteInLog } from '../../exchange/noted.ts';
import type { Onward } from '../../exchange/onward.ts';
import { deadlines } from '../../upstream/deadlines.ts';
import { Asking, mayStoreFor, noDirectives, nothingOwn, type Own } from './asking.ts';
import { firstOf } from './directives.ts';
import { copyUpstream, Fill, type Outcome } from './fill.ts';
import { Judge, validatorsOf } from './judge.ts';
import { compileIdentified, invalidatedBy, whyBypassed } from './key.ts';
import { pieceBytes, Reader, type Source, StoredPart } from './reader.ts';
import type { Held, RedisStore } from './redis-store.ts';
import {
  conditional,
  errorStatuses,
  isNotModified,
  mayReplaceError,
  needsOrigin,
  selects,
  spanOf,
  useOf,
} from './request.ts';
import { updatedFields } from './response.ts';
import type { CachePlan } from './schema.ts';
import { type CacheCounts, type CacheOutcome, type Forwarded, formatStatus, type Told } from './status.ts';
import { type Entry, type Purge, Store } from './store.ts';
import { Unshared } from './unshared.ts';

/** How often one request waits for an arriving response: each may turn out not to be shareable. */
const maxWaits = 4;

/** How long one request waits for others' responses in total, as in nginx: the other client may cause a slow one. */
const waitMs = 5000;

/** The response whose head an exchange waits for, or has not taken yet. */
const waitsFor = new Slot<Fill>();

/** The Cache-Status of a request, for the `received` hook. */
const told = new Slot<Told>();

/** The request as it came, before its rule changed it. */
const asking = new Slot<Asking>();

/** State that a cache shares with the others. */
export interface CacheTools {
  readonly redis?: RedisStore | undefined;
  /** A request has invalidated a URL: other processes and gateways are told. */
  readonly invalidated?: (url: string) => void;
}

/** The cache of one policy. */
export class Cache {
  readonly store: Store;
  readonly #plan: CachePlan;
  readonly #onward: Onward;
  readonly #counts: CacheCounts;
  readonly #redis: RedisStore | undefined;
  readonly #invalidated: (url: string) => void;
  /** Queries to Redis, by URL: equal requests ask once. */
  readonly #asking = new Map<string, Question[]>();
  readonly #isIdentified: (of: Exchange) => boolean;
  /** By URL, oldest first. */
  readonly #fills = new Map<string, Fill[]>();
  readonly #unshared = new Unshared();
  readonly #maxEntry: number;
  readonly #judge: Judge;

  constructor(plan: CachePlan, maxBytes: number, onward: Onward, counts: CacheCounts, more: CacheTools = {}) {
    this.#redis = more.redis;
    this.#invalidated = more.invalidated ?? (() => {});
    this.#plan = plan;
    this.store = new Store(maxBytes);
    this.#maxEntry = Math.min(plan.maxEntry, this.store.largest);
    this.#judge = new Judge(plan, this.store, this.#unshared, this.#maxEntry);
    this.#onward = onward;
    this.#counts = counts;
    this.#isIdentified = compileIdentified(plan);
  }

  /** Serves an authorized request; if it serves no response, the request is forwarded unchanged. */
  serve(exchange: Exchange, connection: ConnectionFacts): undefined | Promise<void> {
    const why = whyBypassed(exchange) ?? (needsOrigin(exchange.fields) ? 'bypass' : undefined);
    const request = new Asking(exchange, connection, this.#plan, this.#isIdentified(exchange));
    asking.set(exchange, request);
    if (why !== undefined) {
      // Section 5.2.1.7. An unsafe request changes something, and no stored response could.
      if (why !== 'method' && request.directives.has('only-if-cached')) throw this.#notCached(exchange);
      return this.#pass(exchange, { fwd: why as Forwarded });
    }
    const found = this.#lookUp(request);
    if (found === 'served') return undefined;
    // No request waits for a HEAD: it brings no body that others could use.
    if (exchange.method === 'HEAD') return this.#pass(exchange, { fwd: found.fwd });
    return this.#fetch(request, found);
  }

  /** Updates stored responses by a response that was not fetched here. `reply` is as the backend sent it. */
  watch(exchange: Exchange, reply: Reply): undefined {
    const note = told.get(exchange);
    const request = asking.get(exchange);
    if (note === undefined || request === undefined) return;
    if (note.fwd === 'method') this.#invalidate(request, reply);
    else if (exchange.method === 'HEAD' && note.hit !== true && note.fwd !== 'bypass')
      this.#judge.updateByHead(request, reply);
  }

  /** Adds Cache-Status to the client's response. */
  received(exchange: Exchange, reply: Reply): Fields {
    const { fields } = reply;
    const note = told.get(exchange);
    if (note === undefined) return fields;
    const isForwarded = note.hit !== true && note.fwdStatus === undefined;
    return addFields(fields, [
      ['cache-status', formatStatus(this.#plan.name, isForwarded ? { ...note, fwdStatus: reply.status } : note)],
    ]);
  }

  /** Removes everything from memory. */
  clear(): void {
    for (const fills of this.#fills.values()) for (const fill of fills) fill.doom();
    for (const questions of this.#asking.values()) for (const one of questions) one.isDoomed = true;
    this.store.removeWhere(() => true);
  }

  /** An exchange has ended, possibly while it waited for a head. */
  finished(exchange: Exchange): void {
    this.#forgo(exchange);
  }

  /** Removes stored responses, and keeps arriving ones from being stored. Returns how many responses were removed. */
  purge({ url, prefix, tag }: Purge): number {
    const isMeant = (one: { readonly url: string; readonly tags?: readonly string[] }): boolean =>
      (url !== undefined && one.url === url) ||
      (prefix !== undefined && one.url.startsWith(prefix)) ||
      (tag !== undefined && one.tags?.includes(tag) === true);
    for (const questions of url === undefined ? this.#asking.values() : [this.#asking.get(url) ?? []])
      for (const one of questions) one.isDoomed = true;
    const onTheirWay = url === undefined ? this.#fills.values() : [this.#fills.get(url) ?? []];
    for (const fills of onTheirWay)
      for (const fill of fills) {
        const { outcome } = fill;
        const tags = outcome?.kind === 'reply' ? this.#judge.tagsOf(outcome.reply.fields) : [];
        // The tags of a response without a head are unknown: it may have been generated before the purge.
        if (isMeant({ url: fill.place.url, tags }) || (tag !== undefined && outcome === undefined)) fill.doom();
      }
    return url === undefined ? this.store.removeWhere(isMeant) : this.store.removeUrl(url);
  }

  // -- the store ---------------------------------------------------------------------------------------------------

  /** Serves from the store if that is allowed; otherwise returns the entry found and why it was not served. */
  #lookUp(request: Asking): 'served' | Miss {
    const { exchange, place, directives, isIdentified } = request;
    const { entry, others } = this.store.find(place, exchange.fields);
    const mayUse = entry !== undefined && this.#judge.mayServe(entry.terms, isIdentified);
    if (entry === undefined || !mayUse) {
      if (directives.has('only-if-cached')) throw this.#notCached(exchange);
      return { stored: undefined, fwd: entry !== undefined ? 'bypass' : others ? 'vary-miss' : 'uri-miss' };
    }
    const { age } = entry;
    const use = useOf(entry.terms, age, directives);
    if (use === 'validate') {
      if (directives.has('only-if-cached')) throw this.#notCached(exchange);
      return { stored: entry, fwd: useOf(entry.terms, age, noDirectives) === 'fresh' ? 'request' : 'stale' };
    }
    // What a client with `no-store` causes is not stored: the next one validates it.
    if (use === 'while-revalidating' && mayStoreFor(request)) this.#revalidate(request, entry);
    this.#deliver(exchange, entry, use === 'fresh' ? 'hit' : 'stale', { hit: true, ttl: entry.terms.lifetime - age });
    return 'served';
  }

  #notCached(exchange: Exchange): SallyportError {
    this.#note(exchange, 'refused', { detail: 'only-if-cached' });
    return new SallyportError('not_cached', 'the client accepts only a stored response, and none is stored');
  }

  /** Sends a complete stored response in the form that the request asks for (RFC 9110 sections 13 and 14). */
  #deliver(exchange: Exchange, entry: Entry, outcome: CacheOutcome, note: Told, own: Own = nothingOwn): void {
    this.#note(exchange, outcome, note);
    const { body, terms } = entry;
    const fields = own.fields.names.length === 0 ? entry.fields : updatedFields(entry.fields, own.fields);
    const aged = { ...entry.reply, fields: withAge(fields, own.age ?? entry.age) };
    const details = `cache_${outcome}`;
    const answer = (reply: Reply, whole: Buffer): void => {
      if (exchange.method === 'HEAD') this.#onward.answer(exchange, reply, noBody, details);
      else if (whole.length <= pieceBytes) this.#onward.answer(exchange, reply, whole, details);
      else this.#stream(exchange, new StoredPart(entry, whole), reply, details);
    };
    if (isNotModified(exchange.fields, terms, entry.status)) return answer(notModified(aged), noBody);
    const span =
      exchange.method === 'GET' && entry.status === 200 ? spanOf(exchange.fields, terms, body.length) : undefined;
    if (span === undefined) return answer(aged, body);
    if (span === 'none') return answer({ ...partOf(aged, 416, `bytes */${body.length}`), ...lengthOf(0) }, noBody);
    const [from, to] = span;
    const part = partOf(aged, 206, `bytes ${from}-${to - 1}/${body.length}`);
    answer({ ...part, ...lengthOf(to - from) }, body.subarray(from, to));
  }

  // -- the backend -------------------------------------------------------------------------------------------------

  async #fetch(request: Asking, miss: Miss): Promise<void> {
    const { exchange } = request;
    let now = miss;
    if (this.#redis !== undefined && miss.stored === undefined && miss.fwd !== 'bypass') {
      const held = await this.#askRedis(request, this.#redis);
      if (exchange.finished || exchange.responded) return;
      request.epoch = held?.epoch;
      if (held?.entry !== undefined) {
        const found = this.#lookUp(request);
        if (found === 'served') return;
        now = found;
      }
    }
    const until = performance.now() + waitMs;
    for (let waits = 0; waits < maxWaits && this.#mayWait(request); waits++) {
      const leftMs = until - performance.now();
      const fill = leftMs > 0 ? this.#fillFor(request) : undefined;
      if (fill === undefined) break;
      const outcome = await this.#wait(exchange, fill, leftMs);
      if (exchange.finished || exchange.responded) return;
      const isServed =
        outcome !== undefined &&
        (this.#replaceError(exchange, now.stored, outcome) || this.#takeShared(request, fill, outcome));
      this.#forgo(exchange);
      if (isServed) return;
      // It was not shareable: another response may have been stored meanwhile.
      const found = this.#lookUp(request);
      if (found === 'served') return;
      now = found;
    }
    return this.#lead(request, now);
  }

  /** Copies the response that Redis has for this request into memory. */
  #askRedis({ place, exchange }: Asking, redis: RedisStore): Promise<Held | undefined> {
    const wants = (entry: Entry): boolean => selects(entry.selection, exchange.fields);
    const { url, partition } = place;
    const others = this.#asking.get(url) ?? [];
    const asked = others.find((one) => one.partition === partition && !one.isDoomed);
    if (asked !== undefined) return asked.held;
    const held = redis.find(place, wants).then((held) => {
      const left = this.#asking.get(url)!.filter((one) => one !== question);
      if (left.length === 0) this.#asking.delete(url);
      else this.#asking.set(url, left);
      // It may have been read before a purge. The response being fetched is not written to Redis either.
      if (question.isDoomed) return undefined;
      const entry = held?.entry;
      if (entry === undefined || entry.age >= entry.terms.lifetime) return held;
      if (this.store.reserve(entry, entry.headBytes + entry.body.length)) this.store.add(entry);
      return held;
    });
    const question: Question = { partition, isDoomed: false, held };
    this.#asking.set(url, [...others, question]);
    return held;
  }

  /** Waits for the head of another request's response; undefined if it has not arrived after `ms` milliseconds. */
  #wait(exchange: Exchange, fill: Fill, ms: number): Promise<Outcome | undefined> {
    this.#expect(exchange, fill);
    return new Promise((resolve) => {
      const late = deadlines.set(ms, () => resolve(undefined));
      void fill.head.then((outcome) => {
        deadlines.drop(late);
        resolve(outcome);
      });
    });
  }

  #expect(exchange: Exchange, fill: Fill): void {
    waitsFor.set(exchange, fill);
    fill.expect();
  }

  /** The exchange has taken the head that it waited for, or stops waiting. */
  #forgo(exchange: Exchange): void {
    const fill = waitsFor.get(exchange);
    if (fill === undefined) return;
    waitsFor.set(exchange, undefined);
    fill.forgo();
  }

  #mayWait({ exchange, place }: Asking): boolean {
    return firstOf(exchange.fields, 'range') === undefined && !this.#unshared.has(place);
  }

  /** An arriving response that this request may read. */
  #fillFor({ exchange, place, isIdentified, directives }: Asking): Fill | undefined {
    return this.#fills.get(place.url)?.find((fill) => {
      if (fill.place.partition !== place.partition || fill.isDoomed || fill.isOver || !fill.isWhole) return false;
      const { outcome } = fill;
      // Before its head has arrived, only callers without an identity can expect to share it.
      if (outcome === undefined) return !isIdentified && fill.isOpen;
      if (outcome.kind !== 'reply' || outcome.entry === undefined) return false;
      // Its head is older than this request, which may ask for a newer one.
      if (useOf(outcome.entry.terms, outcome.entry.age, directives) === 'validate') return false;
      return (
        selects(outcome.entry.selection, exchange.fields) && this.#judge.isShareable(outcome.entry.terms, isIdentified)
      );
    });
  }

  /** Serves a request that has waited for another's response; false if it may not have that response. */
  #takeShared(request: Asking, fill: Fill, outcome: Outcome): boolean {
    const { exchange, isIdentified } = request;
    // The other request may have caused the failure: by a header, or by the endpoint chosen for it.
    if (outcome.kind === 'failed' || outcome.kind === 'mismatch') return false;
    const { entry } = outcome;
    if (entry === undefined || !selects(entry.selection, exchange.fields)) return false;
    if (!this.#judge.isShareable(entry.terms, isIdentified)) return false;
    // The backend's response may have been for the other client only.
    if (outcome.kind === 'validated' && (entry.isGone || entry.age >= entry.terms.lifetime)) return false;
    const note: Told = { fwd: 'miss', collapsed: true, ttl: entry.terms.lifetime - entry.age };
    if (outcome.kind === 'validated' || (fill.trailers !== undefined && !entry.isGone)) {
      this.#deliver(exchange, entry, 'collapsed', note);
      return true;
    }
    // It may have become too large to be stored, and its beginning may be dropped already.
    if (!fill.isWhole || fill.failure !== undefined) return false;
    this.#note(exchange, 'collapsed', { ...note, fwdStatus: entry.status });
    if (isNotModified(exchange.fields, entry.terms, entry.status)) {
      const reply = notModified({ ...entry.reply, fields: withAge(entry.fields, entry.age) });
      this.#onward.answer(exchange, reply, noBody, 'cache_collapsed');
      return true;
    }
    const { reply } = outcome.kind === 'reply' ? outcome : entry;
    this.#read(
      exchange,
      fill,
      { ...reply, fields: withAge(entry.fields, entry.age), hopFields: undefined },
      'cache_collapsed',
    );
    return true;
  }

  /** Fetches for this request, and for requests that wait for it meanwhile. */
  async #lead(request: Asking, miss: Miss): Promise<void> {
    const { exchange } = request;
    const fill = this.#begin(request, miss.stored, exchange);
    this.#expect(exchange, fill);
    fill.start();
    const outcome = fill.outcome ?? (await fill.head);
    if (exchange.finished || exchange.responded) return;
    if (outcome.kind !== 'mismatch') this.#takeOwn(request, miss, fill, outcome);
    this.#forgo(exchange);
    if (outcome.kind !== 'mismatch') return;
    if (miss.stored === undefined)
      throw new SallyportError('upstream_protocol', 'the backend responded 304 to an unconditional request');
    return this.#lead(request, { stored: undefined, fwd: miss.fwd });
  }

  /** Serves a request from its own fetch. */
  #takeOwn(request: Asking, { stored, fwd }: Miss, fill: Fill, outcome: Exclude<Outcome, Mismatch>): void {
    const { exchange } = request;
    if (outcome.kind === 'validated') {
      const { entry } = outcome;
      const ttl = entry.terms.lifetime - entry.age;
      return this.#deliver(exchange, entry, 'validated', { fwd, fwdStatus: 304, ttl }, request.own);
    }
    if (this.#replaceError(exchange, stored, outcome)) return;
    if (outcome.kind === 'failed') {
      this.#note(exchange, 'miss', { fwd });
      throw outcome.error;
    }
    const { entry, reply } = outcome;
    const isStored = entry !== undefined && !entry.isGone;
    const ttl = isStored ? { stored: true, ttl: entry.terms.lifetime - entry.age } : {};
    const detail = outcome.why === undefined ? {} : { detail: outcome.why };
    this.#note(exchange, 'miss', { fwd, fwdStatus: reply.status, ...ttl, ...detail });
    this.#read(exchange, fill, reply, 'via_upstream');
  }

  /** Serves a stale response in place of an error, if allowed (section 4.2.4; RFC 5861 section 4). */
  #replaceError(exchange: Exchange, stored: Entry | undefined, outcome: Outcome): boolean {
    if (stored === undefined || stored.isGone) return false;
    const isReached = outcome.kind !== 'failed';
    if (isReached && !(outcome.kind === 'reply' && errorStatuses.has(outcome.reply.status))) return false;
    const { terms, age } = stored;
    if (!mayReplaceError(terms, age, isReached, this.#plan.staleWhenDisconnected / 1000)) return false;
    this.#deliver(exchange, stored, 'stale', { hit: true, ttl: terms.lifetime - age, detail: 'stale-if-error' });
    return true;
  }

  /** Validates a stale response that has just been served (RFC 5861 section 3). */
  #revalidate(request: Asking, entry: Entry): void {
    if (entry.isRevalidating) return;
    entry.isRevalidating = true;
    const fill = this.#begin(request, entry, undefined);
    void fill.head.then(() => {
      entry.isRevalidating = false;
    });
    fill.start();
  }

  /** A fetch; with the validators of the stored response, if there is one (section 4.3.1). */
  #begin(request: Asking, stored: Entry | undefined, leader: Exchange | undefined): Fill {
    const { exchange, connection, place, isIdentified } = request;
    const conditions = stored === undefined ? undefined : validatorsOf(stored.terms);
    const isPlain = stored !== undefined || !exchange.fields.names.some(({ lower }) => conditional.has(lower));
    const mayStore = mayStoreFor(request);
    const fill = new Fill(exchange, connection.clientCert, conditions, leader, {
      ...{ place, store: this.store, onward: this.#onward, maxEntry: this.#maxEntry },
      isOpen: isPlain && mayStore && !isIdentified,
      judge: (reply, asked, self) => this.#judge.judge(reply, asked, self, { request, stored, mayStore }),
      // Section 4: the most recent response is served. Only responses that arrived meanwhile are compared: the clocks
      // of two servers differ, and a date in the future would keep the others' responses out for that time.
      isOutdated: (entry, begunAt) => {
        const now = this.store.find(place, request.fields).entry;
        return now !== undefined && now.since > begunAt && now.terms.date > entry.terms.date;
      },
      // Each client fetches it for itself, as with a known length: clients that read one response share one pace.
      outgrown: () => this.#unshared.note(place),
      stored: (entry) => {
        if (this.#judge.isShareable(entry.terms, false)) this.#unshared.forget(place);
        if (stored !== undefined) this.store.remove(stored);
        this.#toRedis(entry, request.epoch);
      },
      ended: (self) => this.#ended(self),
    });
    const others = this.#fills.get(place.url);
    if (others === undefined) this.#fills.set(place.url, [fill]);
    else others.push(fill);
    return fill;
  }

  #toRedis(entry: Entry, epoch: string | undefined): void {
    if (epoch !== undefined && this.#judge.isShareable(entry.terms, false)) this.#redis?.put(entry, epoch);
  }

  #ended(fill: Fill): void {
    const { url } = fill.place;
    const left = this.#fills.get(url)?.filter((one) => one !== fill) ?? [];
    if (left.length === 0) this.#fills.delete(url);
    else this.#fills.set(url, left);
  }

  /** Section 4.4: an unsafe request changed the resource, unless it failed. */
  #invalidate({ exchange, place }: Asking, { status, fields }: Reply): void {
    if (status < 200 || status >= 400 || safeMethods.has(exchange.method)) return;
    const named = [firstOf(fields, 'location'), firstOf(fields, 'content-location')];
    for (const url of invalidatedBy(exchange, place.url, named)) {
      this.purge({ url });
      this.#invalidated(url);
    }
  }

  // -- to the client -----------------------------------------------------------------------------------------------

  #read(exchange: Exchange, fill: Fill, reply: Reply, details: string): void {
    const whole = fill.whole();
    if (whole !== undefined) return this.#onward.answer(exchange, reply, whole, details);
    copyUpstream(fill.fetch, exchange);
    this.#stream(exchange, fill, reply, details);
  }

  #stream(exchange: Exchange, source: Source, reply: Reply, details: string): void {
    const reader = new Reader(exchange, source, this.#onward);
    this.#onward.answer(exchange, reply, undefined, details);
    reader.pump();
  }

  #pass(exchange: Exchange, note: Told): undefined {
    this.#note(exchange, note.fwd === 'method' || note.fwd === 'bypass' ? 'bypass' : 'miss', note);
    return undefined;
  }

  #note(exchange: Exchange, outcome: CacheOutcome, note: Told): void {
    noteInLog(exchange, { name: 'cache', text: outcome });
    this.#counts[outcome]++;
    told.set(exchange, note);
  }
}

/** Section 9.2.1 of RFC 9110. */
const safeMethods: ReadonlySet<string> = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE']);

type Mismatch = Extract<Outcome, { kind: 'mismatch' }>;

/** Why the store did not serve a request. */
interface Miss {
  /** The response to validate. */
  readonly stored: Entry | undefined;
  readonly fwd: Forwarded;
}

/** A query to Redis. A purge meanwhile invalidates its result. */
interface Question {
  readonly partition: string;
  isDoomed: boolean;
  readonly held: Promise<Held | undefined>;
}

/** RFC 9111 section 5.1: every response from the store has an age. */
function withAge(fields: Fields, age: number): Fields {
  return addFields(fields, [['age', String(Math.floor(age))]]);
}

function lengthOf(bytes: number): Pick<Reply, 'framing' | 'declaredLength'> {
  return { framing: bytes, declaredLength: bytes };
}

function partOf(reply: Reply, status: number, range: string): Reply {
  return { ...reply, status, reason: '', fields: addFields(reply.fields, [['content-range', range]]) };
}

/** RFC 9110 section 15.4.5: fields that describe the response rather than its body. */
function notModified(reply: Reply): Reply {
  const fields = filterFields(
    reply.fields,
    ({ lower }) => !lower.startsWith('content-') || lower === 'content-location',
  );
  return { ...reply, status: 304, reason: '', fields, framing: 0, declaredLength: undefined };
}
