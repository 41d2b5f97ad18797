// A match that certainly covers one that cannot be read or served. If its path is unknown it comes before all rules of
// its host, else before others at its path, so that those rules get none of its requests.

import { nearestTo } from '../../../cert-agent/base/did-you-mean.ts';
import { fieldsOf } from '../../edge/capabilities.ts';
import type { GrpcMatch, HttpMatch, HttpRule, ValueMatch } from '../../routing/documents.ts';
import { grpcMatch, httpMatch, routeMethods } from '../../routing/schema.ts';
import { wrongIn } from '../../routing/unsupported.ts';
import { headerName } from '../../schema/gateway-patterns.ts';

type Bag = Readonly<Record<string, unknown>>;

/** A match of an HTTPRoute's broken rule. */
export function coverHttp(said: unknown): HttpMatch {
  const whole = httpMatch.safeParse(said);
  if (whole.success && isServed(whole.data)) return whole.data;
  const unclear = unclearIn(said, ['path', 'headers', 'queryParams', 'method']);
  const { path, headers, queryParams, method } = bagOf(said);
  const covered = unclear.has('path') ? anyPath : path === undefined ? undefined : coverPath(path);
  const upper = typeof method === 'string' ? routeMethods.find((one) => one === method.toUpperCase()) : undefined;
  const isMethod = !unclear.has('method') && upper !== undefined;
  const listed = { headers: coverValues(headers, true), queryParams: coverValues(queryParams, false) };
  const isWider =
    unclear.size > 0 || (method !== undefined && !isMethod) || Object.values(listed).some((one) => one.isWider);
  return {
    ...(covered === undefined ? {} : { path: covered.path }),
    ...(isMethod ? { method: upper } : {}),
    ...Object.fromEntries(Object.entries(listed).map(([key, { known }]) => [key, known])),
    ...(covered?.isWider === true ? { widened: 'path' } : isWider ? { widened: 'rest' } : {}),
  };
}

/** A match of a GRPCRoute's broken rule. A method of gRPC is the path of its calls. */
export function coverGrpc(said: unknown): GrpcMatch {
  const whole = grpcMatch.safeParse(said);
  if (whole.success && isServed(whole.data)) return whole.data;
  const unclear = unclearIn(said, ['method', 'headers']);
  const { method, headers } = bagOf(said);
  const told = unclear.has('method') ? undefined : grpcMethodIn(method);
  const { known, isWider } = coverValues(headers, true);
  const covered = told ?? (unclear.has('method') ? undefined : serviceOf(method));
  const isPathWider = unclear.has('method') || (method !== undefined && told === undefined);
  return {
    ...(covered === undefined ? {} : { method: covered }),
    headers: known,
    ...(isPathWider ? { widened: 'path' } : isWider || unclear.size > 0 ? { widened: 'rest' } : {}),
  };
}

/**
 * The matches that cover those of a rule, whatever is wrong with it. An object where a list belongs is its only entry.
 */
export function coverMatches<M>(said: unknown, cover: (match: unknown) => M): readonly M[] {
  const { matches } = bagOf(said);
  const list = Array.isArray(matches) ? matches : matches === undefined ? [] : [matches];
  const isUnclear = unclearIn(said, ruleFields).has('matches');
  return [...list.map(cover), ...(isUnclear ? [cover(undefined)] : [])];
}

const ruleFields = ['name', 'matches', 'filters', 'backendRefs', 'timeouts', 'retry', ...fieldsOf('rule').keys()];

/**
 * The fields whose intended meaning is unknown: an unknown word may be a misspelling of a similar one, else of each
 * missing one.
 */
export function unclearIn(said: unknown, fields: readonly string[]): ReadonlySet<string> {
  if (typeof said !== 'object' || said === null || Array.isArray(said)) return new Set(fields);
  const unknown = Object.keys(said).filter((key) => !fields.includes(key));
  return new Set(
    unknown.flatMap((key) => {
      const near = nearTo(key, fields);
      return near === undefined ? fields.filter((field) => !Object.hasOwn(said, field)) : [near];
    }),
  );
}

function nearTo(key: string, fields: readonly string[]): string | undefined {
  const [word, least] = [key.toLowerCase(), 4];
  const longer = fields.find((field) => word.length >= least && field.toLowerCase().startsWith(word));
  return nearestTo(key, fields) ?? longer;
}

function grpcMethodIn(method: unknown): GrpcMatch['method'] {
  const { success, data } = grpcMatch.safeParse({ method });
  return success && isServed(data) ? data.method : undefined;
}

/** The service of a method that cannot be read, if that can. */
function serviceOf(method: unknown): GrpcMatch['method'] {
  const unclear = unclearIn(method, ['type', 'service', 'method']);
  const { type = 'Exact', service } = bagOf(method);
  return unclear.has('service') || unclear.has('type') || service === undefined
    ? undefined
    : grpcMethodIn({ type, service });
}

interface CoveredValues {
  readonly known: readonly ValueMatch[];
  readonly isWider: boolean;
}

/** Headers or parameters: one whose value is unknown must only be present. */
function coverValues(said: unknown, isHeader: boolean): CoveredValues {
  if (said === undefined) return { known: [], isWider: false };
  if (!Array.isArray(said)) return { known: [], isWider: true };
  const covered = said.map((one): ValueMatch | undefined => {
    const match = isHeader ? { headers: [one] } : { queryParams: [one] };
    const { success, data } = httpMatch.safeParse(match);
    if (success && isServed(data)) return (data.headers ?? data.queryParams)?.[0];
    // An unknown word or type may require that it is absent.
    const { type = 'Exact', name: named } = bagOf(one);
    const isThere =
      unclearIn(one, ['type', 'name', 'value']).size === 0 && (type === 'Exact' || type === 'RegularExpression');
    const name = headerName.safeParse(named);
    return isThere && name.success ? { type: 'RegularExpression', name: name.data, value: '(?s).*' } : undefined;
  });
  const known = covered.filter((one) => one !== undefined);
  return { known, isWider: known.length < covered.length };
}

interface CoveredPath {
  readonly path: NonNullable<HttpMatch['path']>;
  readonly isWider: boolean;
}

/** A path, by its certain beginning. */
function coverPath(said: unknown): CoveredPath {
  const unclear = unclearIn(said, ['type', 'value']);
  const { type: named = 'PathPrefix', value = '/' } = bagOf(said);
  if (typeof value !== 'string' || unclear.has('value')) return anyPath;
  const type = unclear.has('type') ? undefined : named;
  const isPlain = type === 'Exact' || type === 'PathPrefix';
  // Without its slash, if it can mean nothing else.
  const text = isPlain && /^[-A-Za-z0-9_]+(?:\/|$)/.test(value) ? `/${value}` : value;
  const read = httpMatch.safeParse({ path: { type, value: text } });
  if (type !== undefined && read.success && isServed(read.data)) return { path: read.data.path!, isWider: false };
  const start = isPlain ? goodStart(text) : literalStart(text.replace(/^\^/, ''));
  if (!start.startsWith('/') || start === '/') return anyPath;
  // A prefix covers whole segments, and this may end within one.
  return { path: { type: 'RegularExpression', value: `${escapeRegex(start)}(?s:.*)` }, isWider: true };
}

const anyPath: CoveredPath = { path: { type: 'PathPrefix', value: '/' }, isWider: true };

/** The part before anything that a route's path must not contain; empty if it leads up. */
function goodStart(text: string): string {
  if (/\/\.\.(?:\/|$)/.test(text)) return '';
  const [start = ''] =
    /^(?:(?!\/\/|\/\.(?:\/|$)|%2f)(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-f]{2}))*/i.exec(text) ?? [];
  return start;
}

/** The characters with which every match of the expression begins; none if there are alternatives. */
function literalStart(pattern: string): string {
  if (pattern.includes('|')) return '';
  const [start = ''] = /^[-A-Za-z0-9/_~!&',;=:@]*/.exec(pattern) ?? [];
  return /^[*?{]/.test(pattern.slice(start.length)) ? start.slice(0, -1) : start;
}

function escapeRegex(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
}

function isServed(match: HttpMatch | GrpcMatch): boolean {
  return wrongIn({ matches: [match] } as HttpRule) === undefined;
}

/** Its fields, if it is an object. */
export function bagOf(value: unknown): Bag {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Bag) : {};
}
