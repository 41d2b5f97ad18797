// Cache directives: Cache-Control (RFC 9111 section 5.2) and CDN-Cache-Control (RFC 9213), and the other fields that
// freshness is computed from. A value that cannot be read makes a response stale, never fresher.

import type { Fields } from '../../exchange/message.ts';
import { parseDictionary } from './dictionary.ts';

/** Directives by lower-case name; an empty text for one without an argument. */
export type Directives = ReadonlyMap<string, string>;

/** All values of a field, as HTTP joins its lines; undefined without one. `name` is in lower case. */
export function joinedOf({ names, values }: Fields, name: string): string | undefined {
  let found: string | undefined;
  for (let i = 0; i < names.length; i++)
    if (names[i]!.lower === name) found = found === undefined ? values[i]! : `${found}, ${values[i]!}`;
  return found;
}

/** The first line of a field. */
export function firstOf({ names, values }: Fields, name: string): string | undefined {
  const at = names.findIndex(({ lower }) => lower === name);
  return at === -1 ? undefined : values[at];
}

const none: Directives = new Map();

/** The key (not a token) that marks unreadable directives: nothing is stored then. */
export const unreadable = '(unreadable)';

const directive = /\s*([!#$%&'*+\-.^_`|~0-9A-Za-z]+)(?:=(?:"((?:[^"\\]|\\.)*)"|([^\s",;]*)))?\s*(?:,|$)/y;
const nothing = /[\s,]*(?:,|$)/y;

/**
 * Reads Cache-Control. Of a repeated directive the first counts (section 4.2.1); of `private` and `no-cache`
 * all of them. Fails closed: a part that is not a directive is skipped, and `unreadable` is set.
 */
export function parseDirectives(text: string | undefined): Directives {
  if (text === undefined) return none;
  const found = new Map<string, string>();
  let at = 0;
  while (at < text.length) {
    nothing.lastIndex = at;
    if (nothing.test(text)) {
      at = nothing.lastIndex;
      continue;
    }
    directive.lastIndex = at;
    const match = directive.exec(text);
    if (match === null) {
      found.set(unreadable, '');
      const comma = text.indexOf(',', at);
      at = comma === -1 ? text.length : comma + 1;
      continue;
    }
    at = directive.lastIndex;
    const [, name, quoted, token] = match;
    note(found, name!.toLowerCase(), quoted?.replace(/\\(.)/g, '$1'), token);
  }
  return found;
}

function note(found: Map<string, string>, name: string, quoted: string | undefined, token: string | undefined): void {
  if (name !== 'private' && name !== 'no-cache') {
    if (!found.has(name)) found.set(name, quoted ?? token ?? '');
    return;
  }
  const names = namesOr(quoted);
  const before = found.get(name);
  // The one without names applies to the whole response.
  found.set(name, before === undefined ? names : before === '' || names === '' ? '' : `${before},${names}`);
}

/**
 * The names in an argument of `private` or `no-cache`. Empty, as without an argument, for anything but a quoted list of
 * field names: `private=true` is meant for the whole response.
 */
function namesOr(quoted: string | undefined): string {
  const names = (quoted ?? '').split(',').map((one) => one.trim());
  const used = names.filter((one) => one !== '');
  return used.every((one) => /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/.test(one)) ? used.join(',') : '';
}

/**
 * Reads a targeted field: a Dictionary of Structured Fields (RFC 9213 section 2.1; RFC 9651 section 4.2.2). Of a key
 * that is repeated the last number counts, and the strictest `private` and `no-cache`: two layers may each add one.
 * Undefined if there is none, or an empty one: then Cache-Control counts. By the standard it also counts if the field
 * cannot be read; `unreadable` reports that.
 */
export function parseTargeted(text: string | undefined): Directives | undefined | typeof unreadable {
  if (text === undefined || /^ *$/.test(text)) return undefined;
  const members = parseDictionary(text);
  if (members === undefined) return unreadable;
  const found = new Map<string, string>();
  for (const [name, { kind, value }] of members) {
    // Section 2.1: an argument of the wrong type is ignored.
    if (seconds.has(name)) {
      if (kind === 'integer') found.set(name, value);
    } else if (kind !== 'false') note(found, name, kind === 'string' ? value : undefined, undefined);
  }
  return found;
}

const seconds: ReadonlySet<string> = new Set(['max-age', 's-maxage', 'stale-while-revalidate', 'stale-if-error']);

/** More seconds than any cache keeps: larger numbers count as this (RFC 9111 section 1.2.2). */
export const longest = 2 ** 31;

/** A directive's seconds; undefined without it, 0 for a value that is not a number of seconds (section 4.2.1). */
export function secondsOf(directives: Directives, name: string): number | undefined {
  const value = directives.get(name);
  if (value === undefined) return undefined;
  return readSeconds(value) ?? 0;
}

function readSeconds(text: string): number | undefined {
  return /^\d+$/.test(text) ? Math.min(Number(text), longest) : undefined;
}

/** The seconds of an Age field: the first member of a list, and 0 if it cannot be read (section 5.1). */
export function ageOf(fields: Fields): number {
  const text = firstOf(fields, 'age')?.split(',', 1).join('').trim();
  return text === undefined ? 0 : (readSeconds(text) ?? 0);
}

/** The field names in an argument of `no-cache` or `private`, in lower case. */
export function namesIn(argument: string): readonly string[] {
  return argument === '' ? [] : argument.toLowerCase().split(',');
}

const months = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];
const clock = '(\\d{2}):(\\d{2}):(\\d{2})';
const month = `(${months.join('|')})`;
const imf = new RegExp(`^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (\\d{2}) ${month} (\\d{4}) ${clock} GMT$`);
const rfc850 = new RegExp(
  `^(?:Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday), (\\d{2})-${month}-(\\d{2}) ${clock} GMT$`,
);
const asctime = new RegExp(`^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) ${month} ([ \\d]\\d) ${clock} (\\d{4})$`);

/** An HTTP-date in any of its three forms, in milliseconds since 1970 (RFC 9110 section 5.6.7); undefined for others. */
export function parseHttpDate(text: string | undefined, now = Date.now()): number | undefined {
  if (text === undefined) return undefined;
  const [day, name, year, ...time] = imf.exec(text)?.slice(1) ?? fromAsctime(text) ?? rfc850.exec(text)?.slice(1) ?? [];
  if (day === undefined) return undefined;
  const [hour, minute, second] = time.map(Number);
  if (hour! > 23 || minute! > 59 || second! > 60) return undefined;
  return Date.UTC(fullYear(year!, now), months.indexOf(name!), Number(day), hour, minute, second);
}

function fromAsctime(text: string): string[] | undefined {
  const match = asctime.exec(text);
  return match === null ? undefined : [match[2]!, match[1]!, match[6]!, match[3]!, match[4]!, match[5]!];
}

/** A year of two digits that seems more than 50 years ahead is in the past. */
function fullYear(year: string, now: number): number {
  if (year.length === 4) return Number(year);
  const present = new Date(now).getUTCFullYear();
  const near = Math.floor(present / 100) * 100 + Number(year);
  return near > present + 50 ? near - 100 : near;
}
