// The files that a configuration consists of, as text.

import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { errnoOf, reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';

export interface Source {
  readonly file: string;
  readonly text: string;
}

/** sidecar.yaml first, then the policy files by name. @throws SallyportError `config_unreadable`. */
export function readSources(file: string, policies: string | undefined, text = readText(file)): readonly Source[] {
  if (policies === undefined) return [{ file, text }];
  const names = namesIn(policies).map((name) => join(policies, name));
  return [{ file, text }, ...names.map((name) => ({ file: name, text: readText(name) }))];
}

export function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory)
      .filter((name) => /\.(?:ya?ml|json)$/.test(name) && !basename(name).startsWith('.'))
      .toSorted();
  } catch (error) {
    throw new SallyportError('config_unreadable', `the policies in ${directory} cannot be read: ${reasonOf(error)}`, {
      hint: "make the directory, or leave 'policies' out of sidecar.yaml (nothing passes then)",
    });
  }
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
