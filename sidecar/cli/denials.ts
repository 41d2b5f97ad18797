// `sallyport denials`: the last refusals of a running sidecar or gateway, and those to come.

import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from 'commander';
import { reasonOf } from '../../cert-agent/base/errors.ts';
import type { Admin, AdminPlace } from '../analyze/admin-client.ts';
import type { DenialLine } from '../observe/denial-lines.ts';
import { withAdmin } from './admin-options.ts';
import { action, exitCodes, harmless, note, print, printJson, printTable } from './terminal.ts';

/** The command; its modules are imported when it runs. */
export function denialsCommand(): Command {
  const command = new Command('denials').description(
    'List the last refusals of a running sidecar or gateway, or print them as they come',
  );
  return withAdmin(command, 'the sidecar or gateway')
    .option('--follow', 'print the last refusals, then new ones as they come, until interrupted')
    .option('--json', 'print JSON; with --follow, a line for each')
    .addHelpText(
      'after',
      `
The newest stand at the end. 'sallyport why ID' explains one. The last thousand refusals by policies are kept. Besides,
those of a hundred kinds each: connections that were refused before a request (handshakes, say), and requests of the app
without an upstream. Equal ones are one line with a count.

Examples:
  sallyport denials
  sallyport denials --config gateway.yaml
  sallyport denials --follow --json | jq .from`,
    )
    .action(action(runDenials));
}

interface DenialsFlags extends AdminPlace {
  readonly follow?: boolean;
  readonly json?: boolean;
}

/** As many as a process keeps. */
const maxDenials = 1000;

/** Long enough to cost a sidecar nothing, short enough for a person who waits. */
const pauseMs = 500;

async function runDenials({ follow = false, json = false, ...place }: DenialsFlags): Promise<number> {
  const { findAdmin } = await import('../analyze/admin-client.ts');
  const admin = await findAdmin(place);
  const first = (await read(admin)).toReversed();
  if (!follow) {
    if (json) printJson(first);
    else printTable(['TIME', 'ID', 'CODE', 'FROM', 'REQUEST', 'POLICY'], first.map(cellsOf), 'nothing was refused');
    return exitCodes.ok;
  }
  const write = (one: DenialLine): void => print(json ? JSON.stringify(one) : cellsOf(one).join('  '));
  for (const one of first) write(one);
  let known = new Set(first.map(({ id }) => id));
  let isAway = false;
  for (;;) {
    await sleep(pauseMs);
    try {
      const now = (await read(admin)).toReversed();
      if (isAway)
        note(`${admin.page('/').host} responds again; what it refused before a restart is in its access log only`);
      isAway = false;
      const fresh = now.filter(({ id }) => !known.has(id));
      // None of those known is there any more, and its list is full: more than it keeps have come since.
      const isGap = fresh.length === now.length && (known.size > 0 ? fresh.length > 0 : fresh.length >= maxDenials);
      if (isGap) note('some refusals were not seen here; they are in the access log');
      for (const one of fresh) write(one);
      known = new Set(now.map(({ id }) => id));
    } catch (error) {
      // It restarts, say: this goes on until it is interrupted.
      if (!isAway) note(`${reasonOf(error)}; trying again`);
      isAway = true;
    }
  }
}

async function read({ page, socketPath }: Admin): Promise<readonly DenialLine[]> {
  const { askAdminList } = await import('../analyze/admin-client.ts');
  return (await askAdminList(page('/denials'), socketPath)) as readonly DenialLine[];
}

/** Clients have written some of this. */
function cellsOf({ time, id, code, from, request, policy }: DenialLine): string[] {
  return [time, id, code, from || '-', request, policy === '-' ? '' : policy].map(harmless);
}
