// `sallyport check`: validates documents as Istio itself does. For CI, with or without Sallyport.

import { Command } from 'commander';
import { formatProblem, SallyportError } from '../../cert-agent/base/errors.ts';
import type { KindCount } from '../analyze/check.ts';
import { printChecked } from './checked.ts';
import { action, counted, exitCodes, note, notePassedOver, noteProblem, noteWarning, paint } from './terminal.ts';

/** The command; its modules are imported when it runs. */
export function checkCommand(): Command {
  return new Command('check')
    .description(
      'Check Istio, Gateway API and Envoy Gateway documents as those projects validate them, and sidecar.yaml and gateway.yaml',
    )
    .argument('<files...>', 'files, directories, or - for standard input')
    .option('--json', 'print JSON')
    .option('--strict', 'refuse what is not checked, and what is warned of')
    .addHelpText(
      'after',
      `
The exit code is 0 when all documents are valid, 1 when one is not (all problems are printed with their positions), 2 for misuse
and when nothing was checked. Documents of other kinds, such as Deployments, are named and not checked.

Examples:
  sallyport check policies/
  kubectl get authorizationpolicies,gateways -A -o yaml | sallyport check -
  helm template . | sallyport check -
  sallyport check sidecar.yaml policies/ --json`,
    )
    .action(action(runCheck));
}

interface CheckFlags {
  readonly json?: boolean;
  readonly strict?: boolean;
}

async function runCheck(files: readonly string[], { json = false, strict = false }: CheckFlags): Promise<number> {
  const [{ readSomePaths }, { checkDocuments, countKinds }] = await Promise.all([
    import('../analyze/paths.ts'),
    import('../analyze/check.ts'),
  ]);
  const { sources, passedOver } = readSomePaths(files);
  const { checked, problems: found, warnings: worries, notChecked } = await checkDocuments(sources);
  const otherKinds = countKinds(notChecked);
  if (found.length === 0 && checked === 0) {
    const others = notChecked.length === 0 ? '' : ` but documents of other kinds (${named(otherKinds)})`;
    throw new SallyportError('usage', `no document in ${files.join(', ')}${others}: nothing was checked`);
  }
  if (json) {
    const all = strict ? [...found, ...notChecked] : found;
    return printChecked({ documents: checked, problems: all, warnings: worries, passedOver, otherKinds }, strict);
  }
  const warnings = [...passedOver, ...worries];
  const problems = strict ? [...found, ...warnings, ...notChecked] : found;
  const isGood = problems.length === 0;
  // Under --strict each is a problem, with its hint.
  const hints = strict ? [] : otherKinds.filter(({ hint }) => hint !== undefined);
  if (!strict) {
    notePassedOver(passedOver);
    for (const one of worries) noteWarning(formatProblem(one));
  }
  for (const one of problems) noteProblem(one);
  for (const { apiVersion, kind, hint } of hints) noteWarning(`${apiVersion} ${kind} is not checked: ${hint}`);
  const rest = strict || notChecked.length === 0 ? '' : `; not checked: ${named(otherKinds)}`;
  if (isGood) note(`${counted(checked, 'document')} ${checked === 1 ? 'is' : 'are'} valid${rest}`);
  else note(`${paint('red', 'error:', process.stderr)} ${counted(problems.length, 'problem')} found${rest}`);
  return isGood ? exitCodes.ok : exitCodes.no;
}

/** `2 apps/v1 Deployment, 1 v1 Service`. */
function named(kinds: readonly KindCount[]): string {
  return kinds.map(({ apiVersion, kind, count }) => `${count} ${apiVersion} ${kind}`).join(', ');
}
