// Finds callers' credentials in requests, removes them so that apps do not get them, and words refusals for missing or
// wrong ones.

import { type Code, SallyportError } from '../../cert-agent/base/errors.ts';
import { deny } from '../exchange/decision.ts';
import type { Exchange } from '../exchange/exchange.ts';
import { headerOf, pathWithoutQuery } from '../exchange/facts.ts';
import { addFields, changeRequest, onlyField } from '../exchange/fields.ts';
import { emptyFields, type Fields } from '../exchange/message.ts';
import { mapCookies } from '../exchange/token-places.ts';
import { cookieReadings, paramReadings, type Reading, readBearer } from '../policy/credential-readings.ts';
import { headerText, type TokenPlace } from '../policy/request-authentication.ts';
import type { Site } from './capability.ts';

/** The places of a credential in a request; one of the three lists has entries. */
export interface Places {
  /** Lower case. */
  readonly headers: readonly string[];
  readonly params: readonly string[];
  readonly cookies: readonly string[];
}

/** A credential, and its place. */
export interface Found {
  readonly value: string;
  readonly place: TokenPlace;
}

/**
 * Every credential at `places`, in their order, in every way that an app could read one there. The caller refuses
 * several: the app might read one that is not verified.
 */
export function findCredentials(exchange: Exchange, places: readonly Places[]): Found[] {
  const found: Found[] = [];
  for (const { headers, params, cookies } of places) {
    for (const name of headers) {
      const value = headerOf(exchange, name);
      if (value !== undefined && value !== '') found.push({ value, place: { kind: 'header', name } });
    }
    for (const name of params)
      for (const value of paramReadings(exchange.path, name)) found.push({ value, place: { kind: 'param', name } });
    for (const name of cookies)
      for (const value of cookieReadings(headerOf(exchange, 'cookie'), name))
        found.push({ value, place: { kind: 'cookie', name } });
  }
  return found;
}

/** A text of a Secret. @throws SallyportError `config_invalid` if there is none. */
export function secretText(
  at: Pick<Site<unknown>, 'name' | 'secret'>,
  secret: string,
  key: string,
  field: string,
): string {
  const value = at.secret(secret, field)[key]?.replace(/\r?\n$/, '');
  if (value === undefined || value === '')
    throw new SallyportError('config_invalid', `${at.name}: Secret '${secret}' has no '${key}'`);
  return value;
}

/** The values of `Authorization` that an app could read as a bearer token (RFC 6750 section 2.1). */
export function bearerOf(exchange: Exchange): Reading | undefined {
  return readBearer(headerOf(exchange, 'authorization'));
}

/** The only cookie of this name; undefined if there are several, since a neighbour on our domain may have set one. */
export function cookieOf({ names, values }: Fields, wanted: string): string | undefined {
  let found: string | undefined;
  for (let i = 0; i < names.length; i++) {
    if (names[i]!.lower !== 'cookie' || !values[i]!.includes(wanted)) continue;
    for (const part of values[i]!.split(';')) {
      const at = part.indexOf('=');
      if (at === -1 || part.slice(0, at).trim() !== wanted) continue;
      if (found !== undefined) return undefined;
      found = part.slice(at + 1).trim();
    }
  }
  return found === '' ? undefined : found;
}

/** The names of all cookies of a request. */
export function cookieNames({ names, values }: Fields): string[] {
  return names.flatMap(({ lower }, i) => (lower === 'cookie' ? namesIn(values[i]!) : []));
}

function namesIn(value: string): string[] {
  return value.split(';').map((part) => part.split('=', 1)[0]!.trim());
}

/** Removes the cookies for whose names `isOurs` is true: in one pass, however many there are. */
export function takeCookies(exchange: Exchange, isOurs: (name: string) => boolean): void {
  exchange.fields = mapCookies(exchange.fields, (value) => {
    const parts = value.split(';');
    const kept = parts.filter((part) => !isOurs(part.split('=', 1)[0]!.trim()));
    if (kept.length === parts.length) return value;
    const text = kept.join(';').trim();
    return text === '' ? undefined : text;
  });
}

/** Cookies of sessions and logins, of any policy. */
const sessionCookie = /^__(?:Host|Secure)-sallyport-(?:session|login)-/;

/**
 * Removes our own cookies. A browser sends them to every route of a host, also to those without a login. Everyone who
 * has one is the user, so no app may see them.
 */
export function hideSessionCookies(exchange: Exchange): void {
  const { names, values } = exchange.fields;
  for (let i = 0; i < names.length; i++)
    if (names[i]!.lower === 'cookie' && values[i]!.includes('-sallyport-'))
      return takeCookies(exchange, (name) => sessionCookie.test(name));
}

/** Sets a header that only we may set for the app. A value that no header can hold is left out. */
export function tellApp(exchange: Exchange, name: string, value: string): void {
  const text = headerText(value);
  if (text !== undefined) changeRequest(exchange, onlyField(name), [[name, text]]);
}

/**
 * Records the refusal with the text that the caller may read, and returns the error to throw; `why` is for the log and
 * contains nothing of a credential.
 */
export function refuseCaller(
  exchange: Exchange,
  code: Code,
  text: string,
  why: string = text,
  fields: readonly (readonly [string, string])[] = [],
): SallyportError {
  const error = new SallyportError(code, why);
  const denial = {
    status: error.row.status,
    fields: addFields(emptyFields, [
      ['content-type', 'text/plain; charset=utf-8'],
      ['cache-control', 'no-store'],
      ...fields,
    ]),
    body: Buffer.from(text),
  };
  return deny(exchange, error, { denial });
}

/** A challenge (RFC 9110 section 11.6.1) whose realm is the URL, as Envoy writes it. */
export function challenge(exchange: Exchange, scheme: 'Bearer' | 'Basic', more = ''): readonly [string, string] {
  const realm = `${exchange.scheme}://${exchange.authority}${pathWithoutQuery(exchange.path)}`
    .slice(0, 256)
    .replace(/["\\]/g, '%22');
  return ['www-authenticate', `${scheme} realm="${realm}"${more}`];
}
