// What the policy commands decide by: documents from files, directories or standard input, and the workload that they are
// put to, from sidecar.yaml or from flags.

import { readFileSync, statSync } from 'node:fs';
import { type Problem, SallyportError } from '../../cert-agent/base/errors.ts';
import { configError, type YamlDocument } from '../../cert-agent/base/yaml.ts';
import { parseSettings } from '../config/sidecar-settings.ts';
import { emptyAmong, readText, type Source } from '../config/sources.ts';
import { readTree } from '../config/tree.ts';
import type { Purpose } from '../documents/istio/patterns.ts';
import { placeDocuments, readIstio } from '../documents/istio/read.ts';
import { type PathNormalization, pathNormalizations } from '../policy/path.ts';
import type { PolicyScope } from '../policy/policy.ts';
import { fetchJson, Jwks } from '../tokens/jwks.ts';
import type { World } from './question.ts';

/** The flags that say what to decide by; all have defaults. */
export interface ScopeFlags {
  /** sidecar.yaml: gives everything that no other flag does. */
  readonly config?: string;
  readonly policies?: readonly string[];
  readonly trustDomain?: string;
  readonly trustDomainAlias?: readonly string[];
  readonly rootNamespace?: string;
  readonly namespace?: string;
  readonly serviceAccount?: string;
  /** `key=value` */
  readonly label?: readonly string[];
  readonly defaultAction?: string;
  readonly pathNormalization?: string;
}

/** What paths lead to. */
export interface PathSources {
  readonly sources: readonly Source[];
  /** Files in the directories that are not read. */
  readonly passedOver: readonly Problem[];
}

/**
 * The texts behind paths: a directory stands for its YAML and JSON files and for those below it, `-` for standard input.
 * @throws SallyportError `config_unreadable`.
 */
function readPaths(paths: readonly string[]): PathSources {
  const passedOver: Problem[] = [];
  const sources = paths.flatMap((path): Source[] => {
    if (path === '-') return [{ file: '<stdin>', text: readFileSync(0, 'utf8') }];
    if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) return [{ file: path, text: readText(path) }];
    const tree = readTree(path);
    const read = tree.files.map((file) => ({ file, text: readText(file) }));
    passedOver.push(...tree.passedOver, ...emptyAmong(read));
    return read;
  });
  return { sources, passedOver };
}

/** As readPaths, but a check that checks nothing must say so. @throws SallyportError `usage` where there are no files. */
export function readSomePaths(paths: readonly string[]): PathSources {
  const read = readPaths(paths);
  if (read.sources.length > 0) return read;
  throw new SallyportError('usage', `there is no YAML or JSON file in ${paths.join(', ')}`, {
    hint: 'files that are read end in .yaml, .yml or .json: name the files, or another directory',
  });
}

/** Is this document a sidecar.yaml, and not one of Kubernetes' kinds? */
export function isSettings({ value }: YamlDocument): boolean {
  return typeof value === 'object' && value !== null && !('kind' in value) && 'trustDomain' in value;
}

/** @throws SallyportError `config_invalid` with every problem, `config_unreadable`, `usage`. */
export function readWorld(flags: ScopeFlags, purpose: Purpose = 'eval'): World & Pick<PathSources, 'passedOver'> {
  const settings = flags.config === undefined ? undefined : parseSettings(readText(flags.config), flags.config);
  const paths = flags.policies ?? (settings?.policies === undefined ? [] : [settings.policies]);
  const { sources, passedOver } = readPaths(paths);
  const { placed, problems } = placeDocuments(sources);
  const read = readIstio(placed, purpose);
  const all = [...problems, ...read.problems];
  if (all.length > 0) throw configError(all);
  const workload = settings?.workload ?? { namespace: 'default', serviceAccount: '', labels: {} };
  const scope: PolicyScope = {
    trustDomain: flags.trustDomain ?? settings?.trustDomain ?? 'cluster.local',
    trustDomainAliases: flags.trustDomainAlias ?? settings?.trustDomainAliases ?? [],
    rootNamespace: flags.rootNamespace ?? settings?.rootNamespace ?? 'istio-system',
    workload: {
      namespace: flags.namespace ?? workload.namespace,
      serviceAccount: flags.serviceAccount ?? workload.serviceAccount,
      labels: flags.label === undefined ? workload.labels : readLabels(flags.label),
    },
    defaultAction: oneOf('--default-action', flags.defaultAction ?? settings?.defaultAction ?? 'deny', [
      'deny',
      'allow',
    ]),
  };
  const jwks = new Jwks(undefined, fetchJson);
  return {
    documents: read.documents,
    passedOver,
    scope,
    pathNormalization: oneOf<PathNormalization>(
      '--path-normalization',
      flags.pathNormalization ?? settings?.pathNormalization ?? 'BASE',
      pathNormalizations,
    ),
    keys: { sourceOf: (rule) => jwks.sourceOf(rule) },
  };
}

function readLabels(list: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    list.map((one) => {
      const at = one.indexOf('=');
      if (at < 1) throw new SallyportError('usage', `--label takes key=value, not '${one}'`);
      return [one.slice(0, at), one.slice(at + 1)];
    }),
  );
}

function oneOf<T extends string>(flag: string, value: string, known: readonly T[]): T {
  if ((known as readonly string[]).includes(value)) return value as T;
  throw new SallyportError('usage', `${flag} is one of ${known.join(', ')}, not '${value}'`);
}
