// Cross-site scripting: text that becomes markup with a script where a page holds a value. The value may stand between
// tags, in an attribute's value that the text closes, in a URL, or in a script's string that the text closes. Markup
// without a script passes: people send HTML.

import { has } from './characters.ts';
import { type Detect, type Sign, signsOf } from './finding.ts';

const signs = signsOf('xss', {
  'script-tag': [5],
  'event-handler': [5],
  'script-url': [5],
  'active-tag': [5],
  'style-script': [5],
  'attribute-breakout': [5],
  'bare-handler': [4],
  'script-breakout': [5],
  'script-call': [3],
  'script-source': [5],
  'symbols-only': [5],
  dangling: [5],
  tag: [2, 2],
});

/** A tag, as far as its attributes go; a slash separates them as a blank does (WHATWG HTML section 13.2.5.32). */
const tagStart = /<\0{0,4}[/?!]?[\0]{0,4}([a-z][a-z0-9:_-]{0,40})/gi;
const handler = /(?:^|[\s\0/"'`,;\v\u00a0?<>)])on[a-z]{3,45}[\s\0\v/+]{0,20}=/i;
const scriptUrl =
  /(?:^|[\0-\x20"'`=(,:;/\]>])(?:j[\s\0-\x20]{0,8}a[\0-\x20]{0,8}v[\0-\x20]{0,8}a|v[\0-\x20]{0,8}b|l[\0-\x20]{0,8}i[\0-\x20]{0,8}v[\0-\x20]{0,8}e)[\0-\x20]{0,8}s[\0-\x20]{0,8}c[\0-\x20]{0,8}r[\0-\x20]{0,8}i[\0-\x20]{0,8}p[\0-\x20]{0,8}t[\0-\x20]{0,8}:(?![ ][a-z]{1,20}[ ,.][\w ,.'!?]{0,200}(?:\n|$))[\s\0]{0,8}(?!\s*(?:void\(0\)|;)?['"]?>?\s*$)/i;
const dataUrl =
  /data:[\s\0]{0,4}(?:text\/html|image\/svg\+xml|text\/xml|application\/xhtml|text\/javascript|application\/(?:x-)?javascript|[^,;\s]{0,40};base64,[^\s"']{0,20}(?:PHN|PHs|PFN))|data:[\s\0]{0,4},[^\s]{0,40}(?:alert|<)/i;
const activeTags: ReadonlySet<string> = new Set(
  'script iframe frame frameset object embed applet base isindex xml import layer ilayer bgsound xss portal fencedframe'.split(
    ' ',
  ),
);
/** Active with an attribute that loads or runs something. */
const attributeTags: ReadonlySet<string> = new Set(
  'meta link form svg math use animate set image handler foreignobject'.split(' '),
);
const activeAttribute =
  /[\s/"'](?:http-equiv[\s]{0,9}=[\s"'\0]{0,9}(?:refresh|set-cookie|content-security)|rel[\s]{0,9}=[\s"'\0]{0,9}(?:stylesheet|import|preload|prefetch|manifest)|srcdoc[\s]{0,9}=|formaction[\s]{0,9}=|dynsrc[\s]{0,9}=|lowsrc[\s]{0,9}=|(?:xlink:)?href[\s]{0,9}=[\s"'\0]{0,9}(?:data:|[^"'\s>]{0,200}\.js\b|#[^\s"'>]{0,40}["'\s]{0,3}(?:attributename|values))|attributename[\s]{0,9}=[\s"'\0]{0,9}(?:on|(?:xlink:)?href)|(?:from|to|values)[\s]{0,9}=[\s"'\0]{0,9}(?:javascript|data:|on))/i;
const styleScript =
  /(?:expression[\s\0/*\\]{0,9}\(|-moz-binding[\s\0]{0,9}:|behaviou?r[\s\0]{0,9}:[\s\0]{0,9}url|@import[\s\0]{0,9}["'(u]|url[\s\0]{0,4}\([\s"'\0]{0,4}(?:javascript|data:text))/i;

/** Names that scripts in attacks call or read. */
const call =
  /(?:^|[^a-z0-9_$.])(?:(?:window|self|top|parent|this|globalThis|frames|document|content)[\s]{0,4}(?:\.|\[)[\s]{0,4}['"/]?)?(?:alert|confirm|prompt|eval|\(\s{0,4}(?:alert|confirm|prompt|eval)\s{0,4}\)|setTimeout|setInterval|execScript|importScripts|fetch|print(?=\s{0,4}(?:\(\s{0,4}\)|`))|msWriteProfilerMark|atob)[\s]{0,9}(?:\(|`|['"]\s{0,4}\]|\?\.\(|\/\*[^*]{0,40}\*\/)/;
/** The same, passed on, called by another or assigned to what is called: `[1].find(alert)`, `onerror=alert`. */
const indirect =
  /(?:\.\s{0,4}(?:find|map|forEach|some|every|filter|sort|reduce|call|apply|bind|replace|then|from)\s{0,4}\(?.{0,40}[(,`]\s{0,4}(?:\w{1,20}\.){0,3}(?:alert|confirm|prompt|eval)\b|\b(?:alert|confirm|prompt|eval)\s{0,4}\.\s{0,4}(?:call|apply|bind)\b|=\s{0,4}(?:alert|confirm|prompt|eval)\b\s{0,4}[,;)/]|(?:^|\W)(?:top|self|window|parent|frames|this|globalThis|document)\s{0,4}\[[^\]\n]{1,80}\]\s{0,4}[(`[=])/;
const source =
  /document[\s\0]{0,4}(?:\.|\[['"])[\s\0]{0,4}(?:cookie|domain|write(?:ln)?|location|body\.innerHTML|documentElement|createElement|referrer)|(?:^|[^\w.])location[\s]{0,4}\.[\s]{0,4}(?:hash|search)\b|(?:window|self|top|parent|document|this)[\s]{0,4}\.[\s]{0,4}location[\s]{0,4}(?:=|\.(?:href|assign|replace))|(?:^|[^\w.])location[\s]{0,4}=[\s]{0,4}['"`\w]|(?:local|session)Storage\.|String\.fromCharCode|\.constructor[\s]{0,4}(?:\(|\.constructor)|\[['"]constructor['"]\]|innerHTML[\s]{0,4}=|\.(?:src|href)[\s]{0,4}=[\s]{0,4}['"](?:https?:)?\/\/|new[\s]{1,9}(?:Image|ActiveXObject|XMLHttpRequest|Function)\b|\bimport\s{0,4}\(/;

/** Leaves a string, a call, a template or a block of a script, and goes on. */
const leaves =
  /(?:^\\{0,3}|[^\\])['"`](?!``)[\s)\]}]{0,12}(?:[-+*/%^&|<>,?:;=.]|in\b|instanceof\b)[\s\S]{0,200}|^[\s]{0,4}[)\]};,]{1,9}|\*\/|\\u2028|\$\{|^[-+!;]|['"][\s)\]}]{0,12}[a-z]{2,12}[\s]{0,4}[(`]/i;

/** The value of an attribute does not end, and is the address of another host; or a style asks for one by a value. */
const dangling =
  /<(?:img|a|base|meta|link|form|iframe|input|area|image)\b[^<>]{0,200}=\s{0,4}["']?[^"'<>]{0,40}(?:https?:)?\/\/[^"'<>\s]{1,200}[?=&/]$|<style[^<]{0,400}\[[a-z-]{1,20}\s{0,4}[*^$|~]=[^\]]{0,40}\][^{}]{0,40}\{[^}]{0,100}url\(/i;

/** One of these is in each script that `call`, `indirect` and `source` know. */
const scriptWord =
  /alert|confirm|prompt|eval|Timeout|Interval|Script|fetch|print|msWrite|atob|Function|document|location|Storage|fromCharCode|onstructor|innerHTML|\.(?:src|href)|new\s|import|(?:top|self|window|parent|frames|[tT]his)\s{0,4}\[/;

const { angle, colon, equals, at, round, square, dollar } = has;

export const detectXss: Detect = function detectXss(text, report, _place, characters) {
  for (const sign of judge(text, characters)) report(sign);
};

const nothing: ReadonlySet<Sign> = new Set();

function judge(text: string, characters: number): ReadonlySet<Sign> {
  const isScript = scriptWord.test(text);
  if (!isScript && (characters & (angle | colon | equals | at | round | square | dollar)) === 0) return nothing;
  const found = new Set<Sign>();
  const isCalling = isScript && (call.test(text) || indirect.test(text) || /(?:^|\W)Function\s{0,4}[(`]/.test(text));
  const isReading = isScript && source.test(text);
  if ((characters & angle) !== 0 && text.includes('<')) judgeTags(text, found, isCalling || isReading);
  if ((characters & colon) !== 0 && scriptUrl.test(text)) found.add(signs['script-url']);
  if ((characters & colon) !== 0 && dataUrl.test(text)) found.add(signs['script-url']);
  if ((characters & equals) !== 0 && handler.test(text)) judgeHandlers(text, found, isCalling || isReading);
  if ((characters & (colon | at | round)) !== 0 && styleScript.test(text) && /style|<|-moz-|;|:/i.test(text)) {
    if (/style[\s]{0,9}=|<style|<[a-z]/i.test(text) || /expression\s{0,9}\(|-moz-binding/i.test(text))
      found.add(signs['style-script']);
  }
  if ((isCalling || isReading) && leaves.test(text) && !isProgram(text)) found.add(signs['script-breakout']);
  if (isReading) {
    found.add(signs['script-call']);
    if (
      /(?:^|[;\s('"])(?:eval|alert|confirm|prompt|fetch|write|src|open)\b.{0,80}(?:document|location|cookie|localstorage)|document\.cookie\s{0,4}\+|\+\s{0,4}document\.cookie/i.test(
        text,
      )
    )
      found.add(signs['script-source']);
  }
  if (isCalling) found.add(signs['script-call']);
  if (
    isCalling &&
    /^[\s(]{0,9}(?:(?:window|self|top|parent|this|globalthis)\s{0,4}[.[])?['"]?(?:alert|confirm|prompt|eval)\b['"\])]{0,4}\s{0,9}[(`][\s\S]{0,120}[)`];?[\s/]{0,9}$/i.test(
      text,
    )
  )
    found.add(signs['script-source']);
  // A script without a space is not a sentence.
  if (isScript && text.length < 200 && !/\s/.test(text) && indirect.test(text)) found.add(signs['script-source']);
  // Markup that sends what follows it to another host.
  if ((characters & angle) !== 0 && dangling.test(text)) found.add(signs.dangling);
  if ((characters & (square | dollar)) !== 0 && isSymbolsOnly(text)) found.add(signs['symbols-only']);
  return found;
}

/** Several statements with declarations are a piece of a program, which people paste. */
function isProgram(text: string): boolean {
  return (
    /(?:^|\n)\s{0,40}(?:const|let|var|function|import|def|class|public|private|return|if|for|while|async|export|\/\/|console\.)\b|=>\s{0,4}[{(\w]/.test(
      text,
    ) && !/^\s{0,9}(?!```)['"`)\]};-]/.test(text)
  );
}

/** Characters of tags that are looked at: tags that do not end lie in each other, and are read again and again. */
const tagBudget = 65_536;

function judgeTags(text: string, found: Set<Sign>, isScripted: boolean): void {
  let left = tagBudget;
  tagStart.lastIndex = 0;
  for (let match = tagStart.exec(text); match !== null; match = tagStart.exec(text)) {
    const name = match[1]!.toLowerCase();
    const from = match.index + match[0].length;
    const isEnd = /^<\0{0,4}\//.test(match[0]);
    if (left <= 0) {
      // No page has so many open tags: the rest is evaluated as one.
      const rest = text.slice(match.index);
      if (isHandler(rest, isScripted)) found.add(signs['event-handler']);
      if (/<\/?(?:script|iframe|object|embed|applet|base|frame)\b/i.test(rest)) found.add(signs['active-tag']);
      break;
    }
    const rest = text.slice(from, from + 2000);
    // Quotes may hide the end of the tag from one parser and not from another: both readings are checked.
    const attributes = rest.slice(0, endOfTag(rest));
    left -= name === 'script' || name === 'style' ? 2000 : attributes.length;
    found.add(signs.tag);
    if (isEnd && name === 'script' && (isScripted || /<|;|on[a-z]{3,45}=/i.test(rest))) found.add(signs['script-tag']);
    if (isHandler(attributes, isScripted)) found.add(signs['event-handler']);
    if (isEnd || match[0][1] === '?') continue;
    const local = name.slice(name.lastIndexOf(':') + 1);
    // Attributes that frameworks run as a handler.
    if (isScripted && frameworkHandler.test(` ${attributes}`)) found.add(signs['event-handler']);
    if (local === 'script') {
      if (
        isScripted ||
        /[\s/"'](?:src|href|xlink:href)[\s\0]{0,9}=/i.test(attributes) ||
        /^[^>]{0,200}>?[^<]{0,400}[(=`;[+]/.test(rest) ||
        /<\s{0,4}\/script/i.test(rest) ||
        rest.trim() === '' ||
        /^\s{0,9}>?\s{0,9}$/.test(rest)
      )
        found.add(signs['script-tag']);
    } else if (activeTags.has(local)) {
      if (/=|^[\s/]{0,9}>?$/.test(attributes) || isScripted) found.add(signs['active-tag']);
    } else if (attributeTags.has(local) && activeAttribute.test(` ${attributes}`)) found.add(signs['active-tag']);
    if (/[\s/"'](?:srcdoc|formaction)[\s\0]{0,9}=/i.test(attributes)) found.add(signs['active-tag']);
    if (local === 'style' && styleScript.test(rest)) found.add(signs['style-script']);
  }
  // Results of a browser's parser for broken markup.
  if (
    /<!\[CDATA\[[\s\S]{0,200}<|<!entity[\s%]|<\?xml-stylesheet|<!--\s{0,4}#(?:exec|include|echo|config|set)|<%[\s\S]{0,40}(?:alert|script)/i.test(
      text,
    )
  )
    found.add(signs['active-tag']);
  if (/<[^\sa-z0-9]{0,4}script/i.test(text) && isScripted) found.add(signs['script-tag']);
}

const frameworkHandler =
  /[\s/"'](?:ng-[a-z]{3,20}|v-(?:on|html|bind)|x-(?:on|init|html)|hx-on|@[a-z]{3,20})[^=\s>]{0,30}=/i;

/** Components of a user interface have `onClick={save}`. */
function isHandler(attributes: string, isScripted: boolean): boolean {
  return handler.test(isScripted ? attributes : attributes.replaceAll(/=\s{0,4}\{/g, ' '));
}

/** Where a tag's attributes end: at a `>` outside quotes, as browsers read it. */
function endOfTag(rest: string): number {
  let quote = '';
  for (let at = 0; at < rest.length; at++) {
    const one = rest[at]!;
    if (quote !== '') {
      if (one === quote) quote = '';
    } else if ((one === '"' || one === "'") && isBehindEquals(rest, at)) quote = one;
    else if (one === '>') return at;
  }
  return rest.length;
}

/** True if blanks at most are between an equals sign and this place. */
function isBehindEquals(text: string, at: number): boolean {
  let before = at - 1;
  while (before > at - 10 && text.charCodeAt(before) <= 0x20) before--;
  return text[before] === '=';
}

/** A handler without its tag: text in an attribute's value, quoted or bare. */
function judgeHandlers(text: string, found: Set<Sign>, isScripted: boolean): void {
  if (
    /["'`][\s\0/>)]{0,20}(?:[a-z-]{1,20}(?:=["']?[^"'\s]{0,40})?["'\s/]{1,9}){0,6}on[a-z]{3,45}[\s\0/]{0,20}=/i.test(
      text,
    )
  ) {
    if (isScripted || !/<[a-z]/i.test(text)) found.add(signs['attribute-breakout']);
  }
  if (isScripted || /on[a-z]{3,45}[\s\0/]{0,20}=[\s"'`]{0,9}[\w.[\]$]{1,60}\s{0,4}[(`=]/i.test(text)) {
    found.add(signs['bare-handler']);
    if (isScripted && !isProgram(text)) found.add(signs['attribute-breakout']);
  }
}

/** A program without letters: `[][(![]+[])[+[]]]`. */
function isSymbolsOnly(text: string): boolean {
  if (text.length < 40) return false;
  const symbols = text.replace(/[^[\]()!+{}$_~=;"'\\/,.-]/g, '').length;
  return symbols / text.length > 0.9 && /\[\]|\(!|\+\[|\$\$|\+!/.test(text) && /\)\(|\]\(|\]\[/.test(text);
}
