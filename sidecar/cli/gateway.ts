// `sallyport gateway`: the same engine with a front door, and what it makes of its documents.

import { Command } from 'commander';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { StatusItem, StatusList } from '../routing/status.ts';
import { readCount, serve } from './sidecar.ts';
import { action, exitCodes, note, paint, print, printJson, printTable } from './terminal.ts';

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

SIGHUP looks at every file now; SIGTERM finishes what is in flight and exits with 0.`,
    )
    .action(
      action((options: { config?: string; check?: boolean; workers: string }) => {
        if (options.config === undefined)
          throw new SallyportError('usage', 'which gateway?', { hint: 'name gateway.yaml with --config' });
        return options.check === true
          ? check(options.config)
          : serve(options.config, readCount(options.workers), 'gateway');
      }),
    )
    .addCommand(statusCommand())
    .addCommand(hashKeyCommand());
}

function statusCommand(): Command {
  return new Command('status')
    .description('Show the conditions of each Gateway, listener, route and policy, without serving them')
    .option('--config <path>', 'gateway.yaml, or a directory of documents', process.env['SALLYPORT_CONFIG'])
    .option('-o, --output <form>', 'table or json', 'table')
    .addHelpText(
      'after',
      `
With -o json it prints a List as kubectl would. A running gateway shows the same at GET /gateway-status on its admin port. For
an exit code that says whether all of it is accepted and resolved, use 'sallyport gateway --check'.

Examples:
  sallyport gateway status --config gateway/
  sallyport gateway status --config gateway.yaml -o json | jq '.items[].status'`,
    )
    .action(action(runStatus));
}

async function runStatus(_own: object, command: Command): Promise<number> {
  const { config, output } = command.optsWithGlobals<{ config?: string; output: string }>();
  if (config === undefined)
    throw new SallyportError('usage', 'the status of what?', {
      hint: 'name a directory or gateway.yaml with --config',
    });
  if (output !== 'json' && output !== 'table')
    throw new SallyportError('usage', `-o is 'json' or 'table', not '${output}'`);
  const { readStatus } = await import('../config/gateway-status.ts');
  const { list, warnings } = readStatus(config, Date.now());
  for (const one of warnings) note(`${paint('yellow', 'warning:', process.stderr)} ${one}`);
  if (output === 'json') printJson(list);
  else printTable(columns, rowsOf(list), 'there is no document that has a status');
  return exitCodes.ok;
}

interface Said {
  readonly type: string;
  readonly status: string;
  readonly reason: string;
  readonly message: string;
}

const columns = ['KIND', 'NAME', 'SECTION', 'CONDITION', 'REASON', 'MESSAGE'];

/** A row for each condition that does not hold as it should, and one for each thing that is well. */
function rowsOf({ items }: StatusList): string[][] {
  return items.flatMap((item) =>
    sectionsOf(item).map(({ section, conditions, more }) => {
      const bad = conditions.find(isBad);
      const name = `${item.metadata.namespace}/${item.metadata.name}`;
      if (bad === undefined) return [item.kind, name, section, 'ok', '', more];
      return [item.kind, name, section, `${bad.type}=${bad.status}`, bad.reason, bad.message];
    }),
  );
}

function isGood({ items }: StatusList): boolean {
  return items.every((item) => sectionsOf(item).every(({ conditions }) => !conditions.some(isBad)));
}

/** `Conflicted` is the one that should be False. */
function isBad({ type, status }: Said): boolean {
  return (status === 'True') === (type === 'Conflicted');
}

function sectionsOf({ status }: StatusItem): { section: string; conditions: readonly Said[]; more: string }[] {
  const {
    conditions,
    listeners = [],
    parents = [],
    ancestors = [],
  } = status as {
    readonly conditions?: readonly Said[];
    readonly listeners?: readonly { name: string; attachedRoutes: number; conditions: readonly Said[] }[];
    readonly parents?: readonly { parentRef: { name: string; sectionName?: string }; conditions: readonly Said[] }[];
    readonly ancestors?: readonly { ancestorRef: { kind: string; name: string }; conditions: readonly Said[] }[];
  };
  return [
    ...(conditions === undefined ? [] : [{ section: '', conditions, more: '' }]),
    ...listeners.map((one) => ({
      section: one.name,
      conditions: one.conditions,
      more: `${one.attachedRoutes} route${one.attachedRoutes === 1 ? '' : 's'}`,
    })),
    ...parents.map(({ parentRef, conditions: own }) => ({
      section: `${parentRef.name}${parentRef.sectionName === undefined ? '' : `/${parentRef.sectionName}`}`,
      conditions: own,
      more: '',
    })),
    ...ancestors.map(({ ancestorRef, conditions: own }) => ({
      section: `${ancestorRef.kind} ${ancestorRef.name}`,
      conditions: own,
      more: '',
    })),
  ];
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
          import('../filters/api-key.ts'),
          import('node:fs'),
        ]);
        const key = readFileSync(0, 'utf8').trim();
        if (key === '') throw new SallyportError('usage', 'there is no key on standard input');
        print(hashApiKey(key));
        return exitCodes.ok;
      }),
    );
}

async function check(file: string): Promise<number> {
  const { readStatus } = await import('../config/gateway-status.ts');
  const { list, warnings } = readStatus(file, Date.now());
  for (const one of warnings) note(`${paint('yellow', 'warning:', process.stderr)} ${one}`);
  if (isGood(list)) note(`${file} is good: ${list.items.length} documents with a status, all accepted and resolved`);
  else printTable(columns, rowsOf(list), 'there is no document that has a status');
  return isGood(list) ? exitCodes.ok : exitCodes.no;
}
