// What an origin of a CORS rule may look like.

/** One value of `allowOrigins`, in lower case: a scheme, a host or what it ends with, a port or any. */
export const originPattern = /^(https?):\/\/(\*|(?:\*\.)?(?:[a-z0-9_-]+\.)*[a-z0-9_-]+)(?::(\*|\d{1,5}))?$/;

/**
 * Is this what the standards take for an origin? GEP-1767 and Envoy Gateway: `*`, an origin, or one with a star for the
 * first labels of its host; a port may be a star, too. A star within a label would let in hosts that strangers can
 * have.
 */
export function isOriginPattern(text: string): boolean {
  return text === '*' || originPattern.test(text.toLowerCase());
}
