// sallyport inspect: shows a certificate and the result of every SPIFFE rule.

import type { Stats } from 'node:fs';
import { Command, Option } from 'commander';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { ChainReport, Judged } from '../../cert-agent/identity/inspect.ts';
import type { ClientSvid, ConnectionReport, Sight } from '../analyze/endpoint.ts';
import { action, exitCodes, harmless, paint, print, printJson, printTable, printText } from './terminal.ts';

interface InspectFlags {
  readonly config?: string;
  readonly svid?: string;
  readonly key?: string;
  readonly dir?: string;
  readonly bundle?: string;
  readonly trustDomain?: string;
  readonly as?: Judged;
  readonly json?: boolean;
}

const kinds: Readonly<Record<Judged, string>> = {
  svid: 'an SVID of a workload',
  root: 'a root CA',
  intermediate: 'an intermediate CA',
  server: 'the certificate of a server',
};

/** The command; its modules are imported when it runs. */
export function inspectCommand(): Command {
  return new Command('inspect')
    .description('Show a certificate, its identity and expiry, and the result of every SPIFFE rule')
    .argument(
      '[what]',
      'a file (PEM or DER), - for standard input, an agent’s directory, host:port (a handshake), or http://host:port (an admin port)',
    )
    .option('--config <file>', 'instead: sidecar.yaml or gateway.yaml, with the SVID to show')
    .option('--svid <file>', 'with host:port: the SVID to present, PEM')
    .option('--key <file>', 'the key of --svid; with a PEM file: the key that must belong to it')
    .option(
      '--dir <dir>',
      'with host:port: an agent’s directory, with the SVID to present and the bundle to verify against',
    )
    .option('--bundle <file>', 'verify the path against this bundle, PEM or SPIFFE JSON')
    .option('--trust-domain <name>', 'the trust domain that the SPIFFE ID must belong to')
    .addOption(new Option('--as <kind>', 'judge it as this (default: what it looks like)').choices(Object.keys(kinds)))
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
A CA is judged as a CA, a certificate with host names and without a URI as that of a server, and everything else as an SVID;
with --bundle, --dir or --trust-domain all are judged as SVIDs.
The exit code is 0 when every rule holds, 1 when one fails or the certificate has expired.

Examples:
  sallyport inspect svid.pem --bundle root.pem
  sallyport inspect --config sidecar.yaml
  sallyport inspect web.demo.test:15006 --dir /run/sallyport/web
  sallyport inspect http://127.0.0.1:15000 --json`,
    )
    .action(action(runInspect));
}

async function runInspect(given: string | undefined, flags: InspectFlags): Promise<number> {
  const { inspectChain } = await import('../../cert-agent/identity/inspect.ts');
  const what = given ?? flags.config;
  if (what === undefined)
    throw new SallyportError('usage', 'give what to inspect, or --config', {
      hint: 'a PEM file, - for standard input, an agent’s directory, host:port or http://host:port',
    });
  if (flags.config !== undefined) refuseBeside(given, flags);
  const sight = await (given === undefined ? lookAtConfigured(what) : look(given, flags));
  const wanted = await readWanted(flags, sight);
  const as = flags.as === undefined ? {} : { as: flags.as };
  const report = inspectChain(sight.chain, { ...sight, ...wanted, ...as, now: Date.now() });
  if (flags.json === true) printJson({ what, ...report, connection: sight.connection });
  else await printReport(report, sight.connection);
  return report.holds && !report.expired ? exitCodes.ok : exitCodes.no;
}

/** Decides what `what` is: the URL of an admin port, a file or directory, or else an address. */
async function look(what: string, flags: InspectFlags): Promise<Sight> {
  const [{ statSync }, places, { parseAddress }] = await Promise.all([
    import('node:fs'),
    import('../analyze/endpoint.ts'),
    import('../../cert-agent/base/address.ts'),
  ]);
  if (what.startsWith('http://')) {
    const url = URL.parse(what);
    if (url === null) throw new SallyportError('usage', `'${what}' is not a URL`);
    return places.lookAtAdmin(url);
  }
  if (what === '-') return places.lookAtFile(what);
  let onDisk: Stats | undefined;
  try {
    onDisk = statSync(what, { throwIfNoEntry: false });
  } catch {
    // Its name is too long, or a part of it is no directory: it is not a file.
  }
  if (onDisk?.isDirectory()) return places.lookAtDirectory(what);
  if (onDisk !== undefined) return places.lookAtFile(what);
  let address: ReturnType<typeof parseAddress>;
  try {
    address = parseAddress(what.replace(/^https:\/\/([^/]+)\/?$/, '$1'), '127.0.0.1');
  } catch {
    throw new SallyportError('usage', `${nameOf(what)} is not a file, a directory or an address`, {
      hint: 'give a PEM file, - for standard input, an agent’s directory, host:port or http://host:port',
    });
  }
  return places.lookAtPeer(address, await readClientSvid(flags));
}

/** A configuration has everything that its SVID is judged by. @throws SallyportError `usage`. */
function refuseBeside(given: string | undefined, { svid, key, dir, bundle }: InspectFlags): void {
  const beside = Object.entries({ '--svid': svid, '--key': key, '--dir': dir, '--bundle': bundle });
  const other = given === undefined ? beside.find(([, value]) => value !== undefined)?.[0] : `'${harmless(given)}'`;
  if (other === undefined) return;
  throw new SallyportError('usage', `--config says what to inspect: not with ${other}`);
}

/** The SVID that a sidecar or gateway presents. @throws SallyportError if it has none, as `lookAtFiles` too. */
async function lookAtConfigured(config: string): Promise<Sight> {
  const [{ readChecked }, { identityPaths }, { lookAtFiles }] = await Promise.all([
    import('./sidecar.ts'),
    import('../analyze/doctor.ts'),
    import('../analyze/endpoint.ts'),
  ]);
  const { settings } = await readChecked(config);
  const paths = identityPaths(settings);
  if (paths === undefined) throw new SallyportError('usage', `${config} names no SVID: it has no 'identity'`);
  return { ...lookAtFiles(paths), trustDomain: settings.trustDomain };
}

/** Keys and tokens are given in place of a file's name by mistake: they are not repeated. */
function nameOf(what: string): string {
  return /-----BEGIN|[\w+=-]{32,}|^eyJ/.test(what) ? 'what was given' : `'${harmless(what)}'`;
}

async function readClientSvid({ svid, key, dir }: InspectFlags): Promise<ClientSvid | undefined> {
  if (svid !== undefined && key === undefined) {
    throw new SallyportError('usage', '--svid also needs the key', { hint: 'add --key <file>' });
  }
  const { readIdentityTexts, readText } = await import('../../cert-agent/identity/read.ts');
  if (svid !== undefined && key !== undefined) return { chainPem: readText(svid), keyPem: readText(key) };
  if (dir === undefined) return undefined;
  const { pathsIn } = await import('../../cert-agent/identity/generation.ts');
  const read = readIdentityTexts(pathsIn(dir, ''));
  if ('texts' in read) return { chainPem: read.texts.svid, keyPem: read.texts.key };
  throw new SallyportError('config_unreadable', `${read.missing} does not exist`);
}

/** What the flags add to check the chain against. */
async function readWanted(flags: InspectFlags, sight: Sight): Promise<Partial<Sight>> {
  const [{ readBundleFile, readText }, { onlyBundle }, { parseTrustDomain }, { parseKey }] = await Promise.all([
    import('../../cert-agent/identity/read.ts'),
    import('../../cert-agent/identity/bundle.ts'),
    import('../../cert-agent/identity/spiffe-id.ts'),
    import('../../cert-agent/identity/keys.ts'),
  ]);
  const trustDomain = flags.trustDomain === undefined ? undefined : parseTrustDomain(flags.trustDomain);
  const file = flags.bundle ?? (flags.dir === undefined ? undefined : `${flags.dir}/bundle.json`);
  // With an address, the key is the client's; with a file, it is the file's.
  const keyFile = sight.connection === undefined ? flags.key : undefined;
  return {
    ...(trustDomain === undefined ? {} : { trustDomain }),
    ...(file === undefined ? {} : { bundles: onlyBundle(readBundleFile(file, trustDomain)) }),
    ...(keyFile === undefined ? {} : { key: parseKey(readText(keyFile), keyFile) }),
  };
}

async function printReport(report: ChainReport, connection: ConnectionReport | undefined): Promise<void> {
  const { formatDuration } = await import('../../cert-agent/base/clock.ts');
  const span = formatDuration(Math.abs(report.timeLeftMs));
  const timeLeft = report.expired ? `expired ${span} ago` : `${span} left`;
  const [first] = report.chain;
  const fields: [string, string][] = [
    ['judged as', kinds[report.judgedAs]],
    ['SPIFFE ID', report.spiffeId ?? 'none'],
    ['subject', harmless(first!.subject) || 'none'],
    ['issuer', harmless(first!.issuer) || 'none'],
    ...(first!.hosts.length === 0 ? [] : [['hosts', harmless(first!.hosts.join(', '))] as [string, string]]),
    ['serial', report.serial],
    ['key', report.keyKind],
    ['signature', first!.signedWith ?? 'of a kind that no peer accepts'],
    ['SHA-256', first!.fingerprint],
    ['valid', `${report.notBefore} to ${report.notAfter}, ${timeLeft}`],
    ...connectionFields(connection),
  ];
  for (const [name, value] of fields) printText(`${name.padEnd(10)} ${value}`, 11);
  print('');
  printTable(
    ['chain', 'subject', 'URI', 'key', 'expires'],
    report.chain.map((one, index) => [
      String(index + 1),
      one.subject || '-',
      one.uris.join(' ') || '-',
      one.keyKind,
      one.notAfter,
    ]),
    'no certificate',
  );
  print('');
  for (const { rule, holds, message } of report.rules) {
    printText(`${holds ? paint('green', 'holds') : paint('red', 'FAILS')}  ${rule.padEnd(19)}  ${message}`, 7);
  }
}

function connectionFields(connection: ConnectionReport | undefined): [string, string][] {
  if (connection === undefined) return [];
  const { tlsVersion, group, cipher, shown, afterHandshake } = connection;
  return [
    ['TLS', `${tlsVersion}, group ${group ?? 'unknown'}, cipher ${cipher}`],
    ['presented', shown ?? 'no certificate'],
    ['then', afterHandshake],
  ];
}
