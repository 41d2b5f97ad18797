// `sallyport sidecar`: the proxy beside one service.

import { Command } from 'commander';
import { formatProblem, SallyportError } from '../../cert-agent/base/errors.ts';
import type { Snapshot } from '../cluster/store.ts';
import type { Reading } from '../config/read.ts';
import { checking, placed, printChecked } from './checked.ts';
import { action, counted, exitCodes, note, notePassedOver, noteWarning, paint, withLogFormat } from './terminal.ts';

/** The command; the proxy is imported when it runs. */
export function sidecarCommand(): Command {
  return withLogFormat(new Command('sidecar'))
    .description('Run the proxy beside one service')
    .requiredOption('--config <file>', 'sidecar.yaml', process.env['SALLYPORT_CONFIG'])
    .option(
      '--workers <n>',
      'number of processes, which share the ports and the limits',
      process.env['SALLYPORT_WORKERS'] ?? '1',
    )
    .option('--check', 'check the configuration, print its problems and warnings, and exit')
    .option('--strict', 'with --check: exit with 1 if there is a warning')
    .option('--json', "with --check: print JSON, like 'sallyport check'")
    .addHelpText(
      'after',
      `
Examples:
  sallyport sidecar --config sidecar.yaml
  sallyport sidecar --config sidecar.yaml --workers 4
  sallyport sidecar --config sidecar.yaml --check --strict

SIGHUP rereads every file now. SIGTERM accepts new connections for another 5 s (limit drainMinimum), finishes requests in
flight, and exits with 0. SIGINT does not wait.`,
    )
    .action(
      action(({ config, check: isCheck, strict = false, json = false, workers }: SidecarFlags) => {
        if (isCheck === true) return checking(config, json, () => check(config, { strict, json }));
        refuseWithoutCheck({ strict, json });
        return serve(config, readCount(workers), 'sidecar');
      }),
    );
}

interface SidecarFlags {
  readonly config: string;
  readonly check?: boolean;
  readonly strict?: boolean;
  readonly json?: boolean;
  readonly workers: string;
}

/** Options that only a check has. @throws SallyportError `usage`. */
export function refuseWithoutCheck({ strict, json }: { readonly strict: boolean; readonly json: boolean }): void {
  const given = strict ? '--strict' : json ? '--json' : undefined;
  if (given !== undefined) throw new SallyportError('usage', `${given} is for --check`, { hint: 'add --check' });
}

/** A configuration, and what a process would warn of when it starts with it. */
export interface Checked extends Reading {
  readonly warnings: readonly string[];
}

/** Reads a configuration of either kind as a process does that starts. @throws SallyportError as `readConfiguration`. */
export async function readChecked(file: string): Promise<Checked> {
  const [{ readConfiguration }, { displacedMtls }] = await Promise.all([
    import('../config/read.ts'),
    import('../policy/mtls.ts'),
  ]);
  const reading = await readConfiguration(file);
  const { settings, documents } = reading;
  const warnings: string[] = [];
  if (settings.capabilities !== undefined)
    (await import('../process/sidecar-edge.ts')).checkSidecarEdge(settings, undefined, (one) => warnings.push(one));
  warnings.push(...displacedMtls(documents.peerAuthentications, settings));
  return { ...reading, warnings };
}

async function check(
  file: string,
  { strict, json }: { readonly strict: boolean; readonly json: boolean },
): Promise<number> {
  const { settings, documents, sources, passedOver, warnings } = await readChecked(file);
  if (!json) notePassedOver(passedOver);
  if (settings.gateway !== undefined)
    throw new SallyportError('usage', `${file} configures a gateway, not a sidecar`, {
      hint: "run 'sallyport gateway'",
    });
  const [{ countOf }, { configurationWarnings, firstPolicy, nothingCanPass }] = await Promise.all([
    import('../documents/istio/documents.ts'),
    import('../analyze/configuration-warnings.ts'),
  ]);
  const text = sources[0]?.text ?? '';
  const found = [
    ...warnings,
    ...(await configurationWarnings({ settings, text, documents }, Date.now())).map(formatProblem),
  ];
  if (json) {
    const [count, worries] = [countOf(documents), found.map((one) => placed(one, file))];
    return printChecked({ documents: count, problems: [], warnings: worries, passedOver, otherKinds: [] }, strict);
  }
  for (const one of found) noteWarning(one);
  if (nothingCanPass(settings, documents)) note(`such as:\n\n${firstPolicy(settings)}`);
  return noteValid(
    `${file} is valid: ${counted(settings.inbound.length, 'inbound port')}, ${counted(settings.outbound.length, 'outbound port')}, ${counted(countOf(documents), 'policy', 'policies')}`,
    found.length + passedOver.length,
    strict,
  );
}

/** Ends a check without problems. @returns the exit code, which under `strict` is that of its warnings. */
export function noteValid(what: string, warnings: number, strict: boolean): number {
  if (strict && warnings > 0) {
    note(`${paint('red', 'error:', process.stderr)} ${counted(warnings, 'warning')} (--strict)`);
    return exitCodes.no;
  }
  note(warnings === 0 ? what : `${what}; ${counted(warnings, 'warning')}`);
  return exitCodes.ok;
}

/** @throws SallyportError `usage`. */
export function readCount(text: string): number {
  if (/^[1-9]\d{0,2}$/.test(text)) return Number(text);
  throw new SallyportError('usage', `--workers takes a number from 1 to 999, not '${text}'`);
}

/** Begins to read `file` in its process; the rest of our modules load meanwhile. */
export async function beginReading(file: string): Promise<(file: string, objects?: Snapshot) => Promise<Reading>> {
  const [{ readAhead }, { absolutePath }] = await Promise.all([
    import('../config/read-apart.ts'),
    import('../../cert-agent/base/write.ts'),
  ]);
  return readAhead(absolutePath(file));
}

/** Runs until a signal. @throws SallyportError as `startSidecar`, or `usage` for the other kind of file. */
export async function serve(file: string, count: number, component: 'sidecar' | 'gateway'): Promise<number> {
  const read = await beginReading(file);
  const [{ createLog }, { reportBackgroundTo }, { createNotify }, { startSidecar }, { readVersion }] =
    await Promise.all([
      import('../../cert-agent/base/log.ts'),
      import('../../cert-agent/base/background.ts'),
      import('../../cert-agent/base/notify.ts'),
      import('../process/main.ts'),
      import('./version.ts'),
    ]);
  const log = createLog({ component });
  reportBackgroundTo(log);
  const notify = createNotify(process.env, (why) => log.warn({ code: 'notify_failed' }, why));
  // Before the start: a signal that arrives with the first 'ready' must be handled and logged too.
  process.on('SIGHUP', () => {});
  const stopping = Promise.withResolvers<NodeJS.Signals>();
  process.once('SIGTERM', stopping.resolve);
  process.once('SIGINT', stopping.resolve);
  const sidecar = await startSidecar({
    ...{ configFile: file, log, version: readVersion(), count, component, read },
    onReadiness: ({ ready, waitingFor }) => (ready ? notify.ready() : notify.waiting(waitingFor)),
    quit: () => stopping.resolve('SIGTERM'),
  });
  // Log rotation sends it after it renamed the access log. SIGHUP also rereads every file.
  process.on('SIGUSR1', () => sidecar.reopen());
  process.on('SIGHUP', () => {
    sidecar.reload();
    sidecar.reopen();
  });
  // Ctrl-C comes from a person who stops app and sidecar and is waiting.
  const signal = await stopping.promise;
  notify.stopping();
  const { finished, cut } = await sidecar.drain(signal === 'SIGTERM');
  log.info({ code: 'stopped', finished, cut: cut.length }, 'stopped');
  return exitCodes.ok;
}
