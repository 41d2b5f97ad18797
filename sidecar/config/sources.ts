// The files that a configuration consists of, as text.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { errnoOf, reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import type { Settings } from './settings.ts';

export interface Source {
  readonly file: string;
  readonly text: string;
}

/** What of the settings leads to other files. */
export type Leading = Pick<Settings, 'policies' | 'gateway'>;

/** sidecar.yaml first, then the documents by name, then the files that gateway.yaml names. @throws SallyportError `config_unreadable`. */
export function readSources(file: string, settings: Leading, text = readText(file)): readonly Source[] {
  const { policies } = settings;
  const names = policies === undefined ? [] : namesIn(policies).map((name) => join(policies, name));
  return [
    { file, text },
    ...names.map((name) => ({ file: name, text: readText(name) })),
    // What is missing is said where it is used: the rest is served meanwhile.
    ...filesOf(settings).map((name) => ({ file: name, text: existsSync(name) ? readText(name) : '' })),
  ];
}

/** The files that gateway.yaml names beside its documents: certificates, keys, error pages. */
export function filesOf({ gateway }: Leading): readonly string[] {
  if (gateway === undefined) return [];
  const { certificates, sessionKeys, errorPages } = gateway;
  const pages =
    errorPages === undefined || !existsSync(errorPages)
      ? []
      : readdirSync(errorPages)
          .filter((name) => /^[45](?:\d\d|xx)\.html$/.test(name))
          .toSorted()
          .map((name) => join(errorPages, name));
  return [
    ...Object.values(certificates).flatMap(({ certificate, key }) => [certificate, key]),
    ...(sessionKeys === undefined ? [] : [sessionKeys]),
    ...pages,
  ];
}

export function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory)
      .filter((name) => /\.(?:ya?ml|json)$/.test(name) && !basename(name).startsWith('.'))
      .toSorted();
  } catch (error) {
    throw new SallyportError('config_unreadable', `the documents in ${directory} cannot be read: ${reasonOf(error)}`, {
      hint: "make the directory, or mend 'documents' in gateway.yaml, 'policies' in sidecar.yaml (without it nothing passes)",
    });
  }
}

/** Directories of `directory` in which there are documents, too: nobody reads those. */
export function unreadIn(directory: string): string[] {
  return readdirSync(directory, { withFileTypes: true })
    .filter((one) => one.isDirectory() && !one.name.startsWith('.'))
    .map(({ name }) => join(directory, name))
    .filter((one) => namesIn(one).length > 0);
}

/** @throws SallyportError `config_unreadable`. */
export function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    const why = errnoOf(error) === 'ENOENT' ? 'it does not exist' : reasonOf(error);
    throw new SallyportError('config_unreadable', `${file} cannot be read: ${why}`, { hint: 'name it with --config' });
  }
}

export function sameSources(a: readonly Source[], b: readonly Source[]): boolean {
  return a.length === b.length && a.every((one, index) => one.file === b[index]?.file && one.text === b[index]?.text);
}
