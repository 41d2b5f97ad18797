// `policy lint`: findings with their positions.

import { type Problem, SallyportError } from '../../cert-agent/base/errors.ts';
import type { Finding } from '../analyze/lint.ts';
import type { ScopeFlags } from '../analyze/world.ts';
import { counted, exitCodes, note, noteProblem, paint, printJson, printText } from './terminal.ts';

interface LintFlags extends ScopeFlags {
  readonly workload?: readonly string[];
  readonly json?: boolean;
}

/** What `policy lint` finds. */
export interface LintResult {
  readonly findings: readonly Finding[];
  /** What could not be read. */
  readonly problems: readonly Problem[];
  /** How many documents were read. */
  readonly documents: number;
}

/** Prints the findings. */
export async function lintPolicies(paths: readonly string[], flags: LintFlags): Promise<number> {
  const result = await findInPolicies(paths, flags);
  const { findings, problems, documents } = result;
  if (documents + findings.length + problems.length === 0)
    throw new SallyportError('usage', 'no document was read: nothing was checked');
  if (flags.json === true) printJson(result);
  else {
    for (const one of problems) noteProblem(one);
    for (const { code, file, line, column, message, mend } of findings) {
      printText(`${file}:${line}:${column}: ${paint('yellow', code)}: ${message}`);
      printText(`  fix: ${mend}`, 4);
    }
    note(
      findings.length + problems.length === 0
        ? 'no findings'
        : `${counted(findings.length, 'finding')}, ${counted(problems.length, 'problem')}`,
    );
  }
  return findings.length + problems.length === 0 ? exitCodes.ok : exitCodes.no;
}

/** Reads policies and looks for likely mistakes. @throws SallyportError as `readWorld`. */
export async function findInPolicies(paths: readonly string[], flags: LintFlags): Promise<LintResult> {
  const [{ lint }, { placeDocuments }, { readWorld }, { readSomePaths }, { parseSpiffeId }] = await Promise.all([
    import('../analyze/lint.ts'),
    import('../documents/istio/read.ts'),
    import('../analyze/world.ts'),
    import('../analyze/paths.ts'),
    import('../../cert-agent/identity/spiffe-id.ts'),
  ]);
  const { policies: _, ...rest } = flags;
  const { scope, pathNormalization } = await readWorld({ ...rest, policies: [] });
  const settings = flags.config === undefined ? undefined : await settingsIn(flags.config);
  const from = [...paths, ...(flags.policies ?? []), ...(settings?.policies === undefined ? [] : [settings.policies])];
  if (from.length === 0)
    throw new SallyportError('usage', 'nothing to check', { hint: 'give files, directories, or --config' });
  const { sources, passedOver } = readSomePaths(from);
  const { placed, problems } = placeDocuments(sources);
  const workloads = [
    ...(flags.workload ?? []).map((one) => parseSpiffeId(one).uri),
    ...Object.values(settings?.upstreams ?? {}).flatMap(({ identity }) => identity),
  ];
  const found = lint(placed, {
    trustDomain: scope.trustDomain,
    trustDomainAliases: scope.trustDomainAliases,
    rootNamespace: scope.rootNamespace,
    pathNormalization,
    ...(settings === undefined
      ? {}
      : {
          providers: settings.extensionProviders.map(({ name }) => name),
          ports: settings.inbound.map(({ policyPort }) => policyPort),
        }),
    // The upstreams are only some of the workloads.
    workloads: flags.workload === undefined ? [] : workloads,
    tcpPorts: settings?.inbound.filter(({ protocol }) => protocol === 'tcp').map(({ policyPort }) => policyPort) ?? [],
  });
  const findings: readonly Finding[] = [
    ...found.findings,
    ...passedOver.map((one) => ({ code: 'file_passed_over', ...one, mend: 'rename it or remove it' })),
  ];
  return { findings, problems: [...problems, ...found.problems], documents: placed.length };
}

async function settingsIn(file: string): Promise<import('../config/settings.ts').Settings> {
  const [{ readSettings }, { readText }] = await Promise.all([
    import('../config/sidecar-settings.ts'),
    import('../config/sources.ts'),
  ]);
  return readSettings(readText(file), file);
}
