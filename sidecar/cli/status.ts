// `sallyport status`: the state of a running sidecar, and the clients that still send it plaintext.

import { Command } from 'commander';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { AdminPlace } from '../analyze/admin-client.ts';
import type { PortSecurity } from '../observe/plaintext-report.ts';
import { withAdmin } from './admin-options.ts';
import { action, counted, exitCodes, paint, print, printJson, printTable } from './terminal.ts';

interface StatusFlags extends AdminPlace {
  readonly strictReport?: boolean;
  readonly json?: boolean;
}

/** The part of `GET /state` that is shown here. */
interface State {
  readonly ready: boolean;
  readonly waitingFor: readonly string[];
  readonly generation: number;
  readonly configurationFailures: number;
  readonly connections: number;
  readonly lastProblem: { readonly message: string; readonly problems: readonly string[] } | null;
  readonly ports: readonly {
    readonly port: string;
    readonly bound: number | null;
    readonly mtls: { readonly mode: string; readonly from: string } | null;
  }[];
}

/** The command; its modules are imported when it runs. */
export function statusCommand(): Command {
  const command = new Command('status').description(
    'Show whether a running sidecar or gateway is ready, its ports, and its plaintext clients',
  );
  return withAdmin(command, 'the sidecar or gateway')
    .option('--strict-report', 'per inbound port: plaintext clients, and since when it could have been STRICT')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
The exit code is 0 when it is ready; with --strict-report, when no port has seen plaintext. 1 otherwise, 2 for misuse.

Examples:
  sallyport status
  sallyport status --config sidecar.yaml
  sallyport status --strict-report --admin http://127.0.0.1:15000 --json`,
    )
    .action(action(runStatus));
}

async function runStatus(flags: StatusFlags): Promise<number> {
  const { askAdmin, findAdmin } = await import('../analyze/admin-client.ts');
  const admin = await findAdmin(flags);
  const page = admin.page(flags.strictReport === true ? '/strict-report' : '/state');
  const { status, body } = await askAdmin(page, admin.socketPath);
  if (status !== 200 || typeof body !== 'object' || body === null)
    throw new SallyportError('upstream_protocol', `${page.href} responded ${status}`, {
      hint: 'is this the admin address of a sidecar?',
    });
  if (flags.json === true) printJson(body);
  if (flags.strictReport === true) return showReport(body as readonly PortSecurity[], flags.json === true);
  return showState(body as State, flags.json === true);
}

function showState(state: State, quiet: boolean): number {
  if (quiet) return state.ready ? exitCodes.ok : exitCodes.no;
  print(state.ready ? paint('green', 'ready') : paint('red', 'not ready'));
  for (const one of state.waitingFor) print(`  waiting for ${one}`);
  print(`generation ${state.generation}, ${counted(state.connections, 'connection')}`);
  if (state.lastProblem !== null) {
    print(paint('yellow', `the last change was rejected: ${state.lastProblem.message}`));
    for (const one of state.lastProblem.problems) print(`  ${one}`);
  }
  print('');
  printTable(
    ['port', 'bound', 'mtls', 'by'],
    state.ports.map(({ port, bound, mtls }) => [
      port,
      bound === null ? 'no' : String(bound),
      mtls?.mode ?? '-',
      mtls?.from ?? '-',
    ]),
    'no ports',
  );
  return state.ready ? exitCodes.ok : exitCodes.no;
}

function showReport(ports: readonly PortSecurity[], quiet: boolean): number {
  const plain = ports.some(({ plaintextConnections }) => plaintextConnections > 0);
  if (quiet) return plain ? exitCodes.no : exitCodes.ok;
  printTable(
    ['port', 'mode', 'by', 'mTLS', 'plaintext', 'STRICT possible since'],
    ports.map((one) => [
      one.port,
      one.mode,
      one.from,
      String(one.mtlsConnections),
      String(one.plaintextConnections),
      one.strictPossibleSince,
    ]),
    'no inbound ports',
  );
  for (const { port, plaintextPeers } of ports) {
    if (plaintextPeers.length === 0) continue;
    print('');
    print(paint('yellow', `plaintext on ${port}:`));
    printTable(
      ['address', 'connections', 'first seen', 'last seen'],
      plaintextPeers.map((one) => [one.address, String(one.connections), one.firstSeen, one.lastSeen]),
      'none',
    );
  }
  return plain ? exitCodes.no : exitCodes.ok;
}
