// Imported rules of OWASP CRS, compiled: transformations, and an operator in linear time.

import { RE2JS } from 're2js';
import type { CrsRule } from './crs-schema.ts';
import { formsOf } from './decode.ts';
import type { Place, Sign } from './finding.ts';

/** One compiled rule. Call `matches` only if `isAbout` is true; it is linear in the text. */
export interface CrsMatcher {
  readonly sign: Sign;
  /** Whether the rule reads values of this place under this name. */
  isAbout(place: Place, name: string): boolean;
  matches(text: string): boolean;
}

/** The rules up to a paranoia level. @throws Error for an expression that RE2 does not support. */
export function compileCrs(rules: readonly CrsRule[], level: number): readonly CrsMatcher[] {
  return rules.filter((rule) => rule.level <= level).map(compile);
}

function compile(rule: CrsRule): CrsMatcher {
  const names = rule.names === undefined ? undefined : new Set(rule.names);
  const notNames = new Set(rule.notNames);
  const test = operatorOf(rule);
  const steps = rule.transformations.map((name) => transformations[name]);
  return {
    sign: Object.freeze({ detector: rule.detector, rule: `crs-${rule.id}`, score: rule.score, level: rule.level }),
    isAbout: (place, name) =>
      rule.in.includes(place) &&
      (names === undefined || (place !== 'header' && place !== 'cookie') || names.has(name.toLowerCase())) &&
      !notNames.has(name.toLowerCase()),
    matches: (text) => test(steps.reduce((now, step) => step(now), text)),
  };
}

/** Why an operator cannot be imported; undefined if it can. */
export function whyNotLinear(expression: string): string | undefined {
  try {
    compileExpression(expression);
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

/** Programs of more steps take too long for each character. */
const maxProgram = 20_000;

function compileExpression(expression: string): RE2JS {
  const compiled = RE2JS.compile(expression, RE2JS.DOTALL);
  if (compiled.programSize() > maxProgram)
    throw new RangeError(`it takes ${compiled.programSize()} steps for a character`);
  return compiled;
}

function operatorOf({ operator, argument }: CrsRule): (text: string) => boolean {
  if (operator === 'rx') {
    const expression = compileExpression(String(argument));
    return (text) => expression.matcher(text).find();
  }
  if (operator === 'pm') {
    // A set of words, without regard to case: one expression, whose automaton does not branch.
    const words = [argument].flat().map((word) => RE2JS.quote(word.toLowerCase()));
    const expression = RE2JS.compile(words.join('|'));
    return (text) => expression.matcher(text.toLowerCase()).find();
  }
  const wanted = String(argument);
  const tests = {
    contains: (text: string) => text.includes(wanted),
    streq: (text: string) => text === wanted,
    beginsWith: (text: string) => text.startsWith(wanted),
    endsWith: (text: string) => text.endsWith(wanted),
  };
  return tests[operator];
}

const decoded = (text: string): string => formsOf(text).texts[1] ?? text;

const transformations: Readonly<Record<CrsRule['transformations'][number], (text: string) => string>> = {
  none: (text) => text,
  lowercase: (text) => text.toLowerCase(),
  urlDecode: decoded,
  urlDecodeUni: decoded,
  htmlEntityDecode: decoded,
  jsDecode: decoded,
  cssDecode: decoded,
  escapeSeqDecode: decoded,
  utf8toUnicode: (text) => text,
  base64Decode: (text) => Buffer.from(text, 'base64').toString('utf8'),
  removeNulls: (text) => text.replaceAll('\0', ''),
  removeWhitespace: (text) => text.replaceAll(/\s+/g, ''),
  compressWhitespace: (text) => text.replaceAll(/\s+/g, ' '),
  replaceComments: (text) => text.replaceAll(/\/\*[^*]*\*\//g, ' '),
  removeCommentsChar: (text) => text.replaceAll(/\/\*|\*\/|--|#/g, ''),
  normalizePath: (text) => normalize(text),
  normalisePath: (text) => normalize(text),
  normalizePathWin: (text) => normalize(text.replaceAll('\\', '/')),
  normalisePathWin: (text) => normalize(text.replaceAll('\\', '/')),
  cmdLine: (text) =>
    text
      .replaceAll(/[\\"'^]/g, '')
      .replaceAll(/\s+(?=[/(])/g, '')
      .replaceAll(/[,;\s]+/g, ' ')
      .toLowerCase(),
  trim: (text) => text.trim(),
};

/** Resolves `.` and `..`; a `..` above the first segment stays. */
function normalize(path: string): string {
  const parts: string[] = [];
  for (const part of path.split(/\/+/)) {
    if (part === '.') continue;
    if (part === '..' && parts.length > 0 && parts.at(-1) !== '..' && parts.at(-1) !== '') parts.pop();
    else parts.push(part);
  }
  return parts.join('/');
}
