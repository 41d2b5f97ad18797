// sallyport agent: keeps an SVID, its key, the bundle and the deny list fresh in a directory.

import { Command } from 'commander';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import { action, exitCodes, withLogFormat } from './terminal.ts';

interface AgentFlags {
  readonly ca: string;
  readonly caBundle: string;
  readonly tokenFile?: string;
  readonly kubernetesTokenFile?: string;
  readonly outDir: string;
  readonly trustDomain?: string;
  readonly ttl?: string;
  readonly admin?: string;
}

/** The command; its modules are imported when it runs. */
export function agentCommand(): Command {
  return withLogFormat(new Command('agent'))
    .description('Get an SVID from the CA and keep it fresh on disk, with the bundle and the deny list')
    .requiredOption('--ca <url>', 'URL of the CA, https://host:port')
    .requiredOption('--ca-bundle <file>', 'the roots to trust at first: the file that the CA wrote, PEM or SPIFFE JSON')
    .option('--token-file <file>', 'a join token; needed only while there is no valid SVID in --out-dir')
    .option('--kubernetes-token-file <file>', 'in a pod: a projected service-account token, in place of a join token')
    .requiredOption('--out-dir <dir>', 'directory for svid.pem, svid.key, bundle.pem, bundle.json and denied.json')
    .option('--trust-domain <name>', 'trust domain (default: that of the root in --ca-bundle)')
    .option('--ttl <duration>', 'life to request, such as 1h; the CA decides')
    .option('--admin <address>', 'serve state and metrics on this address, such as 127.0.0.1:15000 (default: off)')
    .addHelpText(
      'after',
      `
The key is generated here and never leaves this machine. The agent waits for a CA, bundle or token that is missing.
SIGHUP renews at once; SIGTERM ends with exit code 0 and leaves the files as they are.

Example:
  sallyport agent --ca https://ca.demo.test:8443 --ca-bundle root.pem --token-file web.token --out-dir /run/sallyport/web`,
    )
    .action(action(runAgentCommand));
}

async function runAgentCommand(flags: AgentFlags): Promise<number> {
  const [{ runAgent }, { createLog }, { parseAddress }, { parseDuration }] = await Promise.all([
    import('../../cert-agent/main.ts'),
    import('../../cert-agent/base/log.ts'),
    import('../../cert-agent/base/address.ts'),
    import('../../cert-agent/base/clock.ts'),
  ]);
  const ttlMs = flags.ttl === undefined ? undefined : parseDuration(flags.ttl);
  if (flags.ttl !== undefined && (ttlMs === undefined || ttlMs < 1000)) {
    throw new SallyportError('usage', `--ttl '${flags.ttl}' is not a valid life of an SVID`, {
      hint: 'write 30m, 1h or 24h',
    });
  }
  await runAgent({
    caUrl: flags.ca,
    caBundleFile: flags.caBundle,
    tokenFile: flags.tokenFile,
    kubernetesTokenFile: flags.kubernetesTokenFile,
    outDir: flags.outDir,
    trustDomain: flags.trustDomain,
    ttlMs,
    log: createLog({ component: 'agent' }),
    ...(flags.admin === undefined ? {} : { admin: parseAddress(flags.admin, '127.0.0.1') }),
  });
  return exitCodes.ok;
}
