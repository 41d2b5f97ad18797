// `sallyport ca token`: join tokens, by which a workload gets its first certificate.

import { Command } from 'commander';
import { type AtCa, atCa, durationOf, sameCa, usage, withOperator } from './at-ca.ts';
import { action, exitCodes, more, note, print, printJson, printTable } from './terminal.ts';

export function tokenCommand(): Command {
  const create = atCa(new Command('create'))
    .description('Create a join token for one workload. Prints only the token on stdout, or writes it to --out.')
    .requiredOption('--spiffe-id <id>', 'identity that the token grants')
    .option('--ttl <duration>', 'how long the token can be used', '10m')
    .option('--dns <name>', 'a DNS name for its certificates, that ca dns allow allows; repeatable, up to 16', more)
    .option('--out <file>', 'write the token to this file, readable by you only')
    .option('--json', 'print token, ID and expiry as JSON; with --out, without the token')
    .addHelpText(
      'after',
      `
A token works once, for the first key that uses it. Its DNS names are for clients that verify names, such as curl or
psql; a certificate and its renewals have those that are allowed at the time. They are no identity.

Example:
  sallyport ca token create --dir ca --spiffe-id spiffe://demo.test/ns/shop/sa/web --ttl 10m --out web.token`,
    )
    .action(action(runTokenCreate));
  return new Command('token')
    .description('Manage join tokens, with which a workload gets its first SVID')
    .addCommand(create)
    .addCommand(tokenList())
    .addCommand(tokenRemove());
}

function tokenList(): Command {
  return atCa(new Command('ls'))
    .description('List join tokens by expiry, without the tokens themselves')
    .option('--json', 'print them as JSON')
    .addHelpText(
      'after',
      `
A token is named by the first digits of its SHA-256. It is forgotten a day after its expiry.

Example:
  sallyport ca token ls --dir ca`,
    )
    .action(action(runTokenList));
}

async function runTokenList(flags: AtCa): Promise<number> {
  const { formatTime } = await import('../../cert-agent/base/clock.ts');
  return withOperator(flags, async (operator) => {
    const now = Date.now();
    const found = (await operator.listTokens()).map((one) => ({
      ...one,
      createdAt: formatTime(one.createdAt),
      expiresAt: formatTime(one.expiresAt),
      state: one.serial !== undefined ? 'used' : one.expiresAt <= now ? 'expired' : 'unused',
    }));
    if (flags.json === true) printJson(found);
    else {
      const rows = found.map((one) => [one.token, one.id, one.createdAt, one.expiresAt, one.state, one.serial ?? '']);
      printTable(['TOKEN', 'SPIFFE ID', 'CREATED', 'EXPIRES', 'STATE', 'CERTIFICATE'], rows, 'no join tokens');
    }
    return exitCodes.ok;
  });
}

function tokenRemove(): Command {
  return atCa(new Command('rm'))
    .description('Remove join tokens, so that they can no longer be used')
    .argument('[token]', 'first digits of its name in ca token ls')
    .option('--spiffe-id <id>', 'all tokens of this identity')
    .option('--json', 'print the removed tokens as JSON')
    .addHelpText(
      'after',
      `
Certificates that were issued for a token stay valid: ca revoke ends those.

Example:
  sallyport ca token rm --dir ca 5a0e6cf1d2b9`,
    )
    .action(action(runTokenRemove));
}

async function runTokenRemove(token: string | undefined, flags: AtCa & { spiffeId?: string }): Promise<number> {
  const { spiffeId: id } = flags;
  const choice =
    token !== undefined && id === undefined ? { token } : id !== undefined && token === undefined ? { id } : undefined;
  if (choice === undefined) throw usage('give either a token or --spiffe-id', 'sallyport ca token ls lists them');
  return withOperator(flags, async (operator) => {
    const removed = await operator.removeTokens(choice);
    if (flags.json === true) printJson(removed.map(({ token, id, serial }) => ({ token, id, serial })));
    else for (const one of removed) print(`removed token ${one.token} of ${one.id}`);
    for (const { serial } of removed)
      if (serial !== undefined)
        note(`its certificate ${serial} stays valid: revoke it with sallyport ca revoke${sameCa(flags)} ${serial}`);
    return exitCodes.ok;
  });
}

interface TokenFlags extends AtCa {
  readonly spiffeId: string;
  readonly ttl: string;
  readonly dns?: readonly string[];
  readonly out?: string;
}

async function runTokenCreate(flags: TokenFlags): Promise<number> {
  const ttlMs = await durationOf(flags.ttl, '--ttl');
  const { formatTime } = await import('../../cert-agent/base/clock.ts');
  const { checkOut, writeOut } = await import('./out-file.ts');
  const { out } = flags;
  // Checked first: a token that cannot be written would stay valid, and unknown, for its whole life.
  if (out !== undefined) checkOut(out);
  return withOperator(flags, async (operator) => {
    const { token, ...made } = await operator.createToken(flags.spiffeId, ttlMs, flags.dns);
    const expiresAt = formatTime(made.expiresAt);
    if (out !== undefined) await writeOut(out, `${token}\n`);
    if (flags.json === true) {
      printJson({ ...(out === undefined ? { token } : {}), ...made, expiresAt });
      return exitCodes.ok;
    }
    if (out === undefined) print(token);
    if (made.names !== undefined) note(`for the DNS names ${made.names.join(', ')}`);
    note(`grants ${made.id} to the first key that uses it, until ${expiresAt}`);
    return exitCodes.ok;
  });
}
