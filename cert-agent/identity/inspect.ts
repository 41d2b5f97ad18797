// Checks a certificate chain and reports the result of every rule: the pure part of `sallyport inspect`. A bad
// certificate throws nothing: its problems are the output.

import { createPublicKey, type KeyObject, X509Certificate } from 'node:crypto';
import { formatDuration, formatTime } from '../base/clock.ts';
import { reasonOf } from '../base/errors.ts';
import type { TrustBundles } from './bundle.ts';
import { type CertificateFacts, openCertificate, readCertificateFacts } from './certificate.ts';
import { type DenyList, emptyDenyList } from './denied.ts';
import { weaknessOf } from './key-strength.ts';
import { nameKind } from './name-constraints.ts';
import { parseSpiffeId } from './spiffe-id.ts';
import { checkLeafRules, fingerprintOf, type RuleResult, verifyChain } from './verify.ts';

/** One certificate of the chain. */
export interface CertificateReport {
  readonly subject: string;
  readonly issuer: string;
  /** Lower-case hex. */
  readonly serial: string;
  readonly uris: readonly string[];
  readonly dns: readonly string[];
  /** DNS names and addresses. */
  readonly hosts: readonly string[];
  readonly isCa: boolean;
  /** `EC P-256`, `RSA 2048`. */
  readonly keyKind: string;
  /** What it is signed with: `ecdsa-sha256`; undefined for what no peer accepts. */
  readonly signedWith: string | undefined;
  /** RFC 3339. */
  readonly notBefore: string;
  readonly notAfter: string;
  /** SHA-256, lower-case hex. */
  readonly fingerprint: string;
}

/** What a certificate is for, and by which rules it is judged. */
export type Judged = 'svid' | 'root' | 'intermediate' | 'server';

/** Times are RFC 3339 text. Contains no key. */
export interface ChainReport {
  readonly judgedAs: Judged;
  /** Undefined where the leaf has no SPIFFE ID. */
  readonly spiffeId: string | undefined;
  readonly serial: string;
  readonly keyKind: string;
  readonly notBefore: string;
  readonly notAfter: string;
  /** Negative once it has expired. */
  readonly timeLeftMs: number;
  readonly expired: boolean;
  /** Leaf first, in the order of the input. */
  readonly chain: readonly CertificateReport[];
  readonly rules: readonly RuleResult[];
  /** True when every rule holds. */
  readonly holds: boolean;
}

/** `now` is milliseconds since 1970. */
export interface InspectOptions {
  readonly now: number;
  /** With bundles, the path to a root of the leaf's own trust domain is checked too. */
  readonly bundles?: TrustBundles;
  readonly denied?: DenyList;
  /** With a trust domain, the leaf must belong to it. */
  readonly trustDomain?: string;
  /** By default what the certificate looks like; an SVID where anything that only SVIDs have is asked for. */
  readonly as?: Judged;
  /** Private key, PEM. If given, it must belong to the leaf. */
  readonly key?: KeyObject;
}

/** Checks a chain (DER, leaf first, not empty). @throws SallyportError `certificate_unreadable`. */
export function inspectChain(chain: readonly Buffer[], options: InspectOptions): ChainReport {
  const [leafDer] = chain;
  if (leafDer === undefined) throw new TypeError('inspectChain needs at least one certificate');
  const facts = chain.map((der) => readCertificateFacts(der));
  const leaf = new X509Certificate(leafDer);
  const asked = options.trustDomain !== undefined || options.bundles !== undefined;
  const judgedAs = options.as ?? (asked ? 'svid' : looksLike(facts[0]!));
  const rules = Object.freeze([
    ...ownRules[judgedAs](leaf, facts[0]!),
    understood(facts),
    withinLife(leaf, options.now),
    strong(chain, facts),
    ...facts.slice(1).map((one, index) => maySign(one, index + 2)),
    ...wantedRules(chain, leaf, facts[0]!, options),
  ]);
  const certificates = chain.map((der, index) => describe(new X509Certificate(der), facts[index]!));
  const [first] = certificates;
  const notAfter = leaf.validToDate.getTime();
  return Object.freeze({
    judgedAs,
    spiffeId: spiffeIdOf(facts[0]!),
    serial: first!.serial,
    keyKind: first!.keyKind,
    notBefore: first!.notBefore,
    notAfter: first!.notAfter,
    timeLeftMs: notAfter - options.now,
    expired: options.now > notAfter,
    chain: certificates,
    rules,
    holds: rules.every((one) => one.holds),
  });
}

/**
 * A CA is judged as a CA, and a certificate with host names and without a URI as that of a server. Everything else is
 * meant as an SVID.
 */
function looksLike(facts: CertificateFacts): Judged {
  const { isCa, uris, selfIssued } = facts;
  const isOfDomain = uris.length === 0 || (uris.length === 1 && isDomainId(uris[0]!));
  // Its rules say what a CA lacks, the key usage for example.
  if (isCa && isOfDomain) return selfIssued ? 'root' : 'intermediate';
  return uris.length === 0 && hostsOf(facts).length > 0 ? 'server' : 'svid';
}

/** The rules of what the first certificate is; those of all follow. */
const ownRules: Readonly<Record<Judged, (of: X509Certificate, facts: CertificateFacts) => RuleResult[]>> = {
  svid: (_, facts) => checkLeafRules(facts),
  intermediate: (_, facts) => [maySign(facts, 1)],
  root(certificate, facts) {
    const holds = certificate.verify(certificate.publicKey);
    const message = holds ? 'it is signed with its own key' : 'its signature is not by its own key';
    return [maySign(facts, 1), { rule: 'self-signed', holds, message }];
  },
  server(_, facts) {
    const { tlsUsage, isCa } = facts;
    const serves = tlsUsage === undefined || tlsUsage.includes('serverAuth');
    return [
      {
        rule: 'host-names',
        holds: hostsOf(facts).length > 0,
        message: `it names ${hostsOf(facts).join(', ') || 'no host'}`,
      },
      {
        rule: 'server-auth',
        holds: serves,
        message: `its extended key usage ${serves ? 'allows' : 'forbids'} a server`,
      },
      { rule: 'no-ca', holds: !isCa, message: isCa ? 'it is a CA' : 'it is not a CA' },
    ];
  },
};

/** The names and addresses of hosts, as text. */
function hostsOf({ dns, names }: CertificateFacts): readonly string[] {
  return [...dns, ...names.filter(({ kind }) => kind === nameKind.ip).map(({ value }) => addressText(value))];
}

/** RFC 5280 section 4.2.1.6: four or sixteen bytes. */
function addressText(bytes: Buffer): string {
  if (bytes.length === 4) return bytes.join('.');
  return (bytes.toString('hex').match(/.{1,4}/g) ?? []).map((part) => part.replace(/^0{1,3}/, '')).join(':');
}

/** The kind and size of a public key: `EC P-256`, `RSA 2048`, `ED25519`. */
export function keyKindOf(key: KeyObject): string {
  const { namedCurve, modulusLength } = key.asymmetricKeyDetails ?? {};
  const curves: Readonly<Record<string, string>> = { prime256v1: 'P-256', secp384r1: 'P-384', secp521r1: 'P-521' };
  const size = namedCurve === undefined ? modulusLength : (curves[namedCurve] ?? namedCurve);
  return [key.asymmetricKeyType?.toUpperCase() ?? 'unknown', size].filter((part) => part !== undefined).join(' ');
}

/** RFC 5280 section 4.2: an unknown critical extension makes the certificate unusable. */
function understood(facts: readonly CertificateFacts[]): RuleResult {
  const unknown = facts.flatMap((one) => one.unknownCritical);
  const found = unknown.length === 0 ? '' : `, found ${unknown.join(', ')}`;
  return {
    rule: 'critical-extensions',
    holds: unknown.length === 0,
    message: `every critical extension is known${found}`,
  };
}

/** What no peer accepts: a key outside the limits, or a signature with a broken hash. */
function strong(chain: readonly Buffer[], facts: readonly CertificateFacts[]): RuleResult {
  const wrong = chain.flatMap((der, index) => {
    const weakness = weaknessOf(openCertificate(der).publicKey);
    const unsigned = facts[index]!.signedWith === undefined ? 'an insecure signature algorithm' : undefined;
    return [weakness, unsigned].flatMap((one) => (one === undefined ? [] : [`certificate ${index + 1}: ${one}`]));
  });
  const found = wrong.length === 0 ? '' : `, found ${wrong.join(', ')}`;
  return { rule: 'strength', holds: wrong.length === 0, message: `keys and signatures are strong enough${found}` };
}

function withinLife(leaf: X509Certificate, now: number): RuleResult {
  const from = leaf.validFromDate.getTime();
  const to = leaf.validToDate.getTime();
  if (now < from) {
    return {
      rule: 'validity',
      holds: false,
      message: `not valid before ${formatTime(from)}, in ${formatDuration(from - now)}`,
    };
  }
  if (now > to) {
    return {
      rule: 'validity',
      holds: false,
      message: `expired at ${formatTime(to)}, ${formatDuration(now - to)} ago`,
    };
  }
  return { rule: 'validity', holds: true, message: `valid for another ${formatDuration(to - now)}` };
}

/** X509-SVID sections 3.1, 4.3 and 5.1: cA, keyCertSign, and no path in its ID, if it has one. */
function maySign(facts: CertificateFacts, position: number): RuleResult {
  const wrong = [
    facts.isCa ? undefined : 'cA is false',
    facts.keyUsage?.includes('keyCertSign') === true ? undefined : 'keyCertSign is missing',
    facts.uris.length <= 1 ? undefined : `it has ${facts.uris.length} URI names`,
    facts.uris.length !== 1 || isDomainId(facts.uris[0]!) ? undefined : `${facts.uris[0]} is not a trust domain's ID`,
  ].filter((one) => one !== undefined);
  return {
    rule: `signing-${position}`,
    holds: wrong.length === 0,
    message:
      wrong.length === 0
        ? `certificate ${position} may sign SVIDs`
        : `certificate ${position} must not sign SVIDs: ${wrong.join(', ')}`,
  };
}

/** The rules that need something to compare with: a trust domain, a key, a bundle. */
function wantedRules(
  chain: readonly Buffer[],
  leaf: X509Certificate,
  facts: CertificateFacts,
  { trustDomain, key, bundles, denied, now }: InspectOptions,
): RuleResult[] {
  const rules: RuleResult[] = [];
  if (trustDomain !== undefined) {
    const id = spiffeIdOf(facts);
    const holds = id !== undefined && parseSpiffeId(id).trustDomain === trustDomain;
    rules.push({ rule: 'trust-domain', holds, message: `the SPIFFE ID belongs to ${trustDomain}` });
  }
  if (key !== undefined) {
    const holds = leaf.publicKey.equals(createPublicKey(key));
    const message = holds ? 'the key belongs to the certificate' : 'the key does not belong to the certificate';
    rules.push({ rule: 'key', holds, message });
  }
  if (bundles !== undefined) rules.push(pathRule(chain, bundles, denied ?? emptyDenyList, now));
  return rules;
}

/** RFC 5280 path validation against the bundle of the leaf's own trust domain, then the deny list. */
function pathRule(chain: readonly Buffer[], bundles: TrustBundles, denied: DenyList, now: number): RuleResult {
  try {
    const { id } = verifyChain(chain, bundles, denied, now);
    return { rule: 'path', holds: true, message: `a valid path leads to a root of ${id.trustDomain}` };
  } catch (error) {
    return { rule: 'path', holds: false, message: reasonOf(error) };
  }
}

function describe(certificate: X509Certificate, facts: CertificateFacts): CertificateReport {
  return Object.freeze({
    subject: nameOf(certificate.subject),
    issuer: nameOf(certificate.issuer),
    serial: certificate.serialNumber.toLowerCase(),
    uris: facts.uris,
    dns: facts.dns,
    hosts: hostsOf(facts),
    isCa: facts.isCa,
    keyKind: keyKindOf(certificate.publicKey),
    signedWith: facts.signedWith,
    notBefore: formatTime(certificate.validFromDate.getTime()),
    notAfter: formatTime(certificate.validToDate.getTime()),
    fingerprint: fingerprintOf(certificate.raw),
  });
}

/** RFC 4514: one line, the most specific attribute first. */
function nameOf(lines: string | undefined): string {
  return lines?.split('\n').reverse().join(',') ?? '';
}

function spiffeIdOf(facts: CertificateFacts): string | undefined {
  try {
    return facts.uris[0] === undefined ? undefined : parseSpiffeId(facts.uris[0]).uri;
  } catch {
    return undefined;
  }
}

function isDomainId(uri: string): boolean {
  try {
    return parseSpiffeId(uri).path === '';
  } catch {
    return false;
  }
}
