// `sallyport ca`: creates, runs and operates a CA. The work is done in cert-agent/ca, which is imported when a command
// runs.

import { Command } from 'commander';
import type { ClusterOptions } from '../../cert-agent/attestation/cluster.ts';
import type { Acknowledged } from '../../cert-agent/ca/acknowledged.ts';
import type { Operator } from '../../cert-agent/ca/operator/operator.ts';
import { type AtCa, atCa, durationOf, sameCa, usage, withOperator } from './at-ca.ts';
import { agentsCommand } from './ca-agents.ts';
import { backupCommand, restoreCommand } from './ca-backup.ts';
import { dnsCommand } from './ca-dns.ts';
import { issuerCommand } from './ca-issuer.ts';
import { ledgerCommand } from './ca-ledger.ts';
import { reportCommand } from './ca-report.ts';
import { rotateCommand } from './ca-rotate.ts';
import { action, exitCodes, note, print, printJson, printTable } from './terminal.ts';

/** The command with its subcommands. */
export function caCommand(): Command {
  const ca = new Command('ca').description('Create, run and operate the certificate authority of a trust domain');
  const commands = [init(), serve(), token(), list(), show(), revoke(), allow(), denyList()];
  const records = [agentsCommand(), dnsCommand(), ledgerCommand(), reportCommand(), backupCommand(), restoreCommand()];
  for (const command of [...commands, ...records, rotateCommand(), issuerCommand()]) ca.addCommand(command);
  return ca;
}

function init(): Command {
  return new Command('init')
    .description('Create a root, an issuing intermediate and an empty store in a new directory')
    .requiredOption('--trust-domain <name>', 'trust domain, such as demo.test')
    .requiredOption('--dir <path>', 'directory for the new CA')
    .option('--passphrase-file <path>', 'encrypt both keys with the first line of this file')
    .option('--name-constraints', 'restrict the intermediate to this trust domain (rustls peers refuse this)')
    .option('--external-root <file>', 'a root whose key is kept elsewhere, PEM: it signs the request that this makes')
    .option('--json', 'print the result as JSON')
    .addHelpText(
      'after',
      `
The environment variable SALLYPORT_CA_PASSPHRASE replaces --passphrase-file.
With --external-root the CA serves once sallyport ca issuer install has the certificate of its issuer.

Example:
  sallyport ca init --trust-domain demo.test --dir ca`,
    )
    .action(action(runInit));
}

interface InitFlags {
  readonly trustDomain: string;
  readonly dir: string;
  readonly passphraseFile?: string;
  readonly nameConstraints?: boolean;
  readonly externalRoot?: string;
  readonly json?: boolean;
}

async function runInit(flags: InitFlags): Promise<number> {
  const { initCa } = await import('../../cert-agent/ca/init.ts');
  const { readPassphrase } = await import('../../cert-agent/ca/passphrase.ts');
  const { formatTime } = await import('../../cert-agent/base/clock.ts');
  const { dir, trustDomain, nameConstraints, externalRoot } = flags;
  if (nameConstraints === true && externalRoot !== undefined)
    throw usage('--name-constraints is for the owner of the external root, who signs the intermediate');
  const passphrase = readPassphrase(flags.passphraseFile, process.env, note);
  const made = await initCa({ dir, trustDomain, passphrase, nameConstraints, externalRoot });
  const rootNotAfter = formatTime(made.rootNotAfter);
  const intermediateNotAfter =
    made.intermediateNotAfter === undefined ? undefined : formatTime(made.intermediateNotAfter);
  if (flags.json === true) {
    printJson({ ...made, rootNotAfter, intermediateNotAfter });
    return exitCodes.ok;
  }
  print(`trust domain  ${made.trustDomain}`);
  print(`root          SHA-256 ${made.rootFingerprint}, until ${rootNotAfter}`);
  if (made.request !== undefined) {
    print(`request       ${made.request}`);
    note(`next: have the root sign the request, then sallyport ca issuer install FILE --dir ${dir}`);
    return exitCodes.ok;
  }
  print(`intermediate  until ${intermediateNotAfter}`);
  note(`root.key is not needed to serve: move it out of ${dir} to a safe place`);
  note('without it the CA cannot renew its intermediate by itself: sallyport ca rotate issuer --root-key FILE does');
  note(`next: sallyport ca serve --dir ${dir} --listen 127.0.0.1:8443`);
  return exitCodes.ok;
}

function serve(): Command {
  return new Command('serve')
    .description('Run the CA until SIGTERM')
    .requiredOption('--dir <path>', 'directory that ca init created')
    .option('--listen <address>', 'host:port, [v6]:port or :port for all addresses', '127.0.0.1:8443')
    .option('--ocsp <address>', 'also serve OCSP and CRL on this address, in plaintext; :port is on loopback')
    .option(
      '--name <name>',
      'a DNS name or IP address by which clients call the CA, for its certificate; repeatable',
      more,
    )
    .option('--ttl <duration>', 'default life of certificates, 1m to 24h', '1h')
    .option(
      '--renew-expired-within <duration>',
      'renew SVIDs that expired within this time, up to 30d; 0 for never',
      '24h',
    )
    .option('--ledger-keep <duration>', 'drop records of the ledger that are older, 1d or more (default: keep all)')
    .option('--kubernetes <url>', "issue SVIDs to pods of this cluster: https://HOST:PORT, or 'in-cluster'")
    .option(
      '--kubernetes-issuer <url>',
      'issuer of its service-account tokens',
      'https://kubernetes.default.svc.cluster.local',
    )
    .option('--kubernetes-audience <name>', 'audience of the tokens that pods show', 'sallyport-ca')
    .option('--kubernetes-ca <file>', 'roots of the API server, PEM')
    .option('--kubernetes-token-file <file>', 'token for the API server')
    .option(
      '--kubernetes-dns <account=name>',
      'a DNS name for certificates of NAMESPACE/ACCOUNT, that ca dns allow allows; repeatable',
      more,
    )
    .option('--kubernetes-review', 'also ask TokenReview whether the pod still exists')
    .option('--socket <path>', "socket for the operator's commands (default: ca.sock in --dir)")
    .option('--passphrase-file <path>', 'file with the passphrase of the encrypted key')
    .option('--accept-ledger', 'start with a ledger that was edited or cut; a record of the ledger says so')
    .option('--unsafe-new-store', 'create a new store in place of a lost one: every revocation is forgotten')
    .addHelpText(
      'after',
      `
The environment variable SALLYPORT_CA_PASSPHRASE replaces --passphrase-file.
A CA whose store.sqlite is lost does not start: restore it from a backup. --unsafe-new-store is for when there is none.
The new store has no certificate, no token and no revocation: revoked workloads can renew until they are revoked again.
A CA whose ledger is not the one that it signed does not start. --accept-ledger keeps the head that it had signed as
ledger-head-TIME.json, and is for one start.
No peer accepts an expired SVID. --renew-expired-within lets a workload that was cut off from the CA renew with it, and
with proof of its key, unless it was revoked meanwhile.
OCSP (/ocsp) and the CRL (/v1/crl) are also on --listen. Their clients usually speak plain HTTP: --ocsp is for them.
Responses are signed.
With --kubernetes a pod gets the SVID of its service account, /ns/NAMESPACE/sa/ACCOUNT, for a projected token with the
audience; in-cluster takes the files of the CA's own pod. Tokens made by hand (kubectl create token) are refused.
Its certificate has the names and addresses that it listens on, so that curl and Prometheus can verify it with
bundle.pem. Agents verify its SPIFFE ID.

Example:
  sallyport ca serve --dir ca --listen 0.0.0.0:8443`,
    )
    .action(action(runServe));
}

interface ServeFlags {
  readonly dir: string;
  readonly listen: string;
  readonly ocsp?: string;
  readonly name?: readonly string[];
  readonly ttl: string;
  readonly renewExpiredWithin: string;
  readonly ledgerKeep?: string;
  readonly socket?: string;
  readonly passphraseFile?: string;
  readonly acceptLedger?: boolean;
  readonly kubernetes?: string;
  readonly kubernetesIssuer: string;
  readonly kubernetesAudience: string;
  readonly kubernetesCa?: string;
  readonly kubernetesTokenFile?: string;
  readonly kubernetesReview?: boolean;
  readonly kubernetesDns?: readonly string[];
  readonly unsafeNewStore?: boolean;
}

async function runServe(flags: ServeFlags): Promise<number> {
  const { startCa } = await import('../../cert-agent/ca/main.ts');
  const { readPassphrase } = await import('../../cert-agent/ca/passphrase.ts');
  const { parseAddress } = await import('../../cert-agent/base/address.ts');
  const { createLog } = await import('../../cert-agent/base/log.ts');
  const { readVersion } = await import('./version.ts');
  const { reportBackgroundTo } = await import('../../cert-agent/base/background.ts');
  const { createNotify } = await import('../../cert-agent/base/notify.ts');
  const listen = parseAddress(flags.listen, '0.0.0.0');
  if ('path' in listen) throw usage(`--listen takes host:port, not ${flags.listen}`);
  const ocsp = flags.ocsp === undefined ? undefined : parseAddress(flags.ocsp, '127.0.0.1');
  if (ocsp !== undefined && 'path' in ocsp) throw usage(`--ocsp takes host:port, not ${flags.ocsp}`);
  // Before the start, so that a signal during the start ends it as well.
  const stopped = untilSignal();
  const leafLifeMs = await durationOf(flags.ttl, '--ttl');
  const within = flags.renewExpiredWithin;
  const renewExpiredWithinMs = within === '0' ? 0 : await durationOf(within, '--renew-expired-within');
  const ledgerKeepMs = flags.ledgerKeep === undefined ? undefined : await durationOf(flags.ledgerKeep, '--ledger-keep');
  const passphrase = readPassphrase(flags.passphraseFile, process.env, note);
  const { dir, socket, unsafeNewStore, acceptLedger } = flags;
  const log = createLog({ component: 'ca' });
  reportBackgroundTo(log);
  const running = await startCa({
    ...{ dir, listen, ocsp, leafLifeMs, renewExpiredWithinMs, ledgerKeepMs, passphrase, socket, unsafeNewStore, log },
    ...{ names: flags.name, version: readVersion(), acceptLedger, cluster: await clusterOf(flags) },
  });
  const notify = createNotify(process.env, (why) => log.warn({ code: 'notify_failed' }, why));
  notify.ready();
  await stopped;
  notify.stopping();
  await running.close();
  return exitCodes.ok;
}

/** @throws SallyportError `usage`. */
async function clusterOf(flags: ServeFlags): Promise<ClusterOptions | undefined> {
  const { kubernetes: given, kubernetesIssuer: issuer, kubernetesAudience: audience } = flags;
  if (given === undefined) {
    const others = [flags.kubernetesCa, flags.kubernetesTokenFile, flags.kubernetesReview, flags.kubernetesDns];
    if (others.some((one) => one !== undefined))
      throw usage('--kubernetes is missing: the other options of a cluster have no effect without it');
    return undefined;
  }
  const { inCluster } = await import('../../cert-agent/attestation/cluster.ts');
  const isInside = given === 'in-cluster';
  const url = URL.parse(isInside ? inCluster.url : given);
  if (url?.protocol !== 'https:' || url.pathname !== '/' || url.search !== '' || url.username !== '')
    throw usage(`--kubernetes takes the https:// URL of an API server, or 'in-cluster', not '${given}'`);
  const caFile = flags.kubernetesCa ?? (isInside ? inCluster.caFile : undefined);
  const tokenFile = flags.kubernetesTokenFile ?? (isInside ? inCluster.tokenFile : undefined);
  return {
    ...{ url: url.origin, issuer, audience },
    ...(caFile !== undefined && { caFile }),
    ...(tokenFile !== undefined && { tokenFile }),
    ...(flags.kubernetesReview === true && { review: true }),
    ...(flags.kubernetesDns !== undefined && { names: await accountNames(flags.kubernetesDns) }),
  };
}

/** `namespace/account=name`, by account. @throws SallyportError `usage`, `dns_name_invalid`. */
async function accountNames(given: readonly string[]): Promise<Readonly<Record<string, readonly string[]>>> {
  const { parseDnsNames } = await import('../../cert-agent/ca/dns/name.ts');
  const found: Record<string, string[]> = {};
  for (const one of given) {
    const [, account = '', name = ''] = /^([a-z0-9-]+\/[a-z0-9.-]+)=(.+)$/.exec(one) ?? [];
    if (account === '') throw usage(`--kubernetes-dns takes NAMESPACE/ACCOUNT=NAME, not '${one}'`);
    found[account] = [...(found[account] ?? []), name];
  }
  return Object.fromEntries(Object.entries(found).map(([account, names]) => [account, parseDnsNames(names)]));
}

/** Collects an option that can be given more than once. */
function more(value: string, before: readonly string[] = []): readonly string[] {
  return [...before, value];
}

function untilSignal(): Promise<void> {
  // The CA rereads or reopens nothing on these signals, but log rotation must not end it.
  process.on('SIGHUP', () => {});
  return new Promise((resolve) => {
    process.once('SIGTERM', () => resolve());
    process.once('SIGINT', () => resolve());
  });
}

function token(): Command {
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

function list(): Command {
  return atCa(new Command('ls'))
    .description('List valid certificates by expiry')
    .option('--all', "include expired certificates, and the CA's own")
    .option('--expiring <duration>', 'only those that expire within this time')
    .option('--by <what>', 'service: one line for each SPIFFE ID')
    .option('--json', 'print them as JSON')
    .addHelpText(
      'after',
      `
Example:
  sallyport ca ls --dir ca --expiring 24h
  sallyport ca ls --dir ca --by service`,
    )
    .action(action(runList));
}

async function runList(flags: AtCa & { all?: boolean; expiring?: string; by?: string }): Promise<number> {
  const { formatTime } = await import('../../cert-agent/base/clock.ts');
  const expiringMs = flags.expiring === undefined ? undefined : await durationOf(flags.expiring, '--expiring');
  if (flags.by !== undefined) {
    if (flags.by !== 'service') throw usage(`--by ${flags.by}: only --by service groups certificates`);
    return runListByService(flags, expiringMs);
  }
  const { allCertificates } = await import('../../cert-agent/ca/operator/identities.ts');
  return withOperator(flags, async (operator) => {
    const found: ReturnType<typeof withTimes>[] = [];
    for await (const one of allCertificates(operator, { all: flags.all, expiringMs }))
      if (flags.all === true || one.evidence !== 'self') found.push(withTimes(one, formatTime));
    if (flags.json === true) printJson(found);
    else {
      const rows = found.map((one) => [
        one.serial,
        one.id,
        one.notAfter,
        one.evidence,
        one.revoked === undefined ? '' : `revoked: ${one.revoked.reason}`,
      ]);
      printTable(['SERIAL', 'SPIFFE ID', 'EXPIRES', 'FOR', 'STATE'], rows, 'no certificates');
    }
    return exitCodes.ok;
  });
}

async function runListByService(flags: AtCa & { all?: boolean }, expiringMs: number | undefined): Promise<number> {
  const { formatTime } = await import('../../cert-agent/base/clock.ts');
  const { allIdentities } = await import('../../cert-agent/ca/operator/identities.ts');
  return withOperator(flags, async (operator) => {
    const by = expiringMs === undefined ? undefined : Date.now() + expiringMs;
    const found = [];
    for await (const { id, valid, nextEnd, lastEnd, lastRenewed } of allIdentities(operator.records)) {
      if (flags.all !== true && valid === 0) continue;
      // A service is about to end when its last certificate is.
      if (by !== undefined && (lastEnd === undefined || lastEnd > by)) continue;
      const [nextExpiry, lastExpiry, lastRenewal] = [nextEnd, lastEnd, lastRenewed].map((one) =>
        one === undefined ? undefined : formatTime(one),
      );
      found.push({ id, certificates: valid, nextExpiry, lastExpiry, lastRenewal });
    }
    if (flags.json === true) printJson(found);
    else {
      const rows = found.map((one) => [
        one.id,
        String(one.certificates),
        one.nextExpiry ?? '',
        one.lastExpiry ?? '',
        one.lastRenewal ?? 'never',
      ]);
      printTable(['SPIFFE ID', 'VALID', 'NEXT EXPIRY', 'LAST EXPIRY', 'LAST RENEWAL'], rows, 'no certificates');
    }
    return exitCodes.ok;
  });
}

function show(): Command {
  return atCa(new Command('show'))
    .description('Show one issued certificate')
    .argument('<serial>', 'serial number, hex')
    .option('--json', 'print it as JSON')
    .addHelpText(
      'after',
      `
Example:
  sallyport ca show --dir ca 4f0c6a51d2b94e0fa3a1c27be8d9f013`,
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
    if (one.names !== undefined) print(`names     ${one.names.join(', ')}`);
    print(`issued    ${one.issuedAt}, for ${one.evidence}${one.renews === undefined ? '' : ` ${one.renews}`}`);
    print(`valid     ${one.notBefore} to ${one.notAfter}`);
    if (one.revoked !== undefined) print(`revoked   ${one.revoked.at}: ${one.revoked.reason}`);
    print(one.pem);
    return exitCodes.ok;
  });
}

function revoke(): Command {
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
The exit code is 0 once it is on record, whether or not every agent has acknowledged it; --json has the stragglers.

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
    if (done.acknowledged !== undefined) noteAcknowledged(done.acknowledged);
    return exitCodes.ok;
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

function allow(): Command {
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

function denyList(): Command {
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

type Listed = Awaited<ReturnType<Operator['list']>>[number];

/** A listed certificate with its times as text. */
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
