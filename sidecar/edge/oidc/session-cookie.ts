// The cookies of sessions and logins. Their values are sealed (edge/seal.ts). A long value is split over several cookies.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { Fields } from '../../exchange/message.ts';
import { cookieNames, cookieOf } from '../credentials.ts';

/** Browsers accept 4096 bytes per cookie, with its name and attributes. */
const maxChunk = 3800;
const maxChunks = 5;

/** Attributes of our cookies. */
export interface CookieAttributes {
  readonly domain: string | undefined;
  readonly sameSite: 'Lax' | 'Strict' | 'None';
}

/**
 * The name prefix that browsers enforce (RFC 6265bis section 4.1.3): with `__Host-` a sibling host cannot set our
 * cookie. A cookie for a whole domain can only have `__Secure-`.
 */
export function prefixOf({ domain }: Pick<CookieAttributes, 'domain'>): string {
  return domain === undefined ? '__Host-' : '__Secure-';
}

/** One `Set-Cookie` value. `maxAgeMs` 0 deletes the cookie. */
export function printCookie(name: string, value: string, maxAgeMs: number, attributes: CookieAttributes): string {
  const domain = attributes.domain === undefined ? '' : `; Domain=${attributes.domain}`;
  const age = Math.max(0, Math.floor(maxAgeMs / 1000));
  return `${name}=${value}; Path=/${domain}; Max-Age=${age}; Secure; HttpOnly; SameSite=${attributes.sameSite}`;
}

/** The names of the cookies that hold a long value of cookie `name`. */
function chunkNames(name: string): readonly string[] {
  return [name, ...Array.from({ length: maxChunks - 1 }, (_, i) => `${name}.${i + 1}`)];
}

/** The value that was given to `printChunks`; undefined if any part of it is missing. */
export function readChunks(fields: Fields, name: string): string | undefined {
  const first = cookieOf(fields, name);
  const counted = /^([1-5])\.([A-Za-z0-9_-]+)$/.exec(first ?? '');
  if (counted === null) return undefined;
  const pieces = [counted[2]!];
  for (const next of chunkNames(name).slice(1, Number(counted[1]))) {
    const piece = cookieOf(fields, next);
    if (piece === undefined) return undefined;
    pieces.push(piece);
  }
  return pieces.join('');
}

/**
 * The `Set-Cookie` values for a long value, and those that delete what is left of a longer one before it.
 * @throws SallyportError `oidc_provider_failed` if it is too long for five cookies.
 */
export function printChunks(
  fields: Fields,
  name: string,
  value: string,
  maxAgeMs: number,
  attributes: CookieAttributes,
): string[] {
  const pieces = value.match(new RegExp(`.{1,${maxChunk}}`, 'g')) ?? [];
  if (pieces.length > maxChunks)
    throw new SallyportError(
      'oidc_provider_failed',
      `the tokens of a session take ${value.length} bytes: at most ${maxChunk * maxChunks} fit into its cookies`,
      { hint: 'make the provider send fewer claims, or do not forward the access token' },
    );
  const names = chunkNames(name);
  const set = pieces.map((piece, i) =>
    printCookie(names[i]!, i === 0 ? `${pieces.length}.${piece}` : piece, maxAgeMs, attributes),
  );
  return [...set, ...clearing(fields, names.slice(pieces.length), attributes)];
}

/** The `Set-Cookie` values that delete a cookie and all its pieces, if the browser has them. */
export function clearChunks(fields: Fields, name: string, attributes: CookieAttributes): string[] {
  return clearing(fields, chunkNames(name), attributes);
}

function clearing(fields: Fields, names: readonly string[], attributes: CookieAttributes): string[] {
  const there = new Set(cookieNames(fields));
  return names.filter((one) => there.has(one)).map((one) => printCookie(one, '', 0, attributes));
}
