// `sallyport ca revoke`, `allow` and `deny-list`: takes certificates and identities away, and gives them back.

import { Command } from 'commander';
import type { Acknowledged } from '../../cert-agent/ca/acknowledged.ts';
import { type AtCa, atCa, durationOf, sameCa, usage, withOperator } from './at-ca.ts';
import { action, exitCodes, note, print, printJson, printTable } from './terminal.ts';

export function revokeCommand(): Command {
  return atCa(new Command('revoke'))
    .description('Revoke one certificate and its renewals, or an identity with all of its certificates')
    .argument('<serial-or-id>', 'serial number (hex) or SPIFFE ID')
    .option('--reason <text>', 'reason, for the record', 'unspecified')
    .option('--force', 'revoke an identity that has no certificate or token yet')
    .option('--wait <duration>', 'how long to wait for agents to acknowledge it, up to 25s; 0 for not', '5s')
    .option('--json', 'print the result as JSON')
    .addHelpText(
      'after',
      `
The CA tells every agent at once. An agent acknowledges it when its sidecars refuse the identity and have ended its open
connections. Agents that are not connected are named: they learn of it with their next request to the CA. An agent
counts until its certificate expires; one that has joined again with a new token counts twice until then.
Revoking a certificate also revokes all that were renewed from it, including those of a thief.
CRL and OCSP responses have the standard's reason: keyCompromise, affiliationChanged, superseded or
cessationOfOperation if the text of --reason begins with it, else unspecified.
An identity stays on the deny list until 'sallyport ca allow'.
It is on record in any case. The exit code is 1 while an agent has not acknowledged it, which --json and the output name; with
--wait 0 nothing is waited for.

Example:
  sallyport ca revoke --dir ca spiffe://demo.test/ns/shop/sa/web --reason 'keyCompromise: laptop stolen'`,
    )
    .action(action(runRevoke));
}

interface RevokeFlags extends AtCa {
  readonly reason: string;
  readonly force?: boolean;
  readonly wait: string;
}

async function runRevoke(target: string, flags: RevokeFlags): Promise<number> {
  const waitMs = flags.wait === '0' ? 0 : await durationOf(flags.wait, '--wait');
  if (waitMs > longestWaitMs) throw usage('--wait is 25s at most');
  return withOperator(flags, async (operator) => {
    const done = await operator.revoke(target, flags.reason, { force: flags.force === true, waitMs });
    if (flags.json === true) printJson(done);
    else if (done.kind === 'id') print(`revoked ${done.target} and ${done.certificates} of its certificates`);
    else {
      const own = done.certificates - done.renewals;
      print(`revoked certificate ${done.target} and ${done.renewals} renewed from it`);
      if (done.expired === true) note('it had expired; it cannot renew any more');
      else if (own === 0) note('it had already expired or was already revoked');
      note('its identity can still renew other certificates and join again: revoke the SPIFFE ID to prevent that');
    }
    const { acknowledged } = done;
    if (acknowledged === undefined) return exitCodes.ok;
    noteAcknowledged(acknowledged);
    return acknowledged.stragglers.length === 0 ? exitCodes.ok : exitCodes.no;
  });
}

const longestWaitMs = 25_000;

function noteAcknowledged({ by, of, ms, stragglers, more = 0 }: Acknowledged): void {
  note(`acknowledged by ${by} of ${of} in ${(ms / 1000).toFixed(1)} s`);
  for (const one of stragglers) note(`not yet by ${one.id}: ${whyLate(one)}`);
  if (more > 0) note(`and by agents of ${more} more IDs`);
}

function whyLate({ agents, late, notConnected }: Acknowledged['stragglers'][number]): string {
  if (agents === 1) return late === 1 ? 'its sidecars have not confirmed it' : 'its agent is not connected';
  return [
    ...(late > 0 ? [`the sidecars of ${late} of its ${agents} agents have not confirmed it`] : []),
    ...(notConnected > 0
      ? [`${notConnected} of its ${agents} agents ${notConnected === 1 ? 'is' : 'are'} not connected`]
      : []),
  ].join('; ');
}

export function allowCommand(): Command {
  return atCa(new Command('allow'))
    .description('Remove an identity from the deny list; it then needs a new join token')
    .argument('<id>', 'SPIFFE ID')
    .option('--json', 'print the result as JSON')
    .addHelpText(
      'after',
      `
Certificates that it had when it was revoked stay denied until they expire.

Example:
  sallyport ca allow --dir ca spiffe://demo.test/ns/shop/sa/web`,
    )
    .action(action(runAllow));
}

async function runAllow(id: string, flags: AtCa): Promise<number> {
  return withOperator(flags, async (operator) => {
    const done = await operator.allow(id);
    if (flags.json === true) printJson(done);
    else print(done.changed ? `allowed ${done.id}` : `${done.id} was not denied`);
    if (done.changed)
      note(
        `its certificates stay revoked: it needs a new join token (sallyport ca token create${sameCa(flags)} --spiffe-id ${done.id})`,
      );
    if (done.nearest !== undefined) note(`${done.nearest} is on the deny list: did you mean that one?`);
    return exitCodes.ok;
  });
}

export function denyListCommand(): Command {
  return atCa(new Command('deny-list'))
    .description('Show the deny list: what is denied, since when, until when, and why')
    .option('--json', 'print it as JSON')
    .addHelpText(
      'after',
      `
An identity stays on it until 'sallyport ca allow', a certificate until it has expired.

Example:
  sallyport ca deny-list --dir ca`,
    )
    .action(action(runDenyList));
}

async function runDenyList(flags: AtCa): Promise<number> {
  const { formatTime } = await import('../../cert-agent/base/clock.ts');
  return withOperator(flags, async (operator) => {
    const found = (await operator.listDenials()).map((one) => {
      const [since, until] = [formatTime(one.since), one.kind === 'serial' ? formatTime(one.until) : undefined];
      return { ...one, since, until };
    });
    if (flags.json === true) printJson(found);
    else {
      const rows = found.map((one) => [
        one.target,
        'id' in one ? one.id : '',
        one.since,
        one.until ?? "until 'ca allow'",
        one.reason,
      ]);
      printTable(['DENIED', 'SPIFFE ID', 'SINCE', 'UNTIL', 'REASON'], rows, 'nothing is denied');
    }
    return exitCodes.ok;
  });
}
