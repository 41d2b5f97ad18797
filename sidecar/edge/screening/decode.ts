// The texts that a backend may make of a value: decoded again, from the encodings that applications undo by mistake or
// for convenience. Each is evaluated.

import { isUtf8 } from 'node:buffer';
import { has } from './characters.ts';

/** Rounds of decoding. A text that still changes after the last one is refused as endlessly encoded. */
export const maxRounds = 5;

/** Shorter base64 is not significant. */
const minBase64 = 12;

/** Base64 in base64 is read up to this depth. */
const maxBase64 = 3;

/** The value and its decoded forms, each once. `isEndless`: the last round still found something to decode. */
export interface Forms {
  readonly texts: readonly string[];
  readonly isEndless: boolean;
  /** A byte was encoded in more bytes than it takes, which no honest encoder does. */
  readonly isOverlong: boolean;
}

/** Without any of these there is nothing to decode. */
const coded =
  /[%&\\\0]|[\u2044\u2215\uff01-\uff5e\u200b-\u200d\u00ad\ufeff\u02b9\u02bc\u2018\u2019\u2032]|^[A-Za-z0-9+/_-]{12,}={0,2}$|base64/;

const { percent, separator, slash, control, other, letter, digit, minus, equals, rest } = has;
const inBase64 = letter | digit | minus | equals | slash;

/** False, quickly, for most texts without encodings. `characters`: `charactersIn` of it. */
export function mayBeCoded(text: string, characters: number): boolean {
  if ((characters & (percent | separator | slash | control | other | rest)) !== 0) return true;
  return text.length >= minBase64 && (characters & ~inBase64) === 0;
}

/** The forms of a text. */
export function formsOf(text: string): Forms {
  if (!coded.test(text)) return { texts: [text], isEndless: false, isOverlong: false };
  const texts = [text];
  let isOverlong = false;
  let last = text;
  let rounds = 0;
  for (; rounds <= maxRounds; rounds++) {
    const next = decodeOnce(last, () => {
      isOverlong = true;
    });
    if (next === last) break;
    last = next;
    if (rounds < maxRounds) texts.push(next);
  }
  const isEndless = rounds > maxRounds;
  for (const one of [...texts]) {
    const folded = fold(one);
    if (folded !== one) texts.push(folded);
  }
  let hidden = base64In(texts[0]!) ?? (texts.length > 1 ? base64In(texts.at(-1)!) : undefined);
  for (let depth = 0; hidden !== undefined && depth < maxBase64; depth++) {
    texts.push(hidden);
    const more = decodeOnce(hidden, () => {});
    if (more !== hidden) texts.push(more);
    hidden = base64In(hidden);
  }
  return { texts, isEndless, isOverlong };
}

/** One round of each decoding. */
function decodeOnce(text: string, onOverlong: () => void): string {
  let now = text;
  if (now.includes('%')) now = decodePercent(now, onOverlong);
  if (now.includes('&')) now = decodeEntities(now);
  if (now.includes('\\')) now = decodeEscapes(now);
  return now;
}

const percents = /(?:%[0-9a-fA-F]{2})+|%u[0-9a-fA-F]{4}/g;

/** `%27`, `%u0027` (IIS), and overlong UTF-8 (`%c0%a7`). A lone percent sign stays. */
function decodePercent(text: string, onOverlong: () => void): string {
  return text.replaceAll(percents, (run) => {
    if (run[1] === 'u') return String.fromCharCode(Number.parseInt(run.slice(2), 16));
    const bytes = Buffer.from(run.replaceAll('%', ''), 'hex');
    return isUtf8(bytes) ? bytes.toString('utf8') : decodeOverlong(bytes, onOverlong);
  });
}

/** Lenient readers take the low bits of any sequence (Unicode 3.0 and before, RFC 3629 section 10). */
function decodeOverlong(bytes: Buffer, onOverlong: () => void): string {
  let text = '';
  for (let at = 0; at < bytes.length; at++) {
    const lead = bytes[at]!;
    const size =
      lead >= 0xc0 && lead < 0xe0 ? 2 : lead >= 0xe0 && lead < 0xf0 ? 3 : lead >= 0xf0 && lead < 0xf8 ? 4 : 1;
    if (size === 1 || at + size > bytes.length) {
      text += String.fromCharCode(lead);
      continue;
    }
    let code = lead & (0xff >> (size + 1));
    for (let i = 1; i < size; i++) code = (code << 6) | (bytes[at + i]! & 0x3f);
    if (code < [0, 0, 0x80, 0x800, 0x10000][size]!) {
      onOverlong();
      text += String.fromCharCode(code);
      at += size - 1;
    } else if (isUtf8(bytes.subarray(at, at + size))) {
      text += bytes.toString('utf8', at, at + size);
      at += size - 1;
    } else text += String.fromCharCode(lead);
  }
  return text;
}

const named: Readonly<Record<string, string>> = {
  ...{ lt: '<', gt: '>', amp: '&', quot: '"', apos: "'", nbsp: ' ', tab: '\t', newline: '\n', colon: ':' },
  ...{ lpar: '(', rpar: ')', sol: '/', bsol: '\\', equals: '=', grave: '`', semi: ';', comma: ',', lbrace: '{' },
  ...{ rbrace: '}', lsqb: '[', rsqb: ']', num: '#', excl: '!', plus: '+', period: '.', dollar: '$', ast: '*' },
};
const entities = /&(?:#[xX]0{0,20}([0-9a-fA-F]{1,6});?|#0{0,20}([0-9]{1,7});?|([a-zA-Z]{2,8});)/g;

/** References to characters in HTML; the numeric ones also without their semicolon, as browsers read them. */
function decodeEntities(text: string): string {
  return text.replaceAll(entities, (whole, hex?: string, decimal?: string, name?: string) => {
    if (name !== undefined) return named[name.toLowerCase()] ?? whole;
    const code = hex === undefined ? Number(decimal) : Number.parseInt(hex, 16);
    return code > 0x10ffff ? whole : String.fromCodePoint(code);
  });
}

const escapes =
  /\\(?:u\{0{0,8}([0-9a-fA-F]{1,6})\}|u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|0{0,4}([0-7]{2,3})(?![0-9])|([0-9a-fA-F]{4,6}) ?)/g;

/** Escapes of JavaScript, JSON and CSS. */
function decodeEscapes(text: string): string {
  return text.replaceAll(escapes, (whole, ...groups: (string | undefined)[]) => {
    const [braced, unicode, byte, octal, css] = groups;
    const code =
      octal === undefined ? Number.parseInt((braced ?? unicode ?? byte ?? css)!, 16) : Number.parseInt(octal, 8);
    return code > 0x10ffff || code < 9 ? whole : String.fromCodePoint(code);
  });
}

/** Look-alikes as ASCII: full width, primes and typographic quotes that databases convert; invisible ones removed. */
function fold(text: string): string {
  if (!/[\u2044\u2215\0\u00ad\u02b9\u02bc\u2018\u2019\u2032\u200b-\u200d\ufeff\uff01-\uff5e]/.test(text)) return text;
  return text
    .replaceAll(/[\0\u00ad\u200b-\u200d\ufeff]/g, '')
    .replaceAll(/[\uff01-\uff5e]/g, (one) => String.fromCharCode(one.charCodeAt(0) - 0xfee0))
    .replaceAll(/[\u2044\u2215]/g, '/')
    .replaceAll(/[\u02b9\u02bc]/g, "'");
}

/** The decoded text of base64, if it is text; also after the prefix of a data URL. */
function base64In(text: string): string | undefined {
  const trimmed = text.trim();
  const said =
    /^(?:data:[^,]{0,100};base64,)?([A-Za-z0-9+/_-]{12,}={0,2})$/.exec(trimmed)?.[1] ??
    /;base64,([A-Za-z0-9+/]{12,4000}={0,2})/.exec(trimmed)?.[1];
  if (said === undefined || said.length < minBase64 || /^(?:[0-9]+|[a-z]+|[A-Z]+|[0-9a-f-]+)$/.test(said))
    return undefined;
  const bytes = Buffer.from(said.slice(0, 65_536), 'base64');
  if (bytes.length < 8) return undefined;
  const decoded = bytes.toString(isUtf8(bytes) ? 'utf8' : 'latin1');
  if (/[\x01-\x08\x0e-\x1a\x1c-\x1f\x7f]/.test(decoded)) return undefined;
  // One byte that is not text does not hide the rest; random data has more of them.
  return isUtf8(bytes) || decoded.replaceAll(/[\x20-\x7e]/g, '').length * 8 < decoded.length ? decoded : undefined;
}
