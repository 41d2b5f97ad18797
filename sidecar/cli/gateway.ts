// `sallyport gateway`: runs the proxy as an API gateway, and shows the status of its documents.

import { Command } from 'commander';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import { checking } from './checked.ts';
import { readCount, refuseWithoutCheck, serve } from './sidecar.ts';
import { action, exitCodes, print, withLogFormat } from './terminal.ts';

interface GatewayFlags {
  readonly config?: string;
  readonly check?: boolean;
  readonly strict?: boolean;
  readonly json?: boolean;
  readonly workers: string;
}

/** The command; the gateway is imported when it runs. */
export function gatewayCommand(): Command {
  return withLogFormat(new Command('gateway'))
    .description('Run an API gateway: Gateway API from plain files, TLS from outside, mutual TLS into the mesh')
    .option('--config <file>', 'gateway.yaml', process.env['SALLYPORT_CONFIG'])
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
  sallyport gateway --config gateway.yaml
  sallyport gateway --config gateway.yaml --check
  sallyport gateway status --config gateway/ -o json

SIGHUP rereads every file now. SIGTERM accepts new connections for another 5 s (limit drainMinimum), finishes requests in
flight, and exits with 0. SIGINT does not wait.`,
    )
    .action(
      action(async ({ config, check, strict = false, json = false, workers }: GatewayFlags) => {
        if (config === undefined)
          throw new SallyportError('usage', 'no gateway.yaml given', { hint: 'give its path with --config' });
        if (check !== true) {
          refuseWithoutCheck({ strict, json });
          return serve(config, readCount(workers), 'gateway');
        }
        const { checkGateway } = await import('./gateway-status.ts');
        return checking(config, json, () => checkGateway(config, { strict, json }));
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
      'gateway.yaml, or a directory of documents (whose backends are then unknown)',
      process.env['SALLYPORT_CONFIG'],
    )
    .option('--offline', 'evaluate the files, like a gateway that starts now, instead of asking a running one')
    .option('-o, --output <form>', 'table or json', 'table')
    .addHelpText(
      'after',
      `
The status comes from the running gateway of this gateway.yaml, at its admin address (GET /gateway-status). If none responds,
the files are evaluated as at a start; stderr says which. The two may differ: of two conflicting documents, a running gateway
keeps the one that it serves. The warnings of a running gateway are in its log. -o json prints a List like kubectl. For an exit
code that says whether everything is accepted and resolved, use 'sallyport gateway --check'.

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
    .description("Read an API key from standard input and print its hash for a Secret: 'sha256:...'")
    .addHelpText(
      'after',
      `
Example:
  openssl rand -hex 24 | tee partner.key | sallyport gateway hash-key`,
    )
    .action(
      action(async () => {
        const [{ hashApiKey }, { readFileSync }] = await Promise.all([
          import('../edge/api-key/api-key.ts'),
          import('node:fs'),
        ]);
        const key = readFileSync(0, 'utf8').trim();
        if (key === '') throw new SallyportError('usage', 'no key on standard input');
        print(hashApiKey(key));
        return exitCodes.ok;
      }),
    );
}
