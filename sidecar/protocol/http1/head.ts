// HTTP/1.1 heads: parsing (RFC 9112 sections 2 to 6). Strict: whatever section 2.2 or 5 lets a proxy refuse is refused,
// and the forwarded head is printed anew from the parsed one, so that no two parsers can read it differently. From bytes
// to latin1 strings and interned field names, without the head as a text: this runs twice for each request.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { type FieldName, type Fields, fieldName, printable } from '../../exchange/message.ts';
import { SeenBytes } from './seen-bytes.ts';

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

/**
 * Refuses bytes that no head may hold, in a whole head or in the part that has arrived (without judging a last CR): a
 * control character, a CR without an LF after it, or an LF without a CR before it, of which two parsers could see two
 * messages. What is before `from` was looked at before.
 * @throws SallyportError `head_invalid_characters`.
 */
export function checkHead(bytes: Uint8Array, from: number, end: number): void {
  for (let at = from; at < end; at++) {
    const one = bytes[at]!;
    if ((one >= space && one !== del) || one === tab) continue;
    const endsLine = one === cr && at + 1 < end && bytes[at + 1] === lf;
    if (!endsLine)
      throw new SallyportError('head_invalid_characters', 'the head contains a control character or a bare CR or LF');
    at++;
  }
}

const tab = 0x09;
const lf = 0x0a;
const cr = 0x0d;
const space = 0x20;
const zero = 0x30;
const colonByte = 0x3a;
const del = 0x7f;

/** Where the line at `at` ends, in a head that ends before `end` and was checked. */
export function endOfLine(bytes: Uint8Array, at: number, end: number): number {
  let to = at;
  while (to < end && bytes[to] !== cr) to++;
  return to;
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
 * Reads a request line (RFC 9112 section 3) into `start`.
 * @throws SallyportError `head_malformed`, `method_invalid`, `head_invalid_url` or `version_unsupported`.
 */
export function readRequestLine(line: string, start: RequestStart): void {
  const first = line.indexOf(' ');
  const last = line.lastIndexOf(' ');
  if (first <= 0 || last === first)
    throw new SallyportError('head_malformed', 'the request line is not METHOD target HTTP/1.1');
  const end = line.length;
  const minor = end - last === 9 && line.startsWith('HTTP/1.', last + 1) ? line.charCodeAt(end - 1) - zero : -1;
  if (minor !== 0 && minor !== 1) throw badVersion(line.slice(last + 1));
  const method = methodOf(line, first);
  if (!isMethod(method)) throw new SallyportError('method_invalid', 'the method is not an upper-case token');
  const target = line.slice(first + 1, last);
  if (!targetCharacters.test(target))
    throw new SallyportError('head_invalid_url', 'the request target contains a space or a byte outside ASCII');
  start.method = method;
  start.target = target;
  start.minor = minor;
}

function methodOf(text: string, end: number): string {
  for (const one of usualMethods) if (one.length === end && text.startsWith(one)) return one;
  // A slice would keep the whole line for as long as the method is kept, with what its query holds.
  return Buffer.from(text.slice(0, end), 'latin1').toString('latin1');
}

const seenStatusLines = new SeenBytes<StatusLine>();

/** Reads the status line (RFC 9112 section 4) from `at` to before `end`. @throws SallyportError `upstream_protocol`. */
export function readStatusLine(bytes: Buffer, at: number, end: number): StatusLine {
  const seen = seenStatusLines.find(bytes, at, end);
  if (seen !== undefined) return seen;
  const read = parseStatusLine(bytes.toString('latin1', at, end));
  seenStatusLines.learn(bytes, at, end, read);
  return read;
}

function parseStatusLine(line: string): StatusLine {
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

/** What a field line says. */
interface Line {
  readonly name: FieldName;
  readonly value: string;
}

/** Lines whose value is no credential (FieldName.repeats), and names. */
const seenLines = new SeenBytes<Line>();
const seenNames = new SeenBytes<FieldName>();
/** At most so much of one head is remembered: a client that never says the same twice must not make its heads dearer. */
const learnsEach = 2;

// A list that grows piece by piece has room for seventeen fields; those that leave here are as long as they need.
const namesRead: FieldName[] = [];
const valuesRead: string[] = [];

/**
 * Reads the field lines from `from` to before `end` of a head that was checked: no folding, no space before the colon,
 * token names (RFC 9112 section 5).
 * @throws SallyportError `head_malformed` or `head_too_many_fields`.
 */
export function readFields(bytes: Buffer, from: number, end: number, maxFields: number): Fields {
  let count = 0;
  let learns = learnsEach;
  try {
    for (let at = from; at < end; ) {
      const to = endOfLine(bytes, at, end);
      const seen = seenLines.find(bytes, at, to);
      const colon = seen === undefined ? colonOf(bytes, at, to) : at;
      if (count >= maxFields) throw tooMany(maxFields);
      const known = seen?.name ?? seenNames.find(bytes, at, colon);
      const name = known ?? fieldName(bytes.toString('latin1', at, colon));
      const value = seen?.value ?? readValue(bytes, colon + 1, to);
      if (seen === undefined && learns > 0 && (known === undefined || name.repeats)) {
        if (known === undefined) seenNames.learn(bytes, at, colon, name);
        if (name.repeats) seenLines.learn(bytes, at, to, { name, value });
        learns--;
      }
      namesRead[count] = name;
      valuesRead[count++] = value;
      at = to + 2;
    }
    return { names: namesRead.slice(0, count), values: valuesRead.slice(0, count) };
  } finally {
    // A credential must not stay reachable from here.
    for (let i = 0; i < count; i++) valuesRead[i] = '';
  }
}

function colonOf(bytes: Buffer, from: number, end: number): number {
  for (let at = from; at < end; at++) if (bytes[at] === colonByte) return at;
  const line = printable(bytes.toString('latin1', from, end));
  throw new SallyportError('head_malformed', `a field line has no colon: '${line}'`);
}

/** Without the blanks around it. */
function readValue(bytes: Buffer, from: number, end: number): string {
  let at = from;
  let to = end;
  while (at < to && isBlank(bytes[at]!)) at++;
  while (to > at && isBlank(bytes[to - 1]!)) to--;
  return bytes.toString('latin1', at, to);
}

function tooMany(maxFields: number): SallyportError {
  return new SallyportError('head_too_many_fields', `the head has more than ${maxFields} fields (limit headFields)`);
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

function isBlank(code: number): boolean {
  return code === space || code === tab;
}
