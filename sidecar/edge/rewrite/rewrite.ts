// URLRewrite and RequestRedirect (Gateway API): another path, another host, or another URL.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import { withoutEndingSlash } from '../../routing/table.ts';
import type { PathPlan, RedirectPlan, RewritePlan } from './schema.ts';

/** A replacement for a path: for all of it, or for the prefix that the rule matches. */
export type PathChange = { readonly full: string } | { readonly prefix: string; readonly replacement: string };

/** A compiled rewrite. */
export interface Rewrite {
  readonly hostname: string | undefined;
  readonly path: PathChange | undefined;
}

/** A compiled redirect. */
export interface Redirect extends Rewrite {
  readonly scheme: 'http' | 'https' | undefined;
  readonly port: number | undefined;
  readonly status: number;
}

/** `prefix` is the path of the rule's only match. */
function compilePathChange(path: PathPlan | undefined, prefix: string): PathChange | undefined {
  if (path === undefined) return undefined;
  if (path.type === 'ReplaceFullPath') return { full: path.replaceFullPath! };
  return { prefix: withoutEndingSlash(prefix), replacement: withoutEndingSlash(path.replacePrefixMatch!) };
}

/** `prefix` is the path of the rule's only match, which ReplacePrefixMatch replaces. */
export function compileRewrite({ hostname, path }: RewritePlan, prefix: string): Rewrite {
  return { hostname, path: compilePathChange(path, prefix) };
}

/** Compiles a redirect; `prefix` as in `compileRewrite`. */
export function compileRedirect({ scheme, hostname, path, port, statusCode }: RedirectPlan, prefix: string): Redirect {
  return { scheme, hostname, port, status: statusCode, path: compilePathChange(path, prefix) };
}

/** A path, with its query, after a change. The query stays. */
export function changePath(path: string, change: PathChange | undefined): string {
  if (change === undefined) return path;
  const at = path.indexOf('?');
  const [bare, query] = at === -1 ? [path, ''] : [path.slice(0, at), path.slice(at)];
  if ('full' in change) return change.full + query;
  const rest = bare.slice(change.prefix.length);
  const changed = `${change.replacement}${rest}`;
  // `/foo` for `/` under `/foo/bar` gives `/bar`; for `/foo` alone it gives `/`, not nothing.
  return (changed === '' ? '/' : changed.startsWith('/') ? changed : `/${changed}`) + query;
}

/** Replaces the path and host that the backend gets. */
export function applyRewrite(exchange: Exchange, { hostname, path }: Rewrite): void {
  exchange.path = changePath(exchange.path, path);
  if (hostname !== undefined) exchange.authority = hostname;
}

const defaultPorts: Readonly<Record<string, number>> = { http: 80, https: 443 };

/**
 * The target of a redirect. (HTTPRequestRedirectFilter `port`: with a scheme its well-known port, else the listener's.)
 * It starts from the URL that the client sees: behind a trusted proxy that has the proxy's scheme and port.
 * @throws SallyportError `redirect_loop` if the target is the same URL, `host_missing` if the host is unknown.
 */
export function locationOf(exchange: Exchange, redirect: Redirect, listenerPort: number): string {
  const own = exchange.scheme;
  const isOurs = own === (exchange.connection.tls === undefined ? 'http' : 'https');
  const ownPort = isOurs ? listenerPort : defaultPorts[own]!;
  const scheme = redirect.scheme ?? own;
  const { authority } = exchange;
  const bracket = authority.lastIndexOf(']');
  const colon = authority.indexOf(':', bracket === -1 ? 0 : bracket);
  const asked = colon === -1 ? authority : authority.slice(0, colon);
  const host = redirect.hostname ?? asked;
  if (host === '') throw new SallyportError('host_missing', 'a redirect needs a Host');
  const port = redirect.port ?? (redirect.scheme === undefined ? ownPort : defaultPorts[scheme]!);
  const place = (of: string, name: string, number: number): string =>
    defaultPorts[of] === number ? `${of}://${name}` : `${of}://${name}:${number}`;
  const path = changePath(exchange.path, redirect.path);
  const location = place(scheme, host, port) + path;
  const isSeen = redirect.status === 303 && exchange.method !== 'GET' && exchange.method !== 'HEAD';
  if (!isSeen && location === place(own, asked, ownPort) + exchange.path)
    throw new SallyportError('redirect_loop', `the redirect of ${exchange.edge?.name} leads back to the same URL`);
  return location;
}
