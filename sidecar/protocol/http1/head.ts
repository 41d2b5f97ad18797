// HTTP/1.1 heads as text: parsing (RFC 9112 sections 2 to 6) and printing. Strict: whatever section 2.2 or 5 lets a
// proxy refuse is refused, and the forwarded head is printed anew from the parsed one, so that no two parsers can read
// it differently. One pass, latin1 strings, interned field names: this runs twice for each request on each side.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { type FieldName, type Fields, fieldName, printable } from '../../exchange/message.ts';

/** What a request line says, RFC 9112 section 3. The target's form is not checked yet. */
export interface RequestStart {
  method: string;
  /** As in the request line. */
  target: string;
  /** 0 or 1: HTTP/1.0 or HTTP/1.1. */
  minor: number;
}

/** A status line, RFC 9112 section 4. `reason` may be empty; `minor` is 0 or 1. */
export interface StatusLine {
  readonly status: number;
  readonly reason: string;
  readonly minor: number;
}

// A control character, a CR without an LF after it, or an LF without a CR before it: two parsers could see two
// messages.
const forbiddenInHead = /[\0-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n/;

/**
 * Refuses characters that no head may hold, in a whole head or in the part that has arrived (without judging a last
 * CR).
 * @throws SallyportError `head_invalid_characters`.
 */
export function checkHeadCharacters(text: string): void {
  if (forbiddenInHead.test(text)) {
    throw new SallyportError('head_invalid_characters', 'the head contains a control character or a bare CR or LF');
  }
}

// Not where they are used: there each use would make a new object of them (measured).
const targetCharacters = /^[\x21-\x7e]+$/;
const lengthDigits = /^\d{1,16}$/;
const methodToken = /^[A-Z][A-Z0-9_-]*$/;
const statusDigits = /^[1-9]\d\d$/;

/** A lower-case method is none (RFC 9110 section 9.1 is case-sensitive), and a policy for GET must not miss 'get'. */
export function isMethod(text: string): boolean {
  return methodToken.test(text);
}

/** Three digits, from 100 on. */
export function isStatus(text: string): boolean {
  return statusDigits.test(text);
}

/** A method that is one of these is not cut out of its head. */
const usualMethods = ['GET', 'POST', 'PUT', 'HEAD', 'DELETE', 'PATCH', 'OPTIONS'];

/**
 * Reads the request line (RFC 9112 section 3), which ends before `end`, into `start`.
 * @throws SallyportError `head_malformed`, `method_invalid`, `head_invalid_url` or `version_unsupported`.
 */
export function readRequestLine(text: string, end: number, start: RequestStart): void {
  const first = text.indexOf(' ');
  const last = text.lastIndexOf(' ', end - 1);
  if (first <= 0 || last <= first)
    throw new SallyportError('head_malformed', 'the request line is not METHOD target HTTP/1.1');
  const minor = end - last === 9 && text.startsWith('HTTP/1.', last + 1) ? text.charCodeAt(end - 1) - zero : -1;
  if (minor !== 0 && minor !== 1) throw badVersion(text.slice(last + 1, end));
  const method = methodOf(text, first);
  if (!isMethod(method)) throw new SallyportError('method_invalid', 'the method is not an upper-case token');
  const target = text.slice(first + 1, last);
  if (!targetCharacters.test(target))
    throw new SallyportError('head_invalid_url', 'the request target contains a space or a byte outside ASCII');
  start.method = method;
  start.target = target;
  start.minor = minor;
}

function methodOf(text: string, end: number): string {
  for (const one of usualMethods) if (one.length === end && text.startsWith(one)) return one;
  return text.slice(0, end);
}

/** Reads a status line (RFC 9112 section 4). @throws SallyportError `upstream_protocol`. */
export function parseStatusLine(line: string): StatusLine {
  const version = line.slice(0, 9);
  const status = Number(line.slice(9, 12));
  const after = line.charCodeAt(12);
  const wellFormed =
    (version === 'HTTP/1.1 ' || version === 'HTTP/1.0 ') &&
    isStatus(line.slice(9, 12)) &&
    (Number.isNaN(after) || after === 32);
  if (!wellFormed)
    throw new SallyportError(
      'upstream_protocol',
      `the response does not begin with a status line: '${printable(line)}'`,
    );
  return { status, reason: line.slice(13), minor: version === 'HTTP/1.1 ' ? 1 : 0 };
}

/** A field line that has come before, and what it says. All three are strings of their own, not parts of a head. */
interface KnownLine {
  readonly text: string;
  readonly name: FieldName;
  readonly value: string;
}

// Lines that clients say with each request (FieldName.repeats) are compared with one that has come before instead of
// being cut up, looked up and hashed again. A line has one place, which the next one of that place takes over.
const places = 512;
const longestLine = 256;
const knownLines: (KnownLine | undefined)[] = new Array(places).fill(undefined);

function placeOf(text: string, at: number, end: number): number {
  const middle = text.charCodeAt((at + end) >> 1);
  return ((end - at) ^ (text.charCodeAt(at) << 2) ^ (middle << 4) ^ (text.charCodeAt(end - 1) << 1)) & (places - 1);
}

/** What the line from `at` to before `end` says, if it is one of those. */
function knownLine(text: string, at: number, end: number): KnownLine | undefined {
  const known = knownLines[placeOf(text, at, end)];
  return known !== undefined && known.text.length === end - at && text.startsWith(known.text, at) ? known : undefined;
}

function learnLine(text: string, name: FieldName, value: string): void {
  knownLines[placeOf(text, 0, text.length)] = { text: ownText(text), name, value: ownText(value) };
}

/** A copy in one piece: a slice would keep the whole head alive, with its credentials. */
function ownText(text: string): string {
  return Buffer.from(text, 'latin1').toString('latin1');
}

// A list that grows piece by piece has room for seventeen fields; those that leave here are as long as they need.
const namesRead: FieldName[] = [];
const valuesRead: string[] = [];

/**
 * Reads the field lines of `text` from `at` on: no folding, no space before the colon, token names (RFC 9112 section
 * 5).
 * @throws SallyportError `head_malformed` or `head_too_many_fields`.
 */
export function parseFields(text: string, at: number, maxFields: number): Fields {
  let count = 0;
  // One a head: a client that never says the same twice must not make every line of its heads dearer.
  let mayLearn = true;
  const length = text.length;
  try {
    while (at < length) {
      let end = text.indexOf('\r\n', at);
      if (end === -1) end = length;
      const known = knownLine(text, at, end);
      if (known !== undefined && count < maxFields) {
        namesRead[count] = known.name;
        valuesRead[count++] = known.value;
        at = end + 2;
        continue;
      }
      const colon = text.indexOf(':', at);
      if (colon === -1 || colon > end)
        throw new SallyportError('head_malformed', `a field line has no colon: '${printable(text.slice(at, end))}'`);
      if (count >= maxFields) {
        throw new SallyportError(
          'head_too_many_fields',
          `the head has more than ${maxFields} fields (limit headFields)`,
        );
      }
      const name = fieldName(text.slice(at, colon));
      let from = colon + 1;
      let to = end;
      while (from < to && isBlank(text.charCodeAt(from))) from++;
      while (to > from && isBlank(text.charCodeAt(to - 1))) to--;
      const value = text.slice(from, to);
      namesRead[count] = name;
      valuesRead[count++] = value;
      if (mayLearn && name.repeats && end - at <= longestLine) {
        learnLine(text.slice(at, end), name, value);
        mayLearn = false;
      }
      at = end + 2;
    }
    return { names: namesRead.slice(0, count), values: valuesRead.slice(0, count) };
  } finally {
    // A credential must not stay reachable from here.
    valuesRead.fill('', 0, count);
  }
}

/**
 * The value of a Content-Length field: digits only, and a number that is exact (RFC 9112 section 6.3).
 * @throws SallyportError `length_invalid`.
 */
export function parseContentLength(value: string): number {
  const length = lengthDigits.test(value) ? Number(value) : Number.NaN;
  if (!Number.isSafeInteger(length))
    throw new SallyportError('length_invalid', `'${printable(value)}' is not a valid Content-Length`);
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

function badVersion(version: string): SallyportError {
  if (/^HTTP\/\d\.\d$/.test(version)) {
    return new SallyportError('version_unsupported', `${version} is not supported; HTTP/1.1 and HTTP/1.0 are`);
  }
  return new SallyportError('head_malformed', 'the request line does not end in HTTP/1.1 or HTTP/1.0');
}

const zero = 0x30;

function isBlank(code: number): boolean {
  return code === 32 || code === 9;
}
