// What servers could read as a credential. A token that we do not see but the app does is a token that nobody has verified, so
// every reading that servers are known for is looked for here, not only the one that the standard gives.

/** A JWT anywhere in a text: apps take what stands behind the last space, or cut 'Bearer ' out, whatever the scheme. */
const jwtLike = /(?:^|[^\w-])eyJ[\w-]*\.[\w-]+\.[\w-]*/;

/** What a place holds. `sound`: there is one way to read it; what is not sound must be refused, whatever it holds. */
export interface Reading {
  readonly token: string;
  readonly sound: boolean;
}

/**
 * The token in a header's value, several lines of it joined by commas; undefined where no server would find one there.
 *
 * A scheme is case-insensitive, and one or more spaces follow it (RFC 9110 sections 11.1 and 11.4). `Authorization` may be for
 * another scheme (`Basic`), so there only the prefix or the look of a JWT counts; any other header is there for the token.
 * @param name in lower case
 */
export function readHeaderToken(value: string, name: string, prefix: string): Reading | undefined {
  if (value.trim() === '') return undefined;
  const rest = afterPrefix(value, prefix);
  if (rest === '') return undefined;
  if (rest !== undefined) return { token: rest, sound: !/[\s,]/.test(rest) };
  const mayBeRead = name !== 'authorization' || jwtLike.test(value) || holdsScheme(value, prefix.trim());
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

/** The scheme behind a comma or a space: a second line of the field, or a second credential in one. */
function holdsScheme(value: string, scheme: string): boolean {
  if (scheme === '') return true;
  const lower = value.toLowerCase();
  const wanted = scheme.toLowerCase();
  for (let at = lower.indexOf(wanted); at !== -1; at = lower.indexOf(wanted, at + 1)) {
    const before = at === 0 ? ' ' : lower[at - 1]!;
    const after = lower[at + wanted.length] ?? '';
    if (/[\s,;]/.test(before) && /\s/.test(after)) return true;
  }
  return false;
}

/**
 * The values of a query parameter in whatever way servers read it: with `;` between parameters (old CGI, Rack), in any case
 * (ASP.NET), as a list (`name[]`), with `.` or a space for `_` (PHP). Empty ones are left out.
 * @param path with its query
 */
export function paramReadings(path: string, name: string): string[] {
  const query = queryOf(path);
  if (query === undefined) return [];
  return query.split('&').flatMap((part) => readingsOf(part, foldParam(name)));
}

/** Whether a part of a query, between two `&`, holds a parameter in one of those ways. */
export function holdsParam(part: string, name: string): boolean {
  const folded = foldParam(name);
  return part.split(';').some((one) => foldParam(decode(one.split('=', 1)[0]!)) === folded);
}

function readingsOf(part: string, folded: string): string[] {
  const pieces = part.split(';');
  return pieces.flatMap((piece, index) => {
    const at = piece.indexOf('=');
    if (at === -1 || foldParam(decode(piece.slice(0, at))) !== folded) return [];
    // To a server that knows no `;` the value goes on to the end of the part.
    const value = index === 0 && pieces.length > 1 ? part.slice(at + 1) : piece.slice(at + 1);
    return value === '' ? [] : [decode(value)];
  });
}

function queryOf(path: string): string | undefined {
  const at = path.indexOf('?');
  return at === -1 ? undefined : path.slice(at + 1);
}

function foldParam(name: string): string {
  return name.trim().toLowerCase().replace(/\[.*$/s, '').replace(/[ .]/g, '_');
}

/** As forms are decoded; what is broken stays as it is. */
function decode(text: string): string {
  if (!/[%+]/.test(text)) return text;
  try {
    return decodeURIComponent(text.replaceAll('+', ' '));
  } catch {
    return text;
  }
}

/**
 * The values of a cookie: also behind a comma, where RFC 2109's readers begin the next one, and without quotation marks. Empty
 * ones are left out.
 * @param header all Cookie fields, joined
 */
export function cookieReadings(header: string | undefined, name: string): string[] {
  if (header === undefined || !foldCookie(header).includes(foldCookie(name))) return [];
  return header.split(/[;,]/).flatMap((piece) => {
    const at = piece.indexOf('=');
    if (at === -1 || foldCookie(piece.slice(0, at)) !== foldCookie(name)) return [];
    const value = piece
      .slice(at + 1)
      .trim()
      .replace(/^"(.*)"$/s, '$1');
    return value === '' ? [] : [value];
  });
}

/** PHP has `_` for what no name of a variable may hold. */
function foldCookie(name: string): string {
  return name.trim().replace(/[ .[]/g, '_');
}
