// Patterns of schemas in linear time, within the budget of a message.

import { RE2JS } from 're2js';
import { reasonOf } from '../../../cert-agent/base/errors.ts';
import { spend, stepsForMessage } from './budget.ts';
import { withAllSpaces } from './spaces.ts';

/** The limit on the steps of a pattern's compiled program. `^.{1,1000}$` has about 2,000. */
const maxProgram = 2500;

/** A pattern as the generated code uses it. */
export interface Pattern {
  test(text: string): boolean;
  /** The pattern: ajv takes two with the same text for one. */
  toString(): string;
}

/**
 * A search for `pattern` anywhere in a text, as ECMA-262's `test` with the flag `u`.
 * @throws Error if RE2 does not support it, or it is too expensive.
 */
export function compilePattern(pattern: string): Pattern {
  const known = compiled.get(pattern);
  if (known !== undefined) return known;
  const { expression, size } = compile(pattern);
  const made: Pattern = {
    test(text) {
      spend(size * text.length + stepsToBegin);
      return expression.test(text);
    },
    toString: () => pattern,
  };
  if (compiled.size >= maxCompiled) compiled.clear();
  compiled.set(pattern, made);
  return made;
}

/** @throws Error if RE2 does not support it, or it is too expensive. */
function compile(pattern: string): { readonly expression: RE2JS; readonly size: number } {
  if (pattern.length > maxLength) throw new RangeError(`it is longer than ${maxLength} characters`);
  const expression = RE2JS.compile(RE2JS.translateRegExp(withAllSpaces(pattern.replace(longProperty, '$1$2'))));
  const size = expression.programSize();
  if (size > maxProgram) throw new RangeError(`it takes ${size} steps for a character (limit ${maxProgram})`);
  return { expression, size };
}

/** To test an empty text. */
const stepsToBegin = 100;

/** Longer ones take seconds to compile. */
const maxLength = 4096;

/** A character of a pattern takes up to 0.6 ms to compile (measured): 500 of them are the budget of a message. */
const stepsToCompile = stepsForMessage / 500;

/** True if a text from a client is a pattern that can be used. @throws SallyportError `validation_too_costly`. */
export function isPattern(text: string): boolean {
  spend(text.length * stepsToCompile);
  return whyUnusable(text) === undefined;
}

/** `\p{Script=Greek}`: RE2 knows it as `\p{Greek}`. */
const longProperty = /(\\[pP]\{)(?:Script|sc|Script_Extensions|scx|General_Category|gc)=([A-Za-z_]+\})/g;

/** Patterns of documents, many of which are the same. */
const compiled = new Map<string, Pattern>();
const maxCompiled = 1000;

/** Why a pattern cannot be used; undefined if it can. Keeps nothing: the pattern may be a client's text. */
export function whyUnusable(pattern: string): string | undefined {
  try {
    compile(pattern);
    return undefined;
  } catch (error) {
    return reasonOf(error);
  }
}
