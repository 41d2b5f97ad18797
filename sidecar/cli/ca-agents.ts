// `sallyport ca agents`: who is connected, and what they use.

import { Command } from 'commander';
import { type AtCa, atCa, withOperator } from './at-ca.ts';
import { action, exitCodes, printJson, printTable } from './terminal.ts';

export function agentsCommand(): Command {
  return atCa(new Command('agents'))
    .description('List the agents that are connected to a running CA, and which bundle and deny list they use')
    .option('--json', 'print them as JSON')
    .addHelpText(
      'after',
      `
CLOCK is how far the clock of the agent's machine is ahead of the CA's, as of the last acknowledgement.

Example:
  sallyport ca agents --dir ca`,
    )
    .action(action(runAgents));
}

async function runAgents(flags: AtCa): Promise<number> {
  const { formatTime } = await import('../../cert-agent/base/clock.ts');
  return withOperator(flags, async (operator) => {
    const found = await operator.agents();
    if (flags.json === true) {
      printJson(
        found.map(({ since, acknowledged, ...rest }) => ({
          ...{ ...rest, since: formatTime(since) },
          ...(acknowledged === undefined ? {} : { acknowledged: { ...acknowledged, at: formatTime(acknowledged.at) } }),
        })),
      );
      return exitCodes.ok;
    }
    const rows = found.map(({ id, since, acknowledged, clockAheadMs }) => [
      ...[id, formatTime(since)],
      ...[acknowledged?.bundle, acknowledged?.denied, acknowledged?.sidecars].map((one) => String(one ?? '')),
      clockAheadMs === undefined
        ? ''
        : `${clockAheadMs < 0 ? '-' : '+'}${(Math.abs(clockAheadMs) / 1000).toFixed(1)} s`,
    ]);
    printTable(['SPIFFE ID', 'SINCE', 'BUNDLE', 'DENY LIST', 'SIDECARS', 'CLOCK'], rows, 'no agent is connected');
    return exitCodes.ok;
  });
}
