// `sallyport ca backup` and `ca restore`. The work is done in cert-agent/ca/backup.

import { Command } from 'commander';
import { type AtCa, atCa, readHead, withOperator } from './at-ca.ts';
import { action, counted, exitCodes, note, noteWarning, print, printJson } from './terminal.ts';

export function backupCommand(): Command {
  return atCa(new Command('backup'))
    .description('Write a backup of a running or stopped CA to a new directory')
    .requiredOption('--out <directory>', 'new directory on another disk, on the machine of the CA')
    .option('--json', 'print the result as JSON')
    .addHelpText(
      'after',
      `
The backup contains the keys as they are on disk: an encrypted key stays encrypted. While the store is copied, the CA
answers nothing that changes it. The directory gets its name when the backup is complete.

Example:
  sallyport ca backup --dir ca --out /backup/ca-2026-11-30`,
    )
    .action(action(runBackup));
}

async function runBackup(flags: AtCa & { out: string }): Promise<number> {
  const { absolutePath } = await import('../../cert-agent/base/write.ts');
  const out = absolutePath(flags.out);
  return withOperator(flags, async ({ records }) => {
    const done = await records.backup(out);
    if (flags.json === true) printJson(done);
    else {
      print(`wrote ${done.out}: ${counted(done.files, 'file')}, ${counted(done.bytes, 'byte')}`);
      print(`ledger  ${done.ledger.sequence}:${done.ledger.hash}`);
      note('it contains the keys of the CA: keep it where only operators can read it');
    }
    return exitCodes.ok;
  });
}

export function restoreCommand(): Command {
  return new Command('restore')
    .description('Put a backup into the directory of a stopped CA, or into a new one')
    .requiredOption('--from <directory>', 'the backup')
    .requiredOption('--dir <path>', "the CA's directory")
    .option('--seen <head...>', "an end of the ledger that was seen: an agent's ledger-head.json, or SEQUENCE:HASH")
    .option('--force', 'restore a backup that is behind the ledger: revocations since then are forgotten')
    .option('--json', 'print the result as JSON')
    .addHelpText(
      'after',
      `
What is in the directory is moved to before-restore-TIME in it. A backup that is behind the ledger there, or behind what
an agent saw (--seen), is refused: workloads that were revoked since could renew.

Example:
  sallyport ca restore --from /backup/ca-2026-11-30 --dir ca --seen run/web/ledger-head.json`,
    )
    .action(action(runRestore));
}

interface RestoreFlags {
  readonly from: string;
  readonly dir: string;
  readonly seen?: readonly string[];
  readonly force?: boolean;
  readonly json?: boolean;
}

async function runRestore(flags: RestoreFlags): Promise<number> {
  const seen = (flags.seen ?? []).map((one) => readHead(one, '--seen'));
  const { restoreCa } = await import('../../cert-agent/ca/backup/restore.ts');
  const { absolutePath } = await import('../../cert-agent/base/write.ts');
  const { systemClock } = await import('../../cert-agent/base/clock.ts');
  const [from, dir] = [absolutePath(flags.from), absolutePath(flags.dir)];
  const done = await restoreCa({ from, dir, seen, force: flags.force === true, clock: systemClock });
  const { lost, aside, backupTime } = done;
  if (flags.json === true) printJson(done);
  else print(`restored the CA of ${done.trustDomain} as of ${backupTime}, record ${done.ledger.sequence}`);
  if (aside !== undefined) note(`the files of before are in ${aside}`);
  if (lost !== undefined)
    noteWarning(
      `records ${lost.from} to ${lost.to} of the ledger are lost: revoke again what was revoked since ${backupTime}`,
    );
  else if (done.unknown)
    noteWarning(`nothing says what happened since ${backupTime}: revoke again what was revoked since then`);
  else note(`what the CA did after ${backupTime} and no agent saw is lost: certificates, tokens`);
  note(`next: sallyport ca ledger verify --dir ${flags.dir}, then sallyport ca serve --dir ${flags.dir}`);
  return exitCodes.ok;
}
