// From a leaf to a root (RFC 5280 section 6.1), for chains that a stranger may have made to cost us time. From the roots
// downwards: no key is used before a root's word has reached it, so a stranger's keys are never used at all, and each pair
// of issuer and issued is tried once. What follows is a search over what was signed indeed, which has an end as well.

import type { KeyObject, X509Certificate } from 'node:crypto';
import { SallyportError } from '../base/errors.ts';
import type { TrustBundle } from './bundle.ts';
import { type CertificateFacts, openCertificate, readCertificateFacts } from './certificate.ts';
import { weaknessOf } from './key-strength.ts';
import { permitsNames } from './name-constraints.ts';
import { parseSpiffeId, type SpiffeId } from './spiffe-id.ts';

/** A longer chain is an attack on our time, not a PKI. */
export const maxChain = 8;
/** A leaf with a hundred names has 4 KB. */
export const maxCertificateBytes = 8192;
/** Of all that were presented together; eight of RSA 4096 have 14 KB. */
export const maxChainBytes = 16_384;

/** One certificate, read. */
export interface Link {
  readonly certificate: X509Certificate;
  readonly der: Buffer;
  /** Milliseconds since 1970. */
  readonly notBefore: number;
  readonly notAfter: number;
  readonly facts: CertificateFacts;
  readonly key: KeyObject;
  /** Why its key is not taken; undefined for a good one. */
  readonly weakness: string | undefined;
}

/** Refuses what is too much to look at. Call it before anything is read. @throws SallyportError `svid_invalid`. */
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

/** Reads one certificate. @throws SallyportError `certificate_unreadable`. */
export function readLink(der: Buffer, facts = readCertificateFacts(der)): Link {
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
    throw new SallyportError('certificate_unreadable', 'the certificate cannot be read: its key is of no known kind', {
      cause: error,
    });
  }
}

/** A bundle's roots, read once; one that cannot be read, or has a bad key, vouches for no chain and takes none of the others along. */
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

/** The ID of the only URI; undefined where that is none. */
export function spiffeIdOf(facts: CertificateFacts): SpiffeId | undefined {
  try {
    return facts.uris[0] === undefined ? undefined : parseSpiffeId(facts.uris[0]);
  } catch {
    return undefined;
  }
}

/**
 * The links from the leaf's issuer to a root; undefined when no path holds at `now`.
 * @throws SallyportError `svid_invalid` when finding out would cost more than a chain of this length may.
 */
export function findPath(leaf: Link, others: readonly Link[], roots: readonly Link[], now: number): Link[] | undefined {
  // What stands there twice, or is a root anyway, is nothing more to try.
  const seen = new Set([leaf, ...roots].map(nameOfBytes));
  const presented = [leaf, ...others.filter((one) => !seen.has(nameOfBytes(one)) && seen.add(nameOfBytes(one)))];
  const issuersOf = findIssuers(
    presented,
    roots.filter((one) => maySign(one, leaf, now)),
    (one) =>
      // X509-SVID section 4.3: a signing certificate says so. A root may come from elsewhere, and is trusted by name.
      one.facts.keyUsage !== undefined && maySign(one, leaf, now),
  );
  const anchors = new Set(roots);
  // Steps and not permutations: cross-signed CAs of our own need few, and seven that sign each other would need thousands.
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

/** Who has signed whom, as far as the roots' word reaches. The checks of signatures grow with the chain, not with its square. */
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
  return child.facts.signedWith !== undefined && child.certificate.verify(issuer.key);
}

function tooMuch(count: number): SallyportError {
  return new SallyportError(
    'svid_invalid',
    `the ${count} certificates that the peer presented can be put together in too many ways`,
  );
}

/** RFC 5280 section 6.1.4 and X509-SVID section 3: what an issuer needs by itself, wherever on the path it stands. */
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

/** What depends on what is `below`, leaf first: path length and name constraints (RFC 5280 sections 4.2.1.9 and 4.2.1.10). */
function mayStandAbove({ facts }: Link, below: readonly Link[]): boolean {
  const [leaf, ...between] = below;
  // Who changes keys under its own name does not count as one more.
  const cas = between.filter((one) => !one.facts.selfIssued);
  if (facts.pathLength !== undefined && facts.pathLength < cas.length) return false;
  const { nameConstraints } = facts;
  return (
    nameConstraints === undefined || [leaf!, ...cas].every((one) => permitsNames(nameConstraints, one.facts.names))
  );
}

/** X509-SVID section 4.4: if the extension is there, both uses must be; OpenSSL asks the same of a CA. */
export function usableBothWays({ tlsUsage }: CertificateFacts): boolean {
  return tlsUsage === undefined || (tlsUsage.includes('serverAuth') && tlsUsage.includes('clientAuth'));
}

/** X509-SVID section 3.1 and 5.1: a signing certificate's own ID, if it has one, is its trust domain's, without path. */
function signsForDomainOf(issuer: CertificateFacts, leaf: CertificateFacts): boolean {
  if (issuer.uris.length === 0) return true;
  const id = spiffeIdOf(issuer);
  return (
    id !== undefined && issuer.uris.length === 1 && id.path === '' && id.trustDomain === spiffeIdOf(leaf)?.trustDomain
  );
}
