// The public part of a CA's directory: its trust domain, the certificate it signs with, and its bundle. No key is read.

import { existsSync } from 'node:fs';
import { SallyportError } from '../base/errors.ts';
import { writeFileDurably } from '../base/write.ts';
import { formatBundle, formatPem, parseBundle, readPemBlocks, type TrustBundle } from '../identity/bundle.ts';
import { readCertificateFacts } from '../identity/certificate.ts';
import { parseSpiffeId } from '../identity/spiffe-id.ts';
import { fingerprintOf } from '../identity/verify.ts';
import { caFilesOf, readCaFile } from './directory.ts';
import { readState } from './rotation/state.ts';

/** Also for a new CA that waits for its first issuer. */
export interface CaBundle {
  readonly trustDomain: string;
  readonly bundle: TrustBundle;
}

/** The issuer in use, with what stands above it. `chain` begins with the intermediate and has no root. */
export interface CaCertificates extends CaBundle {
  /** DER. */
  readonly intermediate: Buffer;
  /** The intermediate, and CAs between it and the root. */
  readonly chain: readonly Buffer[];
}

/** @throws SallyportError `ca_missing`, or the problem of a certificate. */
export function readCaCertificates(dir: string): CaCertificates {
  const { intermediate: file } = caFilesOf(dir);
  const chain = readPemBlocks(readCaFile(dir, file), file);
  const [intermediate] = chain;
  if (intermediate === undefined) throw new SallyportError('certificate_unreadable', `${file} contains no certificate`);
  return { ...readBundleOf(dir, trustDomainIn(intermediate, file)), intermediate, chain };
}

/**
 * The trust domain and the bundle, also of a new CA that waits for its first issuer.
 * @throws SallyportError as readCaCertificates does.
 */
export function readBundle(dir: string): CaBundle {
  const { intermediate } = caFilesOf(dir);
  const requested = existsSync(intermediate) ? undefined : readState(dir)?.trustDomain;
  return requested === undefined ? readCaCertificates(dir) : readBundleOf(dir, requested);
}

/** The issuer in use, DER; none for a new CA that waits for its first one. */
export function readIntermediate(dir: string): readonly Buffer[] {
  return existsSync(caFilesOf(dir).intermediate) ? [readCaCertificates(dir).intermediate] : [];
}

function readBundleOf(dir: string, trustDomain: string): CaBundle {
  const { bundle } = caFilesOf(dir);
  return { trustDomain, bundle: parseBundle(readCaFile(dir, bundle), trustDomain, bundle) };
}

function trustDomainIn(intermediate: Buffer, file: string): string {
  const [uri] = readCertificateFacts(intermediate).uris;
  if (uri === undefined) throw new SallyportError('certificate_unreadable', `${file} has no trust domain ID`);
  return parseSpiffeId(uri).trustDomain;
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
  return [...new Set([...own, ...readBundle(dir).bundle.roots].map(fingerprintOf))];
}
