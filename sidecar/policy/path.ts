// One spelling of a path, for policy and app alike: Istio's BASE normalisation (RFC 3986 sections 6.2.2.2 and 6.2.2.3).
// Backslashes become slashes, escapes of unreserved characters are decoded once, dot segments are resolved. What stays
// escaped stays as it is, so `%252e` becomes nothing else, and `%2f` remains no separator.

import { SallyportError } from '../../cert-agent/base/errors.ts';

// A path without any of these is in its normal form already, which is nearly all of them.
const suspicious = /[%\\#]|\/\.|[^\x21-\x7e]/;

/**
 * The path in its normal form, the query behind it untouched. `target` is in origin-form.
 * @throws SallyportError `path_invalid` for `%00`, a broken escape, a control character, a fragment, or dots above the root.
 */
export function normalizePath(target: string): string {
  if (!suspicious.test(target)) return target;
  const query = target.indexOf('?');
  const path = query === -1 ? target : target.slice(0, query);
  const rest = query === -1 ? '' : target.slice(query);
  if (!/^[\x21-\x7e]*$/.test(target)) throw invalid('it holds a space, a control character or a byte outside ASCII');
  if (target.includes('#')) throw invalid('it has a fragment, which no client sends');
  return resolveDots(decodeUnreserved(path).replaceAll('\\', '/')) + rest;
}

/** Section 6.2.2.2: %2d %2e %30-39 %41-5a %5f %61-7a %7e mean the same decoded, and are decoded once. */
function decodeUnreserved(path: string): string {
  return path.replace(/%(.{0,2})/g, (whole, digits: string) => {
    if (!/^[0-9A-Fa-f]{2}$/.test(digits)) throw invalid(`the escape '${whole}' is broken`);
    const code = Number.parseInt(digits, 16);
    if (code === 0) throw invalid('it holds %00');
    const character = String.fromCharCode(code);
    return /[A-Za-z0-9._~-]/.test(character) ? character : whole;
  });
}

/** RFC 3986 section 5.2.4, but going above the root is refused instead of ignored: nobody means it. */
function resolveDots(path: string): string {
  if (!/\/\.\.?(?:\/|$)/.test(path)) return path;
  const kept: string[] = [];
  const segments = path.split('/').slice(1);
  for (const [index, segment] of segments.entries()) {
    const isLast = index === segments.length - 1;
    if (segment === '.' || segment === '..') {
      if (segment === '..' && kept.pop() === undefined) throw invalid('its dots lead above the root');
      if (isLast) kept.push('');
    } else kept.push(segment);
  }
  return `/${kept.join('/')}`;
}

function invalid(why: string): SallyportError {
  return new SallyportError('path_invalid', `the path cannot be normalised: ${why}`);
}
