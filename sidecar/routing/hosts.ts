// Host names of listeners and routes: which of them match, which of two is more precise, and what two sets have in
// common. Gateway API v1, `Hostname`: a wildcard stands for one or more labels, never for none.

/** Does `pattern` (undefined matches all) match a host in lower case, without port? */
export function hostMatches(pattern: string | undefined, host: string): boolean {
  if (pattern === undefined || pattern === '*') return true;
  if (!pattern.startsWith('*.')) return pattern === host;
  return host.length > pattern.length - 1 && host.endsWith(pattern.slice(1));
}

/** RFC 1035 section 2.3.4. */
export const maxHost = 253;

/**
 * The patterns that match a host, the most precise first: itself, then wildcards from the longest on, then `*`.
 * (HTTPRoute `hostnames`: most characters in a matching non-wildcard name, then most characters in a matching name.)
 */
export function patternsFor(host: string): readonly string[] {
  // No name is this long: one of thirty thousand labels would yield as many patterns.
  if (host.length > maxHost) return ['*'];
  const patterns = [host];
  // From the second character on: a wildcard stands for a label, and `.example.com` has none in its place.
  for (let dot = host.indexOf('.', 1); dot !== -1; dot = host.indexOf('.', dot + 1))
    patterns.push(`*${host.slice(dot)}`);
  patterns.push('*');
  return patterns;
}

/** The pattern of what both match; undefined if nothing. Either may be undefined, which matches all. */
export function intersectHosts(a: string | undefined, b: string | undefined): string | undefined {
  if (a === undefined) return b ?? '*';
  if (b === undefined) return a;
  if (a === b) return a;
  if (covers(a, b)) return b;
  return covers(b, a) ? a : undefined;
}

/** Does every host that `b` matches match `a` as well? */
function covers(a: string, b: string): boolean {
  if (!a.startsWith('*.')) return a === b;
  const suffix = a.slice(1);
  return b.startsWith('*.') ? b.slice(1).endsWith(suffix) : hostMatches(a, b);
}

/**
 * The host of an authority, in lower case, without its port. A trailing dot is the same name (RFC 3986 section 3.2.2).
 */
export function hostOf(authority: string): string {
  const end = authority.endsWith(']') ? -1 : authority.lastIndexOf(':');
  const host = (end === -1 ? authority : authority.slice(0, end)).toLowerCase();
  return host.endsWith('.') ? host.slice(0, -1) : host;
}
