// The files of a CA's directory. `ca init` writes them. `ca serve` reads all but the root's key, which an operator may
// keep elsewhere.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { errnoOf, reasonOf, SallyportError } from '../base/errors.ts';

/** Absolute paths if `dir` is absolute. Not every file need exist. */
export interface CaFiles {
  readonly rootKey: string;
  readonly root: string;
  readonly intermediateKey: string;
  readonly intermediate: string;
  /** The root as a SPIFFE bundle, for agents and federated trust domains. */
  readonly bundle: string;
  /** The same root as PEM, for other software. */
  readonly bundlePem: string;
  /** The root's own CRL, PEM: it revokes no intermediate. Absent in a directory of an older version. */
  readonly rootCrl: string;
}

/** The paths only: nothing is read. */
export function caFilesOf(dir: string): CaFiles {
  return Object.freeze({
    rootKey: join(dir, 'root.key'),
    root: join(dir, 'root.pem'),
    intermediateKey: join(dir, 'intermediate.key'),
    intermediate: join(dir, 'intermediate.pem'),
    bundle: join(dir, 'bundle.json'),
    bundlePem: join(dir, 'bundle.pem'),
    rootCrl: join(dir, 'root.crl'),
  });
}

/** Files of a rotation (rotation/files.ts). */
export interface RotationFiles {
  /** What is under way, and how far it is. */
  readonly state: string;
  /** The new root, certified by the old one (RFC 4210 section 4.4: new with old), while peers may have only that. */
  readonly cross: string;
  /** What will be activated, with the same names as in the directory. */
  readonly next: string;
  /** In `next`: the request for an issuer's certificate. */
  readonly request: string;
  /** What was replaced, until nothing is left that it signed. */
  readonly previous: string;
}

/** The paths only: nothing is read. */
export function rotationFilesOf(dir: string): RotationFiles {
  return Object.freeze({
    state: join(dir, 'rotation.json'),
    cross: join(dir, 'cross.pem'),
    request: join(dir, 'issuer.csr'),
    next: join(dir, 'next'),
    previous: join(dir, 'previous'),
  });
}

/** The SQLite store, whose journal stands beside it. */
export function storeFileOf(dir: string): string {
  return join(dir, 'store.sqlite');
}

/** Where operators' commands find a running CA by default. */
export function socketFileOf(dir: string): string {
  return join(dir, 'ca.sock');
}

/** The text of one of the CA's files. @throws SallyportError `ca_missing` or `config_unreadable`. */
export function readCaFile(dir: string, path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') {
      throw new SallyportError('config_unreadable', `${path} cannot be read: ${reasonOf(error)}`, { cause: error });
    }
    const { intermediate } = caFilesOf(dir);
    const { next } = rotationFilesOf(dir);
    if (path === intermediate && existsSync(rotationFilesOf(next).request))
      throw new SallyportError('ca_missing', `the CA in ${dir} waits for the certificate of its issuer`, {
        hint: `have ${rotationFilesOf(next).request} signed, then: sallyport ca issuer install FILE --dir ${dir}`,
      });
    if (existsSync(dir) && readdirSync(dir).some((name) => name.startsWith('before-restore-')))
      throw new SallyportError('ca_missing', `a restore into ${dir} was interrupted: it has no ${path}`, {
        hint: `run it again: sallyport ca restore --from BACKUP --dir ${dir}`,
      });
    const anything = Object.values(caFilesOf(dir)).some((one: string) => existsSync(one));
    throw new SallyportError('ca_missing', anything ? `the CA in ${dir} has no ${path}` : `no CA in ${dir}`, {
      hint:
        existsSync(storeFileOf(dir)) && path !== caFilesOf(dir).bundle
          ? 'the CA has lost it: restore it from a backup (sallyport ca restore)'
          : anything
            ? 'an interrupted init leaves some of the files: remove them and run sallyport ca init again'
            : `create one: sallyport ca init --trust-domain demo.test --dir ${dir}`,
    });
  }
}
