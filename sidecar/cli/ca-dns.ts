// `sallyport ca dns`: which DNS names certificates may have, beside the SPIFFE ID.

import { Command } from 'commander';
import { type AtCa, atCa, withOperator } from './at-ca.ts';
import { action, exitCodes, note, print, printJson, printTable } from './terminal.ts';

export function dnsCommand(): Command {
  return new Command('dns')
    .description('Say which DNS names certificates may have, for clients that verify names instead of SPIFFE IDs')
    .addCommand(allow())
    .addCommand(disallow())
    .addCommand(list());
}

function allow(): Command {
  return atCa(new Command('allow'))
    .description('Allow a DNS name, or all names of one label more')
    .argument('<pattern>', "a name such as web.shop.test, or '*.shop.test'")
    .option('--json', 'print the result as JSON')
    .addHelpText(
      'after',
      `
A join token then gets the name with ca token create --dns. '*.shop.test' allows web.shop.test and the wildcard itself,
and neither shop.test nor a.b.shop.test. A name is no identity: policies and peers of the mesh go by the SPIFFE ID.

Example:
  sallyport ca dns allow --dir ca '*.shop.test'`,
    )
    .action(action(runAllow));
}

async function runAllow(pattern: string, flags: AtCa): Promise<number> {
  return withOperator(flags, async ({ dns }) => {
    const done = await dns.allow(pattern);
    if (flags.json === true) printJson(done);
    else print(done.changed ? `allowed ${done.pattern}` : `${done.pattern} was allowed before`);
    return exitCodes.ok;
  });
}

function disallow(): Command {
  return atCa(new Command('disallow'))
    .description('Take a pattern off the list; certificates lose the names with their next renewal')
    .argument('<pattern>', 'as ca dns ls shows it')
    .option('--json', 'print the result as JSON')
    .addHelpText(
      'after',
      `
Identities still renew. To end a name at once, revoke the certificates that have it: ca ls --json shows them.

Example:
  sallyport ca dns disallow --dir ca '*.shop.test'`,
    )
    .action(action(runDisallow));
}

async function runDisallow(pattern: string, flags: AtCa): Promise<number> {
  const { formatTime } = await import('../../cert-agent/base/clock.ts');
  return withOperator(flags, async ({ dns }) => {
    const { until: untilMs, ...done } = await dns.disallow(pattern);
    const until = untilMs === undefined ? undefined : formatTime(untilMs);
    if (flags.json === true) {
      printJson({ ...done, until });
      return exitCodes.ok;
    }
    print(`disallowed ${done.pattern}`);
    if (done.still.length > 0) note(`still allowed: ${done.still.join(', ')}`);
    if (until !== undefined)
      note(`valid certificates with names that are not allowed any more: ${done.certificates}, until ${until} at most`);
    return exitCodes.ok;
  });
}

function list(): Command {
  return atCa(new Command('ls'))
    .description('List the DNS names that certificates may have')
    .option('--json', 'print them as JSON')
    .addHelpText('after', '\nExample:\n  sallyport ca dns ls --dir ca')
    .action(action(runList));
}

async function runList(flags: AtCa): Promise<number> {
  const { formatTime } = await import('../../cert-agent/base/clock.ts');
  return withOperator(flags, async ({ dns }) => {
    const found = (await dns.list()).map(({ pattern, since }) => ({ pattern, since: formatTime(since) }));
    if (flags.json === true) printJson(found);
    else {
      const rows = found.map((one) => [one.pattern, one.since]);
      printTable(['ALLOWED', 'SINCE'], rows, 'no DNS names are allowed');
    }
    return exitCodes.ok;
  });
}
