// `sallyport sidecar`: the proxy beside one service.

import { Command } from 'commander';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import { action, counted, exitCodes, note, notePassedOver, noteWarning } from './terminal.ts';

/** The command; the proxy itself is loaded when it runs. */
export function sidecarCommand(): Command {
  return new Command('sidecar')
    .description('run the proxy beside one service')
    .requiredOption('--config <file>', 'sidecar.yaml', process.env['SALLYPORT_CONFIG'])
    .option('--workers <n>', 'processes that share the ports and the caps', process.env['SALLYPORT_WORKERS'] ?? '1')
    .option('--check', 'read the configuration, say what is wrong with it, and exit')
    .addHelpText(
      'after',
      `
Example:
  $ sallyport sidecar --config sidecar.yaml
  $ sallyport sidecar --config sidecar.yaml --workers 4
  $ sallyport sidecar --config sidecar.yaml --check

SIGHUP looks at every file now; SIGTERM takes new connections for 5 s more (limit drainMinimum), finishes what is in
flight, and exits with 0; SIGINT does not wait.`,
    )
    .action(
      action((options: { config: string; check?: boolean; workers: string }) =>
        options.check === true ? check(options.config) : serve(options.config, readCount(options.workers), 'sidecar'),
      ),
    );
}

async function check(file: string): Promise<number> {
  const [{ readConfiguration }, { countOf }, { displacedMtls }] = await Promise.all([
    import('../config/read.ts'),
    import('../documents/istio/documents.ts'),
    import('../policy/mtls.ts'),
  ]);
  const { settings, documents, passedOver } = readConfiguration(file);
  notePassedOver(passedOver);
  if (settings.gateway !== undefined)
    throw new SallyportError('usage', `${file} is of a gateway`, { hint: "run 'sallyport gateway'" });
  for (const one of displacedMtls(documents.peerAuthentications, settings)) noteWarning(one);
  note(
    `${file} is good: ${counted(settings.inbound.length, 'inbound port')}, ${counted(settings.outbound.length, 'outbound port')}, ${counted(countOf(documents), 'policy', 'policies')}`,
  );
  return exitCodes.ok;
}

/** @throws SallyportError `usage`. */
export function readCount(text: string): number {
  if (/^[1-9]\d{0,2}$/.test(text)) return Number(text);
  throw new SallyportError('usage', `--workers takes a number from 1 to 999, not '${text}'`);
}

/** Runs until it is told to leave. @throws SallyportError as `startSidecar`, or `usage` for the other kind of file. */
export async function serve(file: string, count: number, component: 'sidecar' | 'gateway'): Promise<number> {
  const [{ createLog }, { reportBackgroundTo }, { startSidecar }, { readVersion }] = await Promise.all([
    import('../../cert-agent/base/log.ts'),
    import('../../cert-agent/base/background.ts'),
    import('../process/main.ts'),
    import('./version.ts'),
  ]);
  const log = createLog({ component });
  reportBackgroundTo(log);
  // Before the start: a signal that comes with the first 'ready' is no reason to go without a word, or to go at all.
  process.on('SIGHUP', () => {});
  const told = new Promise<NodeJS.Signals>((resolve) => {
    process.once('SIGTERM', resolve);
    process.once('SIGINT', resolve);
  });
  const sidecar = await startSidecar({ configFile: file, log, version: readVersion(), count, component });
  // What log rotation sends: the access log has been renamed. SIGHUP looks at every file as well.
  process.on('SIGUSR1', () => sidecar.reopen());
  process.on('SIGHUP', () => {
    sidecar.reload();
    sidecar.reopen();
  });
  // Ctrl-C is a person's, who stops both and waits.
  const { finished, cut } = await sidecar.drain((await told) === 'SIGTERM');
  log.info({ code: 'stopped', finished, cut: cut.length }, 'stopped');
  return exitCodes.ok;
}
