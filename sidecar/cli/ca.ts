// `sallyport ca`: making a CA, running it, and what its operator does. The work is cert-agent/ca's; it is imported when
// a command runs.

import { Command } from 'commander';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Operator } from '../../cert-agent/ca/operator/operator.ts';
import { action, exitCodes, note, print, printJson, printTable } from './terminal.ts';

/** The command with all of its own. */
export function caCommand(): Command {
  const ca = new Command('ca').description('Make, run and operate the certificate authority of a trust domain.');
  const commands = [init(), serve(), token(), list(), show(), revoke(), allow(), denyList()];
  for (const command of commands) ca.addCommand(command);
  return ca;
}

function init(): Command {
  return new Command('init')
    .description('Make a root, an issuing intermediate and an empty store in a new directory.')
    .requiredOption('--trust-domain <name>', 'trust domain, such as demo.test')
    .requiredOption('--dir <path>', 'directory to make the CA in')
    .option('--passphrase-file <path>', 'encrypt both keys with the first line of this file')
    .option('--name-constraints', 'let the intermediate sign for this trust domain only (rustls peers refuse this)')
    .option('--json', 'print the result as JSON')
    .addHelpText(
      'after',
      `
SALLYPORT_CA_PASSPHRASE stands in for --passphrase-file.

Example:
  $ sallyport ca init --trust-domain demo.test --dir ca`,
    )
    .action(action(runInit));
}

interface InitFlags {
  readonly trustDomain: string;
  readonly dir: string;
  readonly passphraseFile?: string;
  readonly nameConstraints?: boolean;
  readonly json?: boolean;
}

async function runInit(flags: InitFlags): Promise<number> {
  const { initCa } = await import('../../cert-agent/ca/init.ts');
  const { readPassphrase } = await import('../../cert-agent/ca/passphrase.ts');
  const { formatTime } = await import('../../cert-agent/base/clock.ts');
  const { dir, trustDomain, nameConstraints } = flags;
  const passphrase = readPassphrase(flags.passphraseFile, process.env, note);
  const made = await initCa({ dir, trustDomain, passphrase, nameConstraints });
  const [rootNotAfter, intermediateNotAfter] = [made.rootNotAfter, made.intermediateNotAfter].map(formatTime);
  if (flags.json === true) {
    printJson({ ...made, rootNotAfter, intermediateNotAfter });
    return exitCodes.ok;
  }
  print(`trust domain  ${made.trustDomain}`);
  print(`root          SHA-256 ${made.rootFingerprint}, until ${rootNotAfter}`);
  print(`intermediate  until ${intermediateNotAfter}`);
  note(`root.key is not needed to serve: keep it away from ${dir} once you have a copy of it elsewhere`);
  note(`next: sallyport ca serve --dir ${dir} --listen 127.0.0.1:8443`);
  return exitCodes.ok;
}

function serve(): Command {
  return new Command('serve')
    .description('Run the CA until SIGTERM.')
    .requiredOption('--dir <path>', 'directory that ca init made')
    .option('--listen <address>', 'host:port, [v6]:port or :port for all addresses', '127.0.0.1:8443')
    .option('--ttl <duration>', 'life of certificates whose request names none, 1m to 24h', '1h')
    .option('--socket <path>', "socket for the operator's commands (default: ca.sock in --dir)")
    .option('--passphrase-file <path>', 'opens the encrypted key')
    .option('--unsafe-new-store', 'begin a new store in place of a lost one: every revocation is forgotten')
    .addHelpText(
      'after',
      `
SALLYPORT_CA_PASSPHRASE stands in for --passphrase-file.
A CA whose store.sqlite is lost does not start: restore it from a backup. --unsafe-new-store is for when there is none.
The new store knows no certificate, no token and no revocation: what was revoked can renew until it is revoked again.

Example:
  $ sallyport ca serve --dir ca --listen 0.0.0.0:8443`,
    )
    .action(action(runServe));
}

interface ServeFlags {
  readonly dir: string;
  readonly listen: string;
  readonly ttl: string;
  readonly socket?: string;
  readonly passphraseFile?: string;
  readonly unsafeNewStore?: boolean;
}

async function runServe(flags: ServeFlags): Promise<number> {
  const { startCa } = await import('../../cert-agent/ca/main.ts');
  const { readPassphrase } = await import('../../cert-agent/ca/passphrase.ts');
  const { parseAddress } = await import('../../cert-agent/base/address.ts');
  const { createLog } = await import('../../cert-agent/base/log.ts');
  const { reportBackgroundTo } = await import('../../cert-agent/base/background.ts');
  const listen = parseAddress(flags.listen, '0.0.0.0');
  if ('path' in listen) throw usage(`--listen takes host:port, not ${flags.listen}`);
  // Before the start: a signal that comes while it starts ends it as well.
  const stopped = untilSignal();
  const leafLifeMs = await durationOf(flags.ttl, '--ttl');
  const passphrase = readPassphrase(flags.passphraseFile, process.env, note);
  const { dir, socket, unsafeNewStore } = flags;
  const log = createLog({ component: 'ca' });
  reportBackgroundTo(log);
  const running = await startCa({ dir, listen, leafLifeMs, passphrase, socket, unsafeNewStore, log });
  await stopped;
  await running.close();
  return exitCodes.ok;
}

function untilSignal(): Promise<void> {
  // Nothing here is read again or reopened, and log rotation must not end the CA.
  process.on('SIGHUP', () => {});
  return new Promise((resolve) => {
    process.once('SIGTERM', () => resolve());
    process.once('SIGINT', () => resolve());
  });
}

function token(): Command {
  const create = atCa(new Command('create'))
    .description('Make a join token for one workload. Prints the token alone on stdout, or writes it to --out.')
    .requiredOption('--spiffe-id <id>', 'identity that the token gives')
    .option('--ttl <duration>', 'how long it can be used', '10m')
    .option('--out <file>', 'write the token to this file, readable by you only')
    .option('--json', 'print token, ID and end as JSON; without the token with --out')
    .addHelpText(
      'after',
      `
A token works once: the first key that uses it is the only one.

Example:
  $ sallyport ca token create --dir ca --spiffe-id spiffe://demo.test/ns/shop/sa/web --ttl 10m --out web.token`,
    )
    .action(action(runTokenCreate));
  return new Command('token')
    .description('Join tokens, with which a workload gets its first SVID.')
    .addCommand(create)
    .addCommand(tokenList())
    .addCommand(tokenRemove());
}

function tokenList(): Command {
  return atCa(new Command('ls'))
    .description('List join tokens in the order in which they end, without what they are.')
    .option('--json', 'print them as JSON')
    .addHelpText(
      'after',
      `
A token is named by the first digits of its SHA-256. It is forgotten a day after its end.

Example:
  $ sallyport ca token ls --dir ca`,
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
      printTable(['TOKEN', 'SPIFFE ID', 'CREATED', 'ENDS', 'STATE', 'CERTIFICATE'], rows, 'no join tokens');
    }
    return exitCodes.ok;
  });
}

function tokenRemove(): Command {
  return atCa(new Command('rm'))
    .description('Remove join tokens, so that they give nothing any more.')
    .argument('[token]', 'its first digits, as ca token ls shows them')
    .option('--spiffe-id <id>', 'all tokens of this identity')
    .option('--json', 'print what was removed as JSON')
    .addHelpText(
      'after',
      `
Certificates that a token has given stay: ca revoke ends those.

Example:
  $ sallyport ca token rm --dir ca 5a0e6cf1d2b9`,
    )
    .action(action(runTokenRemove));
}

async function runTokenRemove(token: string | undefined, flags: AtCa & { spiffeId?: string }): Promise<number> {
  const { spiffeId: id } = flags;
  const choice =
    token !== undefined && id === undefined ? { token } : id !== undefined && token === undefined ? { id } : undefined;
  if (choice === undefined) throw usage('name either a token or --spiffe-id', 'sallyport ca token ls lists them');
  return withOperator(flags, async (operator) => {
    const removed = await operator.removeTokens(choice);
    if (flags.json === true) printJson(removed.map(({ token, id, serial }) => ({ token, id, serial })));
    else for (const one of removed) print(`removed token ${one.token} of ${one.id}`);
    for (const { serial } of removed)
      if (serial !== undefined) note(`its certificate ${serial} stays: revoke it with sallyport ca revoke ${serial}`);
    return exitCodes.ok;
  });
}

interface AtCa {
  readonly dir?: string;
  readonly socket?: string;
  readonly json?: boolean;
}

/** The options by which every operator's command finds its CA. */
function atCa(command: Command): Command {
  return command
    .option('--dir <path>', "the CA's directory: its socket while it runs, else its store")
    .option('--socket <path>', 'the socket of a running CA');
}

/** Runs `work` with the operator that the flags name, and lets go of it whatever happens. */
async function withOperator(flags: AtCa, work: (operator: Operator) => Promise<number>): Promise<number> {
  const { dir, socket } = flags;
  const { openOperator } = await import('../../cert-agent/ca/operator/open.ts');
  if (socket === undefined && dir === undefined) throw usage('name the CA with --dir or --socket');
  const open = await openOperator(socket === undefined ? { dir: dir ?? '' } : { socket });
  try {
    return await work(open.operator);
  } finally {
    await open.close();
  }
}

async function runTokenCreate(flags: AtCa & { spiffeId: string; ttl: string; out?: string }): Promise<number> {
  const ttlMs = await durationOf(flags.ttl, '--ttl');
  const { formatTime } = await import('../../cert-agent/base/clock.ts');
  const { checkOut, writeOut } = await import('./out-file.ts');
  const { out } = flags;
  // A token that was made and could be shown to nobody would stay good for its whole life.
  if (out !== undefined) checkOut(out);
  return withOperator(flags, async (operator) => {
    const { token, ...made } = await operator.createToken(flags.spiffeId, ttlMs);
    const expiresAt = formatTime(made.expiresAt);
    if (out !== undefined) await writeOut(out, `${token}\n`);
    if (flags.json === true) {
      printJson({ ...(out === undefined ? { token } : {}), ...made, expiresAt });
      return exitCodes.ok;
    }
    if (out === undefined) print(token);
    note(`gives ${made.id} to the first key that uses it, until ${expiresAt}`);
    return exitCodes.ok;
  });
}

function list(): Command {
  return atCa(new Command('ls'))
    .description('List certificates that are valid, in the order in which they end.')
    .option('--all', 'those that have expired too')
    .option('--expiring <duration>', 'only those that end within this time')
    .option('--json', 'print them as JSON')
    .addHelpText(
      'after',
      `
Example:
  $ sallyport ca ls --dir ca --expiring 24h`,
    )
    .action(action(runList));
}

async function runList(flags: AtCa & { all?: boolean; expiring?: string }): Promise<number> {
  const { formatTime } = await import('../../cert-agent/base/clock.ts');
  const expiringMs = flags.expiring === undefined ? undefined : await durationOf(flags.expiring, '--expiring');
  return withOperator(flags, async (operator) => {
    const found = (await operator.list({ all: flags.all, expiringMs })).map((one) => withTimes(one, formatTime));
    if (flags.json === true) printJson(found);
    else {
      const rows = found.map((one) => [
        one.serial,
        one.id,
        one.notAfter,
        one.evidence,
        one.revoked === undefined ? '' : `revoked: ${one.revoked.reason}`,
      ]);
      printTable(['SERIAL', 'SPIFFE ID', 'ENDS', 'FOR', 'STATE'], rows, 'no certificates');
    }
    return exitCodes.ok;
  });
}

function show(): Command {
  return atCa(new Command('show'))
    .description('Show one certificate that was issued.')
    .argument('<serial>', 'serial number, hex')
    .option('--json', 'print it as JSON')
    .addHelpText(
      'after',
      `
Example:
  $ sallyport ca show --dir ca 4f0c6a51d2b94e0fa3a1c27be8d9f013`,
    )
    .action(action(runShow));
}

async function runShow(serial: string, flags: AtCa): Promise<number> {
  const { formatTime } = await import('../../cert-agent/base/clock.ts');
  const { formatPem } = await import('../../cert-agent/identity/bundle.ts');
  return withOperator(flags, async (operator) => {
    const { certificate, ...rest } = await operator.show(serial);
    const one = { ...withTimes(rest, formatTime), pem: formatPem([Buffer.from(certificate, 'base64')]) };
    if (flags.json === true) {
      printJson(one);
      return exitCodes.ok;
    }
    print(`serial    ${one.serial}`);
    print(`ID        ${one.id}`);
    print(`issued    ${one.issuedAt}, for ${one.evidence}${one.renews === undefined ? '' : ` ${one.renews}`}`);
    print(`valid     ${one.notBefore} to ${one.notAfter}`);
    if (one.revoked !== undefined) print(`revoked   ${one.revoked.at}: ${one.revoked.reason}`);
    print(one.pem);
    return exitCodes.ok;
  });
}

function revoke(): Command {
  return atCa(new Command('revoke'))
    .description('Deny one certificate and its renewals, or an identity with all of its certificates.')
    .argument('<serial-or-id>', 'serial number (hex) or SPIFFE ID')
    .option('--reason <text>', 'why, for the record', 'unspecified')
    .option('--force', 'deny an identity that was never issued, for it is yet to come')
    .option('--json', 'print the result as JSON')
    .addHelpText(
      'after',
      `
Sidecars learn of it within seconds. With a certificate all that were renewed from it are denied, no matter who holds them.
An identity stays denied until 'sallyport ca allow'.

Example:
  $ sallyport ca revoke --dir ca spiffe://demo.test/ns/shop/sa/web --reason 'laptop stolen'`,
    )
    .action(action(runRevoke));
}

async function runRevoke(target: string, flags: AtCa & { reason: string; force?: boolean }): Promise<number> {
  return withOperator(flags, async (operator) => {
    const done = await operator.revoke(target, flags.reason, { force: flags.force === true });
    if (flags.json === true) printJson(done);
    else if (done.kind === 'id') print(`denied ${done.target} and ${done.certificates} of its certificates`);
    else {
      const own = done.certificates - done.renewals;
      print(`denied certificate ${done.target} and ${done.renewals} renewed from it`);
      if (own === 0) note('it had ended or was denied before');
      note(
        'its identity can still renew from certificates of other tokens and join again: revoke the SPIFFE ID to end that',
      );
    }
    return exitCodes.ok;
  });
}

function allow(): Command {
  return atCa(new Command('allow'))
    .description('Take an identity off the deny-list; it needs a new join token.')
    .argument('<id>', 'SPIFFE ID')
    .option('--json', 'print the result as JSON')
    .addHelpText(
      'after',
      `
Certificates that it held when it was revoked stay denied until they expire.

Example:
  $ sallyport ca allow --dir ca spiffe://demo.test/ns/shop/sa/web`,
    )
    .action(action(runAllow));
}

async function runAllow(id: string, flags: AtCa): Promise<number> {
  return withOperator(flags, async (operator) => {
    const done = await operator.allow(id);
    if (flags.json === true) printJson(done);
    else print(done.changed ? `allowed ${done.id}` : `${done.id} was not denied`);
    if (done.changed)
      note('its certificates stay revoked: it begins again with a new join token (sallyport ca token create)');
    if (done.nearest !== undefined) note(`denied is ${done.nearest}: did you mean that one?`);
    return exitCodes.ok;
  });
}

function denyList(): Command {
  return atCa(new Command('deny-list'))
    .description('Show the deny-list: what is denied, since when, why, and until when.')
    .option('--json', 'print it as JSON')
    .addHelpText(
      'after',
      `
An identity stays until 'sallyport ca allow', a certificate until it has ended.

Example:
  $ sallyport ca deny-list --dir ca`,
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

async function durationOf(text: string, option: string): Promise<number> {
  const { parseDuration } = await import('../../cert-agent/base/clock.ts');
  const ms = parseDuration(text);
  if (ms === undefined) throw usage(`${option} '${text}' is not a duration`, 'write 30s, 10m, 1h or 1h30m');
  return ms;
}

type Listed = Awaited<ReturnType<Operator['list']>>[number];

/** The times of a listed certificate as text. */
function withTimes(one: Listed, format: (ms: number) => string) {
  const { issuedAt, notBefore, notAfter, revoked } = one;
  return {
    ...one,
    issuedAt: format(issuedAt),
    notBefore: format(notBefore),
    notAfter: format(notAfter),
    revoked: revoked === undefined ? undefined : { at: format(revoked.at), reason: revoked.reason },
  };
}

function usage(message: string, hint?: string): SallyportError {
  return new SallyportError('usage', message, { hint });
}
