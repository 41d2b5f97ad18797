// Trust bundles: the roots of one trust domain, in the SPIFFE bundle format (Trust Domain and Bundle standard, section
// 4) or as PEM. Bundles of several trust domains are kept side by side and never merged: merging would let the CA of
// each domain issue identities of all others.

import { X509Certificate } from 'node:crypto';
import { reasonOf, SallyportError } from '../base/errors.ts';

/** The roots of one trust domain; frozen. */
export interface TrustBundle {
  readonly trustDomain: string;
  /** Roots, DER. Never empty after parsing: an empty key set means 'everything revoked' and is refused. */
  readonly roots: readonly Buffer[];
  /** `spiffe_sequence`, which grows with every change; 0 where the source has none. */
  readonly sequence: number;
  /** `spiffe_refresh_hint`, seconds. */
  readonly refreshHintS: number;
}

/** Bundles by trust domain. */
export type TrustBundles = ReadonlyMap<string, TrustBundle>;

/** Bundles with only one trust domain, the usual case. */
export function onlyBundle(bundle: TrustBundle): TrustBundles {
  return new Map([[bundle.trustDomain, bundle]]);
}

/**
 * Parses a bundle: a SPIFFE bundle (JSON) or PEM certificates.
 * @throws SallyportError `bundle_invalid`, or `bundle_empty` when it contains no root.
 */
export function parseBundle(text: string, trustDomain: string, source: string): TrustBundle {
  const bundle = text.trimStart().startsWith('{')
    ? readJwks(text, trustDomain, source)
    : { trustDomain, roots: readPemBlocks(text, source), sequence: 0, refreshHintS: 300 };
  if (bundle.roots.length === 0) {
    throw new SallyportError(
      'bundle_empty',
      `${source} contains no certificate, so no peer of ${trustDomain} can be verified`,
      {
        hint: 'an empty bundle revokes a whole trust domain; use the file that the CA wrote',
      },
    );
  }
  return Object.freeze(bundle);
}

/** The bundle as a JWK Set (sections 4.1 and 4.2): one certificate in each `x5c`, no `kid`. */
export function formatBundle(bundle: TrustBundle): object {
  return {
    spiffe_sequence: bundle.sequence,
    spiffe_refresh_hint: bundle.refreshHintS,
    keys: bundle.roots.map((root) => {
      const { kty, crv, x, y, n, e } = new X509Certificate(root).publicKey.export({ format: 'jwk' });
      return { use: 'x509-svid', kty, crv, x, y, n, e, x5c: [root.toString('base64')] };
    }),
  };
}

/** DER certificates as concatenated PEM. */
export function formatPem(certificates: readonly Buffer[]): string {
  return certificates
    .map(
      (one) =>
        `-----BEGIN CERTIFICATE-----\n${one.toString('base64').replace(/.{64}(?=.)/g, '$&\n')}\n-----END CERTIFICATE-----\n`,
    )
    .join('');
}

/** All certificates of a PEM text as DER, in order. @throws SallyportError `certificate_unreadable`. */
export function readPemBlocks(text: string, source: string): Buffer[] {
  const blocks = text.match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g) ?? [];
  return blocks.map((block, index) => {
    try {
      return Buffer.from(new X509Certificate(block).raw);
    } catch (error) {
      throw new SallyportError(
        'certificate_unreadable',
        `certificate ${index + 1} of ${source} cannot be read: ${reasonOf(error)}`,
      );
    }
  });
}

function readJwks(text: string, trustDomain: string, source: string): TrustBundle {
  let set: unknown;
  try {
    set = JSON.parse(text);
  } catch (error) {
    throw invalid(source, `not JSON: ${reasonOf(error)}`);
  }
  if (!isObject(set) || !Array.isArray(set['keys'])) throw invalid(source, "no 'keys' list");
  const roots: Buffer[] = [];
  for (const [index, key] of (set['keys'] as unknown[]).entries()) {
    // Section 4.2.2: a key with an unknown use or type is ignored, so that new kinds can be added.
    if (!isObject(key) || key['use'] !== 'x509-svid') continue;
    const chain = key['x5c'];
    // Section 4.2: only the first certificate counts; further values of x5c are ignored.
    const first: unknown = Array.isArray(chain) ? chain[0] : undefined;
    if (typeof first !== 'string') throw invalid(source, `keys[${index}] has no x5c certificate`);
    roots.push(readRoot(first, source, index));
  }
  return {
    trustDomain,
    roots,
    sequence: wholeNumber(set['spiffe_sequence']) ?? 0,
    refreshHintS: wholeNumber(set['spiffe_refresh_hint']) ?? 300,
  };
}

function readRoot(base64: string, source: string, index: number): Buffer {
  try {
    return Buffer.from(new X509Certificate(Buffer.from(base64, 'base64')).raw);
  } catch (error) {
    throw invalid(source, `the certificate of keys[${index}] cannot be read: ${reasonOf(error)}`);
  }
}

function invalid(source: string, why: string): SallyportError {
  return new SallyportError('bundle_invalid', `${source} is not a SPIFFE bundle: ${why}`);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function wholeNumber(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? value : undefined;
}
