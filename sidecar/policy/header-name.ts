// Header names as servers fold them.

/**
 * A name as folded by servers that turn names into variables (CGI, WSGI, Rack, PHP): a dash for everything but letters
 * and digits, so that `x_role` and `x-role` are one name. `lower` in lower case; returned as is if it needs no folding.
 */
export function foldName(lower: string): string {
  return /[^a-z0-9-]/.test(lower) ? lower.replace(/[^a-z0-9]/g, '-') : lower;
}
