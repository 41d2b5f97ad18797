// `sallyport ca`: creates, runs and operates a CA. The work is done in cert-agent/ca, which is imported when a command
// runs.

import { Command } from 'commander';
import { agentsCommand } from './ca-agents.ts';
import { backupCommand, restoreCommand } from './ca-backup.ts';
import { dnsCommand } from './ca-dns.ts';
import { issuerCommand } from './ca-issuer.ts';
import { ledgerCommand } from './ca-ledger.ts';
import { listCommand, showCommand } from './ca-list.ts';
import { reportCommand } from './ca-report.ts';
import { allowCommand, denyListCommand, revokeCommand } from './ca-revoke.ts';
import { rotateCommand } from './ca-rotate.ts';
import { initCommand, serveCommand } from './ca-serve.ts';
import { tokenCommand } from './ca-token.ts';

/** The command with its subcommands, in the order of its help. */
export function caCommand(): Command {
  const ca = new Command('ca').description('Create, run and operate the certificate authority of a trust domain');
  const commands = [
    ...[initCommand(), serveCommand(), tokenCommand(), listCommand(), showCommand()],
    ...[revokeCommand(), allowCommand(), denyListCommand(), agentsCommand(), dnsCommand(), ledgerCommand()],
    ...[reportCommand(), backupCommand(), restoreCommand(), rotateCommand(), issuerCommand()],
  ];
  for (const command of commands) ca.addCommand(command);
  return ca;
}
