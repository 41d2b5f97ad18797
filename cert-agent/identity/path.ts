// Builds the path from a leaf to a root (RFC 5280 section 6.1). An attacker may craft the chain to waste our time, so
// we work from the roots down. No key is used before a path from a root reaches it, so an attacker's own keys are never
// used. Each pair of issuer and subject is tried once. The search that follows covers verified links only, and is
// bounded too.

import type { KeyObject, X509Certificate } from 'node:crypto';
import { SallyportError } from '../base/errors.ts';
import type { TrustBundle } from './bundle.ts';
import { type CertificateFacts, openCertificate, readCertificateFacts } from './certificate.ts';
import { weaknessOf } from './key-strength.ts';
import { permitsNames } from './name-constraints.ts';
import { parseSpiffeId, type SpiffeId } from './spiffe-id.ts';

/** A longer chain is an attack, not a PKI. */
export const maxChain = 8;
/** A leaf with a hundred names has 4 KB. */
export const maxCertificateBytes = 8192;
/** The limit of the whole chain; eight certificates with RSA 4096 have 14 KB. */
export const maxChainBytes = 16_384;

/** One parsed certificate. */
export interface Link {
  readonly certificate: X509Certificate;
  readonly der: Buffer;
  /** Milliseconds since 1970. */
  readonly notBefore: number;
  readonly notAfter: number;
  readonly facts: CertificateFacts;
  readonly key: KeyObject;
  /** Why its key is not acceptable; undefined for a good one. */
  readonly weakness: string | undefined;
}

/** Refuses a chain that is too large. Call it before parsing. @throws SallyportError `svid_invalid`. */
export function checkChainSize(chain: readonly Buffer[]): void {
  const refuse = (what: string): never => {
    throw new SallyportError('svid_invalid', `the peer presented ${what}`);
  };
  if (chain.length > maxChain) refuse(`${chain.length} certificates; ${maxChain} are the limit`);
  const largest = Math.max(0, ...chain.map(({ length }) => length));
  if (largest > maxCertificateBytes) refuse(`a certificate of ${largest} bytes; ${maxCertificateBytes} are the limit`);
  const all = chain.reduce((sum, { length }) => sum + length, 0);
  if (all > maxChainBytes) refuse(`${all} bytes of certificates; ${maxChainBytes} are the limit`);
}

/**
 * Parses one certificate; the same buffer only once, as a CA's own issuers are. @throws SallyportError
 * `certificate_unreadable`.
 */
export function readLink(der: Buffer, facts?: CertificateFacts): Link {
  const known = readLinks.get(der);
  if (known !== undefined) return known;
  const link = parseLink(der, facts ?? readCertificateFacts(der));
  readLinks.set(der, link);
  return link;
}

const readLinks = new WeakMap<Buffer, Link>();

function parseLink(der: Buffer, facts: CertificateFacts): Link {
  const certificate = openCertificate(der);
  const [key, weakness] = readKey(certificate);
  return {
    certificate,
    der,
    notBefore: certificate.validFromDate.getTime(),
    notAfter: certificate.validToDate.getTime(),
    facts,
    key,
    weakness,
  };
}

function readKey(certificate: X509Certificate): [KeyObject, string | undefined] {
  try {
    const { publicKey } = certificate;
    return [publicKey, weaknessOf(publicKey)];
  } catch (error) {
    throw new SallyportError('certificate_unreadable', 'cannot parse the certificate: unknown type of key', {
      cause: error,
    });
  }
}

/** A bundle's roots, parsed once. A root that cannot be parsed or has a bad key is skipped; the others stay in use. */
export function rootsOf(bundle: TrustBundle): readonly Link[] {
  const known = readRoots.get(bundle);
  if (known !== undefined) return known;
  const roots = bundle.roots.flatMap((der) => {
    try {
      return [readLink(der)];
    } catch {
      return [];
    }
  });
  readRoots.set(bundle, roots);
  return roots;
}

const readRoots = new WeakMap<TrustBundle, readonly Link[]>();

/** The SPIFFE ID of the only URI; undefined if there is none. */
export function spiffeIdOf(facts: CertificateFacts): SpiffeId | undefined {
  try {
    return facts.uris[0] === undefined ? undefined : parseSpiffeId(facts.uris[0]);
  } catch {
    return undefined;
  }
}

/**
 * The links from the leaf's issuer to a root; undefined when no path is valid at `now`.
 * @throws SallyportError `svid_invalid` when the search would exceed its budget.
 */
export function findPath(leaf: Link, others: readonly Link[], roots: readonly Link[], now: number): Link[] | undefined {
  // A duplicate, or a root of the bundle, adds nothing to try.
  const seen = new Set([leaf, ...roots].map(nameOfBytes));
  const presented = [leaf, ...others.filter((one) => !seen.has(nameOfBytes(one)) && seen.add(nameOfBytes(one)))];
  const issuersOf = findIssuers(
    presented,
    roots.filter((one) => maySign(one, leaf, now)),
    (one) =>
      // X509-SVID section 4.3: a signing certificate must say so. A root may come from another PKI and is trusted as
      // configured.
      one.facts.keyUsage !== undefined && maySign(one, leaf, now),
  );
  const anchors = new Set(roots);
  // The limit counts steps: cross-signed CAs of our own need few, and seven that sign each other would need thousands.
  let steps = 8 * presented.length + roots.length;
  const search = (below: readonly Link[]): Link[] | undefined => {
    const child = below.at(-1)!;
    const issuers = [...(issuersOf.get(child) ?? [])].sort((a, b) => Number(anchors.has(b)) - Number(anchors.has(a)));
    for (const issuer of issuers) {
      if (steps-- <= 0) throw tooMuch(presented.length);
      if (below.includes(issuer) || !mayStandAbove(issuer, below)) continue;
      const path = [...below, issuer];
      if (anchors.has(issuer)) return path;
      const found = search(path);
      if (found !== undefined) return found;
    }
    return undefined;
  };
  return search([leaf])?.slice(1);
}

function nameOfBytes({ der }: Link): string {
  return der.toString('latin1');
}

/** Which certificate signed which, starting at the roots. The signature checks grow linearly with the chain. */
function findIssuers(
  presented: readonly Link[],
  roots: readonly Link[],
  isIssuer: (one: Link) => boolean,
): ReadonlyMap<Link, ReadonlySet<Link>> {
  let budget = 4 * presented.length + roots.length;
  const found = new Map<Link, Set<Link>>();
  const reached = [...roots];
  for (const issuer of reached) {
    for (const child of presented) {
      if (child === issuer || !child.certificate.checkIssued(issuer.certificate)) continue;
      if (budget-- <= 0) throw tooMuch(presented.length);
      if (!isSignedBy(child, issuer)) continue;
      const known = found.get(child);
      if (known !== undefined) known.add(issuer);
      else {
        found.set(child, new Set([issuer]));
        if (child !== presented[0] && isIssuer(child)) reached.push(child);
      }
    }
  }
  return found;
}

function isSignedBy(child: Link, issuer: Link): boolean {
  if (child.facts.signedWith === undefined) return false;
  const verdicts = signatures.get(child) ?? new WeakMap<Link, boolean>();
  const verdict = verdicts.get(issuer) ?? child.certificate.verify(issuer.key);
  signatures.set(child, verdicts.set(issuer, verdict));
  return verdict;
}

/** Signatures that were checked: of our own issuers by our roots, for each client again. */
const signatures = new WeakMap<Link, WeakMap<Link, boolean>>();

function tooMuch(count: number): SallyportError {
  return new SallyportError('svid_invalid', `the ${count} certificates that the peer presented allow too many paths`);
}

/** RFC 5280 section 6.1.4 and X509-SVID section 3: what an issuer needs, wherever it is on the path. */
function maySign(issuer: Link, leaf: Link, now: number): boolean {
  const { facts, weakness } = issuer;
  return (
    weakness === undefined &&
    facts.isCa &&
    facts.keyUsage?.includes('keyCertSign') !== false &&
    facts.unknownCritical.length === 0 &&
    usableBothWays(facts) &&
    signsForDomainOf(facts, leaf.facts) &&
    now >= issuer.notBefore &&
    now <= issuer.notAfter
  );
}

/** Path length and name constraints over the certificates `below`, leaf first (RFC 5280 sections 4.2.1.9, 4.2.1.10). */
function mayStandAbove({ facts }: Link, below: readonly Link[]): boolean {
  const [leaf, ...between] = below;
  // A self-issued certificate, such as a CA's key change, does not count.
  const cas = between.filter((one) => !one.facts.selfIssued);
  if (facts.pathLength !== undefined && facts.pathLength < cas.length) return false;
  const { nameConstraints } = facts;
  return (
    nameConstraints === undefined || [leaf!, ...cas].every((one) => permitsNames(nameConstraints, one.facts.names))
  );
}

/** X509-SVID section 4.4: if the extension is present, it must allow both uses. OpenSSL requires the same of a CA. */
export function usableBothWays({ tlsUsage }: CertificateFacts): boolean {
  return tlsUsage === undefined || (tlsUsage.includes('serverAuth') && tlsUsage.includes('clientAuth'));
}

/**
 * X509-SVID sections 3.1 and 5.1: a signing certificate's ID, if it has one, is the ID of a trust domain, without path.
 */
function signsForDomainOf(issuer: CertificateFacts, leaf: CertificateFacts): boolean {
  if (issuer.uris.length === 0) return true;
  const id = spiffeIdOf(issuer);
  return (
    id !== undefined && issuer.uris.length === 1 && id.path === '' && id.trustDomain === spiffeIdOf(leaf)?.trustDomain
  );
}
