// Parses what node:crypto does not show of a certificate: KeyUsage bits, criticality, path length, name constraints,
// the signature algorithm. Unknown clients may present one, so der.ts parses it in linear time. The library that makes
// certificates (x509.ts) takes a thousand times as long for one that is full of names.

import { X509Certificate } from 'node:crypto';
import { reasonOf, SallyportError } from '../base/errors.ts';
import { type DerElement, DerReader, derTag, readBoolean, readNamedBits, readOid, readSmallInteger } from './der.ts';
import { type Name, type NameConstraints, nameKind, readNameConstraints, readNames } from './name-constraints.ts';

/** What the rules of SPIFFE and RFC 5280 need to know of a certificate, parsed once from its DER. */
export interface CertificateFacts {
  readonly subjectEmpty: boolean;
  /** Subject and issuer are identical, byte for byte. */
  readonly selfIssued: boolean;
  readonly uris: readonly string[];
  readonly dns: readonly string[];
  /** All names that name constraints apply to: the alternative names, and the subject where it is not empty. */
  readonly names: readonly Name[];
  readonly sanCritical: boolean;
  readonly isCa: boolean;
  readonly pathLength: number | undefined;
  /** Undefined where the extension is absent. */
  readonly keyUsage: readonly string[] | undefined;
  readonly keyUsageCritical: boolean;
  /** Undefined where the extension is absent. */
  readonly tlsUsage: readonly string[] | undefined;
  readonly nameConstraints: NameConstraints | undefined;
  /** Permitted URI hosts of a name-constraints extension; undefined where there is none. */
  readonly permittedUriHosts: readonly string[] | undefined;
  /** OIDs of critical extensions that we do not process: a path through them must be refused. */
  readonly unknownCritical: readonly string[];
  /** The signature algorithm, such as `ecdsa-sha256`; undefined for a broken one (MD5, SHA-1) or an unknown one. */
  readonly signedWith: string | undefined;
}

/** Parses `der`. @throws SallyportError `certificate_unreadable`. */
export function readCertificateFacts(der: Uint8Array): CertificateFacts {
  try {
    return readFacts(Buffer.from(der.buffer, der.byteOffset, der.byteLength));
  } catch (error) {
    throw unreadable(error);
  }
}

/** node:crypto's certificate, for its signature, key and dates. @throws SallyportError `certificate_unreadable`. */
export function openCertificate(der: Uint8Array): X509Certificate {
  try {
    return new X509Certificate(der);
  } catch (error) {
    throw unreadable(error);
  }
}

function unreadable(error: unknown): SallyportError {
  return new SallyportError('certificate_unreadable', `cannot parse the certificate: ${reasonOf(error)}`, {
    cause: error,
  });
}

/** RFC 5280 section 4.1. Fields that are not needed are skipped without parsing. */
function readFacts(der: Buffer): CertificateFacts {
  const certificate = new DerReader(der).enter();
  const body = certificate.enter();
  const algorithm = certificate.read(derTag.sequence);
  certificate.read(derTag.bitString);
  certificate.end();
  const version = body.readIf(0xa0);
  body.read(derTag.integer);
  // RFC 5280 section 4.1.1.2: the algorithm is named twice, and only one of the two is signed.
  if (!body.read(derTag.sequence).whole.equals(algorithm.whole))
    throw new TypeError('its two signature algorithms differ');
  const issuer = body.read(derTag.sequence);
  body.read(derTag.sequence);
  const subject = body.read(derTag.sequence);
  body.read(derTag.sequence);
  body.readIf(0x81);
  body.readIf(0x82);
  const extensions = readExtensions(body.readIf(0xa3));
  body.end();
  // Section 4.1.2.1: only version 3, encoded as 2, has extensions.
  if (extensions.size > 0 && !version?.body.equals(version3))
    throw new TypeError('extensions in a certificate of version 1 or 2');
  return factsOf(subject, issuer, algorithm, extensions);
}

const version3 = Buffer.from([derTag.integer, 1, 2]);

interface Extension {
  readonly critical: boolean;
  readonly value: Buffer;
}

function readExtensions(element: DerElement | undefined): ReadonlyMap<string, Extension> {
  const found = new Map<string, Extension>();
  if (element === undefined) return found;
  const explicit = new DerReader(element.body);
  for (const list = explicit.enter(); !list.done; ) {
    const one = list.enter();
    const oid = readOid(one.read(derTag.oid));
    const critical = one.readIf(derTag.boolean);
    const { body: value } = one.read(derTag.octetString);
    one.end();
    // RFC 5280 section 4.2: with two of a kind, parsers would disagree on which one counts.
    if (found.has(oid)) throw new TypeError(`extension ${oid} occurs twice`);
    found.set(oid, { critical: critical !== undefined && readBoolean(critical), value });
  }
  explicit.end();
  return found;
}

/** The extensions that are parsed here, and so may be critical (RFC 5280 section 4.2.1, X509-SVID section 4). */
const oids = Object.freeze({
  keyUsage: '2.5.29.15',
  alternativeNames: '2.5.29.17',
  basicConstraints: '2.5.29.19',
  nameConstraints: '2.5.29.30',
  extendedKeyUsage: '2.5.29.37',
});
const understood: ReadonlySet<string> = new Set(Object.values(oids));

function factsOf(
  subject: DerElement,
  issuer: DerElement,
  algorithm: DerElement,
  extensions: ReadonlyMap<string, Extension>,
): CertificateFacts {
  const extensionOf = (oid: string): DerElement | undefined => {
    const value = extensions.get(oid)?.value;
    return value === undefined ? undefined : wholeOf(value);
  };
  const alternatives = readNames(new DerReader(extensionOf(oids.alternativeNames)?.body ?? Buffer.alloc(0)));
  const constraints = readBasicConstraints(extensionOf(oids.basicConstraints));
  const usage = extensionOf(oids.keyUsage);
  const limits = extensions.get(oids.nameConstraints);
  const nameConstraints = limits === undefined ? undefined : readNameConstraints(limits.value);
  const textsOf = (names: readonly Name[], kind: number): string[] =>
    names.filter((one) => one.kind === kind).map(({ value }) => value.toString('latin1'));
  return Object.freeze({
    subjectEmpty: subject.body.length === 0,
    selfIssued: subject.whole.equals(issuer.whole),
    uris: textsOf(alternatives, nameKind.uri),
    dns: textsOf(alternatives, nameKind.dns),
    names: [...alternatives, ...namesOfSubject(subject)],
    sanCritical: extensions.get(oids.alternativeNames)?.critical ?? false,
    ...constraints,
    keyUsage: usage === undefined ? undefined : readNamedBits(expect(usage, derTag.bitString), useNames),
    keyUsageCritical: extensions.get(oids.keyUsage)?.critical ?? false,
    tlsUsage: readExtendedUses(extensionOf(oids.extendedKeyUsage)),
    nameConstraints,
    permittedUriHosts: nameConstraints && textsOf(nameConstraints.permitted, nameKind.uri),
    unknownCritical: [...extensions]
      .filter(([oid, { critical }]) => critical && !understood.has(oid))
      .map(([oid]) => oid),
    signedWith: readAlgorithm(algorithm),
  });
}

const useNames = [
  'digitalSignature',
  'nonRepudiation',
  'keyEncipherment',
  'dataEncipherment',
  'keyAgreement',
  'keyCertSign',
  'cRLSign',
  'encipherOnly',
  'decipherOnly',
] as const;

/** The single element of an extension's value. */
function wholeOf(value: Buffer): DerElement {
  const reader = new DerReader(value);
  const element = reader.read();
  reader.end();
  return element;
}

function expect(element: DerElement, tag: number): DerElement {
  if (element.tag !== tag) throw new TypeError(`tag ${element.tag} where ${tag} is expected`);
  return element;
}

function readBasicConstraints(element: DerElement | undefined): Pick<CertificateFacts, 'isCa' | 'pathLength'> {
  if (element === undefined) return { isCa: false, pathLength: undefined };
  const body = new DerReader(expect(element, derTag.sequence).body);
  const ca = body.readIf(derTag.boolean);
  const length = body.readIf(derTag.integer);
  body.end();
  return {
    isCa: ca !== undefined && readBoolean(ca),
    pathLength: length === undefined ? undefined : readSmallInteger(length),
  };
}

function readExtendedUses(element: DerElement | undefined): string[] | undefined {
  if (element === undefined) return undefined;
  const uses: string[] = [];
  for (const body = new DerReader(expect(element, derTag.sequence).body); !body.done; ) {
    const oid = readOid(body.read(derTag.oid));
    uses.push(oid === '1.3.6.1.5.5.7.3.1' ? 'serverAuth' : oid === '1.3.6.1.5.5.7.3.2' ? 'clientAuth' : oid);
  }
  return uses;
}

/**
 * PKCS #9 emailAddress, which some CAs put into a subject. Constraints on addresses apply to it too (RFC 5280 section
 * 4.2.1.10).
 */
const emailAttribute = Buffer.from('06092a864886f70d010901', 'hex');

function namesOfSubject(subject: DerElement): Name[] {
  if (subject.body.length === 0) return [];
  const whole = { kind: nameKind.directory, value: subject.whole };
  return subject.body.includes(emailAttribute) ? [whole, { kind: nameKind.email, value: Buffer.alloc(0) }] : [whole];
}

/** Signature algorithms that are still secure: SHA-2 and Ed25519 (RFC 5758, RFC 8410, RFC 4055). */
const algorithms: ReadonlyMap<string, string> = new Map([
  ['1.2.840.10045.4.3.2', 'ecdsa-sha256'],
  ['1.2.840.10045.4.3.3', 'ecdsa-sha384'],
  ['1.2.840.10045.4.3.4', 'ecdsa-sha512'],
  ['1.2.840.113549.1.1.11', 'rsa-sha256'],
  ['1.2.840.113549.1.1.12', 'rsa-sha384'],
  ['1.2.840.113549.1.1.13', 'rsa-sha512'],
  ['1.3.101.112', 'ed25519'],
]);
const hashes: ReadonlyMap<string, string> = new Map([
  ['2.16.840.1.101.3.4.2.1', 'sha256'],
  ['2.16.840.1.101.3.4.2.2', 'sha384'],
  ['2.16.840.1.101.3.4.2.3', 'sha512'],
]);

function readAlgorithm({ body }: DerElement): string | undefined {
  const reader = new DerReader(body);
  const oid = readOid(reader.read(derTag.oid));
  return oid === '1.2.840.113549.1.1.10' ? readPss(reader) : algorithms.get(oid);
}

/** RFC 4055 section 3.1: a hash that is missing in RSASSA-PSS parameters is SHA-1, for the message and for the mask. */
function readPss(reader: DerReader): string | undefined {
  if (reader.done) return undefined;
  const parameters = reader.enter();
  const [hash, mask] = [parameters.readIf(0xa0), parameters.readIf(0xa1)];
  if (hash === undefined || mask === undefined) return undefined;
  const ofMessage = hashes.get(readOid(new DerReader(hash.body).enter().read(derTag.oid)));
  const generator = new DerReader(mask.body).enter();
  if (readOid(generator.read(derTag.oid)) !== '1.2.840.113549.1.1.8') return undefined;
  const ofMask = hashes.get(readOid(generator.enter().read(derTag.oid)));
  return ofMessage === undefined || ofMask !== ofMessage ? undefined : `rsa-pss-${ofMessage}`;
}
