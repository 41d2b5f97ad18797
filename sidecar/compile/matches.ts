// A rule's conditions on a request, in the form of the route table.

import type { GrpcMatch, GrpcRule, HttpMatch, HttpRule, RouteDocument } from '../routing/documents.ts';
import { compileValues } from '../routing/match.ts';
import type { TableEntry } from '../routing/table.ts';

type RuleMatch = Omit<TableEntry, 'hosts' | 'order' | 'rule'>;

/** The conditions; without any, every request matches. */
export function matchesOf(route: RouteDocument, { matches = [] }: HttpRule | GrpcRule): RuleMatch[] {
  const list = matches.length === 0 ? [{}] : matches;
  return list.map((match: HttpMatch | GrpcMatch): RuleMatch => {
    const headers = compileValues(match.headers ?? [], true);
    const { widened } = match;
    if (route.kind === 'GRPCRoute') {
      const { method } = match as GrpcMatch;
      const path = grpcPath(method);
      const grpcMethod = path === anyPath ? method?.method : undefined;
      return { path, method: undefined, headers, queryParams: [], grpcMethod, widened };
    }
    const { path = anyPath, method, queryParams = [] } = match as HttpMatch;
    return { path, method, headers, queryParams: compileValues(queryParams, false), widened };
  });
}

/** The path of a match that names none (Gateway API's default). */
export const anyPath = { type: 'PathPrefix', value: '/' } as const;

/** A method of a gRPC service is a path: `/package.Service/Method`. */
function grpcPath(method: GrpcMatch['method']): TableEntry['path'] {
  const { type = 'Exact', service, method: name } = method ?? {};
  if (service === undefined && name === undefined) return anyPath;
  if (type === 'RegularExpression')
    return { type: 'RegularExpression', value: `/(?:${service ?? '[^/]+'})/(?:${name ?? '[^/]+'})` };
  if (name === undefined) return { type: 'PathPrefix', value: `/${service}` };
  // For any service: GRPCRoute `matches` puts the longer service first, so these come after all that name one.
  if (service === undefined) return anyPath;
  return { type: 'Exact', value: `/${service}/${name}` };
}

/** What ReplacePrefixMatch replaces: the prefix of the rule's only match. */
export function prefixOf({ matches = [] }: HttpRule | GrpcRule): string {
  return (matches[0] as HttpMatch | undefined)?.path?.value ?? '/';
}

/** GEP-1619: the path of the rule's only match if browsers understand it, else `/`. Session cookies are set for it. */
export function cookiePathOf({ matches = [] }: HttpRule | GrpcRule): string {
  const [only, second] = matches as readonly HttpMatch[];
  const { type, value } = only?.path ?? anyPath;
  return second === undefined && type !== 'RegularExpression' ? value.replaceAll(';', '%3B') : '/';
}
