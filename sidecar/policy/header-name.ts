// Header names as servers fold them.

/**
 * A name as servers fold it that make variables of names (CGI, WSGI, Rack, PHP): a dash for everything but letters and digits.
 * `x_role` and `x-role` are one name to them. `lower` in lower case; the same text where it needs no folding.
 */
export function foldName(lower: string): string {
  return /[^a-z0-9-]/.test(lower) ? lower.replace(/[^a-z0-9]/g, '-') : lower;
}
