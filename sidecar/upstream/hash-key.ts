// The text that keeps a request on one endpoint: a header, a cookie, a query parameter or the client's address.

import { randomBytes } from 'node:crypto';
import { type Exchange, Slot } from '../exchange/exchange.ts';
import type { HashSource } from '../exchange/upstream.ts';
import { ipOfPlace } from '../policy/ip.ts';

/** The session that keeps a client on one backend and one endpoint; set only if its rule has sessions. */
export const sessionOf = new Slot<string>();

/** The text, or undefined if the request has none: any endpoint will do then. */
export function hashKeyOf(exchange: Exchange, source: HashSource): string | undefined {
  if ('headers' in source)
    return source.headers.flatMap((name) => valuesOf(exchange, name.toLowerCase())).join(',') || undefined;
  if ('cookie' in source) return cookieOf(exchange, source.cookie);
  if ('session' in source) return sessionOf.get(exchange);
  if ('query' in source) return parameterOf(exchange.path, source.query);
  // The address without its port, which differs for each connection.
  return exchange.clientIp?.text ?? ipOfPlace(exchange.connection.remoteAddress)?.text;
}

/**
 * A cookie for a client without one, so that it returns to the endpoint chosen now: its value, and its Set-Cookie
 * field.
 */
export function newHashCookie(source: HashSource): { readonly value: string; readonly field: string } | undefined {
  if (!('cookie' in source) || source.ttlMs === undefined) return undefined;
  const value = randomBytes(8).toString('hex');
  const age = source.ttlMs === 0 ? '' : `; Max-Age=${Math.ceil(source.ttlMs / 1000)}`;
  const path = source.path === undefined ? '' : `; Path=${source.path}`;
  return { value, field: `${source.cookie}=${value}${age}${path}; HttpOnly` };
}

function valuesOf({ fields }: Exchange, lower: string): string[] {
  return fields.values.filter((_, i) => fields.names[i]!.lower === lower);
}

function cookieOf(exchange: Exchange, name: string): string | undefined {
  for (const line of valuesOf(exchange, 'cookie')) {
    for (const pair of line.split(';')) {
      const at = pair.indexOf('=');
      if (at !== -1 && pair.slice(0, at).trim() === name) return pair.slice(at + 1).trim() || undefined;
    }
  }
  return undefined;
}

function parameterOf(path: string, name: string): string | undefined {
  const query = path.indexOf('?');
  return query === -1 ? undefined : (new URLSearchParams(path.slice(query + 1)).get(name) ?? undefined);
}
