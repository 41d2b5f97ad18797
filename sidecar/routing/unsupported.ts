// Valid parts of a route that are not supported here: regular expressions that are invalid or too expensive, changes
// that would break a head or leave its hop, filters at places where they mean nothing. Such a rule answers 500 as a
// whole: half of a rule is not what was meant. Its route has the standard's `PartiallyInvalid`, or `UnsupportedValue`
// if no rule is left.

import { isSafeField } from '../exchange/message.ts';
import type { Unresolved } from './conditions.ts';
import type {
  BackendRef,
  GrpcMatch,
  HeaderModifier,
  HttpMatch,
  PathModifier,
  RouteDocument,
  RouteFilter,
  RouteRule,
} from './documents.ts';
import { compileRegex } from './regex.ts';

/** Why a route of streams cannot be served as written. */
export function unsupportedIn({ kind, spec }: RouteDocument): Unresolved | undefined {
  const isStream = kind === 'TLSRoute' || kind === 'TCPRoute';
  return isStream && (spec.rules ?? []).length > 1
    ? unsupported(`a ${kind} can have one rule only: nothing in a stream selects one of several`)
    : undefined;
}

/** The first thing in a rule that cannot be served as written. */
export function wrongIn(rule: RouteRule): string | undefined {
  const why = wrongInMatches(rule) ?? wrongInFilters(rule) ?? wrongInBackends(rule) ?? wrongInSession(rule);
  return why?.startsWith(': ') === true ? why.slice(2) : why && `it${why}`;
}

/** The rules of a route that cannot be served, with their places in it, and whether there is no other. */
export function brokenIn({ spec }: RouteDocument): {
  readonly list: readonly (Unresolved & { readonly index: number })[];
  readonly isAll: boolean;
} {
  const rules = spec.rules ?? [];
  const list = rules.flatMap(({ broken }, index) => (broken === undefined ? [] : [{ ...broken, index }]));
  return { list, isAll: list.length > 0 && list.length === rules.length };
}

function unsupported(message: string): Unresolved {
  return { reason: 'UnsupportedValue', message };
}

function wrongInMatches(rule: RouteRule): string | undefined {
  const { matches = [] } = rule as { readonly matches?: readonly (HttpMatch | GrpcMatch)[] };
  for (const pattern of matches.flatMap(patternsOf)) {
    try {
      compileRegex(pattern);
    } catch (error) {
      const why = error instanceof RangeError ? error.message : 'has no look-around and no back-references';
      return `: '${pattern}' is not a supported regular expression (RE2): it ${why}`;
    }
  }
  return undefined;
}

function patternsOf(match: HttpMatch | GrpcMatch): string[] {
  const { headers = [] } = match;
  const { path, queryParams = [] } = match as HttpMatch;
  const { method } = match as GrpcMatch;
  const named =
    typeof method === 'object' && method.type === 'RegularExpression' ? [method.service, method.method] : [];
  const valued = [...(path === undefined ? [] : [path]), ...headers, ...queryParams];
  return [
    ...valued.filter(({ type }) => type === 'RegularExpression').map(({ value }) => value),
    ...named.flatMap((one) => one ?? []),
  ];
}

function wrongInFilters({ filters = [] }: RouteRule): string | undefined {
  for (const filter of filters) {
    const { requestRedirect, urlRewrite } = filter;
    if (requestRedirect !== undefined) {
      const { scheme, hostname, path, port, statusCode } = requestRedirect;
      // 303 sends a POST to the same place as a GET: no loop.
      if (statusCode !== 303 && [scheme, hostname, path, port].every((one) => one === undefined))
        return ' redirects each request to itself';
    }
    const why = wrongInHeaders(filter) ?? wrongInPath(requestRedirect?.path) ?? wrongInPath(urlRewrite?.path);
    if (why !== undefined) return why;
  }
  return undefined;
}

/** A backend's filters run after it is chosen, and before the request is sent: some have nothing left to do there. */
const backendFilters = new Set(['RequestHeaderModifier', 'ResponseHeaderModifier', 'URLRewrite', 'ExtensionRef']);

function wrongInBackends(rule: RouteRule): string | undefined {
  const { backendRefs = [] } = rule;
  for (const filter of backendRefs.flatMap((one) => one.filters ?? [])) {
    if (!backendFilters.has(filter.type))
      return `: a filter ${filter.type} belongs to a rule, not to one of its backends`;
    const path = filter.urlRewrite?.path;
    // For a rule's own filter the schema checks this.
    if (path?.type === 'ReplacePrefixMatch' && !hasOnePrefix(rule))
      return ': ReplacePrefixMatch needs exactly one PathPrefix match';
    const why = wrongInHeaders(filter) ?? wrongInPath(path);
    if (why !== undefined) return why;
  }
  return undefined;
}

function hasOnePrefix(rule: RouteRule): boolean {
  const { matches = [] } = rule as { readonly matches?: readonly HttpMatch[] };
  return matches.length < 2 && (matches[0]?.path?.type ?? 'PathPrefix') === 'PathPrefix';
}

/** The author of a route must not be able to write a head: no line breaks, no framing, no hop-by-hop fields. */
function wrongInHeaders({ requestHeaderModifier, responseHeaderModifier }: RouteFilter): string | undefined {
  const changes = ({ set = [], add = [], remove = [] }: HeaderModifier): { name: string; value: string }[] => [
    ...set,
    ...add,
    ...remove.map((name) => ({ name, value: '' })),
  ];
  const all = [requestHeaderModifier, responseHeaderModifier].flatMap((one) => (one === undefined ? [] : changes(one)));
  const bad = all.find(({ name, value }) => !isSafeField(name, value));
  if (bad === undefined) return undefined;
  return isSafeField(bad.name, '')
    ? `: the value for header '${bad.name}' contains a control character`
    : `: header '${bad.name}' cannot be changed by a filter: it is not a valid name, or belongs to the message's framing, host or hop`;
}

function wrongInPath(path: PathModifier | undefined): string | undefined {
  const text = path?.replaceFullPath ?? path?.replacePrefixMatch;
  if (text === undefined || /^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})*$/.test(text)) return undefined;
  return `: '${text.replace(/[^\x20-\x7e]/g, '.')}' is not a valid path`;
}

function wrongInSession({ sessionPersistence }: RouteRule): string | undefined {
  if (sessionPersistence === undefined) return undefined;
  const { sessionName, type, idleTimeout } = sessionPersistence;
  if (idleTimeout !== undefined)
    return ": 'idleTimeout' is not supported: no session is stored, so its last use is unknown";
  if (sessionName === undefined) return undefined;
  const fits = type === 'Header' ? isSafeField(sessionName, '') : /^[A-Za-z0-9!#$%&'*+.^_`|~-]+$/.test(sessionName);
  return fits ? undefined : `: '${sessionName}' is not the name of a ${type === 'Header' ? 'header' : 'cookie'}`;
}

/** All filters of a route, each rule's own before those of its backends. */
export function filtersOf(route: RouteDocument): readonly RouteFilter[] {
  return (route.spec.rules ?? []).flatMap(({ filters = [], backendRefs = [] }) => [
    ...filters,
    ...backendRefs.flatMap((one) => one.filters ?? []),
  ]);
}

/** The backend that a filter of any kind names. */
function backendsIn(filter: RouteFilter): readonly BackendRef[] {
  return Object.values(filter).flatMap((value) => {
    const { backendRef } = (typeof value === 'object' && value !== null ? value : {}) as { backendRef?: BackendRef };
    return backendRef ?? [];
  });
}

/** The backends of a route in order, followed by those of its filters. */
export function backendRefsOf(route: RouteDocument): readonly BackendRef[] {
  const rules = route.spec.rules ?? [];
  return [...rules.flatMap(({ backendRefs = [] }) => backendRefs), ...filtersOf(route).flatMap(backendsIn)];
}
