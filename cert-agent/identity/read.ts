// Reads an identity from files. One read uses one resolved directory. Where the paths go through a link that a writer
// switches (our `current`, the `..data` of a Kubernetes volume), that link is followed once, so a reader never sees the
// key of one generation and the certificate of another.

import { lstatSync, readFileSync, readlinkSync, realpathSync } from 'node:fs';
import { basename, dirname, isAbsolute, join } from 'node:path';
import { errnoOf, reasonOf, SallyportError } from '../base/errors.ts';
import { onlyBundle, parseBundle, type TrustBundle } from './bundle.ts';
import { readCertificateFacts } from './certificate.ts';
import { emptyDenyList, parseDenyList } from './denied.ts';
import type { Identity, IdentityPaths } from './identity.ts';
import { parseSpiffeId, parseTrustDomain } from './spiffe-id.ts';
import { parseSvid } from './svid.ts';

/** The texts of one generation. */
export interface IdentityTexts {
  readonly svid: string;
  readonly key: string;
  readonly bundle: string;
  readonly denied: string | undefined;
}

/** The texts, or the path of the first file that does not exist. @throws SallyportError `config_unreadable`. */
export type TextsRead = { readonly texts: IdentityTexts } | { readonly missing: string };

/** A longer chain of links is a loop. */
const maxLinks = 16;

/** How often to retry: a writer may remove the generation that we are reading, but then the next one exists. */
const attempts = 3;

/** Reads the files of one generation. @throws SallyportError `config_unreadable` when an existing one is unreadable. */
export function readIdentityTexts(paths: IdentityPaths): TextsRead {
  for (let attempt = 1; ; attempt++) {
    const read = readOnce(paths);
    if ('texts' in read || attempt === attempts) return read;
  }
}

/**
 * Parses the texts into an identity. Does not check whether it is valid now.
 * @throws SallyportError as parseSvid, parseBundle and parseDenyList do, and `svid_invalid` for another trust domain.
 */
export function parseIdentity(texts: IdentityTexts, paths: IdentityPaths): Identity {
  const svid = parseSvid(texts.svid, texts.key, { chain: paths.svid, key: paths.key });
  if (svid.id.trustDomain !== paths.trustDomain) {
    throw new SallyportError(
      'svid_invalid',
      `the SVID in ${paths.svid} is ${svid.id.uri}, but the configured trust domain is ${paths.trustDomain}`,
      { hint: 'correct the trust domain, or use identity files of this trust domain' },
    );
  }
  const bundle = parseBundle(texts.bundle, paths.trustDomain, paths.bundle);
  const denied = texts.denied === undefined ? emptyDenyList : parseDenyList(texts.denied, paths.denied ?? 'denied');
  return Object.freeze({ svid, bundles: onlyBundle(bundle), denied });
}

/**
 * Reads a bundle from a file. Without `trustDomain`, the roots determine it.
 * @throws SallyportError `config_unreadable` (a missing file is its cause), `config_invalid` when the roots do not
 * agree on one trust domain, `bundle_invalid`, `bundle_empty` or `certificate_unreadable`.
 */
export function readBundleFile(file: string, trustDomain?: string): TrustBundle {
  const text = readText(file);
  const bundle = parseBundle(text, trustDomain ?? 'unnamed', file);
  const named = new Set(bundle.roots.flatMap((root) => readCertificateFacts(root).uris).map(domainOf));
  const [found] = named;
  if (trustDomain !== undefined) {
    const foreign = [...named].find((one) => one !== parseTrustDomain(trustDomain));
    if (foreign === undefined) return bundle;
    throw new SallyportError('config_invalid', `${file} contains a root of ${foreign}, not of ${trustDomain}`);
  }
  if (found === undefined || named.size > 1) {
    const why =
      found === undefined ? 'contains no trust domain ID' : `contains several trust domains (${[...named].join(', ')})`;
    throw new SallyportError('config_invalid', `${file} ${why}`, { hint: 'set the trust domain with --trust-domain' });
  }
  return Object.freeze({ ...bundle, trustDomain: found });
}

/** The text of a file. @throws SallyportError `config_unreadable` with the system's error as its cause. */
export function readText(file: string, read = (from: string): string => readFileSync(from, 'utf8')): string {
  try {
    return read(file);
  } catch (error) {
    if (error instanceof SallyportError) throw error;
    throw new SallyportError('config_unreadable', `${file} cannot be read: ${errnoOf(error) ?? reasonOf(error)}`, {
      cause: error,
    });
  }
}

/** True for the error of a missing file. */
export function isMissing(error: unknown): boolean {
  const errno = errnoOf(error instanceof SallyportError ? error.cause : error);
  return errno === 'ENOENT' || errno === 'ENOTDIR';
}

function readOnce(paths: IdentityPaths): TextsRead {
  const directories = new Map<string, string>();
  const read = (path: string): string => {
    const file = fileBehind(path);
    const named = dirname(file);
    const resolved = directories.get(named) ?? realpathSync(named);
    directories.set(named, resolved);
    return readFileSync(join(resolved, basename(file)), 'utf8');
  };
  let path = paths.svid;
  try {
    const svid = read(path);
    path = paths.key;
    const key = read(path);
    path = paths.bundle;
    const bundle = read(path);
    if (paths.denied === undefined) return { texts: { svid, key, bundle, denied: undefined } };
    path = paths.denied;
    return { texts: { svid, key, bundle, denied: read(path) } };
  } catch (error) {
    if (isMissing(error)) return { missing: path };
    if (error instanceof SallyportError) throw error;
    throw new SallyportError('config_unreadable', `${path} cannot be read: ${errnoOf(error) ?? reasonOf(error)}`, {
      cause: error,
    });
  }
}

/** Follows links of the file itself. The result is a file in a directory; the directory may still be a link. */
function fileBehind(path: string): string {
  let file = path;
  for (let hops = 0; hops < maxLinks; hops++) {
    // lstat first: an exception for each plain file, every second, took 1 % of a busy sidecar's time (measured).
    if (!lstatSync(file).isSymbolicLink()) return file;
    const target = readlinkSync(file);
    // `..` is the parent of the real directory, so only then is the directory resolved this early.
    const from = target.split('/').includes('..') ? realpathSync(dirname(file)) : dirname(file);
    file = isAbsolute(target) ? target : join(from, target);
  }
  throw new SallyportError('config_unreadable', `${path} goes through more than ${maxLinks} links`);
}

function domainOf(uri: string): string {
  return parseSpiffeId(uri).trustDomain;
}
