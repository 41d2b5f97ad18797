// DNS names in certificates, for clients that verify names instead of SPIFFE IDs (RFC 9525). Nothing of ours reads one
// as an identity. A name has one spelling: lower case, letters, digits and hyphens (RFC 5280 section 4.2.1.6).

import { SallyportError } from '../../base/errors.ts';

/** How many names a workload's certificate may have: 16 of the longest leave room in 8 KiB, which peers accept. */
export const mostNames = 16;

const longestName = 253;
const label = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

/**
 * A DNS name, or a wildcard for one label (`*.shop.test`). Clients accept a wildcard only above two labels or more.
 * @throws SallyportError `dns_name_invalid`.
 */
export function parseDnsName(text: string): string {
  const wrong = faultOf(text, 2);
  if (wrong === undefined) return text;
  throw invalid(text, 'DNS name', wrong);
}

/** A name that is allowed, or `*.` and a name: any one label in front of it. @throws SallyportError `dns_name_invalid`. */
export function parseDnsPattern(text: string): string {
  const wrong = faultOf(text, 1);
  if (wrong === undefined) return text;
  throw invalid(text, 'pattern of DNS names', wrong);
}

/** The list of a token, without repetition. @throws SallyportError `dns_name_invalid`. */
export function parseDnsNames(texts: readonly string[]): readonly string[] {
  const names = [...new Set(texts.map(parseDnsName))];
  if (names.length <= mostNames) return names;
  throw new SallyportError('dns_name_invalid', `${names.length} DNS names; a certificate has ${mostNames} at most`);
}

/** The patterns that allow `name`: itself, and the wildcard of its first label. A wildcard is allowed by itself only. */
export function patternsFor(name: string): readonly [string, string] {
  const dot = name.indexOf('.');
  return [name, dot === -1 ? name : `*${name.slice(dot)}`];
}

/** What is wrong with the spelling; `labels` is how many a wildcard needs behind it. */
function faultOf(text: string, labels: number): string | undefined {
  const isWildcard = text.startsWith('*.');
  const parts = (isWildcard ? text.slice(2) : text).split('.');
  if (text.length > longestName) return `it is longer than ${longestName} characters`;
  if (text.endsWith('.')) return 'it ends with a dot';
  if (text !== text.toLowerCase()) return 'it is not in lower case';
  if (parts.some((part) => part.includes('*'))) return "'*' stands for the first label only, followed by a dot";
  const odd = parts.find((part) => !label.test(part));
  if (odd !== undefined)
    return `its part '${odd.slice(0, 63)}' is not 1 to 63 letters, digits and hyphens inside of them`;
  // The WHATWG URL Standard (section 3.5) reads such a host as an IPv4 address.
  if (/^(?:\d+|0x[0-9a-f]*)$/.test(parts.at(-1)!)) return 'it ends like an IP address';
  if (isWildcard && parts.length < labels) return `clients accept '*.' only in front of ${labels} labels or more`;
  return undefined;
}

function invalid(text: string, what: string, why: string): SallyportError {
  return new SallyportError('dns_name_invalid', `'${text.slice(0, longestName)}' is not a ${what}: ${why}`, {
    hint: 'write it like web.shop.test, or *.shop.test for any one label',
  });
}
