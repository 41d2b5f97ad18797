// Reads gateway.yaml into the same complete, frozen Settings that a sidecar has, with those that only a gateway needs:
// the addresses of its Gateways' ports, the upstreams of Services, and the files with certificates and keys.

import { dirname, resolve } from 'node:path';
import { z } from 'zod';
import { type Address, formatAddress, isLoopback, parseAddress } from '../../cert-agent/base/address.ts';
import { durationSchema, readYaml } from '../../cert-agent/base/yaml.ts';
import { schemasOf } from '../edge/schemas.ts';
import { isProxyField } from '../exchange/proxy-fields.ts';
import { isIpBlock } from '../policy/ip.ts';
import { pathNormalizations } from '../policy/path.ts';
import type { TlsVersion } from '../protocol/tls.ts';
import { kubernetesDocuments, readKubernetesSettings } from './kubernetes/settings.ts';
import type { GatewaySettings, Settings } from './settings.ts';
import {
  absolute,
  accessLogSchema,
  adminSchema,
  bundleMissing,
  decisionHeaderSchema,
  endpointsSchema,
  federatedBundlesSchema,
  healthSchema,
  hostsSchema,
  identities,
  identity,
  limitsSchema,
  name,
  normalizationText,
  pathText,
  readLimits,
  text,
  tlsSchema,
  topologySchema,
  trustDomainSchema,
  withoutBundle,
  workloadSchema,
} from './settings-schema.ts';

const place = (what: string): z.ZodString =>
  z.string().regex(/^[a-z0-9](?:[-a-z0-9]*[a-z0-9])?\/[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?:\d{1,5}$/, {
    error: `${what} must be named namespace/name:port`,
  });
const objectKey = z
  .string()
  .regex(
    /^[a-z0-9](?:[-a-z0-9]*[a-z0-9])?\/[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?$/,
    'a Secret must be named namespace/name',
  );

const listenAddress = text((value) => {
  const address = parseAddress(value, '');
  if ('path' in address) throw new Error(`'${value}': a Gateway listens on a port`);
  return formatAddress(address);
});

const upstream = z.strictObject({
  endpoints: endpointsSchema,
  identity: identities.optional(),
  unsafePlaintext: z
    .boolean()
    .default(false)
    .describe('Requests go to another machine in plaintext, where they can be read and changed on the way.'),
  protocol: z
    .enum(['http', 'http2'])
    .optional()
    .describe("What the backend speaks. By default its Service's `appProtocol` or its route says it."),
  hosts: hostsSchema,
});

const redis = z.strictObject({
  url: z
    .url({ protocol: /^rediss?$/, error: 'expected a redis:// or rediss:// URL' })
    .meta({ description: 'URL of the Redis.', example: 'rediss://redis.internal:6379' }),
  passwordFile: z
    .string()
    .min(1)
    .optional()
    .meta({ description: 'File with the password.', example: 'redis.password' }),
  caFile: z
    .string()
    .min(1)
    .optional()
    .meta({ description: 'PEM file with the roots of its certificate.', example: 'redis-ca.pem' }),
  // Ours: requests wait for it. A Redis that is slower counts as away.
  timeout: durationSchema.prefault('50ms').describe('How long a request waits for it. A slower Redis counts as away.'),
  unsafePlaintext: z
    .boolean()
    .default(false)
    .describe('Must be true for redis:// on another machine: its password can be read on the way.'),
});

/** Headers that the gateway sets, or that its policies evaluate: clients may not set them as well. */
const saidByUs = ['x-forwarded-for', 'x-forwarded-proto', 'x-forwarded-host', 'x-forwarded-client-cert', 'txn-token'];

const clientHeader = z
  .string()
  .regex(/^[A-Za-z0-9-]+\*?$/, "a header's name, or the start of names and a star: cf-connecting-ip, cf-*")
  .transform((value) => value.toLowerCase())
  .superRefine((value, context) => {
    const start = value.endsWith('*') ? value.slice(0, -1) : undefined;
    const own = saidByUs.find((one) => (start === undefined ? one === value : one.startsWith(start)));
    if (own !== undefined)
      context.addIssue({
        code: 'custom',
        message: `'${value}' would let a client set ${own}, which only the gateway sets`,
      });
    if (start === undefined && !isProxyField(value))
      context.addIssue({ code: 'custom', message: `'${value}' passes anyway: it is not a header that proxies set` });
  });

/** The fields that capabilities of the edge read. */
const capabilityFields = await schemasOf('gateway.yaml');

/** gateway.yaml as written. */
export const gatewayYaml = z
  .strictObject({
    trustDomain: trustDomainSchema,
    workload: workloadSchema,
    identity,
    documents: z.union([z.string().min(1), kubernetesDocuments]).meta({
      description:
        'Directory with the documents that are served: Gateway API, Envoy Gateway, and our own kinds. All directories below are read. Or `kubernetes`: the API server that has them.',
      example: 'gateway/',
    }),
    listeners: z
      .record(place('a listener'), listenAddress)
      .default({})
      .meta({
        description: "Where to serve a Gateway's port, by `namespace/name:port`. By default on all addresses.",
        example: { 'default/my-api-gateway:8080': '127.0.0.1:18080' },
      }),
    backends: z
      .record(place('a backend'), name)
      .default({})
      .meta({
        description: "The upstream behind a Service's port, by `namespace/name:port`.",
        example: { 'default/user-service:80': 'users' },
      }),
    certificates: z
      .record(
        objectKey,
        z.strictObject({
          certificate: z
            .string()
            .min(1)
            .meta({ description: 'PEM file with the certificate and its chain.', example: 'tls/public.pem' }),
          key: z.string().min(1).meta({ description: 'PEM file with the key.', example: 'tls/public.key' }),
        }),
      )
      .default({})
      .describe('PEM files in place of Secrets, by `namespace/name`. Changed files are read again.'),
    upstreams: z
      .record(name, upstream)
      .default({})
      .describe('The services that requests are passed to, by name. With `identity` by mutual TLS.'),
    admin: adminSchema,
    health: healthSchema,
    accessLog: accessLogSchema,
    decisionHeader: decisionHeaderSchema,
    federatedBundles: federatedBundlesSchema,
    pathNormalization: z
      .strictObject({
        normalization: z
          .enum(pathNormalizations)
          .meta({ description: normalizationText, example: 'DECODE_AND_MERGE_SLASHES' }),
      })
      // Another spelling of a path must not avoid its rule. Envoy Gateway would also redirect `%2f` (SECURITY.md).
      .prefault({ normalization: 'MERGE_SLASHES' })
      .describe(pathText),
    gatewayTopology: topologySchema,
    tls: tlsSchema,
    downstreamTls: z
      .strictObject({
        // For clients outside, which are not ours. Envoy Gateway's default, too.
        minVersion: z.enum(['1.2', '1.3']).default('1.2').describe('The lowest version of TLS.'),
      })
      .prefault({})
      .describe('TLS with clients outside.'),
    sessionKeys: z.string().min(1).optional().meta({
      description: 'File with the keys that seal login sessions, one a line. The first one seals new ones.',
      example: 'session.keys',
    }),
    clientCrls: z
      .strictObject({
        path: z
          .string()
          .min(1)
          .meta({ description: 'A file, or a directory of files, in PEM or DER.', example: 'crls/' }),
        onlyVerifyLeafCertificate: z
          .boolean()
          .default(false)
          .describe("Checks the client's certificate alone, and not those of its CAs."),
      })
      .optional()
      .describe("CRLs for clients' certificates. A CA without one has all its clients refused."),
    redis: redis
      .optional()
      .describe(
        'The Redis that several gateways share: limits of type Global, logins, and caches with `store: Redis`.',
      ),
    ...(capabilityFields as Record<never, never>),
    unsafeClientHeaders: z
      .array(clientHeader)
      .default([])
      .meta({
        description: 'Headers of proxies that clients may set here all the same: names, or starts of names and a star.',
        example: ['cf-connecting-ip'],
      }),
    proxyProtocol: z
      .strictObject({
        trustedCIDRs: z
          .array(z.string().refine(isIpBlock, { error: 'expected an address or a block of them, 10.0.0.0/8' }))
          .min(1)
          .meta({ description: 'The load balancers, as addresses and blocks.', example: ['10.0.0.0/8'] }),
        listeners: z
          .array(place('a listener'))
          .min(1)
          .optional()
          .meta({
            description: 'The listeners that this is for, as named in `listeners`. By default all.',
            example: ['default/my-api-gateway:8080'],
          }),
      })
      .optional()
      .describe('The load balancers that must send the PROXY protocol, version 1 or 2. No other client may send it.'),
    limits: limitsSchema,
  })
  .superRefine((value, context) => {
    const at = (path: (string | number)[], message: string): void =>
      context.addIssue({ code: 'custom', path, message });
    for (const [key, of] of Object.entries(value.backends))
      if (!Object.hasOwn(value.upstreams, of)) at(['backends', key], `there is no upstream '${of}'`);
    const taken = new Map<string, string>();
    for (const [key, address] of Object.entries(value.listeners)) {
      const owner = taken.get(address);
      if (owner !== undefined && !address.endsWith(':0'))
        at(['listeners', key], `${address} is already the address of ${owner}`);
      taken.set(address, key);
    }
    for (const [index, key] of (value.proxyProtocol?.listeners ?? []).entries())
      if (!Object.hasOwn(value.listeners, key))
        at(['proxyProtocol', 'listeners', index], `there is no '${key}' under 'listeners'`);
    if (value.redis !== undefined) checkRedis(value.redis, at);
    for (const [id, { identity: who, unsafePlaintext, endpoints }] of Object.entries(value.upstreams)) {
      if (who !== undefined && unsafePlaintext)
        at(['upstreams', id, 'unsafePlaintext'], 'an upstream with an identity never gets plaintext');
      for (const trustDomain of withoutBundle(who ?? [], value))
        at(['upstreams', id, 'identity'], bundleMissing(trustDomain));
      for (const [index, endpoint] of endpoints.entries())
        if (leadsBack(endpoint, value.listeners))
          at(
            ['upstreams', id, 'endpoints', index],
            `${formatAddress(endpoint)} is an address of this gateway itself: requests would loop for ever`,
          );
    }
    if (value.admin !== undefined && 'host' in value.admin && !isLoopback(value.admin.host))
      at(['admin'], `'${value.admin.host}' is not loopback: use 'health' for what others may see`);
    for (const of of Object.keys(value.federatedBundles))
      if (of === value.trustDomain)
        at(['federatedBundles', of], "this is our own trust domain, whose bundle comes with 'identity'");
  });

/** Its password and the clients' identities go to Redis: never over a network in plaintext. */
function checkRedis(
  { url, unsafePlaintext }: { readonly url: string; readonly unsafePlaintext: boolean },
  at: (path: (string | number)[], message: string) => void,
): void {
  const { protocol, hostname } = new URL(url);
  const isOpen = protocol === 'redis:' && !isLoopback(hostname.replace(/^\[|\]$/g, ''));
  if (isOpen && !unsafePlaintext)
    at(
      ['redis', 'url'],
      `'${hostname}' is not loopback, and redis:// is plaintext: use rediss://, or add 'unsafePlaintext: true' to this entry`,
    );
  if (!isOpen && unsafePlaintext) at(['redis', 'unsafePlaintext'], 'nothing is sent in plaintext');
}

/** Kestrel's default: half of the slowest modem's rate. Only a gateway has strangers as clients. */
const defaultSlowBytesPerSecond = 240;

/** A backend at the address of one of our own listeners: on the same machine, at a port that we serve. */
function leadsBack(endpoint: Address, listeners: Readonly<Record<string, string>>): boolean {
  if (!('host' in endpoint) || endpoint.port === 0) return false;
  return Object.values(listeners).some((text) => {
    const own = parseAddress(text, '');
    if (!('host' in own) || own.port !== endpoint.port) return false;
    return own.host === endpoint.host || (isLoopback(endpoint.host) && ['', '0.0.0.0', '::'].includes(own.host));
  });
}

/**
 * Reads gateway.yaml. Paths in it are relative to the file.
 * @throws SallyportError `config_invalid` with every problem.
 */
export function parseGatewaySettings(source: string, file: string): Settings {
  const parsed = readYaml(gatewayYaml, source, file);
  const base = dirname(resolve(file));
  const at = (path: string | undefined): string | undefined => (path === undefined ? undefined : resolve(base, path));
  const { tls, limits, upstreams, redis: shared, downstreamTls } = parsed;
  const gateway: GatewaySettings = {
    ...Object.fromEntries(Object.entries(parsed).filter(([field]) => Object.hasOwn(capabilityFields, field))),
    listeners: parsed.listeners,
    backends: parsed.backends,
    certificates: Object.fromEntries(
      Object.entries(parsed.certificates).map(([key, one]) => [
        key,
        { certificate: resolve(base, one.certificate), key: resolve(base, one.key) },
      ]),
    ),
    outside: Object.fromEntries(
      Object.entries(upstreams).flatMap(([id, { endpoints, unsafePlaintext, protocol, identity: who }]) =>
        who === undefined ? [[id, { endpoints, unsafePlaintext, protocol }]] : [],
      ),
    ),
    downstreamTls: { minVersion: versionOf(downstreamTls.minVersion) },
    sessionKeys: at(parsed.sessionKeys),
    redis:
      shared === undefined
        ? undefined
        : {
            url: shared.url,
            passwordFile: at(shared.passwordFile),
            caFile: at(shared.caFile),
            timeoutMs: shared.timeout,
          },
    clientCrls:
      parsed.clientCrls === undefined
        ? undefined
        : {
            path: resolve(base, parsed.clientCrls.path),
            onlyLeaf: parsed.clientCrls.onlyVerifyLeafCertificate,
          },
    errorPages: at((parsed as { readonly errorPages?: string }).errorPages),
    unsafeClientHeaders: parsed.unsafeClientHeaders,
    proxyProtocol:
      parsed.proxyProtocol === undefined
        ? undefined
        : { trustedCIDRs: parsed.proxyProtocol.trustedCIDRs, listeners: parsed.proxyProtocol.listeners },
    ...(typeof parsed.documents === 'string'
      ? {}
      : {
          kubernetes: readKubernetesSettings(
            parsed.documents,
            parsed.workload.namespace,
            (path) => resolve(base, path),
            process.env,
          ),
        }),
  };
  return Object.freeze({
    file,
    trustDomain: parsed.trustDomain,
    workload: parsed.workload,
    identity: absolute(parsed.identity, base),
    inbound: [],
    outbound: [],
    upstreams: Object.fromEntries(
      Object.entries(upstreams).flatMap(([id, { endpoints, identity: who, hosts }]) =>
        who === undefined
          ? []
          : [[id, { endpoints, identity: who, hosts: [...hosts, ...serviceNames(id, parsed.backends)] }]],
      ),
    ),
    policies: typeof parsed.documents === 'string' ? resolve(base, parsed.documents) : undefined,
    admin: parsed.admin,
    health: parsed.health,
    accessLog: parsed.accessLog === 'stdout' ? 'stdout' : resolve(base, parsed.accessLog),
    // A gateway has no inbound ports, and reads no document of security.istio.io: these settings of a sidecar decide
    // nothing here.
    defaultAction: 'deny',
    defaultMtls: 'STRICT',
    gateways: [],
    federatedBundles: Object.freeze(
      Object.fromEntries(Object.entries(parsed.federatedBundles).map(([of, path]) => [of, resolve(base, path)])),
    ),
    rootNamespace: 'istio-system',
    extensionProviders: [],
    decisionHeader: parsed.decisionHeader,
    learn: undefined,
    trustDomainAliases: [],
    pathNormalization: parsed.pathNormalization.normalization,
    numTrustedProxies: parsed.gatewayTopology?.numTrustedProxies,
    tls: Object.freeze({ minVersion: versionOf(tls.minVersion), groups: tls.groups }),
    limits: readLimits({ ...limits, slowBytesPerSecond: limits.slowBytesPerSecond ?? defaultSlowBytesPerSecond }),
    gateway,
  });
}

/** A DestinationRule's names for an upstream: those of its Services. */
function serviceNames(upstreamName: string, backends: Readonly<Record<string, string>>): string[] {
  const services = Object.entries(backends).flatMap(([key, of]) =>
    of === upstreamName ? [/^([^/]+)\/([^:]+):/.exec(key)!] : [],
  );
  return [...new Set(services.map(([, namespace, service]) => `${service}.${namespace}.svc.cluster.local`))];
}

function versionOf(text: '1.2' | '1.3'): TlsVersion {
  return text === '1.2' ? 'TLSv1.2' : 'TLSv1.3';
}
