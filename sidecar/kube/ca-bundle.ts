// Keeps `caBundle` of the MutatingWebhookConfiguration that of our CA: the API server verifies the webhook by it. Checked
// every minute and at each change of the bundle, so that a rotation of roots reaches the API server before our
// certificate does, and one that was applied anew is mended.

import { type ApiServer, askApiServer } from '../../cert-agent/base/api-server.ts';
import { every, guard } from '../../cert-agent/base/background.ts';
import { asSallyportError, SallyportError } from '../../cert-agent/base/errors.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import { type Tree, treeOf, treesOf } from './tree.ts';

export interface CaBundleOptions {
  readonly server: ApiServer;
  /** Name of the MutatingWebhookConfiguration. */
  readonly configuration: string;
  /** The DNS name by which the API server calls us, `NAME.NAMESPACE.svc`: entries that call others are not ours. */
  readonly service: string;
  /** The roots now, PEM; undefined while there is no identity. */
  bundle(): string | undefined;
  readonly log: Log;
}

export interface CaBundleKeeper {
  /** True once the API server has had the bundle. */
  isSet(): boolean;
  /** Looks now. */
  check(): void;
  close(): void;
}

const checkMs = 60_000;
/** After a failure: the API server may be starting. */
const againMs = 2000;

/** Starts to keep it. Failures are logged, and tried again. */
export function keepCaBundle(options: CaBundleOptions): CaBundleKeeper {
  const { log } = options;
  let isSet = false;
  let problem: string | undefined;
  let running: Promise<void> | undefined;
  let isOutdated = false;
  let again: NodeJS.Timeout | undefined;
  let isClosed = false;

  function check(): void {
    if (running !== undefined) {
      isOutdated = true;
      return;
    }
    running = patch(options)
      .then((changed) => {
        isSet ||= changed !== undefined;
        if (changed === true)
          log.info({ code: 'ca_bundle_patched', configuration: options.configuration }, 'caBundle is up to date');
        problem = undefined;
      })
      .catch((error: unknown) => {
        const known = asSallyportError(error, 'internal', 'caBundle cannot be set');
        if (known.message !== problem) log.error({ code: known.code, hint: known.hint }, known.message);
        problem = known.message;
        clearTimeout(again);
        if (!isClosed) again = setTimeout(() => guard('webhook', check), againMs).unref();
      })
      .finally(() => {
        running = undefined;
        if (!isOutdated || isClosed) return;
        isOutdated = false;
        check();
      });
  }

  const stop = every('webhook', checkMs, check);
  check();
  return {
    isSet: () => isSet,
    check,
    close() {
      isClosed = true;
      stop();
      clearTimeout(again);
    },
  };
}

/** True if it was changed, undefined without a bundle. @throws SallyportError `kubernetes_unavailable`, `config_invalid`. */
async function patch({ server, configuration, service, bundle }: CaBundleOptions): Promise<boolean | undefined> {
  const pem = bundle();
  if (pem === undefined) return undefined;
  const wanted = Buffer.from(pem).toString('base64');
  const path = `/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/${configuration}`;
  const found = treeOf(await askApiServer(server, 'GET', path));
  const webhooks = treesOf(found['webhooks']);
  if (found['kind'] !== 'MutatingWebhookConfiguration' || webhooks.length === 0)
    throw new SallyportError('config_invalid', `${configuration} is no MutatingWebhookConfiguration with webhooks`);
  if (!webhooks.some((one) => isOurs(one, service)))
    throw new SallyportError('config_invalid', `no webhook of ${configuration} calls ${service}`, {
      hint: 'set --service to the service in its clientConfig',
    });
  const operations = webhooks.flatMap((one, index) =>
    !isOurs(one, service) || treeOf(one['clientConfig'])['caBundle'] === wanted
      ? []
      : [
          // Of another version of the list, another entry would be changed.
          { op: 'test', path: `/webhooks/${index}/name`, value: one['name'] },
          { op: 'add', path: `/webhooks/${index}/clientConfig/caBundle`, value: wanted },
        ],
  );
  if (operations.length === 0) return false;
  await askApiServer(server, 'PATCH', path, operations, 'application/json-patch+json');
  return true;
}

/** With our roots another server would not be reached any more, or a server of the mesh could pass for it. */
function isOurs(webhook: Tree, service: string): boolean {
  const { name, namespace } = treeOf(treeOf(webhook['clientConfig'])['service']);
  return `${name}.${namespace}.svc` === service;
}
