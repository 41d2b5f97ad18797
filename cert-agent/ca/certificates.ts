// What a CA's directory says in public: its trust domain, the certificate it signs with, and its bundle. No key is read.

import { existsSync } from 'node:fs';
import { SallyportError } from '../base/errors.ts';
import { parseBundle, readPemBlocks, type TrustBundle } from '../identity/bundle.ts';
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

/** @throws SallyportError `ca_missing`, or what reading its certificates throws. */
export function readCaCertificates(dir: string): CaCertificates {
  const files = caFilesOf(dir);
  const [intermediate] = readPemBlocks(readCaFile(dir, files.intermediate), files.intermediate);
  if (intermediate === undefined) {
    throw new SallyportError('certificate_unreadable', `${files.intermediate} holds no certificate`);
  }
  const [uri] = readCertificateFacts(intermediate).uris;
  if (uri === undefined) {
    throw new SallyportError('certificate_unreadable', `${files.intermediate} does not name its trust domain`);
  }
  const { trustDomain } = parseSpiffeId(uri);
  const bundle = parseBundle(readCaFile(dir, files.bundle), trustDomain, files.bundle);
  return { trustDomain, intermediate, bundle };
}

/**
 * By which roots the store of this CA knows it, SHA-256 in lower-case hex: its own, which need not be there, then those
 * of its bundle. @throws SallyportError as `readCaCertificates` does.
 */
export function readRootFingerprints(dir: string): readonly string[] {
  const { root } = caFilesOf(dir);
  const own = existsSync(root) ? readPemBlocks(readCaFile(dir, root), root) : [];
  return [...new Set([...own, ...readCaCertificates(dir).bundle.roots].map(fingerprintOf))];
}
