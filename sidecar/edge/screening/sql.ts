// SQL injection: text that continues as SQL where a statement holds a value. The value may be bare, or in quotes that
// the text closes; the rest must continue an expression or begin a clause, a comment or a statement. Text is matched by
// the shape of its tokens, not by words alone, so that prose with `select`, `or` and an apostrophe passes.

import { type Detect, type Sign, signsOf } from './finding.ts';
import { type Dialect, readSql, type SqlShape } from './sql-tokens.ts';

const signs = signsOf('sql', {
  tautology: [5],
  comparison: [3],
  union: [5],
  subquery: [5],
  stacked: [5],
  statement: [5],
  query: [3],
  function: [5],
  'function-name': [3],
  catalogue: [4],
  'quote-comment': [5],
  'quote-condition': [5],
  'quote-word': [3],
  'quote-clause': [5],
  'quote-operator': [2],
  'quote-statement': [5],
  'quote-empty': [5],
  'quote-end': [2, 2],
  condition: [5],
  clause: [5],
  'inline-comment': [3],
  probe: [3, 2],
});

type Rule = keyof typeof signs;

/** Tokens that close a value or hide the rest. */
const strong = /['"`#;@]|--|\/\*|\|\||&&/;

/** With a number, a bracket or a comparison, but without those: one of these words. */
const needed =
  /\b(?:union|select|x?or|and|order|group|having|waitfor|drop|truncate|shutdown|exec(?:ute)?|limit|where|create|alter|r?like|is|in|insert|delete|update|procedure|offset|for\s+xml|sleep|declare|begin|grant|call|between|case|if|regexp|div|copy|show|backup|attach|pg_\w+|xp_\w+|sp_\w+|dbms_\w+|utl_\w+|benchmark|extractvalue|updatexml|load_file)\b|^\s*[\d(]+\s*=/i;

/** Words alone: a statement as a whole. */
const statement =
  /\b(?:drop|truncate|shutdown|exec(?:ute)?|create|alter|insert|delete|update|grant|union|select|copy|backup|show)\s/i;

/** Tokens that can follow a closed quote: anything else is a syntax error. */
const goesOn =
  /^\s{0,60}(?:$|(?:x?or|and|not|i?like|r?like|regexp|glob|similar|sounds|in|is|between|union|intersect|except|minus|order|group|having|limit|offset|procedure|into|for|where|div|mod|collate|returning|fetch|match|binary|select(?=\s{1,9}[^\n]{1,200}\sfrom\s))(?![a-z_])|\d{1,20}(?:x?or|and|like|union)\b)/i;

/** A table of shapes, and one expression for all of them: most texts have none. */
interface Shapes {
  readonly any: RegExp;
  readonly rows: readonly (readonly [rule: Rule, shape: RegExp])[];
}

function shapesOf(rows: Shapes['rows']): Shapes {
  return { any: new RegExp(rows.map(([, { source }]) => `(?:${source})`).join('|')), rows };
}

const literal = '[1sz]';
/** One item of the list of a SELECT. */
/** One item of the list of a SELECT. */
const item = '(?:[o1s]|n(?:\\.[no])?|f\\([^)]{0,30}\\))';

/** Shapes anywhere in the text, each with the kinds without which it is not there: one of each. */
const anywhere: readonly (readonly [rule: Rule, shape: RegExp, needs: readonly string[]])[] = [
  // `or 1=1`, `having 'a'='a'`, also in the bounds of a CASE: constants are compared.
  ['tautology', new RegExp(`[&BWi][(!o]{0,8}${literal}\\){0,4}=[(!o]{0,8}[1szt]`), ['&BWi', '=']],
  ['tautology', /[&BWi][(!]{0,8}s~!?[(o!]{0,4}[szt1]/, ['s', '~']],
  ['tautology', /[BW][(!]{0,4}[1s]<[1s]/, ['BW', '<']],
  ['tautology', /&[(!o]{0,6}[1s]\){0,3}<[(]{0,3}[1s]\){0,4}c/, ['&', '<', 'c']],
  ['tautology', /[if]\({1,4}[1sg][=<][1s]/, ['if', '=<', '(']],
  ['union', /Uk{0,2}\({0,4}Ek{0,3}(?:[1stzFSgifvo(!E]|n(?:[,(.oW=;c)&])|[,.])/, ['U', 'E']],
  ['subquery', /\(E(?:k1?){0,3}(?:[stzFSgifv(oT]|1[,)Wco=;]|n(?:[,(.o]|W[nT(](?:$|[^n]))|\.?T)/, ['(', 'E']],
  ['subquery', /[=<~&]!?E(?:k1?){0,3}(?:[1sFSgvf(]|n(?:,|\.n|W[n(]))/, ['E', '=<~&']],
  ['stacked', /;[(;]{0,4}(?:D|F|Ek{0,3}(?:[1stzFSgifvo(]|n(?:[,(.o=;c]|Wn(?:$|[^n])))|i\(?[1sg])/, [';', 'DFEi']],
  ['function', /[&oE,=<(BWi!~]!?[(]{0,4}S\(/, ['S']],
  ['function', /^1?[()&;o,]{0,4}S\([1s(F][\s\S]{0,20}\)[)]{0,4}[c;&]/, ['S']],
  ['function', /F[n.]{0,4}\(|F\.n\.?n?\(/, ['F']],
  ['function', /DF/, ['F']],
  ['function', /[&=<!,][(!o]{0,4}g\(\)/, ['g']],
  ['function', /g\(\)[=<~]|[Eo]k?g[(),;cW]/, ['g']],
  ['function', /&[(!o]{0,4}f\({1,4}(?:[fgFSET]|!?E|n?\.?T)/, ['&', 'f']],
  ['function', /f\(1\)[o&,]f\(1/, ['f']],
  ['catalogue', /T\.[nT]|WT/, ['T']],
  ['condition', /i[(]{0,3}[(1sgn!][^W]{0,30}[=<~][^W]{0,30}i[1s(nvFSgt][\s\S]{0,40}i/, ['i']],
];

/** The tokens after the quote that the text closes. */
const behindQuote = shapesOf([
  ['quote-comment', /^[);]{0,8}c/],
  ['quote-condition', /^\){0,8}&[!(o~]{0,8}(?:1(?!z$)|[svztFSgfTi(]|n(?:[=<~(.o)&]|!~))/],
  ['quote-condition', /^\){0,8}(?:!?~|[=<])[(!o]{0,6}(?:[1szvtFSgf(E]|$)/],
  ['quote-condition', /^\){0,8}o[o(!]{0,4}(?:[FSgfEiv(T]|[1s]{1,2}\)?[&c=U])/],
  ['quote-word', /^\){0,8}&[!(]?n?$/],
  ['quote-clause', /^\){0,8}(?:B|U[kE(]|W(?:1|n[=<~]))/],
  ['quote-statement', /^\){0,8};[;(]{0,3}[DEi]/],
  ['quote-statement', /^Ek{0,2}[no1](?:,[no1]){0,30}W(?:T|nW[^(]{0,20}\(E)/],
  ['quote-statement', /^\){0,8};{1,4}c/],
  ['quote-empty', /^(?:o{1,2}s)?o{1,2}[sz]$/],
  ['quote-operator', /^\){0,8}[o&.][(o]{0,4}[1szn(]/],
  ['quote-operator', /^\){1,8}[;z]?$|^;$/],
  ['quote-end', /^$/],
]);

/** The text as a whole, where the value stands bare. */
const whole = shapesOf([
  ['statement', /^[1s]?\){0,4}[;(]{0,3}D/],
  [
    'statement',
    new RegExp(`^[(]{0,3}Ek{0,2}(?:[FSgTv]|1(?:$|[,c;])|${item}(?:,${item}){0,60}Wn(?:\\.n){0,3}(?:[cU]|;c))`),
  ],
  ['query', new RegExp(`^[(;]{0,3}E(?:k1?){0,3}${item}(?:,${item}){0,60}W`)],
  // `1 or true`, `x) and 2>1 --`, `1 or 1 like 1`.
  [
    'condition',
    /^[!o]{0,2}[1snvt]?\){0,6}&[!(o]{0,8}[1stv]\){0,4}(?:[=<]|~{1,2})!?[(]{0,4}[1stvz]\){0,4}(?:&[1s]\){0,4})?(?:;?c|;?$)/,
  ],
  ['condition', /^[!o]{0,2}[1snv]?\){0,6}&[!(o]{0,8}[1tsnv]\){0,4};?c/],
  ['condition', /^[!o]{0,2}[1s]\){0,6}&[!(o]{0,8}t[c;)]{0,3}$/],
  ['condition', /^[1sz]?\){1,6}&/],
  ['condition', /^1ot$/],
  ['condition', /^o?1\){0,6}&[!(o]{0,8}1(?:o{1,2}1){1,30}[=<]1(?:o{1,2}1){0,30}[;c]/],
  ['condition', /^o?[1s]\){0,6}&[(!o]{0,4}v:?[=<]/],
  ['condition', /^o?1\){0,6}&[!(o]{0,8}n\){0,4}(?:[=<]|!?~)[(!]{0,4}[1stzn]/],
  ['condition', /^o?1\){0,6}[=<~o&]{0,2}[(!]{0,4}(?:[FS]|f\()/],
  ['condition', /^&[!(o]{0,8}(?:[1sv][=<]|t$|[1sv][c;])/],
  ['clause', /^o?[)1sn]{0,8}B[1n(o,]{0,40};?c/],
  ['clause', /^[(!]{0,3}o?1\){0,6}B/],
  ['clause', /^Bn1(?:,1){0,200}[c;]?$/],
  ['clause', /^1nB(?:1|n1)/],
  ['clause', /^o?1\){0,6}U[kE(]/],
  ['comparison', /^[(]?[1s]\)?=[(o]{0,3}[1s]\)?[c;]?$/],
]);

/** `or x=x`: a name is compared with itself. */
function comparesWithItself({ kinds, wordAt }: SqlShape): boolean {
  for (let at = kinds.indexOf('='); at > 0; at = kinds.indexOf('=', at + 1))
    if (
      kinds[at - 1] === 'n' &&
      kinds[at + 1] === 'n' &&
      wordAt(at) === '=' &&
      wordAt(at - 1) === wordAt(at + 1) &&
      /[&WB(]/.test(kinds[at - 2] ?? '')
    )
      return true;
  return false;
}

/** `1 or 0x31`, `1 or(1)`, `order by 2 desc`: too short to tell from prose by their shape alone. */
function isShort(text: string, { kinds, wordAt }: SqlShape): boolean {
  if (/^o?1&\(?1\)?$/.test(kinds)) return /\b0x|\de\d|(?:or|and)\(/i.test(text);
  return /^Bn1n$/.test(kinds) && /^(?:asc|desc)$/.test(wordAt(3));
}

/** `1--`, `admin-- -`, `7 #`: a comment with nothing in it hides the rest of the statement. */
const bareComment = /^\s{0,9}(?:-?\d{1,20}|\w{1,40}(?=--|\/\*))\)*\s{0,9};?\s{0,9}(?:--[\s+-]{0,20}|#\s{0,9}|\/\*)$/;

export const detectSql: Detect = function detectSql(text, report) {
  if (!strong.test(text) && !(/[\d(=<>*]/.test(text) ? needed : statement).test(text)) return;
  const found = new Set<Sign>();
  const differs = /#|\\|--[^\s]/.test(text);
  judge(text, 'ansi', found);
  if (differs) judge(text, 'mysql', found);
  if (text.includes('/*')) {
    const plain = withoutComments(text);
    if (plain !== text) judge(plain, 'mysql', found);
  }
  if (bareComment.test(text)) found.add(signs.clause);
  for (const sign of found) report(sign);
};

/** With a blank for each comment, so that words stand as near as they do for a parser. Linear. */
function withoutComments(text: string): string {
  let plain = '';
  let at = 0;
  for (let from = text.indexOf('/*'); from !== -1; from = text.indexOf('/*', at)) {
    const end = text.indexOf('*/', from + 2);
    if (end === -1) break;
    // MySQL and MariaDB run what is in /*! */ and /*M! */.
    const runs = /^\/\*M?!\d{0,6}/.exec(text.slice(from, from + 10))?.[0];
    plain += text.slice(at, from) + (runs === undefined ? ' ' : ` ${text.slice(from + runs.length, end)} `);
    at = end + 2;
  }
  return plain + text.slice(at);
}

function judge(text: string, dialect: Dialect, found: Set<Sign>): void {
  const bare = readSql(text, 0, dialect);
  find(whole, bare, found);
  if (bare.kinds.length < 8 && isShort(text, bare)) found.add(signs.condition);
  findAnywhere(bare, found);
  for (const quote of quotes) {
    const at = text.indexOf(quote);
    if (at === -1) continue;
    const next = text.slice(at + 1, at + 80);
    if (/^\s{0,60}(?!\s)[\w\u0080-\uffff]/.test(next) && !goesOn.test(next)) continue;
    const rest = readSql(text, at + 1, dialect);
    if (isProse(text, at, rest)) continue;
    find(behindQuote, rest, found);
    findAnywhere(rest, found);
  }
}

const quotes = ["'", '"', '`'] as const;

/** The kinds of tokens in the current text. */
const present = new Uint8Array(128);

function isPresent(kinds: string): boolean {
  for (let at = 0; at < kinds.length; at++) if (present[kinds.charCodeAt(at)] === 1) return true;
  return false;
}

function findAnywhere(shape: SqlShape, found: Set<Sign>): void {
  const { kinds } = shape;
  present.fill(0);
  for (let at = 0; at < kinds.length; at++) present[kinds.charCodeAt(at)] = 1;
  for (const [rule, expression, needs] of anywhere)
    if (!found.has(signs[rule]) && needs.every(isPresent) && expression.test(kinds)) found.add(signs[rule]);
  if (comparesWithItself(shape)) found.add(signs.tautology);
  if (shape.hasInlineComment && /[&UEDBW=]/.test(shape.kinds)) found.add(signs['inline-comment']);
}

function find({ any, rows }: Shapes, { kinds }: SqlShape, found: Set<Sign>): void {
  if (!any.test(kinds)) return;
  for (const [rule, shape] of rows) if (!found.has(signs[rule]) && shape.test(kinds)) found.add(signs[rule]);
}

/** `the boys' -- all of them`, `dogs' #1 toy`: a sentence goes on. */
function isProse(text: string, at: number, { kinds, wordAt }: SqlShape): boolean {
  if (kinds[0] !== 'c' || text[at + 1] !== ' ') return false;
  const said = wordAt(0).replace(/^(?:--|#)/, '');
  return /^ ?[\w ,.!]{1,200}$/.test(said) && said.trim().split(' ').length > 1;
}
