// The demands of a request on a cache: which variant it selects, whether a stored response may serve it, and how
// (RFC 9111 sections 4 and 5.2.1; RFC 9110 sections 13 and 14).

import type { Fields } from '../../exchange/message.ts';
import { foldName } from '../../policy/header-name.ts';
import { transactionTokenField } from '../../policy/transaction-token.ts';
import { type Directives, firstOf, joinedOf, parseDirectives, parseHttpDate, secondsOf } from './directives.ts';
import type { Terms } from './response.ts';

/** A client's directives. `Pragma: no-cache` counts where there is no Cache-Control (RFC 9111 section 5.4). */
export function askedBy(fields: Fields): Directives {
  const control = joinedOf(fields, 'cache-control');
  if (control !== undefined) return parseDirectives(control);
  const pragma = joinedOf(fields, 'pragma');
  return pragma === undefined || !parseDirectives(pragma).has('no-cache') ? parseDirectives(undefined) : onlyNoCache;
}

const onlyNoCache: Directives = new Map([['no-cache', '']]);

/** The request's values of the fields that Vary names (section 4.1). */
export type Selection = readonly (readonly [folded: string, value: string | undefined])[];

/** Fields that are added to a request when it is forwarded: later requests could not be compared by them. */
const addedLater: ReadonlySet<string> = new Set([
  ...['x-forwarded-client-cert', 'x-request-id', 'x-envoy-attempt-count', transactionTokenField],
]);

/** The selection of a response, and the fields that the backend received. */
export interface Selecting {
  /** The fields as they are when a later request is looked up. */
  readonly fields: Fields;
  /** The fields as they were forwarded. */
  readonly forwarded: Fields;
  /** The names that the client's Connection listed, in lower case: they were not forwarded. */
  readonly hopFields: readonly string[] | undefined;
}

/**
 * The selection of a response. Undefined if Vary cannot be read, or names a field whose forwarded value differs from
 * the one by which later requests are compared, such as a field that the gateway adds: then no later request is known
 * to get the same response.
 */
export function selectionOf(
  vary: string | undefined,
  { fields, forwarded, hopFields }: Selecting,
): Selection | undefined {
  if (vary === undefined) return [];
  const named = vary.split(',').map((name) => name.trim().toLowerCase());
  if (!named.every((name) => /^[!#$%&'*+\-.^_`|~0-9a-z]*$/.test(name))) return undefined;
  const names = new Set(named.map(foldName));
  names.delete('');
  const selection = [...names].map((name) => [name, selecting(fields, name)] as const);
  const isCompared = selection.every(
    ([name, value]) =>
      !addedLater.has(name) &&
      hopFields?.some((one) => foldName(one) === name) !== true &&
      value === selecting(forwarded, name),
  );
  return isCompared ? selection : undefined;
}

/** Whether a request selects the same response. */
export function selects(selection: Selection, request: Fields): boolean {
  return selection.every(([name, value]) => selecting(request, name) === value);
}

/** Lines of one name, in every spelling that servers fold into one, joined and without optional whitespace. */
function selecting({ names, values }: Fields, folded: string): string | undefined {
  let found: string | undefined;
  for (let i = 0; i < names.length; i++) {
    if (names[i]!.folded !== folded) continue;
    const value = values[i]!.trim().replace(/\s*,\s*/g, ',');
    found = found === undefined ? value : `${found},${value}`;
  }
  return found;
}

/** What to do with a stored response. */
export type Use = 'fresh' | 'while-revalidating' | 'validate';

/**
 * Whether a stored response may serve this request now, by its age in seconds (section 4.2.4).
 * @param asked the client's directives; empty if they are not honoured
 */
export function useOf(terms: Terms, age: number, asked: Directives): Use {
  if (terms.alwaysValidate || asked.has('no-cache')) return 'validate';
  const maxAge = secondsOf(asked, 'max-age');
  const left = terms.lifetime - age;
  const maxStale = terms.strict || !asked.has('max-stale') ? 0 : maxStaleOf(asked);
  if (maxAge !== undefined && age > maxAge + maxStale) return 'validate';
  if (left - (secondsOf(asked, 'min-fresh') ?? 0) > 0) return 'fresh';
  if (maxStale > 0 && -left < maxStale) return 'fresh';
  if (maxAge === undefined && !asked.has('min-fresh') && -left < terms.staleWhileRevalidate)
    return 'while-revalidating';
  return 'validate';
}

/** Section 5.2.1.2: without a number, any staleness. */
function maxStaleOf(asked: Directives): number {
  return asked.get('max-stale') === '' ? Number.POSITIVE_INFINITY : secondsOf(asked, 'max-stale')!;
}

/**
 * Whether a stale response may replace a failure.
 * @param reached false if there was no response at all: then section 4.2.4 allows it without stale-if-error
 * @param disconnected how long after its freshness it may in that case, seconds
 */
export function mayReplaceError(terms: Terms, age: number, reached: boolean, disconnected: number): boolean {
  // Section 5.2.2.4: not without validation, however fresh it is.
  if (terms.alwaysValidate) return false;
  const stale = age - terms.lifetime;
  if (stale <= terms.staleIfError) return true;
  return !reached && !terms.strict && stale <= disconnected;
}

/** Statuses that stale-if-error covers (RFC 5861 section 4). */
export const errorStatuses: ReadonlySet<number> = new Set([500, 502, 503, 504]);

/** Conditions that a cache leaves to the origin: it stores no state to evaluate them. */
export function needsOrigin(fields: Fields): boolean {
  return firstOf(fields, 'if-match') !== undefined || firstOf(fields, 'if-unmodified-since') !== undefined;
}

/** Whether the client already has this response (RFC 9110 section 13.2.2). */
export function isNotModified(request: Fields, { etag, lastModified, date }: Terms, status: number): boolean {
  if (status !== 200) return false;
  const tags = joinedOf(request, 'if-none-match');
  if (tags !== undefined) {
    if (tags.trim() === '*') return true;
    if (etag === undefined) return false;
    const own = weak(etag);
    return tagsIn(tags).some((tag) => weak(tag) === own);
  }
  const since = parseHttpDate(firstOf(request, 'if-modified-since'));
  if (since === undefined) return false;
  // RFC 9111 section 4.3.2: without Last-Modified, the date of the response takes its place.
  return (parseHttpDate(lastModified) ?? date) <= since;
}

function tagsIn(list: string): readonly string[] {
  return list.match(/(?:W\/)?"[^"]*"/g) ?? [];
}

function weak(tag: string): string {
  return tag.startsWith('W/') ? tag.slice(2) : tag;
}

/** The requested byte range: from (inclusive) and to (exclusive). */
export type Span = readonly [from: number, to: number];

/**
 * The part of a body of `length` bytes that a request asks for (RFC 9110 section 14.2). Undefined: all of it, also if
 * it requests several parts, or another version by If-Range. `none`: no such bytes.
 */
export function spanOf(request: Fields, terms: Terms, length: number): Span | 'none' | undefined {
  const range = joinedOf(request, 'range');
  if (range === undefined) return undefined;
  const match = /^bytes=\s*(\d*)-(\d*)\s*$/i.exec(range);
  if (match === null || (match[1] === '' && match[2] === '')) return undefined;
  const condition = firstOf(request, 'if-range');
  if (condition !== undefined && !isSameVersion(condition, terms)) return undefined;
  const [first, last] = [match[1]!, match[2]!];
  if (first === '') {
    const suffix = Number(last);
    return suffix === 0 || length === 0 ? 'none' : [Math.max(0, length - suffix), length];
  }
  if (last !== '' && Number(last) < Number(first)) return undefined;
  if (Number(first) >= length) return 'none';
  return [Number(first), last === '' ? length : Math.min(Number(last) + 1, length)];
}

/**
 * RFC 9110 section 13.1.5: a strong tag, or the exact date. The date is strong if the response is a second younger
 * (section 8.8.2.2): it may have changed again within that of its date.
 */
function isSameVersion(condition: string, { etag, lastModified, date }: Terms): boolean {
  if (condition.startsWith('"')) return condition === etag;
  if (condition.startsWith('W/') || condition !== lastModified) return false;
  const changed = parseHttpDate(lastModified);
  return changed !== undefined && date - changed >= 1000;
}

/** The fields of a request that states conditions or asks for a part. */
export const conditional: ReadonlySet<string> = new Set([
  ...['if-none-match', 'if-modified-since', 'if-match', 'if-unmodified-since', 'if-range', 'range'],
]);

/** Whether a 304, or the response to a HEAD, is about the stored response (RFC 9111 section 4.3.4). */
export function isAbout(stored: Terms, fresh: Pick<Terms, 'etag' | 'lastModified'>): boolean {
  if (fresh.etag !== undefined && stored.etag !== undefined) return weak(fresh.etag) === weak(stored.etag);
  if (fresh.etag !== undefined && stored.etag === undefined) return false;
  return (
    fresh.lastModified === undefined || stored.lastModified === undefined || fresh.lastModified === stored.lastModified
  );
}
