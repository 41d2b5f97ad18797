// The steps of a rotation on disk. Each is complete after a kill at any point: the state is written first, and opening
// the directory completes the step that the state names (`finishActivation`).
//
//   D/rotation.json   the state of the rotation
//   D/next/           the new key and certificate, with the names that they will have in D
//   D/previous/TIME/  the old ones, replaced at TIME (milliseconds since 1970), until all they signed has expired
//   D/cross.pem       the new root, certified by the old one

import { createPublicKey, type KeyObject, X509Certificate } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, renameSync, rmdirSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { SallyportError } from '../../base/errors.ts';
import { makeDirectory, syncDirectory, writeFileDurably } from '../../base/write.ts';
import { formatPem, readPemBlocks } from '../../identity/bundle.ts';
import { formatCrlPem } from '../../identity/crl.ts';
import { formatKey, generateKey, parseKey } from '../../identity/keys.ts';
import { fingerprintOf } from '../../identity/verify.ts';
import {
  type CaNames,
  isConstrained,
  publicHalf,
  signCross,
  signIntermediate,
  signRoot,
  signRootCrl,
} from '../ca-certificates.ts';
import { readBundle, readCaCertificates, writeBundle } from '../certificates.ts';
import { caFilesOf, readCaFile, rotationFilesOf } from '../directory.ts';
import { type RotationKind, type RotationState, readState, writeState } from './state.ts';

/** The key of the current root, and its certificate. */
export interface RootSigner {
  readonly key: KeyObject;
  readonly certificate: Buffer;
}

/**
 * Reads the root's key from `file`, or from the directory. @throws SallyportError `root_key_missing`, `key_mismatch`,
 * and as parseKey does.
 */
export function readRootSigner(dir: string, file: string | undefined, passphrase: string | undefined): RootSigner {
  const files = caFilesOf(dir);
  const path = file ?? files.rootKey;
  if (!existsSync(path))
    throw new SallyportError('root_key_missing', `${path} does not exist, and only the root's key can sign a new CA`, {
      hint: 'give it with --root-key FILE; for an external root: sallyport ca issuer request',
    });
  const certificate = readRoot(dir);
  const key = parseKey(readFileSync(path, 'utf8'), path, passphrase);
  if (!isKeyOf(key, certificate))
    throw new SallyportError('key_mismatch', `${path} is not the key of the root in ${files.root}`);
  return { key, certificate };
}

/** The current root, DER. @throws SallyportError `ca_missing` or `certificate_unreadable`. */
export function readRoot(dir: string): Buffer {
  const { root } = caFilesOf(dir);
  const [found] = readPemBlocks(readCaFile(dir, root), root);
  if (found !== undefined) return found;
  throw new SallyportError('certificate_unreadable', `${root} contains no certificate`);
}

function isKeyOf(key: KeyObject, certificate: Buffer): boolean {
  const { publicKey } = new X509Certificate(certificate);
  return publicKey.equals(createPublicKey(key));
}

/** `now` is milliseconds since 1970. The new keys are encrypted with `passphrase`, if there is one. */
export interface PrepareOptions {
  readonly by: RotationState['by'];
  readonly root: RootSigner;
  readonly passphrase: string | undefined;
  readonly now: number;
}

/** Makes the new keys and certificates in `next/`. */
export async function prepareFiles(dir: string, kind: RotationKind, options: PrepareOptions): Promise<RotationState> {
  const { by, root, passphrase, now } = options;
  const { trustDomain, intermediate } = readCaCertificates(dir);
  const { next } = rotationFilesOf(dir);
  const names: CaNames = { trustDomain, now: Math.floor(now / 1000) * 1000 };
  rmSync(next, { recursive: true, force: true });
  makeDirectory(next);
  const files = caFilesOf(next);
  let signer = root;
  if (kind === 'root') {
    const key = generateKey();
    signer = { key, certificate: await signRoot(names, key) };
    const until = new X509Certificate(root.certificate).validToDate.getTime();
    const cross = await signCross(names, key, root, until);
    writeFileDurably(files.rootKey, formatKey(key, passphrase));
    writeFileDurably(files.root, formatPem([signer.certificate]), 0o644);
    writeFileDurably(rotationFilesOf(next).cross, formatPem([cross]), 0o644);
  }
  const issuerKey = generateKey();
  const issuer = await signIntermediate(names, publicHalf(issuerKey), signer, isConstrained(intermediate));
  writeFileDurably(files.intermediateKey, formatKey(issuerKey, passphrase));
  writeFileDurably(files.intermediate, formatPem([issuer]), 0o644);
  writeFileDurably(files.rootCrl, formatCrlPem(await signRootCrl(names.now, signer)), 0o644);
  const state: RotationState = {
    ...{ kind, step: 'prepared', startedAt: now, by },
    ...{ newIssuer: fingerprintOf(issuer), oldIssuer: fingerprintOf(intermediate) },
    ...(kind === 'root'
      ? { newRoot: fingerprintOf(signer.certificate), oldRoot: fingerprintOf(root.certificate) }
      : {}),
  };
  writeState(dir, state);
  return state;
}

/** Puts the new root into the bundle, beside the old one. */
export function distributeFiles(dir: string, state: RotationState): RotationState {
  const { bundle } = readBundle(dir);
  const [added] = readPemBlocks(readFileSync(caFilesOf(rotationFilesOf(dir).next).root, 'utf8'), 'root.pem');
  if (added === undefined) throw new SallyportError('certificate_unreadable', 'next/root.pem has no certificate');
  if (!bundle.roots.some((one) => one.equals(added)))
    writeBundle(dir, { ...bundle, roots: [...bundle.roots, added], sequence: bundle.sequence + 1 });
  const done: RotationState = { ...state, step: 'distributed' };
  writeState(dir, done);
  return done;
}

/** Puts the new key and certificate in the place of the old ones, which go to `previous/`. */
export function activateFiles(dir: string, state: RotationState, now: number): RotationState {
  const begun: RotationState = { ...state, step: 'activating', activatedAt: now };
  writeState(dir, begun);
  return finishActivation(dir, begun);
}

/** Moves the remaining files, and records that the activation is done. */
function finishActivation(dir: string, state: RotationState): RotationState {
  const { next, cross, state: file } = rotationFilesOf(dir);
  const previous = previousOf(dir, state);
  makeDirectory(previous);
  const { rootKey, root, intermediateKey, intermediate, rootCrl } = caFilesOf(dir);
  for (const path of [rootKey, root, intermediateKey, intermediate, cross, rootCrl]) {
    const [from, kept] = [join(next, basename(path)), join(previous, basename(path))];
    if (!existsSync(from)) continue;
    if (existsSync(path) && !existsSync(kept)) renameSync(path, kept);
    renameSync(from, path);
  }
  // An external root brings no key and no CRL: those of the old root would be taken for its own.
  const ofOldRoot = state.kind === 'root' ? [rootKey, rootCrl] : [rootKey];
  for (const path of state.external === true ? ofOldRoot : [])
    if (existsSync(path)) renameSync(path, join(previous, basename(path)));
  syncDirectory(previous);
  // The first issuer of a CA replaces nothing.
  if (readdirSync(previous).length === 0) rmdirSync(previous);
  syncDirectory(dir);
  rmSync(next, { recursive: true, force: true });
  const done: RotationState = { ...state, step: 'draining' };
  if (state.kind === 'root') writeState(dir, done);
  else {
    rmSync(file, { force: true });
    syncDirectory(dir);
  }
  return done;
}

function previousOf(dir: string, { activatedAt = 0 }: RotationState): string {
  return join(rotationFilesOf(dir).previous, String(activatedAt));
}

/** The times at which the keys in `previous/` were replaced, milliseconds since 1970. */
export function previousTimes(dir: string): readonly number[] {
  const { previous } = rotationFilesOf(dir);
  return existsSync(previous) ? readdirSync(previous).map(Number).filter(Number.isSafeInteger) : [];
}

/** Deletes the keys that were replaced at `time`. */
export function dropPrevious(dir: string, time: number): void {
  rmSync(join(rotationFilesOf(dir).previous, String(time)), { recursive: true, force: true });
}

/** Takes the old root out of the bundle, and deletes the old keys. */
export function removeFiles(dir: string, state: RotationState): void {
  const { cross, state: file } = rotationFilesOf(dir);
  writeState(dir, { ...state, step: 'removing' });
  const { bundle } = readBundle(dir);
  const kept = bundle.roots.filter((one) => fingerprintOf(one) !== state.oldRoot);
  if (kept.length < bundle.roots.length) writeBundle(dir, { ...bundle, roots: kept, sequence: bundle.sequence + 1 });
  for (const path of [cross, previousOf(dir, state)]) rmSync(path, { recursive: true, force: true });
  rmSync(file, { force: true });
  syncDirectory(dir);
}

/** Cancels a rotation that is not active: the new root leaves the bundle, and the new keys are deleted. */
export function cancelFiles(dir: string, state: RotationState): void {
  const { next, state: file } = rotationFilesOf(dir);
  const { bundle } = readBundle(dir);
  const kept = bundle.roots.filter((one) => fingerprintOf(one) !== state.newRoot);
  if (kept.length < bundle.roots.length) writeBundle(dir, { ...bundle, roots: kept, sequence: bundle.sequence + 1 });
  rmSync(next, { recursive: true, force: true });
  rmSync(file, { force: true });
  syncDirectory(dir);
}

/** Finishes a step that a kill has interrupted. Call it before the directory is opened. */
export function finishStep(dir: string): void {
  const state = readState(dir);
  if (state?.step === 'activating') finishActivation(dir, state);
  if (state?.step === 'removing') removeFiles(dir, state);
}
