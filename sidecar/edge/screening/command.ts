// Command injection: text that ends one shell command and begins another. The text is split as a shell does. A word
// after a separator or in a substitution must be a command with arguments, whatever quotes and escapes are in
// its name.

import { has } from './characters.ts';
import { type Detect, signsOf } from './finding.ts';
import { ambiguous, commands, probes, snippets } from './shell-words.ts';

const signs = signsOf('command', {
  chain: [5],
  substitution: [5],
  evasion: [5],
  reverse: [5],
  windows: [5],
  bare: [4],
  function: [5],
});

const needed =
  /[;|&`\n\r$]|[<>]\(|\/bin\/|\/dev\/tcp|powershell|cmd|comspec|\^|\b(?:wget|curl|nc|bash|ping|cat|whoami|sh)\b/i;

const reverse =
  /\/dev\/(?:tcp|udp)\/|\bmkfifo\s{1,9}\/|\b(?:nc|ncat|netcat)(?:\.exe|\.traditional)?\s{1,9}(?:-\w{1,8}\s{1,9}){0,4}[^\n]{0,80}-e\b|\bbash\s{1,9}-[ic]|(?:\bsh|bash)\s{1,9}-i\b|0<&\d|>&\s{0,2}\/dev|import\s{1,9}(?:socket|pty)\b[^\n]{0,300}(?:connect|spawn)|perl\s{1,9}-e\b|python[23]?\s{1,9}-c\b|ruby\s{1,9}-[re]{1,4}\b|php\s{1,9}-r\b|\|\s{0,9}(?:\/bin\/)?(?:ba|z|da|k)?sh\b\s{0,9}(?:$|[;&|"'`)#-])/i;
const windows =
  /\bpowershell(?:\.exe)?\s{1,9}[-/]\w|\bcmd(?:\.exe)?\s{1,9}\/[ck]\b|\bcertutil(?:\.exe)?\s{1,9}-|\bbitsadmin\s{1,9}\/|\bmshta\s{1,9}(?:http|vbscript|javascript)|\bregsvr32\s{1,9}\/|\b(?:invoke-expression|invoke-webrequest|iex)\b\s{0,9}\(|new-object\s{1,9}(?:system\.)?net\.webclient|downloadstring\(|\bwmic\s{1,9}(?:process|os)|\bnet\s{1,9}(?:user|localgroup|view)\b\s{0,9}(?:\/|\w{1,30}\s{1,9}\S{1,40}\s{1,9}\/|$)|%comspec%|^[=@+-][^\n]{0,100}(?:cmd|powershell|mshta)\|/i;
/** PowerShell commands after a separator. */
const cmdlet =
  /[;|&]\s{0,9}(?:get-(?:process|childitem|content|service|wmiobject|ciminstance|item|credential|host|location)|invoke-\w{3,30}|start-process|new-object|remove-item|stop-(?:process|computer)|test-(?:net)?connection|write-(?:host|output)|set-content|restart-computer)\b/i;
/** Spaces and letters that a shell supplies. */
const evasion =
  /\$\{?IFS\}?|\{[a-z/]{2,20},[^}\s]{1,100}\}|\$\{(?:PATH|HOME|PWD|SHELL|LS_COLORS)(?::\d|#|%)|(?:^|[\s;|&`(])\/(?:\?{1,3}[a-z]{0,2}|[a-z]{1,3}[?*][a-z]{0,3}|\w{0,3}\?{1,3}\w{0,3})\/[a-z?*[\]\d]{1,20}[?*[][\w?*]{0,20}|\$@[a-z]{1,10}\b|\b[a-z]{1,8}\$@[a-z]|\b[a-z]{1,6}\$\*[a-z]{1,6}|\$\(\((?:\d|\w)|\$'\\x|\bxxd\s{1,9}-r\b|base64\s{1,9}-{1,2}d|(?:[a-z]\^){3}/i;

/** Words of which each shape above contains one. */
const shellWord = /sh\b|nc|\/dev|mkfifo|<&|>&|import|perl|python|ruby|php/i;
const windowsWord = /powershell|comspec|cmd|certutil|bitsadmin|mshta|regsvr32|invoke-|iex|net|wmic|downloadstring/i;

const { separator: separators, lineBreak, dollar, backquote, curly, star, rest, angle, round, minus } = has;

export const detectCommand: Detect = function detectCommand(text, report, _place, characters) {
  if ((characters & (separators | lineBreak | dollar | backquote)) === 0 && !needed.test(text)) return;
  if (shellWord.test(text) && reverse.test(text)) report(signs.reverse);
  if (windowsWord.test(text) && windows.test(text)) report(signs.windows);
  if ((characters & separators) !== 0 && (characters & minus) !== 0 && cmdlet.test(text)) report(signs.windows);
  if (
    (characters & round) !== 0 &&
    (characters & curly) !== 0 &&
    /\(\s{0,9}\)\s{0,9}\{\s{0,9}[:_]?\s{0,9};?\s{0,9}\}\s{0,9}[;>]/.test(text)
  )
    report(signs.function);
  if (
    ((characters & (dollar | curly | star | rest)) !== 0 || /xxd|base64/i.test(text)) &&
    evasion.test(text) &&
    (/[;|&`]/.test(text) || /\$\{?IFS/i.test(text) || commandOf(text) !== undefined)
  )
    report(signs.evasion);
  if ((characters & (dollar | backquote | angle)) !== 0 && hasSubstitution(text)) report(signs.substitution);
  if ((characters & (separators | lineBreak)) !== 0 && hasChain(text, characters)) report(signs.chain);
  else if (isBare(text)) report(signs.bare);
};

/** The first word without the characters that a shell removes: quotes, backslashes, empty expansions, the directory. */
function wordOf(raw: string): string {
  return raw
    .replace(/\$(?:@|\*|\{\w{0,8}\}|[1-9])/g, '')
    .replace(/['"\\^]/g, '')
    .replace(/^[(@{!]{1,4}/, '')
    .replace(/^.{0,200}[/\\]/, '')
    .replace(/\.(?:exe|com|bat)$/i, '')
    .replace(/[)};,]{1,4}$/, '')
    .toLowerCase();
}

interface Words {
  readonly word: string;
  readonly raw: string;
  readonly rest: string;
}

function commandOf(segment: string): Words | undefined {
  const trimmed = segment.replace(/^[\s('"]{1,20}/, '').replace(/^(?:\w{1,20}=\S{0,40}\s{1,9}){1,3}/, '');
  const match = /^[^\s<>${]{1,120}|^[^\s<>]{1,120}/.exec(trimmed);
  if (match === null) return undefined;
  const raw = match[0];
  const word = wordOf(raw);
  const at = /^[a-z0-9_-]{1,20}/.exec(word)?.[0] ?? '';
  if (word !== at || (!commands.has(word) && !ambiguous.has(word))) return undefined;
  return { word, raw, rest: trimmed.slice(raw.length).replace(/["'\s]{0,9}(?:#.{0,80})?$/, '') };
}

/** True if arguments follow the word, not the rest of a sentence. */
function isCommandLine({ word, raw, rest }: Words, isStrong: boolean): boolean {
  if (/['"\\^]|\$/.test(raw.replace(/^["']|["']$/g, '')) || /\//.test(raw)) return true;
  const words = rest.trim();
  if (words === '') return probes.has(word) && (isStrong || !ambiguous.has(word));
  if (
    /^(?:-{1,2}[a-z]|[/~$>|&`*.]|<(?![/a-z])|\d{1,3}\b|https?:|\\|\+|"?\$|%\w|[a-z]:\\|[\w.-]{1,60}\.(?:txt|php|sh|py|conf|log|exe|com|net|org|io|test|html?|\d{1,3})\b)/i.test(
      words,
    )
  )
    return true;
  if (/\s-{1,2}[a-z]|[/\\~]\w|[<>|`$]/i.test(rest)) return !ambiguous.has(word) || isStrong;
  // A single argument: `cat secret`, `ls uploads`; but no sentence.
  return isStrong && commands.has(word) && !ambiguous.has(word) && !/\s/.test(words);
}

const separator = /\|\||&&|[;|&\n\r]/g;

const plainWord = /[\s('"]{0,20}([A-Za-z]{1,20})(?=[\s.,!?]|$|'(?:s|ll|re|ve|d|m|t)\b(?!'))/y;

/** True if a word is there that is not a command, as in most sentences. */
function isOtherWord(text: string, from: number): boolean {
  plainWord.lastIndex = from;
  const word = plainWord.exec(text)?.[1]?.toLowerCase();
  return word !== undefined && !commands.has(word) && !ambiguous.has(word);
}

function hasChain(text: string, characters: number): boolean {
  if ((text.includes('|') && isTable(text)) || (snippets.test(text) && !/\/etc\/|\/dev\/|\/tmp/.test(text)))
    return false;
  separator.lastIndex = 0;
  const isOneLine = (characters & lineBreak) === 0 || !/[\n\r]/.test(text.trim());
  for (let match = separator.exec(text); match !== null; match = separator.exec(text)) {
    if (match[0] === ';' && /&#?\w{1,8}$/.test(text.slice(Math.max(0, match.index - 10), match.index))) continue;
    const from = match.index + match[0].length;
    if (isOtherWord(text, from)) continue;
    const line = /[\n\r]/.test(match[0]);
    const segment = text.slice(from, from + 300);
    const next = segment.trimEnd().search(/\|\||&&|[;|&\n\r]/);
    const found = commandOf(next === -1 ? segment : segment.slice(0, next));
    if (found === undefined) continue;
    // A line break in a short value separates commands as a semicolon does.
    const isStrong =
      (isOneLine && !line) ||
      (line && text.length < 80 && next === -1 && !/\s/.test(text.slice(0, match.index).trim()));
    if (line && (isProseLine(found) || (!isStrong && !/\/(?:etc|bin|tmp|dev)\/|https?:|passwd/.test(segment))))
      continue;
    // `a | id`: nothing but the command; `salt; cut the onions`: a sentence.
    if (isCommandLine(found, isStrong && (next === -1 || !/^[|&]?\s?[a-z ]{1,40}$/i.test(segment.slice(next + 1))))) {
      if (match[0] === '&' && /^\w{1,20}=/.test(segment)) continue;
      return true;
    }
  }
  return false;
}

/** Lines of a text begin with words like `find` and `sort`. */
function isProseLine({ word, rest }: Words): boolean {
  return ambiguous.has(word) && !/^\s{1,9}[-/]/.test(rest) && rest.trim() !== '';
}

/** Rows of a table in Markdown. */
function isTable(text: string): boolean {
  return /^\s{0,9}\|[^\n|]{1,400}\|[^\n]{1,400}\|\s{0,9}$/m.test(text);
}

function hasSubstitution(text: string): boolean {
  for (const match of text.matchAll(/\$\(\s{0,9}([^()]{1,200})|`([^`\n]{1,200})`|[<>]\(\s{0,4}([^()]{1,200})/g)) {
    const inner = match[1] ?? match[2] ?? match[3]!;
    const found = commandOf(inner);
    if (found === undefined) continue;
    if (match[1] !== undefined) {
      if (/^\$\(\s{0,4}['"#.]/.test(match[0])) continue;
      return true;
    }
    // Markdown puts code between backticks: only a text that has little else is one.
    const around = text.length - inner.length - 2;
    if (
      match[2] !== undefined &&
      (around < 4 || !/\s\S{0,80}\s/.test(text.replace(match[0], ''))) &&
      isCommandLine(found, true)
    )
      return true;
  }
  return false;
}

/** A whole text that is one command with a path or a switch. */
function isBare(text: string): boolean {
  if (text.length > 300 || /\n\s{0,9}\S/.test(text)) return false;
  const found = commandOf(text.replace(/^[\s|&;"'`)]{1,9}/, ''));
  if (found === undefined) return false;
  return (
    /^\/(?:usr\/)?(?:s?bin)\//.test(text.trim()) ||
    (/^\s{1,9}(?:-\w|\/(?:etc|bin|tmp|var|dev|proc)\b|https?:\/\/)/.test(found.rest) &&
      commands.has(found.word) &&
      /etc|\/dev|\/bin|http|\/tmp|-c\s/.test(found.rest))
  );
}
