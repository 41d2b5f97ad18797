// Reading a certificate: what node:crypto does not show (KeyUsage bits, criticality, path length, name constraints).
// Apart from making certificates (x509.ts), since a sidecar only reads them and the library that makes them is large.

import { X509Certificate } from 'node:crypto';
import { AsnConvert, type OctetString } from '@peculiar/asn1-schema';
import {
  BasicConstraints,
  Certificate,
  ExtendedKeyUsage,
  id_ce_basicConstraints,
  id_ce_extKeyUsage,
  id_ce_keyUsage,
  id_ce_nameConstraints,
  id_ce_subjectAltName,
  id_kp_clientAuth,
  id_kp_serverAuth,
  KeyUsage,
  KeyUsageFlags,
  NameConstraints,
  SubjectAlternativeName,
} from '@peculiar/asn1-x509';
import { reasonOf, SallyportError } from '../base/errors.ts';

/** What the rules of SPIFFE and RFC 5280 ask of a certificate, read once from its DER. */
export interface CertificateFacts {
  readonly subjectEmpty: boolean;
  readonly uris: readonly string[];
  readonly dns: readonly string[];
  readonly sanCritical: boolean;
  readonly isCa: boolean;
  readonly pathLength: number | undefined;
  /** Undefined where the extension is absent. */
  readonly keyUsage: readonly string[] | undefined;
  readonly keyUsageCritical: boolean;
  /** Undefined where the extension is absent. */
  readonly tlsUsage: readonly string[] | undefined;
  /** Permitted URI hosts of a name-constraints extension; undefined where there is none. */
  readonly permittedUriHosts: readonly string[] | undefined;
  /** OIDs of critical extensions that nothing here understands: a path through them must be refused. */
  readonly unknownCritical: readonly string[];
}

interface ExtensionValue {
  readonly critical: boolean;
  readonly extnValue: OctetString;
}

/** What `der` says about itself. @throws SallyportError `certificate_unreadable`. */
export function readCertificateFacts(der: Uint8Array): CertificateFacts {
  try {
    return readFacts(AsnConvert.parse(der, Certificate));
  } catch (error) {
    throw unreadable(error);
  }
}

/** The certificate as node:crypto has it, for its signature, key and dates. @throws SallyportError `certificate_unreadable`. */
export function openCertificate(der: Uint8Array): X509Certificate {
  try {
    return new X509Certificate(der);
  } catch (error) {
    throw unreadable(error);
  }
}

function unreadable(error: unknown): SallyportError {
  return new SallyportError('certificate_unreadable', `the certificate cannot be read: ${reasonOf(error)}`, {
    cause: error,
  });
}

function readFacts({ tbsCertificate }: Certificate): CertificateFacts {
  const extensions = new Map<string, ExtensionValue>();
  for (const one of tbsCertificate.extensions ?? []) {
    // RFC 5280 section 4.2: two of a kind, and readers differ on which one counts.
    if (extensions.has(one.extnID)) throw new TypeError(`extension ${one.extnID} stands there twice`);
    extensions.set(one.extnID, one);
  }
  const read = <T>(oid: string, type: new () => T): T | undefined => {
    const found = extensions.get(oid);
    return found === undefined ? undefined : AsnConvert.parse(found.extnValue.buffer, type);
  };
  const names = [...(read(id_ce_subjectAltName, SubjectAlternativeName) ?? [])];
  const constraints = read(id_ce_basicConstraints, BasicConstraints);
  const usage = read(id_ce_keyUsage, KeyUsage);
  const extended = read(id_ce_extKeyUsage, ExtendedKeyUsage);
  const permittedUriHosts = hostsOf(read(id_ce_nameConstraints, NameConstraints));
  return Object.freeze({
    subjectEmpty: tbsCertificate.subject.length === 0,
    uris: names.flatMap((one) => one.uniformResourceIdentifier ?? []),
    dns: names.flatMap((one) => one.dNSName ?? []),
    sanCritical: extensions.get(id_ce_subjectAltName)?.critical ?? false,
    isCa: constraints?.cA ?? false,
    pathLength: constraints?.pathLenConstraint,
    keyUsage: usage === undefined ? undefined : usesOf(usage.toNumber()),
    keyUsageCritical: extensions.get(id_ce_keyUsage)?.critical ?? false,
    tlsUsage: extended === undefined ? undefined : Array.from(extended, nameOfExtendedUse),
    permittedUriHosts,
    unknownCritical: [...extensions]
      .filter(([oid, { critical }]) => critical && !isUnderstood(oid, permittedUriHosts))
      .map(([oid]) => oid),
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

function usesOf(bits: number): string[] {
  return useNames.filter((name) => (bits & KeyUsageFlags[name]) !== 0);
}

function nameOfExtendedUse(oid: string): string {
  if (oid === id_kp_serverAuth) return 'serverAuth';
  return oid === id_kp_clientAuth ? 'clientAuth' : oid;
}

/** Permitted hosts, or undefined when the extension is absent or holds anything but permitted URI hosts. */
function hostsOf(constraints: NameConstraints | undefined): readonly string[] | undefined {
  if (constraints?.permittedSubtrees === undefined || constraints.excludedSubtrees !== undefined) return undefined;
  const hosts: string[] = [];
  for (const { base, minimum, maximum } of constraints.permittedSubtrees) {
    if (base.uniformResourceIdentifier === undefined || minimum !== 0 || maximum !== undefined) return undefined;
    hosts.push(base.uniformResourceIdentifier);
  }
  return hosts;
}

/** Critical extensions that a path may carry: SAN, basic constraints, key usages, and name constraints that were read. */
function isUnderstood(oid: string, permittedUriHosts: readonly string[] | undefined): boolean {
  if (oid === id_ce_nameConstraints) return permittedUriHosts !== undefined;
  return [id_ce_keyUsage, id_ce_subjectAltName, id_ce_basicConstraints, id_ce_extKeyUsage].includes(oid);
}
