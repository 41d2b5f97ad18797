// The files of a configuration, as text.

import { hash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { errnoOf, type Problem, reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import { isExposed } from '../../cert-agent/base/secret-file.ts';
import { formatCrlPem, maxCrlBytes } from '../../cert-agent/identity/crl.ts';
import type { Settings } from './settings.ts';
import { readTree, type Tree } from './tree.ts';

/** One file. `text` may be secret, and is never logged. */
export interface Source {
  readonly file: string;
  readonly text: string;
  /** True if every user may read or write it: a secret in it is not used. */
  readonly exposed?: boolean;
  /**
   * When the file was last written, milliseconds since 1970: the age of documents without a creation time. A different
   * time alone is not a change.
   */
  readonly modifiedAt?: number;
}

/** The settings that refer to other files. */
export type Leading = Pick<Settings, 'policies' | 'gateway'>;

/** All files of a configuration, and the files beside them that are not read. */
export interface SourceSet {
  /** sidecar.yaml first, then the documents directory by directory, then the files named in gateway.yaml. */
  readonly sources: readonly Source[];
  readonly passedOver: readonly Problem[];
  /** Directories to watch for changes: `contents`, and those of the named files. */
  readonly directories: readonly string[];
  /** The directories in which any name may be a new file: those of the documents, and of the error pages. */
  readonly contents: readonly string[];
  /** Links among the documents. */
  readonly links: readonly string[];
}

/** @throws SallyportError `config_unreadable`. */
export function readSources(file: string, settings: Leading, text = readText(file)): SourceSet {
  const { policies } = settings;
  const tree = policies === undefined ? noTree : readTree(policies);
  const named = filesOf(settings);
  const crls = new Set(crlFilesOf(settings));
  const sources = [
    { file, text },
    ...tree.files.map((name) => sourceOf(name, settings, readText(name))),
    // A missing file is reported where it is used; the rest is served meanwhile.
    ...named.map((name) => sourceOf(name, settings, existsSync(name) ? textOf(name, crls) : '')),
  ];
  const pages = settings.gateway?.errorPages;
  const lists = settings.gateway?.clientCrls?.path;
  const contents = [
    ...tree.directories,
    ...(pages === undefined ? [] : [pages]),
    ...(lists !== undefined && isDirectory(lists) ? [lists] : []),
  ];
  return {
    sources,
    passedOver: [...tree.passedOver.filter(({ file: one }) => !named.includes(one)), ...noPagesIn(pages)],
    directories: [...contents, ...named.map((one) => dirname(one))],
    contents,
    links: tree.links,
  };
}

/** Files that became empty since the last reading, as an editor leaves them for a moment while it writes. */
export function emptiedSince(before: readonly Source[], now: readonly Source[]): boolean {
  const full = new Set(before.filter(({ text }) => text.trim() !== '').map(({ file }) => file));
  return now.some(({ file, text }) => text.trim() === '' && full.has(file));
}

const noTree: Tree = { files: [], directories: [], links: [], passedOver: [] };

/** Modes and ages are needed only for a gateway's files, which contain secrets, as its documents may. */
function sourceOf(file: string, { gateway }: Leading, text: string): Source {
  if (gateway === undefined) return { file, text };
  const modifiedAt = modifiedAtOf(file);
  return { file, text, exposed: isExposed(file), ...(modifiedAt === undefined ? {} : { modifiedAt }) };
}

/** When a file was last written, milliseconds since 1970; undefined if it does not exist. */
export function modifiedAtOf(file: string): number | undefined {
  return statSync(file, { throwIfNoEntry: false })?.mtimeMs;
}

/** Those of `filesOf` whose whole content is a secret. */
export function secretFilesOf({ gateway }: Leading): readonly string[] {
  if (gateway === undefined) return [];
  const { certificates, sessionKeys } = gateway;
  return [...Object.values(certificates).map(({ key }) => key), ...(sessionKeys === undefined ? [] : [sessionKeys])];
}

/** The other files named in gateway.yaml: certificates, keys, error pages. */
export function filesOf({ gateway }: Leading): readonly string[] {
  if (gateway === undefined) return [];
  const { certificates, sessionKeys, errorPages } = gateway;
  const pages =
    errorPages === undefined || !existsSync(errorPages)
      ? []
      : readdirSync(errorPages)
          .filter((name) => pageName.test(name))
          .toSorted()
          .map((name) => join(errorPages, name));
  return [
    ...Object.values(certificates).flatMap(({ certificate, key }) => [certificate, key]),
    ...(sessionKeys === undefined ? [] : [sessionKeys]),
    ...pages,
    ...crlFilesOf({ gateway }),
  ];
}

/** The files of `clientCrls`: the one that it names, or those of its directory. */
export function crlFilesOf({ gateway }: Pick<Leading, 'gateway'>): readonly string[] {
  const path = gateway?.clientCrls?.path;
  if (path === undefined) return [];
  if (!isDirectory(path)) return [path];
  const names = readdirSync(path).filter((name) => /\.(?:pem|crl|der)$/.test(name) && !name.startsWith('.'));
  return names.toSorted().map((name) => join(path, name));
}

/** CRLs are large and seldom change: they are not read at each look. By file, with what says that it is the same. */
const readCrls = new Map<string, { readonly stamp: string; readonly text: string }>();

/** A CRL may be DER: its text is PEM all the same. One that is too large is left out, which the check finds. */
function textOf(name: string, crls: ReadonlySet<string>): string {
  if (!crls.has(name)) return readText(name);
  for (const one of readCrls.keys()) if (!crls.has(one)) readCrls.delete(one);
  const { ino = 0, size = 0, mtimeMs = 0, ctimeMs = 0 } = statSync(name, { throwIfNoEntry: false }) ?? {};
  const stamp = `${ino} ${size} ${mtimeMs} ${ctimeMs}`;
  const known = readCrls.get(name);
  if (known?.stamp === stamp) return known.text;
  const text = size > maxCrlFileBytes ? '(too large)' : crlText(readText(name, 'latin1'));
  readCrls.set(name, { stamp, text });
  return text;
}

function crlText(text: string): string {
  return text.startsWith('0') ? formatCrlPem(Buffer.from(text, 'latin1')) : text;
}

/** The largest list as PEM. */
const maxCrlFileBytes = maxCrlBytes * 1.4;

function isDirectory(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

const pageName = /^[45](?:\d\d|xx)\.html$/;

/** Warnings for files in the directory of error pages that are not error pages. */
function noPagesIn(directory: string | undefined): Problem[] {
  if (directory === undefined || !existsSync(directory)) return [];
  const others = readdirSync(directory).filter((name) => !pageName.test(name) && !name.startsWith('.'));
  return others.toSorted().map((name) => ({
    ...{ file: join(directory, name), line: 1, column: 1 },
    message: 'this file is not read: an error page is named after its status, 404.html or 5xx.html',
  }));
}

/** @throws SallyportError `config_unreadable`. */
export function readText(file: string, encoding: 'utf8' | 'latin1' = 'utf8'): string {
  try {
    return readFileSync(file, encoding);
  } catch (error) {
    const why = errnoOf(error) === 'ENOENT' ? 'it does not exist' : reasonOf(error);
    throw new SallyportError('config_unreadable', `${file} cannot be read: ${why}`, {
      hint: 'is the path right? a relative one begins at the current directory',
    });
  }
}

/** SHA-256 of a configuration's sources: two processes with the same hash have read the same. */
export function digestOf(sources: readonly Source[]): string {
  return hash('sha256', JSON.stringify(sources.map(({ file, text, exposed }) => [file, text, exposed])));
}

/** True if nothing changed that matters: the same files with the same text, and secrets as exposed as before. */
export function sameSources(a: readonly Source[], b: readonly Source[]): boolean {
  return (
    a.length === b.length &&
    a.every(({ file, text, exposed }, index) => {
      const other = b[index];
      return file === other?.file && text === other.text && exposed === other.exposed;
    })
  );
}

/** True if the same files are passed over as before. */
export function samePassedOver(a: readonly Problem[], b: readonly Problem[]): boolean {
  return a.length === b.length && a.every(({ file, message }, i) => file === b[i]?.file && message === b[i]?.message);
}

/** Is this text a gateway.yaml? Only that names the documents that it serves. */
export function isGatewayFile(text: string): boolean {
  return /^documents\s*:/m.test(text);
}
