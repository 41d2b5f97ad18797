// What servers could read as a credential. A token that the app reads and we do not is not verified, so we look for it
// in every way that servers are known to read it, not only the standard one.

/** The most readings of one place that are looked at: two are too many already. */
const mostReadings = 4;

/**
 * Whether a text holds a JWT anywhere. Some apps take the text after the last space or cut 'Bearer ' out, under any
 * scheme; some read the payload without looking at what precedes it. A part of a JWT is JSON in base64url.
 */
function holdsJwt(text: string): boolean {
  if (!text.includes('.')) return false;
  return text
    .split(/[^A-Za-z0-9_+/=.-]+/)
    .some((word) => word.includes('.') && word.split('.').some((part) => startsOf(part).some(isJson)));
}

/**
 * Where the JSON of a part may begin: at once, after a scheme that is cut off without a space, or after another sign.
 */
function startsOf(part: string): string[] {
  const begin = part.slice(0, 160);
  const behindScheme = /^(?:bearer|token|jwt|dpop)(.+)/i.exec(begin)?.[1];
  const behindSigns = [...begin.slice(0, 24).matchAll(/[-_+/=]/g)].map(({ index }) => begin.slice(index + 1));
  return [begin, ...(behindScheme === undefined ? [] : [behindScheme]), ...behindSigns];
}

/**
 * The first characters of base64 for a brace, white space, a byte order mark or a NUL: nothing else is worth decoding.
 */
const mayBeJson = /^[eICD7A_/]/;

function isJson(encoded: string): boolean {
  if (encoded.length < 2 || !mayBeJson.test(encoded)) return false;
  // A NUL beside each character is UTF-16.
  const start = Buffer.from(encoded, 'base64')
    .toString('latin1')
    .replace(/^(?:\xef\xbb\xbf|\xfe\xff|\xff\xfe)|\0/g, '');
  return /^\s*\{\s*(?:["}]|$)/.test(start);
}

/** What a place holds. `sound`: there is only one way to read it; if not, it must be refused. */
export interface Reading {
  readonly token: string;
  readonly sound: boolean;
}

/**
 * The token in a header's value, several lines of it joined by commas; undefined if no server would find one there.
 *
 * A scheme is case-insensitive, and one or more spaces follow it (RFC 9110 sections 11.1 and 11.4). `Authorization` may
 * hold another scheme (`Basic`), so there only the prefix or the look of a JWT counts; any other header exists for the
 * token.
 * @param name in lower case
 */
export function readHeaderToken(value: string, name: string, prefix: string): Reading | undefined {
  if (value.trim() === '') return undefined;
  const rest = afterPrefix(value, prefix);
  if (rest === '') return undefined;
  if (rest !== undefined) return { token: rest, sound: !/[\s,]/.test(rest) };
  const mayBeRead = name !== 'authorization' || holdsJwt(value) || holdsScheme(value, prefix.trim());
  return mayBeRead ? { token: value, sound: false } : undefined;
}

/** The token of an `Authorization: Bearer`, by the same rules. */
export function readBearer(value: string | undefined): Reading | undefined {
  return value === undefined ? undefined : readHeaderToken(value, 'authorization', 'Bearer ');
}

function afterPrefix(value: string, prefix: string): string | undefined {
  const scheme = prefix.trim();
  if (!prefix.endsWith(' ') || scheme === '')
    return value.startsWith(prefix) ? value.slice(prefix.length).trim() : undefined;
  const text = value.trimStart();
  if (text.slice(0, scheme.length).toLowerCase() !== scheme.toLowerCase()) return undefined;
  const rest = text.slice(scheme.length);
  return rest === '' || /^[ \t]/.test(rest) ? rest.trim() : undefined;
}

/**
 * A scheme at the start of a word: in a second line of the field, in a second credential, with a colon for the space.
 */
function holdsScheme(value: string, scheme: string): boolean {
  if (scheme === '') return true;
  const lower = value.toLowerCase();
  const wanted = scheme.toLowerCase();
  for (let at = lower.indexOf(wanted); at !== -1; at = lower.indexOf(wanted, at + 1)) {
    const before = at === 0 ? ' ' : lower[at - 1]!;
    const after = lower[at + wanted.length] ?? '';
    if (/[\s,;]/.test(before) && /[\s:=,]/.test(after)) return true;
  }
  return false;
}

/**
 * The values of a query parameter, read in every way that servers do: with `;` between parameters (old CGI, Rack), in
 * any case (ASP.NET), as a list (`name[]`), with `.`, a space or a lone `[` for `_` (PHP), cut at a NUL. Empty ones are
 * left out. If there are too many, the first few are returned, followed by one that is no credential.
 * @param path with its query
 */
export function paramReadings(path: string, name: string): string[] {
  const at = path.indexOf('?');
  if (at === -1) return [];
  if (!mayHoldParam(path, name)) return [];
  const query = path.slice(at + 1);
  const isMeant = namesOf(name);
  return few(query.split('&'), (part) => readingsOf(part, isMeant));
}

/**
 * Whether the query of a path may hold a parameter, in any reading; a quick test, since most queries do not. It cuts
 * nothing out: it runs for each line of the access log.
 */
export function mayHoldParam(path: string, name: string): boolean {
  let test = queryTests.get(name);
  if (test === undefined) {
    test = new RegExp(`^[^?]*\\?[^]*?(?:[%+.[\\0 ]|${name.replace(/\W/g, '\\$&')})`, 'i');
    if (queryTests.size >= maxQueryTests) queryTests.clear();
    queryTests.set(name, test);
  }
  return test.test(path);
}

/** By the name of the parameter; names are those of a configuration, which may change. */
const queryTests = new Map<string, RegExp>();
const maxQueryTests = 256;

/** Whether a part of a query, between two `&`, holds a parameter in one of those readings. */
export function holdsParam(part: string, name: string): boolean {
  const isMeant = namesOf(name);
  return part.split(';').some((one) => isMeant(one.split('=', 1)[0]!));
}

function readingsOf(part: string, isMeant: (raw: string) => boolean): string[] {
  const pieces = part.split(';');
  return pieces.flatMap((piece, index) => {
    const at = piece.indexOf('=');
    if (at === -1 || !isMeant(piece.slice(0, at))) return [];
    // A server that does not split at `;` reads the value up to the end of the part.
    const value = index === 0 && pieces.length > 1 ? part.slice(at + 1) : piece.slice(at + 1);
    return value === '' ? [] : [decode(value)];
  });
}

/**
 * The values of a cookie, read in every way that servers do: also after a comma, where readers of RFC 2109 begin the
 * next one, after white space, where Python's do, without quotation marks, in any case, and under names that PHP
 * rewrites. Empty ones are left out; if there are too many, as above.
 * @param header all Cookie fields, joined
 */
export function cookieReadings(header: string | undefined, name: string): string[] {
  if (header === undefined) return [];
  const isMeant = namesOf(name);
  return few(header.split(';').flatMap(cookiesIn), (piece) => {
    const at = piece.indexOf('=');
    if (at === -1 || !isMeant(piece.slice(0, at))) return [];
    const value = piece
      .slice(at + 1)
      .trim()
      .replace(/^"(.*)"$/s, '$1');
    return value === '' ? [] : [value];
  });
}

/**
 * The possible cookies in a part of the field, between two semicolons: several, for readers that end one at white
 * space.
 */
function cookiesIn(part: string): string[] {
  return part.split(',').flatMap((piece) => {
    const words = piece.trim().split(/\s+/);
    return words.length === 1 ? [piece] : [piece, ...words];
  });
}

/** Whether a part of a Cookie field, between two semicolons, holds a cookie in one of those readings. */
export function holdsCookie(part: string, name: string): boolean {
  const isMeant = namesOf(name);
  return cookiesIn(part).some((one) => isMeant(one.split('=', 1)[0]!));
}

function few(parts: readonly string[], readingsIn: (part: string) => string[]): string[] {
  const found: string[] = [];
  for (const part of parts) {
    found.push(...readingsIn(part));
    // A value that is neither a token nor a key makes all of them ambiguous.
    if (found.length > mostReadings) return [...found.slice(0, mostReadings), '\0'];
  }
  return found;
}

/** A test of whether servers read a raw name as `name`. */
function namesOf(name: string): (raw: string) => boolean {
  const wanted = fold(name);
  return (raw) => {
    const decoded = decodeLoosely(raw).toLowerCase();
    return foldDecoded(decoded) === wanted || foldDecoded(decoded.replace(/\[.*$/s, '')) === wanted;
  };
}

function fold(name: string): string {
  return foldDecoded(name.toLowerCase());
}

function foldDecoded(name: string): string {
  const nul = name.indexOf('\0');
  const text = (nul === -1 ? name : name.slice(0, nul)).trim();
  // Readers strip more than ASCII white space: strip from both ends whatever cannot be in a token (RFC 9110 section
  // 5.6.2).
  const bare = text.replace(/^[^\w!#$%&'*+.^`|~[-]+|[^\w!#$%&'*+.^`|~[-]+$/g, '');
  return (bare === '' ? text : bare).replace(/[ .[]/g, '_');
}

/** Decodes byte by byte, as C does, with ASP.NET's `%u0061`: a broken escape elsewhere in a name hides nothing. */
function decodeLoosely(text: string): string {
  if (!/[%+]/.test(text)) return text;
  return text
    .replaceAll('+', ' ')
    .replace(/%u([0-9a-f]{4})|%([0-9a-f]{2})/gi, (_, wide?: string, narrow?: string) =>
      String.fromCharCode(Number.parseInt(wide ?? narrow ?? '0', 16)),
    );
}

/** A value decoded as forms are; a broken one stays as it is, and fails verification. */
function decode(text: string): string {
  if (!/[%+]/.test(text)) return text;
  try {
    return decodeURIComponent(text.replaceAll('+', ' '));
  } catch {
    return text;
  }
}
