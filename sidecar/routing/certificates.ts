// The certificates of listeners: when they expire, and whether they have the listener's host name. Clients refuse a
// wrong certificate, so the operator should know first.

import { X509Certificate } from 'node:crypto';
import { readPemBlocks } from '../../cert-agent/identity/bundle.ts';
import type { Attachments } from './attach.ts';
import { keyOf } from './documents.ts';

/** A programmed listener that terminates TLS, for metrics and warnings. Contains no key. */
export interface ShownCertificate {
  /** `namespace/gateway/section`. */
  readonly listener: string;
  readonly hostname: string | undefined;
  /** Milliseconds since 1970. */
  readonly notAfter: number;
  /** Whether one of the listener's certificates has its host name; true if it has none. */
  readonly fits: boolean;
}

/** A warning for the log: no certificate has the host name, or one expires within 7 days or has expired. */
export interface Worry {
  readonly code: 'certificate_host_mismatch' | 'certificate_ends_soon';
  readonly message: string;
}

/** Certificates that expire within this are reported: long enough to return from a weekend. */
const soonMs = 7 * 24 * 3_600_000;

/** The certificate of each served listener; of several the one that expires first. */
export function certificatesOf({ gateways }: Attachments): readonly ShownCertificate[] {
  return gateways.flatMap(({ listeners }) =>
    listeners
      .filter(({ programmed, certificates }) => programmed && certificates.length > 0)
      .map(({ gateway, spec, certificates }): ShownCertificate => {
        const leaves = certificates.map(
          ({ certificate }) => new X509Certificate(readPemBlocks(certificate, 'a certificate')[0]!),
        );
        return {
          listener: `${keyOf(gateway)}/${spec.name}`,
          hostname: spec.hostname,
          notAfter: Math.min(...leaves.map(({ validToDate }) => validToDate.getTime())),
          fits: spec.hostname === undefined || leaves.some((leaf) => bears(leaf, spec.hostname!)),
        };
      }),
  );
}

/** A wildcard of the listener must be in the certificate; any other name may be covered by a wildcard there. */
function bears(leaf: X509Certificate, hostname: string): boolean {
  if (hostname.startsWith('*.')) return leaf.subjectAltName?.split(', ').includes(`DNS:${hostname}`) === true;
  return leaf.checkHost(hostname) !== undefined;
}

/** Warnings for the operator. `now` in milliseconds. */
export function worriesOf(shown: readonly ShownCertificate[], now: number): readonly Worry[] {
  return shown.flatMap(({ listener, hostname, notAfter, fits }): Worry[] => [
    ...(fits
      ? []
      : [
          {
            code: 'certificate_host_mismatch' as const,
            message: `no certificate of listener ${listener} is for ${hostname}: clients will refuse it`,
          },
        ]),
    ...(notAfter - now > soonMs
      ? []
      : [
          {
            code: 'certificate_ends_soon' as const,
            message: `a certificate of listener ${listener} expires at ${new Date(notAfter).toISOString()}`,
          },
        ]),
  ]);
}
