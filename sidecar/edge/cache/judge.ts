// How a response from the backend changes the store: it is stored, it validates or updates what is stored, or it shows
// that a stored response is outdated.

import { addFields, filterFields } from '../../exchange/fields.ts';
import type { Fields, Reply } from '../../exchange/message.ts';
import { type Asking, mayStoreFor, noDirectives } from './asking.ts';
import { firstOf, joinedOf } from './directives.ts';
import type { Fill, Outcome } from './fill.ts';
import { isAbout, type Selecting, type Selection, selectionOf, useOf } from './request.ts';
import { datedFields, readTerms, storedFields, type Terms, updatedFields, whyNotStored } from './response.ts';
import type { CachePlan } from './schema.ts';
import { Entry, type Store } from './store.ts';
import type { Unshared } from './unshared.ts';

/** The request that a fetch was made for. */
export interface Fetched {
  readonly request: Asking;
  readonly stored: Entry | undefined;
  readonly mayStore: boolean;
}

/** A head to be evaluated. */
type Judged = Pick<Entry, 'fields' | 'terms'>;

/** A changed head, and its selection; undefined if no later request can match. */
interface Updated extends Judged {
  readonly selection: Selection | undefined;
}

/** Of one cache. Changes its store. */
export class Judge {
  readonly #plan: CachePlan;
  readonly #store: Store;
  readonly #unshared: Unshared;
  /** Of the body of a stored response, bytes. */
  readonly #maxEntry: number;

  constructor(plan: CachePlan, store: Store, unshared: Unshared, maxEntry: number) {
    this.#plan = plan;
    this.#store = store;
    this.#unshared = unshared;
    this.#maxEntry = maxEntry;
  }

  /** Whether a caller may have a response that is stored with these terms. */
  mayServe({ shared }: Terms, isIdentified: boolean): boolean {
    return !isIdentified || shared || this.#plan.unsafeShareIdentities;
  }

  /** The response is fresh, and not only for its own client. */
  isShareable(terms: Terms, isIdentified: boolean): boolean {
    return !terms.alwaysValidate && terms.lifetime > terms.initialAge && this.mayServe(terms, isIdentified);
  }

  /** Decides how a response from the backend changes the store. */
  judge(sent: Reply, asked: number, fill: Fill, { request, stored, mayStore }: Fetched): Outcome {
    const reply = { ...sent, fields: datedFields(sent.fields, Date.now()) };
    const { place, isIdentified } = request;
    const { heuristicFreshness: heuristic, unsafeShareIdentities: shareIdentities } = this.#plan;
    const isAsked = stored === undefined ? hasCondition(request.fields) : validatorsOf(stored.terms).length > 0;
    if (reply.status === 304 && !isAsked) return { kind: 'mismatch' };
    if (reply.status === 304 && stored !== undefined)
      return this.#validated(reply, asked, fill, { request, stored, mayStore });
    const terms = readTerms(reply, asked, Date.now(), heuristic);
    const rules = { heuristic, shareIdentities, isRange: firstOf(fill.fetch.fields, 'range') !== undefined };
    const why = mayStore ? whyNotStored(reply, terms, rules, isIdentified) : 'client-no-store';
    const selection = selectionOf(varyOf(reply.fields), selectingOf(request, fill));
    const isTooLarge = typeof reply.framing === 'number' && reply.framing > this.#maxEntry;
    if (why !== undefined || selection === undefined || isTooLarge || fill.isDoomed) {
      const isAbout = isAboutResource(reply.status);
      // A storable response replaces the stored one once it is complete. A response that is not storable never removes
      // a fresh one: with `no-cache` and a bad header, any client could empty the cache.
      const mayEnd = isAbout && !isIdentified && stored !== undefined;
      if (mayEnd && useOf(stored.terms, stored.age, noDirectives) !== 'fresh') this.#store.remove(stored);
      // A purge or an invalidation meanwhile does not concern the next response: that one is shared at once.
      const isShareable = why === undefined && selection !== undefined && !isTooLarge;
      if (isAbout && fill.isOpen && !isShareable) this.#unshared.note(place);
      const fitting = fill.isDoomed ? 'purged' : 'too-large';
      return { kind: 'reply', reply, entry: undefined, why: why ?? (selection === undefined ? 'vary' : fitting) };
    }
    // A response of unknown length may turn out too large, like the one before it.
    if (this.isShareable(terms, false)) {
      if (typeof reply.framing === 'number') this.#unshared.forget(place);
    } else if (fill.isOpen) this.#unshared.note(place);
    const fields = storedFields(reply, terms.directives);
    const { status, reason } = reply;
    const tags = this.tagsOf(reply.fields);
    const parts = { ...place, status, reason, fields, terms, selection, tags, codings: codingsOf(fill.fetch.fields) };
    return { kind: 'reply', reply, entry: new Entry(parts) };
  }

  /** Section 4.3.4. */
  #validated(reply: Reply, asked: number, fill: Fill, of: Fetched & { readonly stored: Entry }): Outcome {
    const { request, stored } = of;
    const said = readTerms(reply, asked, Date.now(), false);
    if (stored.isGone || !isAbout(stored.terms, said)) {
      this.#doubt(stored, request.isIdentified);
      return { kind: 'mismatch' };
    }
    const shared = { ...reply, fields: filterFields(reply.fields, ({ lower }) => !ofOneClient.has(lower)) };
    const updated = this.#updated(stored, shared, asked, selectingOf(request, fill));
    // A response to one caller changes the shared one only if a 200 to the same request could have been stored.
    // A caller with an identity needs that permission in the 304 itself: the stored one applied to a 200 without
    // these fields. For an anonymous client, fields that the 304 omits keep their stored values.
    const { isIdentified } = request;
    const judged = isIdentified ? { terms: said, fields: reply.fields } : updated;
    const isRange = firstOf(fill.fetch.fields, 'range') !== undefined;
    if (
      of.mayStore &&
      updated.selection !== undefined &&
      this.#mayStore(stored.status, judged, isRange, isIdentified)
    ) {
      this.#freshen(stored, updated, updated.selection);
      const own = filterFields(reply.fields, ({ lower }) => ofOneClient.has(lower));
      request.own = { fields: own, age: undefined };
    } else {
      request.own = { fields: storedFields(reply, noDirectives), age: said.initialAge };
      if (of.mayStore) this.#doubt(stored, isIdentified);
    }
    return { kind: 'validated', entry: stored };
  }

  /** The stored head, updated by the fields of a 304 or of a response to a HEAD. */
  #updated(stored: Entry, reply: Reply, asked: number, selecting: Selecting): Updated {
    const now = Date.now();
    const { directives } = readTerms(reply, asked, now, false);
    const merged = updatedFields(stored.fields, storedFields(reply, directives));
    // Age is not stored, but applies to this response.
    const age = joinedOf(reply.fields, 'age');
    const aged = age === undefined ? merged : addFields(merged, [['age', age]]);
    const terms = readTerms({ status: stored.status, fields: aged }, asked, now, this.#plan.heuristicFreshness);
    // It may name fields of the stored response.
    const fields = storedFields({ fields: merged, hopFields: undefined }, terms.directives);
    return { fields, terms, selection: selectionOf(varyOf(fields), selecting) };
  }

  #freshen(stored: Entry, { fields, terms }: Updated, selection: Selection): void {
    stored.freshen({ fields, terms, selection, tags: this.tagsOf(fields) });
    this.#store.replaceHead(stored);
  }

  /** Whether a response in full with this head could be stored for such a request. */
  #mayStore(status: number, { fields, terms }: Judged, isRange: boolean, isIdentified: boolean): boolean {
    const { heuristicFreshness: heuristic, unsafeShareIdentities: shareIdentities } = this.#plan;
    const rules = { heuristic, shareIdentities, isRange };
    return whyNotStored({ status, fields, framing: 0 }, terms, rules, isIdentified) === undefined;
  }

  /**
   * One client's request shows that a stored response may be outdated. That request may be the cause: an app may
   * respond by a header that it does not name in Vary. So a fresh response is not removed but marked stale
   * (section 4.3.5): the next request validates it, which costs the backend no more than that client could ask for
   * itself. A stale one is removed. A response to a caller with an identity says nothing about other callers.
   */
  #doubt(stored: Entry, isIdentified: boolean): void {
    if (isIdentified || stored.isGone) return;
    if (stored.age >= stored.terms.lifetime) this.#store.remove(stored);
    else stored.outdate();
  }

  /**
   * Section 4.3.5: the head of the response to a HEAD updates the stored response, or shows that it is outdated. Only
   * if both were requested alike: callers with an identity may get another response, and so may clients
   * that accept other codings, whether or not the app says so in Vary.
   */
  updateByHead(request: Asking, sent: Reply): void {
    const { exchange, place, fields, isIdentified } = request;
    if (sent.status !== 200 || isIdentified || !mayStoreFor(request)) return;
    const { entry } = this.#store.find(place, fields);
    if (entry === undefined || entry.status !== 200) return;
    const { fields: forwarded, hopFields } = exchange;
    if (codingsOf(forwarded) !== entry.codings) return;
    const reply = { ...sent, fields: datedFields(sent.fields, Date.now()) };
    const now = Date.now();
    const terms = readTerms(reply, now, now, this.#plan.heuristicFreshness);
    const { declaredLength } = reply;
    const isSame =
      isAbout(entry.terms, terms) && (declaredLength === undefined || declaredLength === entry.body.length);
    const { selection, ...head } = this.#updated(entry, reply, now, { fields, forwarded, hopFields });
    if (isSame && selection !== undefined && this.#mayStore(200, { terms, fields: reply.fields }, false, false))
      this.#freshen(entry, { ...head, selection }, selection);
    else this.#doubt(entry, false);
  }

  /** The tags of a response, by the header that the policy names. */
  tagsOf(fields: Fields): readonly string[] {
    return (joinedOf(fields, this.#plan.tagHeader) ?? '').split(/[\s,]+/).filter((tag) => tag !== '');
  }
}

/** An error may concern one request only; these statuses describe the resource (RFC 9110 section 15.5). */
function isAboutResource(status: number): boolean {
  return status < 400 || status === 404 || status === 410;
}

/** Only such a request can be answered by 304 (RFC 9110 section 15.4.5). */
function hasCondition(fields: Fields): boolean {
  return firstOf(fields, 'if-none-match') !== undefined || firstOf(fields, 'if-modified-since') !== undefined;
}

/** The request as it is looked up, and as it was forwarded. */
function selectingOf({ fields }: Asking, { fetch }: Fill): Selecting {
  return { fields, forwarded: fetch.fields, hopFields: fetch.hopFields };
}

/** Encoded bytes are for clients that accept the encoding, whether or not the app says so in Vary. */
function varyOf(fields: Fields): string | undefined {
  const vary = joinedOf(fields, 'vary');
  if (firstOf(fields, 'content-encoding') === undefined) return vary;
  return vary === undefined ? 'accept-encoding' : `${vary}, accept-encoding`;
}

/** A request's Accept-Encoding. */
function codingsOf(fields: Fields): string {
  return joinedOf(fields, 'accept-encoding') ?? '';
}

/** Fields for one client, which a 304 never writes into the shared response. */
const ofOneClient: ReadonlySet<string> = new Set([
  ...['set-cookie', 'set-cookie2', 'authentication-info', 'clear-site-data'],
]);

/** The conditions that validate a stored response (section 4.3.1). */
export function validatorsOf({ etag, lastModified }: Terms): readonly (readonly [string, string])[] {
  return [
    ...(etag === undefined ? [] : [['if-none-match', etag] as const]),
    ...(lastModified === undefined ? [] : [['if-modified-since', lastModified] as const]),
  ];
}
