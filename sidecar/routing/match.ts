// Does a request match the conditions of a rule besides its path? Header names are case-insensitive, and of repeated
// query parameters the first counts (HTTPRoute `matches`). Regular expressions match the whole value, in linear time.

import type { Exchange } from '../exchange/exchange.ts';
import { headerOf, pathWithoutQuery, preflightFor } from '../exchange/facts.ts';
import type { ValueMatch } from './documents.ts';
import { compileRegex } from './regex.ts';

/** All parts must hold; an undefined method and an empty list match anything. */
export interface Matcher {
  readonly method: string | undefined;
  readonly headers: readonly ValueTest[];
  readonly queryParams: readonly ValueTest[];
  /** A gRPC method of any service: the path's second and last segment. */
  readonly grpcMethod?: string | undefined;
}

/** A test of one value. Names of headers are in lower case, those of query parameters as written. */
export interface ValueTest {
  readonly name: string;
  readonly test: (value: string) => boolean;
}

/**
 * The tests of a list of matches; of two for one name the first counts.
 * @throws Error for an invalid regular expression.
 */
export function compileValues(matches: readonly ValueMatch[], fold: boolean): readonly ValueTest[] {
  const seen = new Set<string>();
  return matches.flatMap(({ type, name, value }): ValueTest[] => {
    const key = fold ? name.toLowerCase() : name;
    if (seen.has(key)) return [];
    seen.add(key);
    return [{ name: key, test: type === 'RegularExpression' ? compileRegex(value) : (one) => one === value }];
  });
}

/**
 * The method of the request that this preflight is for, which may match another rule than OPTIONS does. Undefined if it
 * is not a preflight as browsers send it: they add neither a body nor credentials (Fetch standard, section 4.8).
 */
export function requestBehind(exchange: Exchange): string | undefined {
  const hasCredentials =
    headerOf(exchange, 'authorization') !== undefined || headerOf(exchange, 'cookie') !== undefined;
  return exchange.framing === 0 && !hasCredentials ? preflightFor(exchange) : undefined;
}

/** The headers, in lower case, that a preflight announces for its request; it does not give their values. */
export function announcedBy(exchange: Exchange): ReadonlySet<string> {
  const list = headerOf(exchange, 'access-control-request-headers') ?? '';
  return new Set(list.split(',').map((one) => one.trim().toLowerCase()));
}

/** Does the request, with this method, match all of it? Headers that are `announced` match any value. */
export function matchesRest(
  { method, headers, queryParams, grpcMethod }: Matcher,
  exchange: Exchange,
  asked: string,
  announced?: ReadonlySet<string>,
): boolean {
  if (method !== undefined && method !== asked) return false;
  if (grpcMethod !== undefined && !callsMethod(pathWithoutQuery(exchange.path), grpcMethod)) return false;
  for (const { name, test } of headers) {
    if (announced?.has(name) === true) continue;
    const value = headerOf(exchange, name);
    if (value === undefined || !test(value)) return false;
  }
  if (queryParams.length === 0) return true;
  const at = exchange.path.indexOf('?');
  if (at === -1) return false;
  const query = new URLSearchParams(exchange.path.slice(at + 1));
  return queryParams.every(({ name, test }) => {
    const value = query.get(name);
    return value !== null && test(value);
  });
}

/** `/any.Service/Method`, and no further segments. */
function callsMethod(path: string, method: string): boolean {
  const slash = path.length - method.length - 1;
  return slash > 1 && path.indexOf('/', 1) === slash && path.endsWith(method);
}
