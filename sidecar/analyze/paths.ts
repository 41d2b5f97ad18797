// The files that commands are given as paths: policies, settings, documents.

import { readFileSync, statSync } from 'node:fs';
import { type Problem, SallyportError } from '../../cert-agent/base/errors.ts';
import type { YamlDocument } from '../../cert-agent/base/yaml.ts';
import { readText, type Source } from '../config/sources.ts';
import { readTree } from '../config/tree.ts';

/** The result of reading paths. */
export interface PathSources {
  readonly sources: readonly Source[];
  /** Files in the directories that were not read. */
  readonly passedOver: readonly Problem[];
}

/**
 * The texts of paths. A directory means all YAML and JSON files in and below it; `-` means standard input.
 * @throws SallyportError `config_unreadable`.
 */
export function readPaths(paths: readonly string[]): PathSources {
  const passedOver: Problem[] = [];
  const sources = paths.flatMap((path): Source[] => {
    if (path === '-') return [{ file: '<stdin>', text: readFileSync(0, 'utf8') }];
    if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) return [{ file: path, text: readText(path) }];
    const tree = readTree(path);
    const read = tree.files.map((file) => ({ file, text: readText(file) }));
    passedOver.push(...tree.passedOver);
    return read;
  });
  return { sources, passedOver };
}

/** Like readPaths, but an empty check must not pass. @throws SallyportError `usage` without files. */
export function readSomePaths(paths: readonly string[]): PathSources {
  const read = readPaths(paths);
  if (read.sources.length > 0) return read;
  throw new SallyportError('usage', `no YAML or JSON file in ${paths.join(', ')}`, {
    hint: 'only files that end in .yaml, .yml or .json are read: give such files, or another directory',
  });
}

/** True if this document is a sidecar.yaml, not one of Kubernetes' kinds. */
export function isSettings({ value }: YamlDocument): boolean {
  return typeof value === 'object' && value !== null && !('kind' in value) && 'trustDomain' in value;
}
