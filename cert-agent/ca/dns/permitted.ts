// Names that the CA's own issuers permit (RFC 5280 section 4.2.1.10). An issuer below an external root may be restricted
// to some names; clients would refuse a certificate with any other name, and with it the workload.

import { isIP } from 'node:net';
import type { TrustBundle } from '../../identity/bundle.ts';
import { addressBytes } from '../../identity/leaf.ts';
import { type Name, type NameConstraints, nameKind, permitsNames } from '../../identity/name-constraints.ts';
import { type Link, readLink, rootsOf } from '../../identity/path.ts';

/** The constraints on what `above` (DER) signs: their own, and those of the roots of `bundle` that signed one of them. */
export function constraintsOf(above: readonly Buffer[], bundle: TrustBundle): readonly NameConstraints[] {
  const links = above.map((one) => readLink(one));
  const signed = ({ certificate }: Link): boolean => links.some((one) => one.certificate.checkIssued(certificate));
  const anchors = rootsOf(bundle).filter(signed);
  return [...links, ...anchors].flatMap(({ facts }) => facts.nameConstraints ?? []);
}

/** True if all of them permit a DNS name or an IP address. */
export function isPermitted(constraints: readonly NameConstraints[], name: string): boolean {
  const one: Name =
    isIP(name) === 0
      ? { kind: nameKind.dns, value: Buffer.from(name, 'latin1') }
      : { kind: nameKind.ip, value: addressBytes(name) };
  return constraints.every((each) => permitsNames(each, [one]));
}
