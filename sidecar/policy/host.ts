// The one spelling of a host name. Requests, server names, policies and route tables all use it, so that a name cannot
// be routed under one spelling and authorized under another.

const maxRemembered = 512;
const remembered = new Map<string, string | undefined>();

// RFC 9110 section 7.2 with RFC 3986 section 3.2.2, but without user info, empty labels (except a leading one) and
// percent-encoding: two parsers could read such a host as two different ones.
const authorityPattern =
  /^(\[[0-9A-Fa-f:.]+\]|\.?[A-Za-z0-9_~!$&'()*+,;=-]+(?:\.[A-Za-z0-9_~!$&'()*+,;=-]+)*\.?)(?::(\d{1,5}))?$/;

/**
 * A host, with or without a port, in lower case and without the dot of the root (`secret.test.` is `secret.test`, RFC
 * 3986 section 3.2.2). Addresses are in their canonical form (RFC 5952; `0x7f.1` is 127.0.0.1 to most clients), the
 * port is without leading zeros. The port stays, since policies may name it. Undefined if it is no host.
 */
export function normalizeHost(authority: string): string | undefined {
  const known = remembered.get(authority);
  if (known !== undefined || remembered.has(authority)) return known;
  const host = readHost(authority);
  // Bounded: a client that invents names must not grow the map. A copy: a slice would keep the whole head in memory.
  if (remembered.size < maxRemembered && authority.length < 256)
    remembered.set(Buffer.from(authority, 'latin1').toString('latin1'), host);
  return host;
}

function readHost(authority: string): string | undefined {
  const [, name, port] = authorityPattern.exec(authority) ?? [];
  if (name === undefined || Number(port) > 65_535) return undefined;
  const host = normalizeName(name.toLowerCase());
  return port === undefined ? host : `${host}:${Number(port)}`;
}

/**
 * A value of a policy's `hosts` in the same spelling: a name, or one with a star at an end. Anything else stays as it
 * is, in lower case, and matches nothing.
 */
export function normalizeHostPattern(value: string): string {
  const lower = value.toLowerCase();
  if (lower.endsWith('*')) return lower;
  if (lower.startsWith('*')) return lower.replace(/\.(?=:\d+$|$)/, '').replace(/:0+(?=\d)/, ':');
  return normalizeHost(lower) ?? lower;
}

function normalizeName(lower: string): string {
  // Addresses only: URL's parser would also change ordinary names.
  if (lower.startsWith('[') || /(?:^|\.)(?:\d+|0x[0-9a-f]*)\.?$/.test(lower)) {
    try {
      return new URL(`http://${lower}/`).hostname;
    } catch {
      // `web.1` ends in a number but is no address.
    }
  }
  return lower.endsWith('.') ? lower.slice(0, -1) : lower;
}
