// The public part of a CA's directory: its trust domain, the certificate it signs with, and its bundle. No key is read.

import { existsSync } from 'node:fs';
import { SallyportError } from '../base/errors.ts';
import { writeFileDurably } from '../base/write.ts';
import { formatBundle, formatPem, parseBundle, readPemBlocks, type TrustBundle } from '../identity/bundle.ts';
import { readCertificateFacts } from '../identity/certificate.ts';
import { parseSpiffeId } from '../identity/spiffe-id.ts';
import { fingerprintOf } from '../identity/verify.ts';
import { caFilesOf, readCaFile } from './directory.ts';

export interface CaCertificates {
  readonly trustDomain: string;
  /** DER. */
  readonly intermediate: Buffer;
  readonly bundle: TrustBundle;
}

/** @throws SallyportError `ca_missing`, or the problem of a certificate. */
export function readCaCertificates(dir: string): CaCertificates {
  const files = caFilesOf(dir);
  const [intermediate] = readPemBlocks(readCaFile(dir, files.intermediate), files.intermediate);
  if (intermediate === undefined) {
    throw new SallyportError('certificate_unreadable', `${files.intermediate} contains no certificate`);
  }
  const [uri] = readCertificateFacts(intermediate).uris;
  if (uri === undefined) {
    throw new SallyportError('certificate_unreadable', `${files.intermediate} has no trust domain ID`);
  }
  const { trustDomain } = parseSpiffeId(uri);
  const bundle = parseBundle(readCaFile(dir, files.bundle), trustDomain, files.bundle);
  return { trustDomain, intermediate, bundle };
}

/** Writes the bundle, for agents and as PEM for others. The JSON is last: it is the one that we read. */
export function writeBundle(dir: string, bundle: TrustBundle): void {
  const files = caFilesOf(dir);
  writeFileDurably(files.bundlePem, formatPem(bundle.roots), 0o644);
  writeFileDurably(files.bundle, `${JSON.stringify(formatBundle(bundle), null, 2)}\n`, 0o644);
}

/**
 * The roots by which the store recognizes this CA, SHA-256 in lower-case hex: its own root, whose file may be absent,
 * then those of its bundle. @throws SallyportError as `readCaCertificates` does.
 */
export function readRootFingerprints(dir: string): readonly string[] {
  const { root } = caFilesOf(dir);
  const own = existsSync(root) ? readPemBlocks(readCaFile(dir, root), root) : [];
  return [...new Set([...own, ...readCaCertificates(dir).bundle.roots].map(fingerprintOf))];
}
