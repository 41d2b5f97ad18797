// `ca init`: creates a root for ten years and an issuing intermediate for one year, where `ca serve` finds them. The
// root's key signs only here; the running CA never reads it.

import { type KeyObject, X509Certificate } from 'node:crypto';
import { chmodSync, existsSync, readdirSync, statSync } from 'node:fs';
import { type Clock, systemClock } from '../base/clock.ts';
import { asSallyportError, SallyportError } from '../base/errors.ts';
import { absolutePath, makeDirectory, writeFileDurably } from '../base/write.ts';
import { formatPem } from '../identity/bundle.ts';
import { formatCrlPem } from '../identity/crl.ts';
import { formatKey, generateKey } from '../identity/keys.ts';
import { parseTrustDomain } from '../identity/spiffe-id.ts';
import { fingerprintOf } from '../identity/verify.ts';
import {
  intermediateLifeMs,
  publicHalf,
  rootLifeMs,
  signIntermediate,
  signRoot,
  signRootCrl,
} from './ca-certificates.ts';
import { writeBundle } from './certificates.ts';
import { caFilesOf, rotationFilesOf, storeFileOf } from './directory.ts';
import { readExternalRoot, requestFiles } from './rotation/request.ts';
import { createSqliteStore } from './store/sqlite.ts';

/** The directory must not contain a CA yet. */
export interface InitOptions {
  readonly dir: string;
  readonly trustDomain: string;
  /** Encrypts both keys. */
  readonly passphrase?: string;
  /** Restricts the intermediate to this trust domain. rustls peers refuse every chain with this constraint. */
  readonly nameConstraints?: boolean;
  /** The file of a root whose key is kept elsewhere, PEM: instead of an intermediate, the CA gets a request for one. */
  readonly externalRoot?: string;
  readonly clock?: Clock;
}

/** What `ca init` prints. With `externalRoot` there is a request instead of an intermediate. */
export interface NewCa {
  readonly trustDomain: string;
  readonly dir: string;
  /** SHA-256 of the root, lower-case hex, for an operator to compare over a second channel. */
  readonly rootFingerprint: string;
  /** Milliseconds since 1970. */
  readonly rootNotAfter: number;
  /** Undefined while the request waits for its certificate. */
  readonly intermediateNotAfter?: number;
  /** The file of the request, with `externalRoot`. */
  readonly request?: string;
}

/** Seconds after which an agent polls the bundle again: how soon a revocation is known everywhere. */
const refreshHintS = 5;

/**
 * Creates a CA in `dir`, whose mode becomes 0700.
 * @throws SallyportError `ca_exists`, `spiffe_id_invalid`, `config_invalid` or `root_unusable`.
 */
export async function initCa(options: InitOptions): Promise<NewCa> {
  const trustDomain = parseTrustDomain(options.trustDomain);
  const external = options.externalRoot === undefined ? undefined : readExternalRoot(options.externalRoot);
  refuseExisting(options.dir);
  prepareDirectory(options.dir);
  if (external !== undefined) return initBelow(external, options, trustDomain);
  // A certificate has whole seconds, and the report must match it.
  const now = Math.floor((options.clock ?? systemClock).now() / 1000) * 1000;
  const [rootKey, issuerKey] = [generateKey(), generateKey()];
  const names = { trustDomain, now };
  const root = await signRoot(names, rootKey);
  const signer = { key: rootKey, certificate: root };
  const intermediate = await signIntermediate(names, publicHalf(issuerKey), signer, options.nameConstraints === true);
  const rootCrl = await signRootCrl(now, signer);
  await writeAll(options, { trustDomain, rootKey, root, issuerKey, intermediate, rootCrl });
  return Object.freeze({
    trustDomain,
    dir: options.dir,
    rootFingerprint: fingerprintOf(root),
    rootNotAfter: now + rootLifeMs,
    intermediateNotAfter: now + intermediateLifeMs,
  });
}

/** A CA whose root is kept elsewhere. It serves once its issuer's certificate is installed. */
async function initBelow(root: Buffer, options: InitOptions, trustDomain: string): Promise<NewCa> {
  const { dir, passphrase } = options;
  const now = (options.clock ?? systemClock).now();
  writeFileDurably(caFilesOf(dir).root, formatPem([root]), 0o644);
  await requestFiles(dir, 'issuer', { trustDomain, passphrase, now });
  await writeStoreAndBundle(dir, trustDomain, root);
  return Object.freeze({
    ...{ trustDomain, dir, rootFingerprint: fingerprintOf(root) },
    rootNotAfter: new X509Certificate(root).validToDate.getTime(),
    request: rotationFilesOf(rotationFilesOf(dir).next).request,
  });
}

/** A second init would mix a new root with certificates of the old one, so it is refused even if files are missing. */
function refuseExisting(dir: string): void {
  const found = [...Object.values(caFilesOf(dir)), storeFileOf(dir)].find((path: string) => existsSync(path));
  if (found === undefined) return;
  throw new SallyportError('ca_exists', `${dir} already contains a CA: ${found} exists`, {
    hint: 'choose another --dir, or remove the old CA yourself if nothing trusts it any more',
  });
}

/** The mode is changed only for an empty directory: a mistyped --dir must not make /tmp 0700. */
function prepareDirectory(dir: string): void {
  const mode = openedMode(dir);
  if ((mode & 0o077) === 0) return;
  throw new SallyportError(
    'config_invalid',
    `${dir} is not empty, and other users can access it (mode ${mode.toString(8)})`,
    {
      hint: `use a new directory, or run chmod 700 ${dir}`,
    },
  );
}

/** Creates `dir` if necessary, sets its mode to 0700 if it is empty, and returns the mode. */
function openedMode(dir: string): number {
  try {
    makeDirectory(absolutePath(dir));
    if (readdirSync(dir).length === 0) chmodSync(dir, 0o700);
    return statSync(dir).mode & 0o777;
  } catch (error) {
    throw asSallyportError(error, 'config_unreadable', `cannot use ${dir}`);
  }
}

interface Made {
  readonly trustDomain: string;
  readonly rootKey: KeyObject;
  readonly root: Buffer;
  readonly issuerKey: KeyObject;
  readonly intermediate: Buffer;
  readonly rootCrl: Buffer;
}

async function writeAll(options: InitOptions, made: Made): Promise<void> {
  const files = caFilesOf(options.dir);
  writeFileDurably(files.rootKey, formatKey(made.rootKey, options.passphrase));
  writeFileDurably(files.intermediateKey, formatKey(made.issuerKey, options.passphrase));
  writeFileDurably(files.root, formatPem([made.root]), 0o644);
  writeFileDurably(files.intermediate, formatPem([made.intermediate]), 0o644);
  writeFileDurably(files.rootCrl, formatCrlPem(made.rootCrl), 0o644);
  await writeStoreAndBundle(options.dir, made.trustDomain, made.root);
}

async function writeStoreAndBundle(dir: string, trustDomain: string, root: Buffer): Promise<void> {
  await createSqliteStore(storeFileOf(dir), fingerprintOf(root));
  // Written last: without it the directory is not a CA yet. After an interruption, that is reported, not a lost store.
  writeBundle(dir, { trustDomain, roots: [root], sequence: 1, refreshHintS });
}
