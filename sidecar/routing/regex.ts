// Regular expressions from documents, in linear time: whoever writes a route must not be able to write an outage, nor
// whoever sends a request to find one.

import { RE2JS } from 're2js';

/**
 * Steps of the compiled program. Time is linear in the text, and in this: `(?:[a-z]{1,100}){1,10}` has 2,001 and took 200 ms
 * for 60 KB. (Envoy's bound of the same kind is 100 steps by default.)
 */
const maxProgram = 500;

/** A test of the whole text, as Envoy matches. @throws Error when it is no regular expression of RE2; RangeError when it costs too much. */
export function compileRegex(pattern: string): (text: string) => boolean {
  const compiled = RE2JS.compile(pattern);
  const size = compiled.programSize();
  if (size > maxProgram) throw new RangeError(`takes ${size} steps for a character (limit ${maxProgram})`);
  return (text) => compiled.testExact(text);
}
