// `sallyport webhook`: injection at the admission of pods.

import { Command } from 'commander';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import { defaultAudience } from './inject.ts';
import { action, exitCodes, withLogFormat } from './terminal.ts';
import { readVersion } from './version.ts';

interface WebhookFlags {
  readonly listen: string;
  readonly service: string;
  readonly ca: string;
  readonly caBundle: string;
  readonly podCa?: string;
  readonly image: string;
  readonly audience: string;
  readonly outDir: string;
  readonly tokenFile?: string;
  readonly kubernetesTokenFile?: string;
  readonly failurePolicy: string;
  readonly configuration?: string;
  readonly apiServer: string;
  readonly apiServerCa?: string;
  readonly apiServerTokenFile?: string;
}

/** The command; its modules are imported when it runs. */
export function webhookCommand(): Command {
  return withLogFormat(new Command('webhook'))
    .description('Put sidecars into pods when a Kubernetes API server admits them')
    .option('--listen <address>', 'host:port, or :port for all addresses', ':15017')
    .option('--service <name>', 'DNS name by which the API server calls', 'sallyport-webhook.sallyport-system.svc')
    .option('--ca <url>', 'URL of the CA', 'https://sallyport-ca.sallyport-system.svc:15012')
    .requiredOption('--ca-bundle <file>', 'the roots to trust at first: the bundle.pem of the CA')
    .option('--pod-ca <url>', 'URL of the CA for pods (default: that of --ca)')
    .option('--image <name>', 'image of the sidecar', `sallyport:${readVersion()}`)
    .option('--audience <name>', 'audience of service-account tokens, as the CA expects it', defaultAudience)
    .requiredOption('--out-dir <dir>', 'directory for our own SVID')
    .option('--token-file <file>', 'a join token for our own SVID')
    .option('--kubernetes-token-file <file>', 'a projected service-account token for it, in place of a join token')
    .option(
      '--failure-policy <policy>',
      'Fail refuses a pod that cannot be injected, Ignore lets it run without',
      'Fail',
    )
    .option('--configuration <name>', 'the MutatingWebhookConfiguration whose caBundle to keep (default: none)')
    .option('--api-server <url>', "https://HOST:PORT, or 'in-cluster'", 'in-cluster')
    .option('--api-server-ca <file>', 'its roots, PEM')
    .option('--api-server-token-file <file>', 'our token for it')
    .addHelpText(
      'after',
      `
The serving certificate is our SVID, which rotates by itself. It needs the DNS name of --service: start the CA with
--kubernetes-dns NAMESPACE/ACCOUNT=NAME, and allow it with ca dns allow NAME.
Fail is the default: a pod without its sidecar answers everyone in plaintext. Set failurePolicy of the
MutatingWebhookConfiguration to the same.

Example:
  sallyport webhook --ca-bundle /etc/sallyport/ca/bundle.pem --out-dir /run/sallyport/svid \\
    --kubernetes-token-file /var/run/secrets/tokens/sallyport-token --configuration sallyport-injector`,
    )
    .action(action(runWebhook));
}

async function runWebhook(flags: WebhookFlags): Promise<number> {
  const { failurePolicy } = flags;
  if (failurePolicy !== 'Fail' && failurePolicy !== 'Ignore')
    throw new SallyportError('usage', `--failure-policy takes Fail or Ignore, not '${failurePolicy}'`);
  const [
    { startAgent },
    { createLog },
    { reportBackgroundTo },
    { parseAddress },
    { startWebhook },
    { keepCaBundle },
    { formatPem },
  ] = await Promise.all([
    import('../../cert-agent/main.ts'),
    import('../../cert-agent/base/log.ts'),
    import('../../cert-agent/base/background.ts'),
    import('../../cert-agent/base/address.ts'),
    import('../kube/webhook.ts'),
    import('../kube/ca-bundle.ts'),
    import('../../cert-agent/identity/bundle.ts'),
  ]);
  const listen = parseAddress(flags.listen, '0.0.0.0');
  if ('path' in listen) throw new SallyportError('usage', `--listen takes host:port, not ${flags.listen}`);
  const stopped = new Promise<void>((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve());
  });
  const server = flags.configuration === undefined ? undefined : await apiServerOf(flags);
  const log = createLog({ component: 'webhook' });
  reportBackgroundTo(log);
  const { ca, caBundle, tokenFile, kubernetesTokenFile, outDir, image, audience, service } = flags;
  const agent = startAgent({
    ...{ caUrl: ca, caBundleFile: caBundle, outDir, log },
    ...(tokenFile !== undefined && { tokenFile }),
    ...(kubernetesTokenFile !== undefined && { kubernetesTokenFile }),
  });
  process.on('SIGHUP', () => agent.renewNow());
  const keeper =
    server === undefined
      ? undefined
      : keepCaBundle({
          ...{ server, configuration: flags.configuration!, service, log },
          bundle() {
            const now = agent.identity.current();
            return now === undefined ? undefined : formatPem(now.bundles.get(now.svid.id.trustDomain)?.roots ?? []);
          },
        });
  agent.identity.onChange(() => keeper?.check());
  try {
    const webhook = await startWebhook({
      ...{ listen, identity: agent.identity, failurePolicy, service, log },
      pods: { caUrl: flags.podCa ?? ca, image, audience },
      waitingFor: () => (keeper?.isSet() === false ? `caBundle of ${flags.configuration}` : undefined),
    });
    await stopped;
    await webhook.close();
  } finally {
    keeper?.close();
    await agent.close();
  }
  log.info({ code: 'stopped' }, 'the webhook has stopped');
  return exitCodes.ok;
}

async function apiServerOf({ apiServer, apiServerCa, apiServerTokenFile }: WebhookFlags) {
  const { inCluster } = await import('../../cert-agent/attestation/cluster.ts');
  const isInside = apiServer === 'in-cluster';
  const url = URL.parse(isInside ? inCluster.url : apiServer);
  if (url?.protocol !== 'https:' || url.pathname !== '/')
    throw new SallyportError('usage', `--api-server takes an https:// URL or 'in-cluster', not '${apiServer}'`);
  const caFile = apiServerCa ?? (isInside ? inCluster.caFile : undefined);
  const tokenFile = apiServerTokenFile ?? (isInside ? inCluster.tokenFile : undefined);
  return { url: url.origin, ...(caFile !== undefined && { caFile }), ...(tokenFile !== undefined && { tokenFile }) };
}
