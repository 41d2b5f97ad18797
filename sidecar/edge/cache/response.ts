// Reads how a response may be stored and how long it is fresh, once when it arrives (RFC 9111 sections 3 and 4.2).
// Written here and not taken from the library http-cache-semantics: that has an unfixed flaw (a client's `max-stale`
// overrides directives that forbid a shared cache to reuse a response), knows no targeted fields, no qualified
// directives and no must-understand, and holds heads as objects in which lines of one name are lost.

import { addFields, filterFields } from '../../exchange/fields.ts';
import { type Fields, isEndToEnd, type Reply } from '../../exchange/message.ts';
import {
  ageOf,
  type Directives,
  firstOf,
  joinedOf,
  longest,
  namesIn,
  parseDirectives,
  parseHttpDate,
  parseTargeted,
  secondsOf,
  unreadable,
} from './directives.ts';

/** The part of the configuration that the rules read. */
export interface Rules {
  /** Freshness by Last-Modified for responses that state none (section 4.2.2). */
  readonly heuristic: boolean;
  /** Stores responses to requests with an identity without the standard's permission. */
  readonly shareIdentities: boolean;
  /** The forwarded request asked for a part: only a complete response belongs to the URL. */
  readonly isRange?: boolean;
}

/** The terms of a response. */
export interface Terms {
  readonly directives: Directives;
  /** Seconds. */
  readonly lifetime: number;
  readonly heuristic: boolean;
  /** Its age on arrival, seconds. */
  readonly initialAge: number;
  /** It may serve requests that identify their callers (section 3.5). */
  readonly shared: boolean;
  /** Never served stale: must-revalidate, proxy-revalidate, no-cache or s-maxage (section 4.2.4). */
  readonly strict: boolean;
  /** Each use is validated: no-cache without names. */
  readonly alwaysValidate: boolean;
  /** RFC 5861, seconds after the end of freshness. */
  readonly staleWhileRevalidate: number;
  readonly staleIfError: number;
  readonly etag: string | undefined;
  readonly lastModified: string | undefined;
  /** Milliseconds since 1970; when it arrived, if it has no date. */
  readonly date: number;
}

/** Statuses with heuristic freshness (RFC 9110 section 15.1); not 206, which is never stored. */
const heuristicStatuses: ReadonlySet<number> = new Set([200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501]);

/** Final statuses whose meaning for caches is known: for must-understand (section 5.2.2.3). */
const understood: ReadonlySet<number> = new Set([
  ...[200, 201, 202, 203, 204, 205, 300, 301, 302, 303, 307, 308, 400, 401, 402, 403, 404, 405, 406, 407, 408, 409],
  ...[410, 411, 412, 413, 414, 415, 416, 417, 421, 422, 426, 500, 501, 502, 503, 504, 505],
]);

/**
 * Statuses about one request rather than the URL: a failed condition or expectation, a missing part, too
 * many requests or headers. RFC 6585 forbids storing 428, 429, 431 and 511; for a 421, another connection may succeed.
 */
const ofOneRequest: ReadonlySet<number> = new Set([206, 304, 407, 408, 412, 416, 417, 421, 426, 428, 429, 431, 511]);

/** Section 4.2.2: a tenth of the time since the last change; at most a day. */
const heuristicPart = 0.1;
const longestHeuristic = 86_400;

/**
 * The terms of a response. Times are wall clock, milliseconds.
 * @param asked when its request was sent
 * @param now when its head arrived
 */
export function readTerms(
  { status, fields }: Pick<Reply, 'status' | 'fields'>,
  asked: number,
  now: number,
  heuristic: boolean,
): Terms {
  const read = parseTargeted(joinedOf(fields, 'cdn-cache-control'));
  const targeted = read === unreadable ? undefined : read;
  const said = targeted ?? parseDirectives(joinedOf(fields, 'cache-control'));
  // RFC 9213 section 2.1 ignores such a field. It may have forbidden something that Cache-Control permits.
  const directives = read === unreadable ? new Map([...said, [unreadable, '']]) : said;
  const date = parseHttpDate(firstOf(fields, 'date'), now) ?? now;
  const lastModified = firstOf(fields, 'last-modified');
  const stated = statedLifetime(directives, targeted === undefined ? fields : undefined, date, now);
  const guessed = stated === undefined && heuristic && (heuristicStatuses.has(status) || directives.has('public'));
  const noCache = directives.get('no-cache');
  const strict = noCache === '' || ['must-revalidate', 'proxy-revalidate'].some((name) => directives.has(name));
  // Section 4.2.3: the apparent age, in the whole seconds of Date, or the stated age plus the time that the
  // response took.
  const initialAge = Math.max(0, Math.floor(now / 1000) - date / 1000, ageOf(fields) + Math.max(0, now - asked) / 1000);
  return {
    directives,
    lifetime: stated ?? (guessed ? guessLifetime(lastModified, date, now) : 0),
    heuristic: guessed,
    initialAge,
    shared: ['public', 's-maxage', 'must-revalidate'].some((name) => directives.has(name)),
    strict: strict || directives.has('s-maxage'),
    alwaysValidate: noCache === '',
    // If a server states both s-maxage and this, this counts; directives that require revalidation still apply.
    staleWhileRevalidate: strict ? 0 : (secondsOf(directives, 'stale-while-revalidate') ?? 0),
    staleIfError: strict ? 0 : (secondsOf(directives, 'stale-if-error') ?? 0),
    etag: firstOf(fields, 'etag'),
    lastModified,
    date,
  };
}

/** Section 4.2.1. A targeted field replaces Expires as well: `fields` is undefined then. */
function statedLifetime(
  directives: Directives,
  fields: Fields | undefined,
  date: number,
  now: number,
): number | undefined {
  const stated = secondsOf(directives, 's-maxage') ?? secondsOf(directives, 'max-age');
  if (stated !== undefined) return stated;
  const expires = fields === undefined ? undefined : firstOf(fields, 'expires');
  if (expires === undefined) return undefined;
  // Section 5.3: an unreadable date counts as past.
  const until = parseHttpDate(expires, now);
  return until === undefined ? 0 : Math.min(Math.max(0, (until - date) / 1000), longest);
}

function guessLifetime(lastModified: string | undefined, date: number, now: number): number {
  const changed = parseHttpDate(lastModified, now);
  if (changed === undefined) return 0;
  return Math.min(Math.max(0, ((date - changed) / 1000) * heuristicPart), longestHeuristic);
}

/**
 * Why a response to a GET may not be stored; undefined if it may (section 3).
 * @param identified the request identifies its caller, by Authorization or in any other way
 */
export function whyNotStored(
  { status, fields, framing }: Pick<Reply, 'status' | 'fields' | 'framing'>,
  terms: Terms,
  rules: Rules,
  identified: boolean,
): string | undefined {
  const { directives } = terms;
  if (status < 200 || ofOneRequest.has(status)) return 'status';
  if (rules.isRange === true && status !== 200) return 'range';
  const mustUnderstand = directives.has('must-understand');
  if (mustUnderstand && !understood.has(status)) return 'must-understand';
  const forbidden = whyForbidden(directives);
  if (forbidden !== undefined && !(forbidden === 'no-store' && mustUnderstand)) return forbidden;
  if (identified && !terms.shared && !rules.shareIdentities) return 'identity';
  // A session of one client must not be given to others.
  if (joinedOf(fields, 'set-cookie') !== undefined && !qualifiedNames(directives).has('set-cookie'))
    return 'set-cookie';
  if (hasStar(joinedOf(fields, 'vary'))) return 'vary';
  // A cut connection would look like its end.
  if (framing === 'close') return 'length';
  const explicit =
    directives.has('public') ||
    secondsOf(directives, 's-maxage') !== undefined ||
    secondsOf(directives, 'max-age') !== undefined ||
    firstOf(fields, 'expires') !== undefined;
  if (!explicit && !(rules.heuristic && heuristicStatuses.has(status)) && !canValidate(terms, status))
    return 'freshness';
  // It would be fetched again each time.
  if (
    terms.lifetime <= terms.initialAge &&
    !canValidate(terms, status) &&
    terms.staleIfError + terms.staleWhileRevalidate === 0
  )
    return 'stale';
  return undefined;
}

/** The directive that keeps a response out of a shared cache. */
export function whyForbidden(directives: Directives): 'unreadable' | 'private' | 'no-store' | undefined {
  if (directives.has(unreadable)) return 'unreadable';
  if (directives.get('private') === '') return 'private';
  return directives.has('no-store') ? 'no-store' : undefined;
}

/** No freshness is stated, but a validator saves transferring the body again. */
function canValidate({ etag, lastModified }: Terms, status: number): boolean {
  return heuristicStatuses.has(status) && (etag !== undefined || lastModified !== undefined);
}

/** The fields that `no-cache` and `private` name: they are not stored (sections 5.2.2.4 and 5.2.2.7). */
export function qualifiedNames(directives: Directives): ReadonlySet<string> {
  return new Set([...namesIn(directives.get('no-cache') ?? ''), ...namesIn(directives.get('private') ?? '')]);
}

/** Vary: * selects no later request. */
export function hasStar(vary: string | undefined): boolean {
  return vary?.split(',').some((one) => one.trim() === '*') === true;
}

/** Proxy fields that name a client or one exchange, and Age, which is computed again for each use. */
const ofOneExchange: ReadonlySet<string> = new Set([
  ...['age', 'proxy-authentication-info', 'proxy-status', 'x-request-id', 'cache-status'],
]);

/** The fields of a response that are stored (section 3.1). */
export function storedFields(
  { fields, hopFields }: Pick<Reply, 'fields' | 'hopFields'>,
  directives: Directives,
): Fields {
  const qualified = qualifiedNames(directives);
  return filterFields(
    fields,
    ({ lower, role }) =>
      isEndToEnd(role) && !qualified.has(lower) && !ofOneExchange.has(lower) && hopFields?.includes(lower) !== true,
  );
}

/**
 * The fields with a date: the time of arrival if there is no readable one (RFC 9110 section
 * 6.6.1).
 * @param now when it arrived, milliseconds since 1970
 */
export function datedFields(fields: Fields, now: number): Fields {
  if (parseHttpDate(firstOf(fields, 'date'), now) !== undefined) return fields;
  const others = filterFields(fields, ({ lower }) => lower !== 'date');
  return addFields(others, [['date', new Date(now).toUTCString()]]);
}

/** They describe the stored bytes, which a 304 does not send again. */
const ofStoredBody: ReadonlySet<string> = new Set(['content-length', 'content-encoding', 'content-range']);

/** The stored fields, updated by those of a 304 or a HEAD's response (section 3.2). */
export function updatedFields(stored: Fields, fresh: Fields): Fields {
  const replaced = new Set(fresh.names.map(({ lower }) => lower).filter((name) => !ofStoredBody.has(name)));
  // Section 4.3.4: a strong tag is for other bytes than those that were stored under a weak one. Servers that compress
  // send the one in a 304 and the other in a 200.
  if (firstOf(stored, 'etag')?.startsWith('W/') && firstOf(fresh, 'etag')?.startsWith('"')) replaced.delete('etag');
  const kept = filterFields(stored, ({ lower }) => !replaced.has(lower));
  const added = filterFields(fresh, ({ lower }) => replaced.has(lower));
  return { names: [...kept.names, ...added.names], values: [...kept.values, ...added.values] };
}
