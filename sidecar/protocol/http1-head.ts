// HTTP/1.1 heads as text: parsing (RFC 9112 sections 2 to 6) and printing. Strict: what section 2.2 or 5 lets a proxy
// refuse is refused, and what goes on is printed anew from what was parsed, so that no two parsers can read it
// differently. One pass, latin1 strings, interned field names: this runs twice for each request on each side.

import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { FieldName, Fields } from '../exchange.ts';
import { foldName } from '../policy/header-name.ts';
import { isProxyField } from './proxy-fields.ts';

/** What a field means to a proxy. Everything that is not end-to-end has a role of its own. */
export const role = Object.freeze({
  plain: 0,
  /** Belongs to one hop and is dropped (RFC 9110 section 7.6.1). */
  hop: 1,
  connection: 2,
  contentLength: 3,
  transferEncoding: 4,
  host: 5,
  upgrade: 6,
  expect: 7,
  clientCert: 8,
  keepAlive: 9,
  requestId: 10,
  userAgent: 11,
  forwardedFor: 12,
  te: 13,
  /** `:method` and its like, in HTTP/2 only. */
  pseudo: 14,
  contentType: 15,
});

const rolesByName: Readonly<Record<string, number>> = {
  connection: role.connection,
  'content-length': role.contentLength,
  'transfer-encoding': role.transferEncoding,
  host: role.host,
  upgrade: role.upgrade,
  expect: role.expect,
  'keep-alive': role.keepAlive,
  'x-forwarded-client-cert': role.clientCert,
  'x-request-id': role.requestId,
  'user-agent': role.userAgent,
  'x-forwarded-for': role.forwardedFor,
  te: role.te,
  'content-type': role.contentType,
  'proxy-connection': role.hop,
  'proxy-authenticate': role.hop,
  'proxy-authorization': role.hop,
  'http2-settings': role.hop,
  // CGI makes HTTP_PROXY of it (httpoxy).
  proxy: role.hop,
};

export interface RequestStart {
  readonly method: string;
  /** As it stood in the request line. */
  readonly target: string;
  /** 0 or 1: HTTP/1.0 or HTTP/1.1. */
  readonly minor: number;
}

export interface StatusLine {
  readonly status: number;
  readonly reason: string;
  readonly minor: number;
}

export const emptyFields: Fields = Object.freeze({ names: [], values: [] });

const tokenPattern = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
// A control character, a CR that no LF follows, or an LF that no CR precedes: what lets two parsers see two messages.
const forbiddenInHead = /[\0-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n/;

const interned = new Map<string, FieldName>();
/** A client that invents names must not grow us; past this, names are made anew each time. */
const maxInterned = 4096;
/** Longer than any that is in use; a long one is made anew each time as well. */
const maxInternedLength = 64;

/**
 * Refuses what no head may hold, in the whole head or in the part of it that has arrived (a last CR is then not judged).
 * @throws SallyportError `head_invalid_characters`.
 */
export function checkHeadCharacters(text: string): void {
  if (forbiddenInHead.test(text)) {
    throw new SallyportError('head_invalid_characters', 'the head holds a control character or a bare CR or LF');
  }
}

/**
 * Reads a request line (RFC 9112 section 3).
 * @throws SallyportError `head_malformed`, `method_invalid`, `head_invalid_url` or `version_unsupported`.
 */
export function parseRequestLine(line: string): RequestStart {
  const first = line.indexOf(' ');
  const last = line.lastIndexOf(' ');
  if (first <= 0 || last === first)
    throw new SallyportError('head_malformed', 'the request line is not METHOD target HTTP/1.1');
  const version = line.slice(last + 1);
  const minor = version === 'HTTP/1.1' ? 1 : version === 'HTTP/1.0' ? 0 : -1;
  if (minor === -1) throw badVersion(version);
  const method = line.slice(0, first);
  // A lower-case method is no method (RFC 9110 section 9.1 is case-sensitive), and a policy for GET must not miss 'get'.
  if (!/^[A-Z][A-Z0-9_-]*$/.test(method))
    throw new SallyportError('method_invalid', 'the method is not an upper-case token');
  const target = line.slice(first + 1, last);
  if (!/^[\x21-\x7e]+$/.test(target))
    throw new SallyportError('head_invalid_url', 'the request target holds a space or a byte outside ASCII');
  return { method, target, minor };
}

/** Reads a status line (RFC 9112 section 4). @throws SallyportError `upstream_protocol`. */
export function parseStatusLine(line: string): StatusLine {
  const version = line.slice(0, 9);
  const status = Number(line.slice(9, 12));
  const after = line.charCodeAt(12);
  const wellFormed =
    (version === 'HTTP/1.1 ' || version === 'HTTP/1.0 ') &&
    /^[1-9]\d\d$/.test(line.slice(9, 12)) &&
    (Number.isNaN(after) || after === 32);
  if (!wellFormed)
    throw new SallyportError('upstream_protocol', `the answer does not begin with a status line: '${printable(line)}'`);
  return { status, reason: line.slice(13), minor: version === 'HTTP/1.1 ' ? 1 : 0 };
}

/**
 * Reads the field lines of `text` from `at` on: no folding, no space before the colon, token names (RFC 9112 section 5).
 * @throws SallyportError `head_malformed` or `head_too_many_fields`.
 */
export function parseFields(text: string, at: number, maxFields: number): Fields {
  const names: FieldName[] = [];
  const values: string[] = [];
  const length = text.length;
  while (at < length) {
    let end = text.indexOf('\r\n', at);
    if (end === -1) end = length;
    const colon = text.indexOf(':', at);
    if (colon === -1 || colon > end)
      throw new SallyportError('head_malformed', `a field line has no colon: '${printable(text.slice(at, end))}'`);
    if (names.length >= maxFields) {
      throw new SallyportError('head_too_many_fields', `the head has more than ${maxFields} fields`);
    }
    names.push(fieldName(text.slice(at, colon)));
    let from = colon + 1;
    let to = end;
    while (from < to && isBlank(text.charCodeAt(from))) from++;
    while (to > from && isBlank(text.charCodeAt(to - 1))) to--;
    values.push(text.slice(from, to));
    at = end + 2;
  }
  return { names, values };
}

/** The interned name. @throws SallyportError `head_malformed` for anything but a token: a fold, or a space before the colon. */
export function fieldName(raw: string): FieldName {
  const known = interned.get(raw);
  if (known !== undefined) return known;
  if (!tokenPattern.test(raw)) throw new SallyportError('head_malformed', `'${printable(raw)}' is not a field name`);
  // A copy: a slice would keep the whole head that it was cut from alive for as long as the name is interned.
  const own = Buffer.from(raw, 'latin1').toString('latin1');
  const lower = own.toLowerCase();
  const folded = foldName(lower);
  // CGI and WSGI read X_Forwarded_Client_Cert and Content_Length as the same variables as the real ones: another spelling of
  // a field that means something to a proxy is dropped, so that nothing behind us takes it for what it is not.
  const lookalike = folded !== lower && Object.hasOwn(rolesByName, folded);
  const which = lookalike ? role.hop : roleOf(lower);
  const name = makeName(lower, folded, `${own}: `, which);
  if (interned.size < maxInterned && own.length <= maxInternedLength) interned.set(own, name);
  return name;
}

/** Makes a name. All of them here: names of two shapes would make each step that looks at one slower (measured). */
export function makeName(lower: string, folded: string, prefix: string, which: number): FieldName {
  return Object.freeze({ lower, prefix, role: which, folded, ofProxy: isProxyField(folded) });
}

function roleOf(lower: string): number {
  return Object.hasOwn(rolesByName, lower) ? rolesByName[lower]! : role.plain;
}

/**
 * Whether a field may stand in trailers. RFC 9110 section 6.5.1: nothing that frames, routes, modifies or authenticates a message,
 * or says how to process its content, may come after it; nor does what only proxies set, which others look for in the head.
 */
export function mayTrail(name: FieldName): boolean {
  if (name.role !== role.plain || name.ofProxy) return false;
  return !notInTrailers.test(name.folded) || digests.has(name.folded);
}

const notInTrailers =
  /^(?:authorization|authentication-info|www-authenticate|cookie2?|set-cookie2?|cache-control|pragma|expires|age|date|vary|warning|location|retry-after|max-forwards|range|from|origin|referer|trailer|via|alt-svc|early-data|dpop|host-.*|if-.*|content-.*|accept(?:-.*)?|access-control-.*|sec-.*|x-http-method.*|x-method-override|x-api-key|x-csrf-token|x-xsrf-token)$/;
/** RFC 9530 section 6.4: these are meant for trailers. */
const digests: ReadonlySet<string> = new Set(['content-digest', 'repr-digest']);

/**
 * The value of a Content-Length field: digits only, and a number that adds up exactly (RFC 9112 section 6.3).
 * @throws SallyportError `length_invalid`.
 */
export function parseContentLength(value: string): number {
  const length = /^\d{1,16}$/.test(value) ? Number(value) : Number.NaN;
  if (!Number.isSafeInteger(length))
    throw new SallyportError('length_invalid', `'${printable(value)}' is not a content length`);
  return length;
}

/** The lower-case options of a Connection field, without empty ones. */
export function connectionOptions(value: string): string[] {
  return value
    .toLowerCase()
    .split(',')
    .map((one) => one.trim())
    .filter((one) => one !== '');
}

/** At most 40 characters of hostile text, fit for a log line. */
export function printable(text: string): string {
  const shown = text.replace(/[^\x20-\x7e]/g, '.');
  return shown.length > 40 ? `${shown.slice(0, 40)}...` : shown;
}

function badVersion(version: string): SallyportError {
  if (/^HTTP\/\d\.\d$/.test(version)) {
    return new SallyportError('version_unsupported', `${version} is not served here: HTTP/1.1 and HTTP/1.0 are`);
  }
  return new SallyportError('head_malformed', 'the request line does not end in HTTP/1.1 or HTTP/1.0');
}

/** Whether a field of this role goes on as it came: the rest belongs to one hop, or is made anew. */
export function isEndToEnd(which: number): boolean {
  return (
    which === role.plain ||
    which === role.userAgent ||
    which === role.contentType ||
    which === role.forwardedFor ||
    which === role.requestId
  );
}

/** Whether a field that somebody else names may be set in a message of ours: it is end-to-end, and cannot break the head. */
export function isSafeField(name: string, value: string): boolean {
  if (!tokenPattern.test(name) || !/^[\t\x20-\x7e\x80-\xff]*$/.test(value)) return false;
  return isEndToEnd(fieldName(name).role);
}

function isBlank(code: number): boolean {
  return code === 32 || code === 9;
}
