// `sallyport exec`: an app that begins after its sidecar and ends before it.

import { Command } from 'commander';
import { parseDuration } from '../../cert-agent/base/clock.ts';
import { errnoOf, SallyportError } from '../../cert-agent/base/errors.ts';
import { beginReading, readCount } from './sidecar.ts';
import { printError, withLogFormat } from './terminal.ts';

interface ExecFlags {
  readonly config?: string;
  readonly workers: string;
  readonly readyTimeout: string;
  readonly waitForUpstreams?: boolean;
}

/** As of `env`, `timeout` and `docker run`: no app, or no sidecar, has an exit code of its own. */
const exitCodes = Object.freeze({ failed: 125, notExecutable: 126, notFound: 127 });

/** The command; the proxy is imported when it runs. */
export function execCommand(): Command {
  return withLogFormat(new Command('exec'))
    .description('Start a sidecar, then an app beside it, and end with the exit code of the app')
    .argument('<command...>', 'the app and its arguments, after --')
    .option('--config <file>', 'sidecar.yaml', process.env['SALLYPORT_CONFIG'])
    .option(
      '--workers <n>',
      'number of processes, which share the ports and the limits',
      process.env['SALLYPORT_WORKERS'] ?? '1',
    )
    .option('--ready-timeout <duration>', 'how long the app waits for its sidecar; 0s: for ever', '60s')
    .option('--wait-for-upstreams', 'start the app only when its upstreams answer, too')
    .passThroughOptions()
    .addHelpText(
      'after',
      `
The app starts when certificate, policies and ports are ready. It has the standard input and output; the access log goes to
stderr unless sidecar.yaml names a file. It gets SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 and SIGWINCH. After SIGTERM
the sidecar sends callers away; outbound ports stay open until the app has ended. Then the sidecar ends with the app's exit
code, 128+n where signal n ended it. 125: the sidecar could not start, or was not ready in time; 126 or 127: the app could not.

Examples:
  sallyport exec --config sidecar.yaml -- node server.js
  sallyport exec --config sidecar.yaml --wait-for-upstreams -- ./nightly-job --all`,
    )
    .action(async (command: [string, ...string[]], flags: ExecFlags) => {
      try {
        process.exitCode = await runExec(command, flags);
      } catch (error) {
        printError(error);
        process.exitCode = codeOf(error);
      }
    });
}

function codeOf(error: unknown): number {
  if (!(error instanceof SallyportError) || error.code !== 'app_not_started') return exitCodes.failed;
  return errnoOf(error.cause) === 'ENOENT' ? exitCodes.notFound : exitCodes.notExecutable;
}

async function runExec(command: readonly [string, ...string[]], flags: ExecFlags): Promise<number> {
  const { config, readyTimeout, waitForUpstreams = false } = flags;
  if (config === undefined)
    throw new SallyportError('usage', 'no sidecar.yaml given', { hint: 'give its path with --config' });
  const readyTimeoutMs = parseDuration(readyTimeout);
  if (readyTimeoutMs === undefined)
    throw new SallyportError('usage', `--ready-timeout takes a duration such as 30s, not '${readyTimeout}'`);
  const count = readCount(flags.workers);
  const read = await beginReading(config);
  const [{ createLog }, { reportBackgroundTo }, { createNotify }, { execApp }, { readVersion }] = await Promise.all([
    import('../../cert-agent/base/log.ts'),
    import('../../cert-agent/base/background.ts'),
    import('../../cert-agent/base/notify.ts'),
    import('../process/exec.ts'),
    import('./version.ts'),
  ]);
  const log = createLog({ component: 'exec' });
  reportBackgroundTo(log);
  const notify = createNotify(process.env, (why) => log.warn({ code: 'notify_failed' }, why));
  const version = readVersion();
  return execApp({
    ...{ configFile: config, read, command, log, version, count },
    readyTimeoutMs,
    waitForUpstreams,
    notify,
  });
}
