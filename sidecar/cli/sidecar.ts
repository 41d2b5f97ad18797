// `sallyport sidecar`: the proxy beside one service.

import { Command } from 'commander';
import { action, exitCodes, note } from './terminal.ts';

/** The command; the proxy itself is loaded when it runs. */
export function sidecarCommand(): Command {
  return new Command('sidecar')
    .description('run the proxy beside one service')
    .requiredOption('--config <file>', 'sidecar.yaml', process.env['SALLYPORT_CONFIG'])
    .option('--check', 'read the configuration, say what is wrong with it, and exit')
    .addHelpText(
      'after',
      `
Example:
  $ sallyport sidecar --config sidecar.yaml
  $ sallyport sidecar --config sidecar.yaml --check

SIGHUP looks at every file now; SIGTERM finishes what is in flight and exits with 0.`,
    )
    .action(
      action((options: { config: string; check?: boolean }) =>
        options.check === true ? check(options.config) : serve(options.config),
      ),
    );
}

async function check(file: string): Promise<number> {
  const [{ readConfiguration }, { countOf }] = await Promise.all([
    import('../config/read.ts'),
    import('../config/documents.ts'),
  ]);
  const { settings, documents } = readConfiguration(file);
  note(
    `${file} is good: ${settings.inbound.length} inbound and ${settings.outbound.length} outbound ports, ${countOf(documents)} policies`,
  );
  return exitCodes.ok;
}

async function serve(file: string): Promise<number> {
  const [{ createLog }, { startSidecar }, { readVersion }] = await Promise.all([
    import('../../cert-agent/base/log.ts'),
    import('../main.ts'),
    import('./version.ts'),
  ]);
  const log = createLog({ component: 'sidecar' });
  const sidecar = await startSidecar({ configFile: file, log, version: readVersion() });
  process.on('SIGHUP', () => sidecar.reload());
  await new Promise<void>((resolve) => {
    process.once('SIGTERM', resolve);
    process.once('SIGINT', resolve);
  });
  const { finished, cut } = await sidecar.drain();
  log.info({ code: 'stopped', finished, cut: cut.length }, 'stopped');
  return exitCodes.ok;
}
