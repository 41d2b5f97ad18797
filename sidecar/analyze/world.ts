// The input of the policy commands: documents from files, directories or standard input, and the workload, from
// sidecar.yaml or flags.

import { SallyportError } from '../../cert-agent/base/errors.ts';
import { configError } from '../../cert-agent/base/yaml.ts';
import { readSettings } from '../config/sidecar-settings.ts';
import { readText } from '../config/sources.ts';
import type { Purpose } from '../documents/istio/patterns.ts';
import { placeDocuments, readIstio } from '../documents/istio/read.ts';
import { type PathNormalization, pathNormalizations } from '../policy/path.ts';
import type { PolicyScope } from '../policy/policy.ts';
import { fetchJson, Jwks } from '../tokens/jwks.ts';
import { type PathSources, readPaths } from './paths.ts';
import type { World } from './question.ts';

/** The flags for policies and workload; all have defaults. */
export interface ScopeFlags {
  /** sidecar.yaml: everything that no other flag sets. */
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

/** @throws SallyportError `config_invalid` with every problem, `config_unreadable`, `usage`. */
export async function readWorld(
  flags: ScopeFlags,
  purpose: Purpose = 'eval',
): Promise<World & Pick<PathSources, 'passedOver'>> {
  const settings = flags.config === undefined ? undefined : await readSettings(readText(flags.config), flags.config);
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
  throw new SallyportError('usage', `${flag} must be one of ${known.join(', ')}, not '${value}'`);
}
