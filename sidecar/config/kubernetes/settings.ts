// `documents: { kubernetes: ... }` of gateway.yaml: where the API server is, and what is read there. Without `url` it is
// that of the pod, with the pod's token and roots; with `url` nothing of the pod is sent there unless it is named.

import { isIPv6 } from 'node:net';
import { z } from 'zod';
import { inCluster } from '../../../cert-agent/attestation/cluster.ts';
import { isLoopback } from '../../../cert-agent/base/address.ts';
import type { KubernetesSettings } from '../settings.ts';

const label = z.string().regex(/^[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?$/, "expected a namespace's name");

const objectName = z.string().regex(/^[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?$/, 'expected a name');

const url = z
  .url({ protocol: /^https?$/, error: 'expected https://host:port' })
  .refine((value) => {
    const { protocol, hostname } = new URL(value);
    return protocol === 'https:' || isLoopback(hostname.replace(/^\[|\]$/g, ''));
  }, "the token and Secrets would travel in plaintext: use https://, or 'kubectl proxy' on loopback")
  .refine((value) => {
    const { pathname, search, username } = new URL(value);
    return pathname === '/' && search === '' && username === '';
  }, 'expected https://host:port, without a path');

/** As written. */
export const kubernetesDocuments = z.strictObject({
  kubernetes: z
    .strictObject({
      namespaces: z
        .array(label)
        .min(1)
        .max(32)
        .optional()
        .meta({ description: 'The namespaces that are read; all by default.', example: ['shop', 'edge'] }),
      url: url.optional().meta({
        description: "The API server; that of our own pod by default. With a `url` the pod's token is not used.",
        example: 'https://10.96.0.1:443',
      }),
      tokenFile: z
        .string()
        .min(1)
        .optional()
        .meta({ description: 'File with our token. It is read again for each request.', example: 'token' }),
      caFile: z
        .string()
        .min(1)
        .optional()
        .meta({ description: 'PEM file with the roots of the API server.', example: 'cluster-ca.pem' }),
      unsafePlaintext: z
        .boolean()
        .default(false)
        .describe('Services without an identity and without a BackendTLSPolicy get requests in plaintext.'),
      statuses: z.boolean().default(true).describe('Statuses of documents are written to the API server.'),
      lease: z
        .strictObject({
          namespace: label
            .optional()
            .meta({ description: 'Namespace of the Lease; that of `workload` by default.', example: 'edge' }),
          name: objectName
            .default('sallyport-gateway')
            .meta({ description: 'Name of the Lease.', example: 'edge-gateway' }),
        })
        .prefault({})
        .describe('The Lease of the gateway that writes statuses, one of several replicas.'),
    })
    .describe('An API server with the documents, read by list and watch. It cannot change while the gateway runs.'),
});

/** `at` makes a path absolute; `namespace` is our own. */
export function readKubernetesSettings(
  { kubernetes }: z.output<typeof kubernetesDocuments>,
  namespace: string,
  at: (path: string) => string,
  env: NodeJS.ProcessEnv,
): KubernetesSettings {
  const { namespaces, url: given, tokenFile, caFile, unsafePlaintext, statuses, lease } = kubernetes;
  const [token, ca] =
    given === undefined ? [tokenFile ?? inCluster.tokenFile, caFile ?? inCluster.caFile] : [tokenFile, caFile];
  return Object.freeze({
    server: Object.freeze({
      url: given === undefined ? urlOfPod(env) : new URL(given).origin,
      ...(token === undefined ? {} : { tokenFile: at(token) }),
      ...(ca === undefined ? {} : { caFile: at(ca) }),
    }),
    namespaces: namespaces === undefined ? undefined : [...new Set(namespaces)],
    unsafePlaintext,
    lease: statuses ? { namespace, ...lease } : undefined,
  });
}

/** The kubelet sets both variables in each container. */
function urlOfPod({ KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: port }: NodeJS.ProcessEnv): string {
  if (host === undefined || host === '' || !/^\d+$/.test(port ?? '')) return inCluster.url;
  return `https://${isIPv6(host) ? `[${host}]` : host}:${port}`;
}
