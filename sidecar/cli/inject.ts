// `sallyport inject`: puts sidecars into documents of Kubernetes, and takes them out again.

import { isUtf8 } from 'node:buffer';
import { Command } from 'commander';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { InjectOptions, Result } from '../kube/inject.ts';
import { action, counted, exitCodes, harmless, note, print } from './terminal.ts';
import { readVersion } from './version.ts';

export interface PodFlags {
  readonly ca: string;
  readonly caBundle?: string;
  readonly trustDomain?: string;
  readonly image: string;
  readonly audience: string;
  readonly namespace: string;
}

interface InjectFlags extends PodFlags {
  readonly filename: string;
  readonly uninject?: boolean;
  readonly json?: boolean;
}

/** What the CA expects of tokens, and what injected pods ask for. */
export const defaultAudience = 'sallyport-ca';

/** The command; its modules are imported when it runs. */
export function injectCommand(): Command {
  return withPodOptions(new Command('inject'))
    .description('Put a sidecar into each workload of Kubernetes documents')
    .option('-f, --filename <file>', "documents, YAML or JSON; '-' is standard input", '-')
    .option('-n, --namespace <name>', 'the namespace of documents that name none', 'default')
    .option('--uninject', 'take the sidecars out again')
    .option('--json', 'report on standard error as lines of JSON')
    .addHelpText(
      'after',
      `
The documents go to standard output. Those that are left alone stay as they are, and standard error says why. If one of
them asks for what it cannot get, nothing is printed and the exit code is 2.
Nothing is redirected in the pod. An app should listen on 127.0.0.1; the sidecar takes over the names of its ports, and
the target ports of Services in the input. A Service elsewhere that names a port by its number still leads to the app.

Examples:
  kustomize build . | sallyport inject --ca-bundle bundle.pem | kubectl apply -f -
  sallyport inject --ca-bundle bundle.pem -f app.yaml -n shop >injected.yaml
  kubectl get deploy -o yaml | sallyport inject --uninject | kubectl apply -f -`,
    )
    .action(action(runInject));
}

/** The options that say what goes into a pod. */
export function withPodOptions(command: Command): Command {
  return command
    .option('--ca <url>', 'URL of the CA', 'https://sallyport-ca.sallyport-system.svc:15012')
    .option('--ca-bundle <file>', 'the roots to trust at first: the bundle.pem of the CA')
    .option('--trust-domain <name>', 'trust domain (default: that of the root in --ca-bundle)')
    .option('--image <name>', 'image of the sidecar', `sallyport:${readVersion()}`)
    .option('--audience <name>', 'audience of service-account tokens, as the CA expects it', defaultAudience);
}

async function runInject(flags: InjectFlags): Promise<number> {
  const text = await readInput(flags.filename);
  const { injectText, uninjectText } = await import('../kube/text.ts');
  const file = nameOf(flags.filename);
  const options = flags.uninject === true ? undefined : await readPodOptions(flags);
  // What a failing command before a pipe leaves.
  if (text.trim() === '')
    throw new SallyportError('usage', `${file} is empty: there is nothing to inject`, {
      hint: 'give it documents of Kubernetes, as YAML or JSON',
    });
  const done = options === undefined ? uninjectText(text, file, flags.namespace) : injectText(text, file, options);
  report(done.results, flags.json === true);
  const refused = done.results.filter(({ outcome }) => outcome === 'refused').length;
  if (refused > 0)
    throw new SallyportError('usage', `${counted(refused, 'document')} cannot be injected: nothing is printed`);
  print(done.text);
  return exitCodes.ok;
}

/** @throws SallyportError `usage`, `config_unreadable`, `bundle_invalid`. */
export async function readPodOptions(flags: PodFlags): Promise<InjectOptions> {
  const [{ readBundleFile }, { formatPem }, { parseTrustDomain }] = await Promise.all([
    import('../../cert-agent/identity/read.ts'),
    import('../../cert-agent/identity/bundle.ts'),
    import('../../cert-agent/identity/spiffe-id.ts'),
  ]);
  const { ca, caBundle, image, audience, namespace } = flags;
  if (caBundle === undefined)
    throw new SallyportError('usage', 'a sidecar needs the roots of the CA', {
      hint: 'set --ca-bundle to the bundle.pem of the CA: kubectl -n sallyport-system exec sallyport-ca-0 -- cat ca/bundle.pem',
    });
  const url = URL.parse(ca);
  if (url?.protocol !== 'https:' || url.pathname !== '/' || url.username !== '')
    throw new SallyportError('usage', `--ca '${ca}' is not the URL of a CA`, { hint: 'write it as https://host:port' });
  const wanted = flags.trustDomain === undefined ? undefined : parseTrustDomain(flags.trustDomain);
  const bundle = readBundleFile(caBundle, wanted);
  return {
    ...{ trustDomain: bundle.trustDomain, caUrl: url.origin, caBundle: formatPem(bundle.roots) },
    ...{ image, audience, namespace },
  };
}

/** @throws SallyportError `config_unreadable`, also for bytes that are no text: they would be printed as other ones. */
async function readInput(file: string): Promise<string> {
  const bytes = await readBytes(file);
  if (isUtf8(bytes) && !bytes.includes(0)) return bytes.toString('utf8');
  throw new SallyportError('config_unreadable', `${nameOf(file)} is not text in UTF-8: nothing is printed`, {
    hint: 'give it documents of Kubernetes, as YAML or JSON',
  });
}

async function readBytes(file: string): Promise<Buffer> {
  if (file !== '-') return Buffer.from((await import('../config/sources.ts')).readText(file, 'latin1'), 'latin1');
  const parts: Buffer[] = [];
  for await (const part of process.stdin) parts.push(part as Buffer);
  return Buffer.concat(parts);
}

const nameOf = (file: string): string => (file === '-' ? '<stdin>' : file);

function report(results: readonly Result[], json: boolean): void {
  for (const [index, result] of results.entries()) {
    const { name, outcome } = result;
    const notes = outcome === 'changed' ? result.notes : [];
    if (json) {
      const why =
        outcome === 'changed'
          ? { notes }
          : outcome === 'refused'
            ? { reason: result.reason }
            : { code: result.code, reason: result.reason };
      note(JSON.stringify({ document: index + 1, ...name, outcome, ...why }));
      continue;
    }
    const what = harmless(`${name.kind === '' ? `document ${index + 1}` : name.kind} ${name.name}`.trim());
    if (outcome !== 'changed')
      note(`${what}: ${outcome === 'refused' ? 'refused' : 'left alone'}: ${harmless(result.reason)}`);
    for (const one of notes) note(`${what}: ${harmless(one)}`);
  }
}
