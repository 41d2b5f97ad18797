// The valid forms of an origin in a CORS rule.

/** One value of `allowOrigins`, in lower case: a scheme, a host or its ending, and a port or any. */
export const originPattern = /^(https?):\/\/(\*|(?:\*\.)?(?:[a-z0-9_-]+\.)*[a-z0-9_-]+)(?::(\*|\d{1,5}))?$/;

/**
 * True for an origin as the standards define it. GEP-1767 and Envoy Gateway: `*`, an origin, or one with a star for the
 * first labels of its host; the port may be a star, too. A star within a label would allow hosts that strangers can
 * register.
 */
export function isOriginPattern(text: string): boolean {
  return text === '*' || originPattern.test(text.toLowerCase());
}
