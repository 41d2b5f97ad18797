// `sallyport ca init` and `serve`: creates a CA in a directory, and runs it there.

import { Command } from 'commander';
import type { ClusterOptions } from '../../cert-agent/attestation/cluster.ts';
import { durationOf, usage } from './at-ca.ts';
import { action, exitCodes, more, note, print, printJson, withLogFormat } from './terminal.ts';

export function initCommand(): Command {
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

export function serveCommand(): Command {
  return withLogFormat(new Command('serve'))
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

function untilSignal(): Promise<void> {
  // The CA rereads or reopens nothing on these signals, but log rotation must not end it.
  process.on('SIGHUP', () => {});
  return new Promise((resolve) => {
    process.once('SIGTERM', () => resolve());
    process.once('SIGINT', () => resolve());
  });
}
