// Path templates: `{*}` is one segment; `{**}` is any number of characters and segments, and must be the last operator.
// Matched in one walk over the path, without regular expressions.

import type { Match } from './match.ts';

/** RFC 3986's pchar without `*`: what a literal segment of a template may hold. */
const literal = /^[A-Za-z0-9\-._~%!$&'()+,;:@=]+$/;

/** Does the value of a `paths` field contain a template? */
export function isTemplate(path: string): boolean {
  return path.includes('{*}') || path.includes('{**}');
}

/** What is wrong with a value of `paths` by Istio's validation; undefined if nothing is. */
export function problemOfTemplate(path: string): string | undefined {
  const segments = path.replace(/^\/+|\/+$/g, '').split('/');
  let ended = false;
  for (const segment of segments) {
    if (segment === '{*}' || segment === '{**}') {
      if (ended) return `'${path}': '{**}' must be the last operator of a template`;
      ended = segment === '{**}';
    } else if (/[{}]/.test(segment))
      return `'${path}': '${segment}' is not a valid template segment: only {*} and {**} may contain braces, each as a whole segment`;
    else if (isTemplate(path) && !literal.test(segment))
      return `'${path}': '${segment}' is not allowed in a template: the only wildcards are {*} and {**}`;
  }
  return undefined;
}

/** The literal text before the first operator. */
export function literalPrefix(template: string): string {
  return template.slice(0, template.indexOf('{'));
}

/** Matches whole paths. `template` must be valid. */
export function compileTemplate(template: string): Match {
  const [before = '', after] = template.split('{**}');
  const literals = before.split('{*}');
  return function matchTemplate(path) {
    let at = 0;
    for (let i = 0; i < literals.length; i++) {
      if (i > 0) {
        const end = path.indexOf('/', at);
        const stop = end === -1 ? path.length : end;
        // A segment holds at least one character.
        if (stop === at) return false;
        at = stop;
      }
      const text = literals[i]!;
      if (!path.startsWith(text, at)) return false;
      at += text.length;
    }
    if (after === undefined) return at === path.length;
    return path.length - at >= after.length && path.endsWith(after);
  };
}
