// What a match that cannot be read, or not be served, could mean: a match that surely covers it. `widened` ones come before
// others at their place of the table, so that nothing of it falls to those.

import type { GrpcMatch, HttpMatch, HttpRule, ValueMatch } from '../routing/documents.ts';
import { wrongIn } from '../routing/unsupported.ts';
import { headerName } from './gateway-common.ts';
import { routeMethods } from './gateway-filters.ts';
import { grpcMatch, httpMatch } from './gateway-routes.ts';

type Bag = Readonly<Record<string, unknown>>;

/** A match of an HTTPRoute's broken rule. */
export function coverHttp(said: unknown): HttpMatch {
  const whole = httpMatch.safeParse(said);
  if (whole.success && isServed(whole.data as HttpMatch)) return whole.data as HttpMatch;
  const { path, headers, queryParams, method, ...others } = bagOf(said);
  const upper = typeof method === 'string' ? routeMethods.find((one) => one === method.toUpperCase()) : undefined;
  const listed = { headers: coverValues(headers, true), queryParams: coverValues(queryParams, false) };
  const isWider =
    typeof said !== 'object' ||
    Object.keys(others).length > 0 ||
    (method !== undefined && upper === undefined) ||
    Object.values(listed).some((one) => one === 'wider');
  const covered = path === undefined ? undefined : coverPath(path);
  return {
    ...(covered === undefined ? {} : { path: covered.path }),
    ...(upper === undefined ? {} : { method: upper }),
    ...Object.fromEntries(Object.entries(listed).filter(([, one]) => typeof one === 'object')),
    ...(isWider || covered?.isWider === true ? { widened: true } : {}),
  };
}

/** A match of a GRPCRoute's broken rule. */
export function coverGrpc(said: unknown): GrpcMatch {
  const whole = grpcMatch.safeParse(said);
  if (whole.success && isServed(whole.data as GrpcMatch)) return whole.data as GrpcMatch;
  const { method, headers, ...others } = bagOf(said);
  const { service, type = 'Exact' } = bagOf(method);
  const ofService = grpcMatch.safeParse({ method: { type, service } });
  const isTold = ofService.success && isServed(ofService.data as GrpcMatch);
  const values = coverValues(headers, true);
  const isWider =
    typeof said !== 'object' || Object.keys(others).length > 0 || method !== undefined || values === 'wider';
  return {
    ...(method !== undefined && isTold ? { method: ofService.data.method as GrpcMatch['method'] } : {}),
    ...(typeof values === 'object' ? { headers: values } : {}),
    ...(isWider ? { widened: true } : {}),
  } as GrpcMatch;
}

/** Headers or parameters: of one whose value cannot be told it is asked that it is there. */
function coverValues(said: unknown, isHeader: boolean): readonly ValueMatch[] | 'wider' | undefined {
  if (said === undefined) return undefined;
  if (!Array.isArray(said)) return 'wider';
  const covered = said.map((one): ValueMatch | undefined => {
    const match = isHeader ? { headers: [one] } : { queryParams: [one] };
    const { success, data } = httpMatch.safeParse(match);
    if (success && isServed(data as HttpMatch)) return ((data.headers ?? data.queryParams) as ValueMatch[])[0];
    const name = headerName.safeParse(bagOf(one)['name']);
    return name.success ? { type: 'RegularExpression', name: name.data, value: '.*' } : undefined;
  });
  const known = covered.filter((one) => one !== undefined);
  return known.length < covered.length ? 'wider' : known;
}

interface CoveredPath {
  readonly path: NonNullable<HttpMatch['path']>;
  readonly isWider: boolean;
}

/** A path by what it surely begins with. */
function coverPath(said: unknown): CoveredPath {
  const { type = 'PathPrefix', value = '/' } = bagOf(said);
  if (typeof value !== 'string' || typeof type !== 'string') return anyPath;
  const isRegex = /^reg/i.test(type);
  const text = value.startsWith('/') || isRegex ? value : `/${value}`;
  const read = httpMatch.safeParse({ path: { type, value: text } });
  if (read.success && isServed(read.data as HttpMatch)) return { path: read.data.path!, isWider: false };
  const start = isRegex ? literalStart(text.replace(/^\^/, '')) : goodStart(text);
  if (!start.startsWith('/') || start === '/') return anyPath;
  // A prefix is of whole segments, and this may end within one.
  if (start.endsWith('/') && !isRegex) return { path: { type: 'PathPrefix', value: start }, isWider: true };
  return { path: { type: 'RegularExpression', value: `${escapeRegex(start)}.*` }, isWider: true };
}

const anyPath: CoveredPath = { path: { type: 'PathPrefix', value: '/' }, isWider: true };

/** Up to what no path of a route may hold. */
function goodStart(text: string): string {
  const [start = ''] = /^(?:(?!\/\/|\/\.\.?(?:\/|$)|%2f)[-A-Za-z0-9/._~!$&'()*+,;=:@%])*/i.exec(text) ?? [];
  // What a double slash or dots follow is a whole segment.
  return text.startsWith('/', start.length) ? `${start}/` : start;
}

/** The characters that each text begins with that the expression could match; none where it has a choice. */
function literalStart(pattern: string): string {
  if (pattern.includes('|')) return '';
  const [start = ''] = /^[-A-Za-z0-9/_~!&',;=:@%]*/.exec(pattern) ?? [];
  return /^[*?{]/.test(pattern.slice(start.length)) ? start.slice(0, -1) : start;
}

function escapeRegex(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
}

function isServed(match: HttpMatch | GrpcMatch): boolean {
  return wrongIn({ matches: [match] } as HttpRule) === undefined;
}

function bagOf(value: unknown): Bag {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Bag) : {};
}
