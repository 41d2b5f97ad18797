// Verifies a certificate chain: RFC 5280 path validation against the bundle of the SVID's own trust domain (X509-SVID
// section 5.1), then the leaf's rules (section 5.2), then the deny list. Fails closed. We build the path link by link
// (path.ts), because Node links `issuerCertificate` of a TLS socket by name and key identifier only, which a CA of
// domain A can forge. The size of a chain is checked before it is parsed, so its cost is bounded.

import { createHash } from 'node:crypto';
import { formatDuration, formatTime } from '../base/clock.ts';
import { SallyportError } from '../base/errors.ts';
import type { TrustBundle, TrustBundles } from './bundle.ts';
import { type CertificateFacts, readCertificateFacts } from './certificate.ts';
import { type DenyList, isSerialDenied } from './denied.ts';
import { checkChainSize, findPath, type Link, readLink, rootsOf, spiffeIdOf, usableBothWays } from './path.ts';
import type { SpiffeId } from './spiffe-id.ts';

/** The verified identity of the peer. */
export interface PeerIdentity {
  readonly id: SpiffeId;
  /** Lower-case hex of whole bytes, without leading zero bytes. */
  readonly serial: string;
  /** Milliseconds since 1970. */
  readonly notBefore: number;
  readonly notAfter: number;
  /** The earliest expiry on the path: an identity is valid no longer than its issuers. */
  readonly validUntil: number;
  /** SHA-256 of the leaf, lower-case hex: `Hash` of x-forwarded-client-cert. */
  readonly fingerprint: string;
  /** RFC 4514, empty for SVIDs without a subject. */
  readonly subject: string;
}

/** One rule of the standard and its result. */
export interface RuleResult {
  readonly rule: string;
  readonly holds: boolean;
  readonly message: string;
}

/** Certificates are back-dated against clock skew. Within this distance, the refusal also suggests it. */
const skewMs = 5 * 60_000;

/** How many characters of an invalid URI appear in the log. */
const shownUri = 200;

/** The leaf's rules of X509-SVID sections 2 to 4 and 5.2, each with its result; `inspect` prints them all. */
export function checkLeafRules(facts: CertificateFacts): RuleResult[] {
  const rule = (name: string, holds: boolean, message: string): RuleResult => ({ rule: name, holds, message });
  const id = spiffeIdOf(facts);
  const uses = facts.keyUsage ?? [];
  return [
    rule('one-uri', facts.uris.length === 1, `exactly one URI name, found ${facts.uris.length}`),
    rule(
      'spiffe-id',
      id !== undefined,
      `the URI name is a SPIFFE ID, found ${facts.uris[0]?.slice(0, shownUri) ?? 'none'}`,
    ),
    rule('id-path', id !== undefined && id.path !== '', 'the SPIFFE ID of a leaf has a path'),
    rule('not-a-ca', !facts.isCa, 'a leaf is not a CA (cA=false)'),
    rule(
      'no-signing',
      !uses.includes('keyCertSign') && !uses.includes('cRLSign'),
      'a leaf signs neither certificates nor CRLs',
    ),
    rule('key-usage', facts.keyUsage !== undefined && facts.keyUsageCritical, 'key usage is present and critical'),
    rule('digital-signature', uses.includes('digitalSignature'), 'key usage allows digital signatures'),
    rule('tls-usage', usableBothWays(facts), 'extended key usage, where present, allows server and client'),
    rule('san-critical', facts.sanCritical || !facts.subjectEmpty, 'the names are critical where the subject is empty'),
  ];
}

/**
 * Verifies a chain (DER, leaf first) at `now` and returns the peer.
 * @throws SallyportError `svid_missing`, `svid_invalid`, `svid_expired`, `svid_not_yet_valid`, `svid_untrusted`,
 * `svid_denied` or `certificate_unreadable`, with the reason as a sentence for the log.
 */
export function verifyChain(
  chain: readonly Buffer[],
  bundles: TrustBundles,
  denied: DenyList,
  now: number,
): PeerIdentity {
  const [leafDer] = chain;
  if (leafDer === undefined) throw new SallyportError('svid_missing', 'the peer presented no certificate');
  checkChainSize(chain);
  const facts = readCertificateFacts(leafDer);
  const leaf = readLink(leafDer, facts);
  const id = checkLeaf(facts);
  const bundle = bundles.get(id.trustDomain);
  if (bundle === undefined) throw new SallyportError('svid_untrusted', `no bundle for the trust domain of ${id.uri}`);
  checkValidity(leaf, `the certificate of ${id.uri}`, now);
  checkOwnSignature(leaf);
  const others = chain.slice(1).map((der) => readLink(der));
  const path = findPath(leaf, others, rootsOf(bundle), now);
  if (path === undefined)
    throw new SallyportError(
      'svid_untrusted',
      `no valid path leads from ${id.uri} to a root of ${id.trustDomain}${unusedRoots(bundle)}`,
    );
  const peer = describePeer(leaf, id, path);
  checkDenied(peer, denied);
  return peer;
}

/** Refuses a peer whose serial or ID is on the deny list. @throws SallyportError `svid_denied`. */
export function checkDenied(peer: PeerIdentity, denied: DenyList): void {
  if (isSerialDenied(denied, peer.serial))
    throw new SallyportError('svid_denied', `certificate ${peer.serial} of ${peer.id.uri} is revoked`);
  if (denied.ids.has(peer.id.uri)) throw new SallyportError('svid_denied', `${peer.id.uri} is on the deny list`);
}

/** Refuses a certificate that is not valid at `now`. @throws SallyportError `svid_expired` or `svid_not_yet_valid`. */
export function checkValidity(span: { notBefore: number; notAfter: number }, what: string, now: number): void {
  const clock = (missMs: number): string => (missMs < skewMs ? `; off by ${formatDuration(missMs)}: clock skew?` : '');
  if (now < span.notBefore) {
    throw new SallyportError(
      'svid_not_yet_valid',
      `${what} is not valid before ${formatTime(span.notBefore)}; now it is ${formatTime(now)}${clock(span.notBefore - now)}`,
    );
  }
  if (now > span.notAfter) {
    throw new SallyportError(
      'svid_expired',
      `${what} expired at ${formatTime(span.notAfter)}; now it is ${formatTime(now)}${clock(now - span.notAfter)}`,
    );
  }
}

/** SHA-256 of a certificate, lower-case hex. */
export function fingerprintOf(der: Uint8Array): string {
  return createHash('sha256').update(der).digest('hex');
}

function checkLeaf(facts: CertificateFacts): SpiffeId {
  const broken = checkLeafRules(facts).find((one) => !one.holds);
  if (broken !== undefined)
    throw new SallyportError(
      'svid_invalid',
      `the certificate is not an X509-SVID: ${broken.message} (rule ${broken.rule})`,
    );
  if (facts.unknownCritical.length > 0) {
    throw new SallyportError(
      'svid_invalid',
      `the certificate has an unknown critical extension: ${facts.unknownCritical[0]}`,
    );
  }
  return spiffeIdOf(facts)!;
}

/** The strength of the leaf itself. The path checks that of its issuers. */
function checkOwnSignature({ weakness, facts }: Link): void {
  if (weakness !== undefined)
    throw new SallyportError('svid_invalid', `the certificate's key is not acceptable: ${weakness}`);
  if (facts.signedWith === undefined)
    throw new SallyportError(
      'svid_invalid',
      'the certificate has an insecure signature algorithm (SHA-2 and Ed25519 are accepted)',
    );
}

/** Names the roots that are not used, where no path was found. */
function unusedRoots(bundle: TrustBundle): string {
  const roots = rootsOf(bundle);
  const weak = roots.flatMap(({ weakness }) => weakness ?? []);
  const unread = bundle.roots.length - roots.length;
  if (weak.length + unread === 0) return '';
  return `; of its ${bundle.roots.length} roots ${weak.length + unread} are not used (${[...weak, ...(unread > 0 ? ['unreadable'] : [])].join(', ')})`;
}

function describePeer(leaf: Link, id: SpiffeId, path: readonly Link[]): PeerIdentity {
  return Object.freeze({
    id,
    serial: leaf.certificate.serialNumber.toLowerCase(),
    notBefore: leaf.notBefore,
    notAfter: leaf.notAfter,
    validUntil: Math.min(leaf.notAfter, ...path.map((one) => one.notAfter)),
    fingerprint: fingerprintOf(leaf.der),
    subject: leaf.certificate.subject?.split('\n').reverse().join(',') ?? '',
  });
}
