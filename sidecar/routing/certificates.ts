// The certificates that listeners show: when they end, and whether they bear the names that they are shown under. Clients
// refuse what does not fit, so somebody should know before they do.

import { X509Certificate } from 'node:crypto';
import { readPemBlocks } from '../../cert-agent/identity/bundle.ts';
import type { Attachments } from './attach.ts';
import { keyOf } from './documents.ts';

export interface ShownCertificate {
  /** `namespace/gateway/section`. */
  readonly listener: string;
  readonly hostname: string | undefined;
  /** Milliseconds since 1970. */
  readonly notAfter: number;
  /** Whether one of the listener's certificates bears its host name; true where it has none. */
  readonly fits: boolean;
}

export interface Worry {
  readonly code: 'certificate_host_mismatch' | 'certificate_ends_soon';
  readonly message: string;
}

/** What is to end within this is said: long enough for somebody to come back from a weekend. */
const soonMs = 7 * 24 * 3_600_000;

/** The certificate of each listener that is served, the one of several that ends first. */
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

/** A wildcard of the listener must stand in the certificate; any other name may be covered by one. */
function bears(leaf: X509Certificate, hostname: string): boolean {
  if (hostname.startsWith('*.')) return leaf.subjectAltName?.split(', ').includes(`DNS:${hostname}`) === true;
  return leaf.checkHost(hostname) !== undefined;
}

/** What an operator should hear of them. `now` in milliseconds. */
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
            message: `a certificate of listener ${listener} ends at ${new Date(notAfter).toISOString()}`,
          },
        ]),
  ]);
}
