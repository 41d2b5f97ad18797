// One spelling of a path, for policy and app alike: the settings of Istio's `pathNormalization`. BASE is RFC 3986
// sections 6.2.2.2 and 6.2.2.3: backslashes become slashes, escapes of unreserved characters are decoded once, dot
// segments are resolved. Other escapes stay as they are: `%252e` is not decoded twice, and with BASE `%2f` is no
// separator.

import { SallyportError } from '../../cert-agent/base/errors.ts';

/** Istio's names; DEFAULT is BASE. */
export const pathNormalizations = ['NONE', 'BASE', 'DEFAULT', 'MERGE_SLASHES', 'DECODE_AND_MERGE_SLASHES'] as const;
/** NONE leaves the path as sent; the names are Istio's `meshConfig.pathNormalization`. */
export type PathNormalization = (typeof pathNormalizations)[number];

// A path without any of these, as nearly all are, is in normal form already.
const suspicious = /[%\\#]|\/\.|\/\/|[^\x21-\x7e]/;

/**
 * The path in normal form, with its query unchanged. `target` is in origin-form.
 * @throws SallyportError `path_invalid` for a control character, a fragment and, except with NONE, for `%00`, a broken
 *   escape, or dots above the root.
 */
export function normalizePath(target: string, how: PathNormalization = 'BASE'): string {
  if (!suspicious.test(target)) return target;
  if (!/^[\x21-\x7e]*$/.test(target)) throw invalid('it contains a space, a control character or a byte outside ASCII');
  if (target.includes('#')) throw invalid('it has a fragment');
  if (how === 'NONE') return target;
  const query = target.indexOf('?');
  const path = query === -1 ? target : target.slice(0, query);
  const rest = query === -1 ? '' : target.slice(query);
  const decoded = decode(path, how === 'DECODE_AND_MERGE_SLASHES').replaceAll('\\', '/');
  // In Envoy's order: slashes decoded, dots resolved, then slashes merged.
  const resolved = resolveDots(decoded);
  const merges = how === 'MERGE_SLASHES' || how === 'DECODE_AND_MERGE_SLASHES';
  return (merges ? resolved.replace(/\/{2,}/g, '/') : resolved) + rest;
}

/**
 * Section 6.2.2.2: %2d %2e %30-39 %41-5a %5f %61-7a %7e mean the same decoded, and are decoded once; optionally slashes
 * too.
 */
function decode(path: string, slashes: boolean): string {
  return path.replace(/%(.{0,2})/g, (whole, digits: string) => {
    if (!/^[0-9A-Fa-f]{2}$/.test(digits)) throw invalid(`the escape '${whole}' is broken`);
    const code = Number.parseInt(digits, 16);
    if (code === 0) throw invalid('it contains %00');
    const character = String.fromCharCode(code);
    if (slashes && (character === '/' || character === '\\')) return '/';
    return /[A-Za-z0-9._~-]/.test(character) ? character : whole;
  });
}

/** RFC 3986 section 5.2.4, but dots above the root are refused instead of ignored: no valid client sends them. */
function resolveDots(path: string): string {
  if (!/\/\.\.?(?:\/|$)/.test(path)) return path;
  const kept: string[] = [];
  const segments = path.split('/').slice(1);
  for (const [index, segment] of segments.entries()) {
    const isLast = index === segments.length - 1;
    if (segment === '.' || segment === '..') {
      if (segment === '..' && kept.pop() === undefined) throw invalid('its dot segments lead above the root');
      if (isLast) kept.push('');
    } else kept.push(segment);
  }
  return `/${kept.join('/')}`;
}

function invalid(why: string): SallyportError {
  return new SallyportError('path_invalid', `the path cannot be normalised: ${why}`);
}
