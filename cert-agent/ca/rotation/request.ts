// An issuer below an external root: the CA creates the key and a request, and installs the returned
// certificate. It is installed only if peers will accept the certificates that it signs.
//
//   D/next/intermediate.key, D/next/issuer.csr   after `request`
//   D/next/intermediate.pem                      after `install`

import { createPublicKey, X509Certificate } from 'node:crypto';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { formatTime } from '../../base/clock.ts';
import { SallyportError } from '../../base/errors.ts';
import { absolutePath, makeDirectory, writeFileDurably } from '../../base/write.ts';
import { formatPem, onlyBundle, readPemBlocks } from '../../identity/bundle.ts';
import { readCertificateFacts } from '../../identity/certificate.ts';
import { emptyDenyList } from '../../identity/denied.ts';
import { formatKey, generateKey, parseKey } from '../../identity/keys.ts';
import { signLeaf } from '../../identity/leaf.ts';
import { caIdOf } from '../../identity/spiffe-id.ts';
import { fingerprintOf, verifyChain } from '../../identity/verify.ts';
import { createCaCsr, randomSerial } from '../../identity/x509.ts';
import { namesOf, publicHalf } from '../ca-certificates.ts';
import { readBundle } from '../certificates.ts';
import { caFilesOf, rotationFilesOf } from '../directory.ts';
import { type RotationKind, type RotationState, writeState } from './state.ts';

/** The passphrase encrypts the new key. */
export interface IssuerRequestOptions {
  readonly trustDomain: string;
  readonly passphrase: string | undefined;
  /** Milliseconds since 1970. */
  readonly now: number;
  /** SHA-256 of the issuer in use; undefined for a new CA. */
  readonly oldIssuer?: string;
  /** For a rotation of the root: the present root and the new one, DER. */
  readonly roots?: { readonly old: Buffer; readonly new: Buffer };
}

/** Makes a key and a request (PKCS#10) in `next/`, in place of an earlier one. */
export async function requestFiles(
  dir: string,
  kind: RotationKind,
  { trustDomain, passphrase, now, oldIssuer, roots }: IssuerRequestOptions,
): Promise<RotationState> {
  const { next } = rotationFilesOf(dir);
  const { request } = rotationFilesOf(next);
  rmSync(next, { recursive: true, force: true });
  makeDirectory(absolutePath(next));
  const key = generateKey();
  writeFileDurably(caFilesOf(next).intermediateKey, formatKey(key, passphrase));
  if (roots !== undefined) writeFileDurably(caFilesOf(next).root, formatPem([roots.new]), 0o644);
  const { subject, uris } = namesOf(trustDomain, 'intermediate');
  writeFileDurably(request, formatCsr(await createCaCsr(key, subject, uris)), 0o644);
  const state: RotationState = {
    ...{ kind, step: 'requested', startedAt: now, by: 'operator', trustDomain },
    ...(oldIssuer === undefined ? {} : { oldIssuer }),
    ...(roots === undefined
      ? {}
      : { newRoot: fingerprintOf(roots.new), oldRoot: fingerprintOf(roots.old), external: true }),
  };
  writeState(dir, state);
  return state;
}

/** The request of a rotation that waits for its certificate, PEM. */
export function readRequest(dir: string): string | undefined {
  const { request } = rotationFilesOf(rotationFilesOf(dir).next);
  return existsSync(request) ? readFileSync(request, 'utf8') : undefined;
}

/** The only root in `file`, PEM, whose key another party keeps. @throws SallyportError `root_unusable`. */
export function readExternalRoot(file: string): Buffer {
  const blocks = readPemBlocks(readText(file), file);
  const [root] = blocks;
  if (root === undefined || blocks.length > 1)
    throw new SallyportError(
      'root_unusable',
      `${file} contains ${blocks.length} certificates; it must contain the root only`,
    );
  const { selfIssued, isCa } = readCertificateFacts(root);
  if (selfIssued && isCa) return root;
  throw new SallyportError(
    'root_unusable',
    `${file} is not a root: ${isCa ? 'another CA issued it' : 'it is not a CA (basic constraints, CA:TRUE)'}`,
    { hint: 'give the self-signed certificate at the top; those below it belong in the file for ca issuer install' },
  );
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new SallyportError('config_unreadable', `${file} cannot be read`, { cause: error });
  }
}

function formatCsr(der: Buffer): string {
  const lines = der.toString('base64').match(/.{1,64}/g) ?? [];
  return `-----BEGIN CERTIFICATE REQUEST-----\n${lines.join('\n')}\n-----END CERTIFICATE REQUEST-----\n`;
}

/**
 * Checks the certificate for the request (PEM, followed by those between it and the root), and puts it where
 * activation finds it. @throws SallyportError `issuer_unusable`, `key_mismatch` or `certificate_unreadable`.
 */
export async function installFiles(
  dir: string,
  state: RotationState,
  pem: string,
  { passphrase, now }: { readonly passphrase: string | undefined; readonly now: number },
): Promise<RotationState> {
  const { next } = rotationFilesOf(dir);
  const files = caFilesOf(next);
  const chain = readPemBlocks(pem, 'the file');
  const key = parseKey(readFileSync(files.intermediateKey, 'utf8'), files.intermediateKey, passphrase);
  const [issuer] = chain;
  if (issuer === undefined) throw unusable('the file contains no certificate');
  if (!new X509Certificate(issuer).publicKey.equals(createPublicKey(key)))
    throw new SallyportError('key_mismatch', 'the certificate is not for the key of the pending request', {
      hint: 'sallyport ca issuer request --show prints that request; the issuer comes first in the file',
    });
  const { trustDomain, bundle } = readBundle(dir);
  const roots =
    state.newRoot === undefined ? bundle.roots : readPemBlocks(readFileSync(files.root, 'utf8'), files.root);
  checkIssuer(issuer, trustDomain, now);
  checkLife(issuer, roots, now);
  // A root at the end of the file is useless to peers.
  const above = chain.filter((one) => !roots.some((root) => root.equals(one)));
  verifyAsPeers(above, { key, trustDomain, roots, now });
  writeFileDurably(files.intermediate, formatPem(above), 0o644);
  const prepared: RotationState = { ...state, step: 'prepared', newIssuer: fingerprintOf(issuer) };
  writeState(dir, prepared);
  return prepared;
}

/** The requirements of peers on an issuer, each with its own message. RFC 5280 section 4.2.1, X509-SVID section 4. */
function checkIssuer(issuer: Buffer, trustDomain: string, now: number): void {
  const { isCa, keyUsage = [], uris } = readCertificateFacts(issuer);
  const { validFromDate, validToDate } = new X509Certificate(issuer);
  const id = `spiffe://${trustDomain}`;
  if (!isCa) throw unusable('the certificate is not a CA (basic constraints, CA:TRUE)', extensionsHint);
  for (const use of ['keyCertSign', 'cRLSign'])
    if (!keyUsage.includes(use)) throw unusable(`its key usage lacks ${use}`, extensionsHint);
  if (uris.length !== 1 || uris[0] !== id)
    throw unusable(`its only URI name must be ${id}, found ${uris.join(' ').slice(0, 200) || 'none'}`, extensionsHint);
  if (now > validToDate.getTime()) throw unusable('it has expired');
  if (now < validFromDate.getTime()) throw unusable('it is not valid yet');
}

const extensionsHint =
  'the request asks for it: sign with the extensions of the request (openssl x509 -req -copy_extensions copy)';

/** With less, the CA would be due for another one before an operator can get it. */
const shortestIssuerLifeMs = 24 * 3_600_000;

function checkLife(issuer: Buffer, roots: readonly Buffer[], now: number): void {
  const endOf = (one: Buffer): number => new X509Certificate(one).validToDate.getTime();
  const end = endOf(issuer);
  // If the root expires sooner, no longer lifetime is possible.
  if (end >= Math.min(now + shortestIssuerLifeMs, Math.max(...roots.map(endOf)))) return;
  throw unusable(
    `it expires at ${formatTime(end)}, in less than 24 h`,
    'have the root sign it for longer: a year is usual',
  );
}

interface Trial {
  readonly key: Parameters<typeof publicHalf>[0];
  readonly trustDomain: string;
  readonly roots: readonly Buffer[];
  readonly now: number;
}

/** Signs a leaf and verifies it as a peer would: signatures, path lengths, name constraints, strength of all keys. */
function verifyAsPeers(above: readonly Buffer[], { key, trustDomain, roots, now }: Trial): void {
  const span = { notBefore: now - 1000, notAfter: now + 60_000 };
  const order = { uri: caIdOf(trustDomain).uri, publicKey: publicHalf(generateKey()), serial: randomSerial(), ...span };
  const leaf = signLeaf(order, { key, certificate: above[0]! });
  const bundle = { trustDomain, roots, sequence: 0, refreshHintS: 0 };
  try {
    verifyChain([leaf, ...above], onlyBundle(bundle), emptyDenyList, now);
  } catch (error) {
    if (!(error instanceof SallyportError)) throw error;
    throw unusable(
      `no peer would accept the certificates that it signs: ${error.message}`,
      'append the certificates between it and the root to the file; the root is the one of ca init --external-root',
    );
  }
}

function unusable(message: string, hint?: string): SallyportError {
  return new SallyportError('issuer_unusable', message, { hint });
}
