// The agent's files. Each generation is a new directory, complete and on disk before a single rename makes it the
// current one. The stable names link through `current`, so a reader sees all of one generation or all of the next. A
// kill -9 at any point leaves the old generation or the new one.
//
//   D/svid.pem -> current/svid.pem    D/current -> generations/7    D/generations/7/{svid.pem,svid.key,...}

import { createPublicKey, type KeyObject } from 'node:crypto';
import {
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { errnoOf, reasonOf, SallyportError } from '../base/errors.ts';
import { guardSecret } from '../base/secret-file.ts';
import { linkDurably, makeDirectory, syncDirectory, writeFileDurably } from '../base/write.ts';
import { formatBundle, formatPem, parseBundle } from './bundle.ts';
import { formatDenyList } from './denied.ts';
import type { Identity, IdentityPaths } from './identity.ts';
import { formatKey, generateKey, parseKey } from './keys.ts';
import { isMissing, parseIdentity, readText } from './read.ts';
import type { Svid } from './svid.ts';

/** The stable names in the agent's directory. */
export const stableNames = Object.freeze(['svid.pem', 'svid.key', 'bundle.pem', 'bundle.json', 'denied.json'] as const);

/** The name of the CRLs, for other software: only there if the CA has one. */
export const crlName = 'crl.pem';

/** The stable names of the agent's directory `outDir`, for readIdentityTexts and watchIdentityFiles. */
export function pathsIn(outDir: string, trustDomain: string): IdentityPaths {
  const at = (name: (typeof stableNames)[number]): string => join(outDir, name);
  return {
    svid: at('svid.pem'),
    key: at('svid.key'),
    bundle: at('bundle.json'),
    denied: at('denied.json'),
    trustDomain,
  };
}

/** Creates the agent's directory, an absolute path, with mode 0700. An existing one keeps its mode: it may be /run. */
export function makeOutDir(outDir: string): void {
  makeDirectory(outDir);
  makeDirectory(join(outDir, 'generations'));
}

/**
 * Writes `identity`, and CRLs as PEM, as the next generation of `outDir` and makes it current. The previous one stays
 * for its readers.
 */
export function writeGeneration(outDir: string, identity: Identity, crl?: string): void {
  makeOutDir(outDir);
  const before = currentGeneration(outDir);
  const numbers = readdirSync(join(outDir, 'generations')).map(Number).filter(Number.isSafeInteger);
  const next = String(Math.max(0, ...numbers) + 1);
  const directory = join(outDir, 'generations', next);
  mkdirSync(directory, { mode: 0o700 });
  for (const [name, text] of textsOf(identity)) writeFileDurably(join(directory, name), text);
  if (crl !== undefined) writeFileDurably(join(directory, crlName), crl);
  syncDirectory(join(outDir, 'generations'));
  linkDurably(join('generations', next), join(outDir, 'current'));
  for (const name of stableNames) ensureLink(join('current', name), join(outDir, name));
  if (crl !== undefined) ensureLink(join('current', crlName), join(outDir, crlName));
  removeAllBut(outDir, [next, before]);
}

/** The directories of the generations in `outDir`, newest first. */
export function generationsIn(outDir: string): string[] {
  const directory = join(outDir, 'generations');
  if (!existsSync(directory)) return [];
  const numbers = readdirSync(directory).map(Number).filter(Number.isSafeInteger);
  return numbers.toSorted((a, b) => b - a).map((one) => join(directory, String(one)));
}

/**
 * Copies the current generation to `damaged/` before a new one replaces it, since its key may still be recoverable.
 * Returns the target; undefined when there is nothing to copy.
 */
export function setAside(outDir: string): string | undefined {
  const current = currentGeneration(outDir);
  const from = current === undefined ? undefined : join(outDir, 'generations', current);
  if (current === undefined || from === undefined || !existsSync(from)) return undefined;
  const to = join(outDir, 'damaged', current);
  if (existsSync(to)) return to;
  makeDirectory(join(outDir, 'damaged'));
  cpSync(from, to, { recursive: true });
  return to;
}

/** A fingerprint that changes whenever a stable name or its target is written, replaced or made inaccessible. */
export function stampOf(outDir: string): string {
  return [...stableNames, crlName]
    .map((name) => {
      try {
        const { ino, size, mtimeMs, mode } = statSync(join(outDir, name));
        return `${ino} ${size} ${mtimeMs} ${mode}`;
      } catch (error) {
        return errnoOf(error) ?? 'unknown';
      }
    })
    .join(', ');
}

/**
 * What is wrong with the files of `outDir`, which should contain `identity`. Undefined if they do, and also if they
 * contain another complete identity: another writer owns that one, and two writers would repair each other's files
 * forever.
 */
export function damageIn(outDir: string, identity: Identity, crl?: string): string | undefined {
  const expected = new Map(textsOf(identity));
  try {
    const texts = stableNames.map((name) => [name, readText(join(outDir, name))] as const);
    if (texts.every(([name, text]) => text === expected.get(name)))
      return crl === undefined || readText(join(outDir, crlName)) === crl
        ? undefined
        : `${join(outDir, crlName)} was changed`;
    const found = Object.fromEntries(texts) as Record<(typeof stableNames)[number], string>;
    const paths = pathsIn(outDir, identity.svid.id.trustDomain);
    parseIdentity(
      { svid: found['svid.pem'], key: found['svid.key'], bundle: found['bundle.json'], denied: found['denied.json'] },
      paths,
    );
    parseBundle(found['bundle.pem'], identity.svid.id.trustDomain, join(outDir, 'bundle.pem'));
    // With our SVID it has no other writer: a deny list that was rolled back or emptied is damage as well.
    const other = texts.find(([name, text]) => text !== expected.get(name));
    if (found['svid.pem'] === expected.get('svid.pem') && other !== undefined)
      return `${join(outDir, other[0])} was changed`;
    return undefined;
  } catch (error) {
    return reasonOf(error);
  }
}

/**
 * The key of the next request. It is on disk before it is used, and stays the same until its certificate is on disk. A
 * join token is bound to the key of its first request, so after a crash the request must be repeated with that key.
 * @param held the current SVID; its key is never used for another request.
 */
export function pendingKey(outDir: string, held: Svid | undefined): KeyObject {
  const file = join(outDir, 'pending.key');
  const kept = readPendingKey(file);
  if (kept !== undefined && !belongsTo(kept, held)) return kept;
  makeOutDir(outDir);
  const key = generateKey();
  writeFileDurably(file, formatKey(key));
  return key;
}

/**
 * The CRLs of the current generation, PEM; undefined where there are none. @throws SallyportError `config_unreadable`.
 */
export function readCrlText(outDir: string): string | undefined {
  try {
    return readText(join(outDir, crlName));
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

/** Removes the pending key. Call it once the key is part of a generation. */
export function dropPendingKey(outDir: string): void {
  rmSync(join(outDir, 'pending.key'), { force: true });
}

function readPendingKey(file: string): KeyObject | undefined {
  let text: string;
  try {
    // A key that others can read and that we may not change was never ours; a new one is created.
    guardSecret(file);
    text = readText(file);
  } catch (error) {
    if (isMissing(error) || (error instanceof SallyportError && error.code === 'secret_exposed')) return undefined;
    throw error;
  }
  try {
    return parseKey(text, file);
  } catch {
    // We rename keys into place complete, so this one is not ours. A new key only loses a token that was bound to the
    // old one.
    return undefined;
  }
}

function belongsTo(key: KeyObject, svid: Svid | undefined): boolean {
  if (svid === undefined) return false;
  return createPublicKey(key).equals(createPublicKey(svid.keyPem));
}

function textsOf({ svid, bundles, denied }: Identity): [string, string][] {
  const bundle = bundles.get(svid.id.trustDomain);
  if (bundle === undefined) throw new TypeError(`identity ${svid.id.uri} lacks the bundle of its trust domain`);
  return [
    ['svid.pem', svid.chainPem],
    ['svid.key', svid.keyPem],
    ['bundle.pem', formatPem(bundle.roots)],
    ['bundle.json', json(formatBundle(bundle))],
    ['denied.json', json(formatDenyList(denied))],
  ];
}

function json(value: object): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}

function currentGeneration(outDir: string): string | undefined {
  try {
    return basename(readlinkSync(join(outDir, 'current')));
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** Replaces the link only if its target differs: a stable name must not disappear for a moment. */
function ensureLink(target: string, path: string): void {
  try {
    const isLink = lstatSync(path).isSymbolicLink();
    if (isLink && readlinkSync(path) === target) return;
    // A person put a file or a directory of that name there: it is kept.
    if (!isLink) renameSync(path, `${path}.before`);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error;
  }
  linkDurably(target, path);
}

function removeAllBut(outDir: string, kept: readonly (string | undefined)[]): void {
  for (const name of readdirSync(join(outDir, 'generations'))) {
    if (!kept.includes(name)) rmSync(join(outDir, 'generations', name), { recursive: true, force: true });
  }
}
