// Tokens at their places in a request: found there, and removed so that the app does not get them.

import { type TokenPlace, type TokenSource, withoutCookie, withoutParam } from '../policy/request-authentication.ts';
import type { Exchange } from './exchange.ts';
import { headerOf } from './facts.ts';
import { changeRequest, onlyField } from './fields.ts';
import type { Fields } from './message.ts';

/** The places of tokens: the request with these fields, and its own path unless another is given. */
export function tokenSourceOf(exchange: Exchange, fields: Fields, path = exchange.path): TokenSource {
  return { path, header: (name) => headerOf(exchange, name, fields) };
}

/** True if two places are the same. */
export function isSamePlace(a: TokenPlace, b: TokenPlace): boolean {
  return a.kind === b.kind && a.name === b.name;
}

/** Removes a credential from the request, in each way that servers read that place. */
export function takeOut(exchange: Exchange, place: TokenPlace): void {
  if (place.kind === 'header') changeRequest(exchange, onlyField(place.name), []);
  else if (place.kind === 'param') exchange.path = withoutParam(exchange.path, place.name);
  else exchange.fields = withoutCookieField(exchange.fields, place.name);
}

/** The same for several, each place once: a client may name one a thousand times. */
export function takeOutAll(exchange: Exchange, places: readonly TokenPlace[]): void {
  const done: TokenPlace[] = [];
  for (const place of places) {
    if (done.some((one) => isSamePlace(one, place))) continue;
    done.push(place);
    takeOut(exchange, place);
  }
}

function withoutCookieField(fields: Fields, name: string): Fields {
  return mapCookies(fields, (value) => withoutCookie(value, name));
}

/** The fields with each Cookie field changed by `change`; a field that becomes empty is removed. */
export function mapCookies({ names, values }: Fields, change: (value: string) => string | undefined): Fields {
  const kept: Fields = { names: [], values: [] };
  for (const [i, field] of names.entries()) {
    const value = field.lower === 'cookie' ? change(values[i]!) : values[i]!;
    if (value === undefined) continue;
    kept.names.push(field);
    kept.values.push(value);
  }
  return kept;
}
