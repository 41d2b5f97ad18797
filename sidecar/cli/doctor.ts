// `sallyport doctor`: everything around a sidecar or gateway that would keep it from working, each with its fix.

import { Command } from 'commander';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Level, Result } from '../analyze/result.ts';
import { readChecked } from './sidecar.ts';
import { action, counted, exitCodes, harmless, note, paint, printJson, printText } from './terminal.ts';

interface DoctorFlags {
  readonly config?: string;
  readonly json?: boolean;
}

/** The command; its modules are imported when it runs. */
export function doctorCommand(): Command {
  return new Command('doctor')
    .description('Look for what keeps a sidecar or gateway from working: each finding has a fix')
    .option('--config <file>', 'sidecar.yaml or gateway.yaml', process.env['SALLYPORT_CONFIG'])
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
It checks Node, limits, clock, files and their modes, disk, certificate, CA, DNS, upstreams, ports or the running process,
whether the app can be reached around its sidecar, policies, and in a pod its token and DNS. It changes nothing. Run it where
the sidecar runs, as the same user.

The exit code is 0 when nothing is wrong, 1 when there are findings, 2 when the configuration cannot be read.

Examples:
  sallyport doctor --config sidecar.yaml
  sallyport doctor --config sidecar.yaml --json | jq '.results[] | select(.level == "error")'`,
    )
    .action(action(runDoctor));
}

async function runDoctor({ config, json }: DoctorFlags): Promise<number> {
  if (config === undefined)
    throw new SallyportError('usage', 'no configuration given', {
      hint: 'give the path of sidecar.yaml with --config',
    });
  const results = await diagnose(config);
  const wrong = results.filter(isWrong);
  if (json === true) printJson({ ok: wrong.length === 0, results });
  else show(results, wrong.length);
  return wrong.length === 0 ? exitCodes.ok : exitCodes.no;
}

const isWrong = ({ level }: Result): boolean => level === 'error' || level === 'warning';

/** Everything that is examined, in order. @throws SallyportError if the configuration cannot be read. */
export async function diagnose(config: string): Promise<readonly Result[]> {
  const [{ examine }, { readVersion }] = await Promise.all([import('../analyze/doctor.ts'), import('./version.ts')]);
  const { settings, sources, passedOver, warnings } = await readChecked(config);
  const now = Date.now();
  const files = sources.map(({ file }) => file);
  return [
    ...passedOver.map(({ file, message }) => finding('configuration', `${file}: ${message}`, 'rename it or remove it')),
    ...warnings.map((message) => finding('configuration', message, 'see the message')),
    ...(await examine({ settings, files, version: readVersion(), now, env: process.env })),
    ...(await policyResults(config, settings.gateway !== undefined, settings.policies)),
  ];
}

const finding = (check: string, message: string, fix: string): Result => ({ check, level: 'warning', message, fix });

async function policyResults(config: string, isGateway: boolean, policies: string | undefined): Promise<Result[]> {
  const check = 'policies';
  if (isGateway)
    return [{ check, level: 'skipped', message: "'sallyport gateway --check' names each document's problems" }];
  if (policies === undefined) return [{ check, level: 'skipped', message: 'there are none: defaultAction decides' }];
  const { findInPolicies } = await import('./policy-lint.ts');
  const { findings } = await findInPolicies([], { config });
  // Files that were passed over are known already.
  const own = findings.filter(({ code }) => code !== 'file_passed_over');
  if (own.length === 0) return [{ check, level: 'ok', message: `${policies}: no likely mistakes` }];
  return own.map(({ code, file, line, column, message, mend }) =>
    finding(check, `${file}:${line}:${column}: ${code}: ${message}`, mend),
  );
}

const colours: Readonly<Record<Level, 'green' | 'yellow' | 'red' | 'dim'>> = {
  ok: 'green',
  warning: 'yellow',
  error: 'red',
  skipped: 'dim',
};

function show(results: readonly Result[], wrong: number): void {
  for (const { check, level, message, fix } of results) {
    // Peers and files say some of this.
    printText(`${paint(colours[level], level.padEnd(7))}  ${check.padEnd(13)}  ${harmless(message)}`, 9);
    if (fix !== undefined) printText(`${''.padEnd(9)}fix: ${harmless(fix)}`, 11);
  }
  note(wrong === 0 ? 'nothing is wrong' : counted(wrong, 'finding'));
}
