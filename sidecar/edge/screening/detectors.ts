// The table of detectors, and their findings about one value in all its forms.

import { readJsonText } from '../json.ts';
import { charactersIn, has } from './characters.ts';
import { detectCode } from './code.ts';
import { detectCommand } from './command.ts';
import { formsOf, mayBeCoded } from './decode.ts';
import { type Detect, type DetectorName, type Place, type Sign, signsOf } from './finding.ts';
import { detectHeader } from './header.ts';
import { detectLdap } from './ldap.ts';
import { detectNosql } from './nosql.ts';
import { detectPath } from './path.ts';
import { detectSql } from './sql.ts';
import { detectSsrf } from './ssrf.ts';
import { detectTemplate } from './template.ts';
import { detectXss } from './xss.ts';

/** The findings of the decoder itself. `charset`: a text in an encoding that is not used on the web. */
export const encoding = signsOf('encoding', { endless: [5], overlong: [4], charset: [5] });

type Judged = Exclude<DetectorName, 'encoding'>;

const { quote, backquote, angle, round, curly, square, equals, separator, lineBreak, control, slash, colon } = has;
const { dollar, hash, star, percent, at, minus, digit, other, dot } = has;

/** The detectors, and the characters without which none of their signs exists. `encoding` is the decoder's own. */
export const detectors: Readonly<Record<Judged, { readonly detect: Detect; readonly needs: number }>> = Object.freeze({
  sql: {
    detect: detectSql,
    needs: quote | backquote | separator | hash | round | equals | angle | star | at | minus | digit | dot,
  },
  xss: { detect: detectXss, needs: angle | equals | round | backquote | colon | quote },
  path: { detect: detectPath, needs: slash | control | colon },
  command: { detect: detectCommand, needs: separator | lineBreak | dollar | backquote | slash | angle | minus },
  template: { detect: detectTemplate, needs: curly | percent | at | square | hash },
  nosql: { detect: detectNosql, needs: dollar | quote | separator | dot },
  ldap: { detect: detectLdap, needs: round },
  header: { detect: detectHeader, needs: lineBreak | control | other },
  ssrf: { detect: detectSsrf, needs: slash | colon },
  code: { detect: detectCode, needs: angle | round | colon | square | dollar | curly | slash | percent | digit },
});

const table = (Object.keys(detectors) as Judged[]).map((name) => ({ name, ...detectors[name] }));

/** Headers that name pages: their addresses belong to the client. */
export type Skip = (detector: DetectorName) => boolean;

const none: Skip = () => false;

/** Characters of names, numbers and dates: no attack consists of them alone. */
const harmless = ~(has.letter | digit | dot | colon | at | minus | has.space);
const maxHarmless = 40;
const words =
  /\b(?:or|and|union|select|order|having|where|like|is|in|exec|sleep|drop|waitfor|shutdown|truncate|show|script|on\w{3,25}|localhost|etc|cat|\.\.|metadata|powershell|group|limit \d|offset \d|for xml|procedure|xor|div)\b|--|::|\.\.|:\d|@.{1,40}@|^\d+\.|^[\w+-]{12,40}$|[A-Z]{2}::/i;

/** The signs in one value. Linear in its length. */
export function inspect(said: string, place: Place, skip: Skip = none, depth = 0): readonly Sign[] {
  if (said.length < 2) return clean;
  let text = said;
  let characters = charactersIn(text);
  // One short word: most keys and many values.
  if ((characters & ~(has.letter | digit)) === 0 && text.length < 9 && text.charCodeAt(0) !== 0x5f) return clean;
  if ((characters & has.gap) !== 0) {
    text = squeeze(said);
    characters = charactersIn(text);
  }
  if (
    (characters & harmless) === 0 &&
    text.length <= maxHarmless &&
    !words.test(text) &&
    (place !== 'name' || !/^__|prototype/.test(text))
  )
    return clean;
  const found = new Set<Sign>();
  const report = (sign: Sign): void => void found.add(sign);
  if (place === 'name') {
    // `$ne` and `__proto__` have no other characters.
    detectNosql(text, report, place, characters);
    detectCode(text, report, place, characters);
  }
  const value = jsonIn(text);
  // Deeper JSON is evaluated as text.
  if (value !== undefined && depth < maxJson) {
    inspectJson(value, place, skip, depth + 1, found);
    detectNosql(text, report, place, characters);
    detectCode(text, report, place, characters);
    return found.size === 0 ? clean : [...found];
  }
  if (!mayBeCoded(text, characters)) judge(text, characters, place, skip, report);
  else {
    const { texts, isEndless, isOverlong } = formsOf(text);
    if (isEndless) found.add(encoding.endless);
    if (isOverlong) found.add(encoding.overlong);
    for (const form of texts) judge(form, form === text ? characters : charactersIn(form), place, skip, report);
  }
  return found.size === 0 ? clean : [...found];
}

function judge(text: string, characters: number, place: Place, skip: Skip, report: (sign: Sign) => void): void {
  for (const { name, detect, needs } of table)
    if ((characters & needs) !== 0 && !skip(name)) detect(text, report, place, characters);
}

/** Spaces that fill the gap between two words: detectors look ahead a limited distance. */
function squeeze(text: string): string {
  return text.replaceAll(/\s{5,}/g, (blanks) => (/[\n\r]/.test(blanks) ? '\n' : ' '));
}

/** JSON in JSON is read up to this depth. */
const maxJson = 3;

/** A list or an object, if all parsers read the text alike: its keys and strings are values of their own. */
function jsonIn(text: string): object | undefined {
  if (text[0] !== '{' && text[0] !== '[') return undefined;
  const read = readJsonText(text);
  return 'value' in read ? (read.value as object) : undefined;
}

function inspectJson(value: unknown, place: Place, skip: Skip, depth: number, found: Set<Sign>): void {
  const open: unknown[] = [value];
  while (open.length > 0) {
    const one = open.pop();
    if (typeof one === 'string') for (const sign of inspect(one, place, skip, depth)) found.add(sign);
    else if (Array.isArray(one)) for (const item of one) open.push(item);
    else if (typeof one === 'object' && one !== null)
      for (const [key, item] of Object.entries(one)) {
        for (const sign of inspect(key, 'name', skip, depth)) found.add(sign);
        open.push(item);
      }
  }
}

const clean: readonly Sign[] = Object.freeze([]);

/** The highest score of a detector: each of its rules counts once, up to the paranoia level. */
export function scoreOf(found: Iterable<Sign>, level: number): number {
  const sums = new Map<DetectorName, number>();
  for (const sign of found)
    if (sign.level <= level) sums.set(sign.detector, (sums.get(sign.detector) ?? 0) + sign.score);
  return Math.max(0, ...sums.values());
}
