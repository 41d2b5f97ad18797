// The formats of JSON Schema and OpenAPI as checks in linear time. Clients choose the texts: no expression here can
// backtrack. (ajv-formats has some that do, `url` among them, and compiles the text of `regex`.)

import { isIPv4, isIPv6 } from 'node:net';
import { isPattern } from './pattern.ts';

type Format = (text: string) => boolean;

/** RFC 3339 section 5.6, with the real length of each month. */
function isDate(text: string): boolean {
  if (!/^\d{4}-\d\d-\d\d$/.test(text)) return false;
  const [year, month, day] = text.split('-').map(Number) as [number, number, number];
  return month >= 1 && month <= 12 && day >= 1 && day <= daysOf(year, month);
}

function daysOf(year: number, month: number): number {
  if (month === 2) return year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0) ? 29 : 28;
  return [4, 6, 9, 11].includes(month) ? 30 : 31;
}

const timePattern = /^(\d\d):(\d\d):(\d\d)(?:\.\d+)?(?:[zZ]|([+-])(\d\d):(\d\d))$/;

/** A time with its offset. A leap second is one only at 23:59:60 in UTC. */
function isTime(text: string): boolean {
  const parts = timePattern.exec(text);
  if (parts === null) return false;
  const [hour, minute, second] = [Number(parts[1]), Number(parts[2]), Number(parts[3])] as const;
  const [offsetHour, offsetMinute] = [Number(parts[5] ?? 0), Number(parts[6] ?? 0)];
  if (hour > 23 || minute > 59 || second > 60 || offsetHour > 23 || offsetMinute > 59) return false;
  if (second < 60) return true;
  const offset = (offsetHour * 60 + offsetMinute) * (parts[4] === '-' ? -1 : 1);
  return (hour * 60 + minute - offset + 2 * 1440) % 1440 === 1439;
}

function isDateTime(text: string): boolean {
  return /^.{10}[tT ]/.test(text) && isDate(text.slice(0, 10)) && isTime(text.slice(11));
}

/** RFC 3339 appendix A. */
const durationPattern = /^P(?:\d+W|(?=[\dT])(?:\d+Y)?(?:\d+M)?(?:\d+D)?(?:T(?=\d)(?:\d+H)?(?:\d+M)?(?:\d+S)?)?)$/;

/** RFC 1123 section 2.1: labels of 1 to 63 letters, digits and hyphens. */
function isHostname(text: string): boolean {
  return text.length <= 253 && text.split('.').every((label) => /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/i.test(label));
}

/** RFC 5321 section 4.1.2 without comments: a dot-string or a quoted string, and a domain or an address. */
function isEmail(text: string): boolean {
  const at = text.lastIndexOf('@');
  const local = text.slice(0, at);
  const domain = text.slice(at + 1);
  if (at < 1 || at > 64) return false;
  const isLocal =
    /^"[\x20\x21\x23-\x5b\x5d-\x7e]*"$/.test(local) ||
    local.split('.').every((atom) => /^[\w!#$%&'*+/=?^`{|}~-]+$/.test(atom));
  const address = /^\[(.*)\]$/.exec(domain)?.[1];
  if (address !== undefined)
    return isLocal && (isIPv4(address) || (/^IPv6:/i.test(address) && isIPv6(address.slice(5))));
  return isLocal && isHostname(domain);
}

/** The same with any letters (RFC 6531). */
function isIdnEmail(text: string): boolean {
  const at = text.lastIndexOf('@');
  return at > 0 && !/[\s\x00-\x1f]/.test(text) && isIdnHostname(text.slice(at + 1));
}

function isIdnHostname(text: string): boolean {
  return text !== '' && !/[\s/?#@:[\]\\%]/.test(text) && URL.parse(`http://${text}/`)?.hostname !== undefined;
}

/** The characters of RFC 3986, each `%` with two digits. */
const uriCharacters = /^(?:[\w\-.~:/?#[\]@!$&'()*+,;=]|%[0-9a-fA-F]{2})*$/;
/** With those of RFC 3987. */
const iriCharacters = /^(?:[\w\-.~:/?#[\]@!$&'()*+,;=\u{a0}-\u{10ffff}]|%[0-9a-fA-F]{2})*$/u;

function isReference(text: string, characters: RegExp): boolean {
  if (!characters.test(text)) return false;
  const [beforeFragment = '', ...fragments] = text.split('#');
  if (fragments.length > 1 || /[[\]]/.test(fragments[0] ?? '')) return false;
  const scheme = /^[a-z][a-z0-9+.-]*:/i.exec(beforeFragment)?.[0] ?? '';
  const rest = beforeFragment.slice(scheme.length).split('?', 1)[0]!;
  // A colon in the first segment would be a scheme.
  if (scheme === '' && /^[^/]*:/.test(rest)) return false;
  if (!rest.startsWith('//')) return !/[[\]]/.test(rest);
  const [authority = '', path = ''] = splitAt(rest.slice(2), '/');
  if (/[[\]]/.test(path)) return false;
  const host = authority.slice(authority.lastIndexOf('@') + 1);
  const literal = /^\[([^\]]*)\](?::\d*)?$/.exec(host)?.[1];
  if (literal !== undefined) return isIPv6(literal) || /^v[0-9a-f]+\.[\w\-.~!$&'()*+,;=:]+$/i.test(literal);
  return !/[[\]]/.test(authority) && /^[^:]*(?::\d*)?$/.test(host);
}

function splitAt(text: string, mark: string): [string, string] {
  const at = text.indexOf(mark);
  return at === -1 ? [text, ''] : [text.slice(0, at), text.slice(at)];
}

const hasScheme: Format = (text) => /^[a-z][a-z0-9+.-]*:/i.test(text);

/** RFC 6570: balanced expressions with names. */
function isUriTemplate(text: string): boolean {
  return /^(?:[^\x00-\x20"'<>\\^`{|}]|\{[+#./;?&=,!@|]?[\w.%,*:]+\})*$/.test(text);
}

/** RFC 6901 section 3. */
const isPointer: Format = (text) => /^(?:\/(?:[^~/]|~[01])*)*$/.test(text);

/** Formats by name. Names that only describe storage accept everything. */
export const formats: Readonly<Record<string, Format>> = Object.freeze({
  date: isDate,
  time: isTime,
  'date-time': isDateTime,
  duration: (text) => durationPattern.test(text),
  email: isEmail,
  'idn-email': isIdnEmail,
  hostname: isHostname,
  'idn-hostname': isIdnHostname,
  ipv4: isIPv4,
  ipv6: (text) => isIPv6(text) && !text.includes('%'),
  uri: (text) => hasScheme(text) && isReference(text, uriCharacters),
  'uri-reference': (text) => isReference(text, uriCharacters),
  iri: (text) => hasScheme(text) && isReference(text, iriCharacters),
  'iri-reference': (text) => isReference(text, iriCharacters),
  'uri-template': isUriTemplate,
  uuid: (text) => /^[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}$/i.test(text),
  'json-pointer': isPointer,
  'relative-json-pointer': (text) => /^(?:0|[1-9]\d*)(?:#|(?:\/(?:[^~/]|~[01])*)*)$/.test(text),
  regex: isPattern,
  /** RFC 4648 section 4. */
  byte: (text) => text.length % 4 === 0 && /^[A-Za-z0-9+/]*={0,2}$/.test(text),
  binary: () => true,
  password: () => true,
} satisfies Record<string, Format>);

/** Formats of numbers (OpenAPI's registry). */
export const numberFormats: Readonly<Record<string, (value: number) => boolean>> = Object.freeze({
  int32: (value) => Number.isInteger(value) && value >= -(2 ** 31) && value < 2 ** 31,
  /** 2^63 is also the double of 9223372036854775807, and -2^63 that of numbers below it. */
  int64: (value) => Number.isInteger(value) && Math.abs(value) < 2 ** 63,
  float: () => true,
  double: () => true,
});
