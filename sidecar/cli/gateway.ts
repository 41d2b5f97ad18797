// `sallyport gateway`: the same engine with a front door, and what it makes of its documents.

import { Command } from 'commander';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import { readCount, serve } from './sidecar.ts';
import { action, exitCodes, print } from './terminal.ts';

/** The command; the gateway itself is loaded when it runs. */
export function gatewayCommand(): Command {
  return new Command('gateway')
    .description('run an API gateway: Gateway API from plain files, in from outside over TLS, on into the mesh')
    .option('--config <file>', 'gateway.yaml', process.env['SALLYPORT_CONFIG'])
    .option('--workers <n>', 'processes that share the ports and the caps', process.env['SALLYPORT_WORKERS'] ?? '1')
    .option('--check', 'read the configuration, say what is wrong with it, and exit')
    .addHelpText(
      'after',
      `
Example:
  $ sallyport gateway --config gateway.yaml
  $ sallyport gateway --config gateway.yaml --check
  $ sallyport gateway status --config gateway/ -o json

SIGHUP looks at every file now; SIGTERM takes new connections for 5 s more (limit drainMinimum), finishes
what is in flight, and exits with 0; SIGINT does not wait.`,
    )
    .action(
      action(async ({ config, check, workers }: { config?: string; check?: boolean; workers: string }) => {
        if (config === undefined)
          throw new SallyportError('usage', 'which gateway?', { hint: 'name gateway.yaml with --config' });
        if (check !== true) return serve(config, readCount(workers), 'gateway');
        const { checkGateway } = await import('./gateway-status.ts');
        return checkGateway(config);
      }),
    )
    .addCommand(statusCommand())
    .addCommand(hashKeyCommand());
}

function statusCommand(): Command {
  return new Command('status')
    .description('Show the conditions of each Gateway, listener, route and policy')
    .option(
      '--config <path>',
      'gateway.yaml, or a directory of documents (whose backends nobody knows then)',
      process.env['SALLYPORT_CONFIG'],
    )
    .option('--offline', 'ask no running gateway: judge the files, as one that starts now would')
    .option('-o, --output <form>', 'table or json', 'table')
    .addHelpText(
      'after',
      `
It asks the gateway that runs with this gateway.yaml, at its admin address (GET /gateway-status): of two documents that want the
same one keeps what it serves. Where none answers, the files are judged, as when it starts anew; stderr says which it was. What a
running gateway warns of is in its log. With -o json a List is printed as kubectl would. For an exit code that says whether all of
the files is accepted and resolved, use 'sallyport gateway --check'.

Examples:
  sallyport gateway status --config gateway.yaml
  sallyport gateway status --config gateway.yaml --offline
  sallyport gateway status --config gateway.yaml -o json | jq '.items[].status'`,
    )
    .action(
      action(async (_own: object, command: Command) => {
        const { showStatus } = await import('./gateway-status.ts');
        return showStatus(command.optsWithGlobals<{ config?: string; output: string; offline?: boolean }>());
      }),
    );
}

function hashKeyCommand(): Command {
  return new Command('hash-key')
    .description("Read an API key from standard input and print what a Secret holds in its place: 'sha256:...'")
    .addHelpText(
      'after',
      `
Example:
  $ openssl rand -hex 24 | tee partner.key | sallyport gateway hash-key`,
    )
    .action(
      action(async () => {
        const [{ hashApiKey }, { readFileSync }] = await Promise.all([
          import('../edge/api-key/api-key.ts'),
          import('node:fs'),
        ]);
        const key = readFileSync(0, 'utf8').trim();
        if (key === '') throw new SallyportError('usage', 'there is no key on standard input');
        print(hashApiKey(key));
        return exitCodes.ok;
      }),
    );
}
