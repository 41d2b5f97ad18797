// Splits text into tokens of SQL, and writes one character for each: the shape of the text, in which patterns are found.
//
//   1 number   s string   z string that does not end   v variable   n name   c comment to the end of a line
//   = equal or not   < less or more   o calculates   ( ) , ; . themselves   D begins a statement   B begins a clause
//   and the kinds of sql-words.ts

import { clauses, sqlWords, statements } from './sql-words.ts';

/** Dialects differ in what a comment and an escape are: text is read in both ways where it matters. */
export type Dialect = 'ansi' | 'mysql';

/** `kinds` and `words` have the same length. Comments to the end of a line are tokens, inline ones are not. */
export interface SqlShape {
  /** One character for each token. */
  readonly kinds: string;
  /** The token of each character, in lower case. */
  wordAt(index: number): string;
  /** A comment in the middle of a line, which separates words where blanks are refused. */
  readonly hasInlineComment: boolean;
}

/** SQL Server and Oracle take the blanks of Unicode as well. */
const isBlank = (code: number): boolean => code <= 0x20 || (code >= 0xa0 && wideBlanks.has(code));
const wideBlanks: ReadonlySet<number> = new Set([
  ...[0xa0, 0x1680, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000],
  ...Array.from({ length: 11 }, (_, i) => 0x2000 + i),
]);
const isDigit = (code: number): boolean => code >= 0x30 && code <= 0x39;
const isWordStart = (code: number): boolean =>
  (code >= 0x61 && code <= 0x7a) ||
  (code >= 0x41 && code <= 0x5a) ||
  code === 0x5f ||
  (code > 0xa0 && !wideBlanks.has(code));
const isWord = (code: number): boolean => isWordStart(code) || isDigit(code) || code === 0x24;

const quotes = '\'"`';

/** For each first and last letter the lengths of the words that are known, as bits. */
const shapes = new Uint32Array(1024);
const shapeOf = (first: number, last: number): number => ((first & 31) << 5) | (last & 31);
for (const word of [...sqlWords.keys(), ...statements.keys(), ...clauses.keys(), 'values'])
  shapes[shapeOf(word.charCodeAt(0), word.charCodeAt(word.length - 1))]! |= 1 << Math.min(word.length, 31);

/** False for most words that are not in the tables. `xp_` and `sp_` begin procedures of any name. */
function mayBeKnown(first: number, last: number, length: number): boolean {
  return (
    (shapes[shapeOf(first, last)]! & (1 << Math.min(length, 31))) !== 0 ||
    (length > 5 && ((first | 0x20) === 0x78 || (first | 0x20) === 0x73))
  );
}

/** The tokens from `from` on. Linear in the length. */
export function readSql(text: string, from: number, dialect: Dialect): SqlShape {
  const words: (string | number)[] = [];
  let kinds = '';
  let hasInlineComment = false;
  const add = (kind: string, word: string): void => {
    kinds += kind;
    words.push(word);
  };
  const size = text.length;
  /** No comment ends behind this. */
  let lastEnd: number | undefined;
  for (let at = from; at < size; ) {
    const code = text.charCodeAt(at);
    if (code === 0x5c && text.charCodeAt(at + 1) === 0x4e) {
      // MySQL's \N is NULL, and ends where letters go on.
      add('t', 'null');
      at += 2;
      continue;
    }
    if (isBlank(code) || code === 0x5b || code === 0x5d || code === 0x7b || code === 0x7d || code === 0x5c) {
      // Brackets quote names in SQL Server: what is in them is read as well. Braces enclose ODBC's escapes.
      at++;
      continue;
    }
    const next = text.charCodeAt(at + 1);
    if (isWordStart(code)) {
      let end = at + 1;
      while (end < size && isWord(text.charCodeAt(end))) end++;
      // Most words of prose are none of SQL: their shape says so.
      if (
        !mayBeKnown(text.charCodeAt(at), text.charCodeAt(end - 1), end - at) &&
        (text.charCodeAt(end) !== 0x27 || end - at > 13)
      ) {
        kinds += 'n';
        words.push(at * 0x1000000 + end);
        at = end;
        continue;
      }
      const word = text.slice(at, end).toLowerCase();
      // N'text', x'00', b'0', _utf8'text'.
      if (text.charCodeAt(end) === 0x27 && /^(?:n|x|b|e|u|q|_\w{1,12})$/.test(word)) {
        at = end;
        continue;
      }
      add(kindOf(word, text, end), word);
      at = end;
    } else if (isDigit(code) || (code === 0x2e && isDigit(next))) {
      let end = at + 1;
      if (code === 0x30 && (next | 0x20) === 0x78) end++;
      while (end < size && (isDigit(text.charCodeAt(end)) || text.charCodeAt(end) === 0x2e)) end++;
      if (code === 0x30 && (next | 0x20) === 0x78) while (end < size && isWord(text.charCodeAt(end))) end++;
      else if ((text.charCodeAt(end) | 0x20) === 0x65 && isDigit(text.charCodeAt(end + 1))) {
        end += 2;
        while (end < size && isDigit(text.charCodeAt(end))) end++;
      } else if (isWordStart(text.charCodeAt(end)) && !joinsWord(text, end)) {
        // 3rd, 20px, a UUID: a name.
        while (end < size && isWord(text.charCodeAt(end))) end++;
        add('n', text.slice(at, end).toLowerCase());
        at = end;
        continue;
      }
      add('1', text.slice(at, end));
      at = end;
    } else if (quotes.includes(text[at]!)) {
      const end = endOfString(text, at + 1, code, dialect);
      add(code === 0x60 ? 'n' : end === -1 ? 'z' : 's', text.slice(at + 1, end === -1 ? size : end));
      at = end === -1 ? size : end + 1;
    } else if (code === 0x2f && next === 0x2a) {
      if (text.charCodeAt(at + 2) === 0x21 || (text.charCodeAt(at + 2) === 0x4d && text.charCodeAt(at + 3) === 0x21)) {
        // MySQL runs what is in /*! */.
        at += 3;
        while (at < size && (isDigit(text.charCodeAt(at)) || text.charCodeAt(at) === 0x21)) at++;
        hasInlineComment = true;
        continue;
      }
      lastEnd ??= text.lastIndexOf('*/');
      const end = at + 2 > lastEnd ? -1 : text.indexOf('*/', at + 2);
      if (end === -1) {
        add('c', '/*');
        at += 2;
      } else {
        hasInlineComment = true;
        at = end + 2;
      }
    } else if (code === 0x2a && next === 0x2f) at += 2;
    else if (
      (code === 0x2d && next === 0x2d && (dialect === 'ansi' || at + 2 >= size || isBlank(text.charCodeAt(at + 2)))) ||
      (code === 0x23 && dialect === 'mysql')
    ) {
      const end = text.indexOf('\n', at);
      if (code === 0x2d || !isHashOfProse(text, at)) add('c', text.slice(at, end === -1 ? size : end));
      at = end === -1 ? size : end + 1;
    } else if (code === 0x40) {
      let end = at + 1;
      while (end < size && (isWord(text.charCodeAt(end)) || text.charCodeAt(end) === 0x40)) end++;
      const word = text.slice(at, end).toLowerCase();
      add(sqlWords.get(word) ?? 'v', word);
      at = end;
    } else {
      const two = text.slice(at, at + 2);
      const one = text[at]!;
      if (two === '&&' || two === '||') {
        add('&', two);
        at += 2;
      } else if ('=<>!'.includes(one) && (one !== '!' || two === '!=')) {
        let end = at + 1;
        while (end < at + 3 && '=<>'.includes(text[end] ?? ' ')) end++;
        add(/^(?:[<>]=?|=[<>])$/.test(text.slice(at, end)) ? '<' : '=', text.slice(at, end));
        at = end;
      } else {
        add('(),;.!'.includes(one) ? one : one === ':' || one === '?' ? ':' : 'o', one);
        at++;
      }
    }
  }
  const wordAt = (index: number): string => {
    const word = words[index]!;
    return typeof word === 'string' ? word : text.slice(Math.floor(word / 0x1000000), word % 0x1000000).toLowerCase();
  };
  return { kinds, wordAt, hasInlineComment };
}

/** `1or`, `1union`, `0and`: MySQL ends a number where letters begin. */
function joinsWord(text: string, at: number): boolean {
  return /^(?:and|or|xor|union|div|like|rlike|regexp|order|group|having|limit|from|where|procedure|in|is|between)\b/i.test(
    text.slice(at, at + 12),
  );
}

/** `C#`, `#1`, `#topic`. */
function isHashOfProse(text: string, at: number): boolean {
  const before = text.charCodeAt(at - 1);
  // `admin'#x` closes a value; `$('#x')` opens one.
  if (before === 0x27 || before === 0x22)
    return isWord(text.charCodeAt(at + 1)) && '(=[,: '.includes(text[at - 2] ?? 'x');
  if (before === 0x29) return false;
  return isWordStart(before) || isWord(text.charCodeAt(at + 1));
}

function kindOf(word: string, text: string, end: number): string {
  const known = sqlWords.get(word);
  const tests = statements.get(word);
  const clause = clauses.get(word);
  if (tests !== undefined || clause !== undefined) {
    const rest = afterBlanks(text, end);
    if (tests?.test(rest)) return 'D';
    if (clause?.test(rest)) return 'B';
  }
  if (word === 'values') return isCalled(text, end) ? 'E' : 'n';
  if (known === undefined) return /^(?:xp|sp)_[a-z_]{3,40}$/.test(word) ? 'F' : 'n';
  // `left`, `count`, `user`: functions only if they are called.
  if ((known === 'f' || known === 'S' || known === 'g') && !isCalled(text, end))
    return word === 'current_user' || word.startsWith('@@') || word === 'exists' ? known : 'n';
  return known;
}

/** True if a bracket follows, after blanks and comments. */
function isCalled(text: string, end: number): boolean {
  let at = end;
  while (isBlank(text.charCodeAt(at))) at++;
  return text[at] === '(' || (text[at] === '/' && afterBlanks(text, at).startsWith('('));
}

/** What follows, without blanks and comments, far enough for the tests of words. */
function afterBlanks(text: string, end: number): string {
  let at = end;
  while (isBlank(text.charCodeAt(at))) at++;
  const near = text.slice(at, at + 240);
  return near.includes('/*') ? near.replaceAll(/\/\*[^*]{0,80}\*\//g, ' ').trimStart() : near;
}

/** The index of the closing quote; -1 without one. A doubled quote is part of the text. */
function endOfString(text: string, from: number, quote: number, dialect: Dialect): number {
  for (let at = from; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === 0x5c && dialect === 'mysql') at++;
    else if (code === quote) {
      if (text.charCodeAt(at + 1) !== quote || at === from) return at;
      at++;
    }
  }
  return -1;
}
