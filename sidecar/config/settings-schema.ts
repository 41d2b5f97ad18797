// Parts of the schemas that sidecar.yaml and gateway.yaml share, and how they are read.

import { resolve } from 'node:path';
import { z } from 'zod';
import { type Address, parseAddress } from '../../cert-agent/base/address.ts';
import { descriptorLimit } from '../../cert-agent/base/descriptors.ts';
import { reasonOf } from '../../cert-agent/base/errors.ts';
import { durationSchema } from '../../cert-agent/base/yaml.ts';
import { parseSpiffeId, parseTrustDomain } from '../../cert-agent/identity/spiffe-id.ts';
import type { Limits } from '../exchange/limits.ts';
import { tlsGroups } from '../protocol/tls.ts';
import type { IdentitySettings } from './settings.ts';

/** A port; 0 lets the system choose one. */
export const port = z.number().int().min(0).max(65_535);

/** A string that `read` turns into a value; the text of its error becomes the problem. */
export function text<T>(read: (value: string) => T): z.ZodType<T> {
  return z.string().transform((value, context) => {
    try {
      return read(value);
    } catch (error) {
      context.addIssue({ code: 'custom', message: reasonOf(error) });
      return z.NEVER;
    }
  }) as unknown as z.ZodType<T>;
}

/** An address, or a port alone on `defaultHost`. */
export const addressOrPort = (defaultHost: string): z.ZodType<Address> =>
  z.union(
    [
      port.transform((number): Address => ({ host: defaultHost, port: number })),
      text((value) => parseAddress(value, defaultHost)),
    ],
    'expected a port, 1 to 65535, or an address with one: 127.0.0.1:15000',
  ) as unknown as z.ZodType<Address>;

const filesIdentity = z
  .strictObject({
    svid: z.string().meta({ description: 'PEM file with the SVID and its chain.', example: 'run/web/svid.pem' }),
    key: z.string().meta({ description: 'PEM file with the private key of the SVID.', example: 'run/web/svid.key' }),
    bundle: z
      .string()
      .meta({ description: 'PEM file with the roots of the trust domain.', example: 'run/web/bundle.pem' }),
    denied: z.string().optional().meta({
      description: 'File with the deny list that an agent keeps: identities and serial numbers that are refused.',
      example: 'run/web/denied.json',
    }),
  })
  .describe('Files that another program keeps up to date, such as `sallyport agent`. Changed files are read again.');

const caIdentity = z
  .strictObject({
    url: z
      .url({ protocol: /^https$/, error: 'expected an https:// URL' })
      .meta({ description: 'URL of the CA.', example: 'https://127.0.0.1:15012' }),
    bundle: z
      .string()
      .meta({ description: 'PEM file with the roots that the CA itself is verified by.', example: 'ca/bundle.pem' }),
    tokenFile: z.string().optional().meta({
      description: 'File with a join token (`sallyport ca token create`), which proves the workload once.',
      example: 'web.token',
    }),
    kubernetesTokenFile: z.string().optional().meta({
      description: 'File with a projected service-account token, in place of a join token.',
      example: '/var/run/secrets/sallyport/token',
    }),
    outDir: z.string().meta({
      description: 'Directory for key, certificate and bundle. It outlives the process: renewals start from it.',
      example: 'run/web',
    }),
    ttl: durationSchema
      .optional()
      .meta({ description: 'Lifetime to ask for. By default the CA decides.', example: '30m' }),
  })
  .describe('The CA issues the certificate, and this process renews it.');

/** `identity`: exactly one source. `agent`, the SPIFFE Workload API, is refused with a message of its own. */
export const identity = z
  .strictObject({
    files: filesIdentity.optional(),
    ca: caIdentity.optional(),
    agent: z.string().optional().meta({ description: 'Refused: the SPIFFE Workload API is not built.', refused: true }),
  })
  .superRefine((value, context) => {
    if (value.agent !== undefined) {
      context.addIssue({
        code: 'custom',
        path: ['agent'],
        message: "this needs the SPIFFE Workload API, which this build does not have yet: use 'files:' or 'ca:'",
      });
    } else if ((value.files === undefined) === (value.ca === undefined)) {
      context.addIssue({ code: 'custom', message: "needs exactly one of 'files:' and 'ca:'" });
    }
  })
  .describe('Where our own certificate comes from: exactly one of `files` and `ca`.');

/** `limits`, with their bounds. */
export const limitsSchema = z
  .strictObject({
    // Envoy's max_request_headers_kb, 60, and its max_headers_count, 100.
    headBytes: z
      .number()
      .int()
      .min(1024)
      .max(1_048_576)
      .default(60 * 1024)
      .meta({ description: 'A head, each way. More is 431, or 502 when it was the app.', unit: 'bytes' }),
    headFields: z
      .number()
      .int()
      .min(10)
      .max(1000)
      .default(100)
      .describe('Fields of a head, each way. More is 431, or 502 when it was the app.'),
    urlBytes: z.number().int().min(256).max(1_048_576).optional().meta({
      description: "A request's target, at a gateway. More is 414. There is no limit by default.",
      unit: 'bytes',
      example: 8192,
    }),
    bodyBytes: z.number().int().min(0).optional().meta({
      description: "A request's body, at a gateway. More is 413. There is no limit by default.",
      unit: 'bytes',
      example: 10_485_760,
    }),
    // Kestrel's 240 at a gateway (see gateway-settings.ts): strangers come there, and to a sidecar only peers and the
    // app.
    slowBytesPerSecond: z.number().int().min(0).optional().meta({
      description:
        'The slowest pace of a body, either way. Slower is 408, or a reset. 0 is no limit; the default is 240 at a gateway and 0 at a sidecar.',
      unit: 'bytes per second',
      example: 240,
    }),
    handshake: durationSchema
      .prefault('10s')
      .describe(
        'Time for a TLS handshake, for a PROXY preface, and for a silent client on a PERMISSIVE port. At a reload, open TLS ports keep the old time for the handshake itself.',
      ),
    // Istio's protocolDetectionTimeout was 5 s: a protocol whose server speaks first would wait as long.
    protocolDetection: durationSchema
      .prefault('1s')
      .describe('On a PERMISSIVE `tcp` port, the wait for a first byte. After it the client speaks plaintext.'),
    head: durationSchema.prefault('10s').describe('Time for a whole head to arrive. More is 408.'),
    // Envoy's connect_timeout and stream_idle_timeout.
    connect: durationSchema.prefault('5s').describe('Time for a connection to an upstream. More is 503, flag UF.'),
    streamIdle: durationSchema.prefault('5m').describe('An exchange without a byte either way. More is 504, flag SI.'),
    streamStall: durationSchema
      .prefault('1m')
      .describe(
        'A request or response of which bytes wait and none is taken; four times as long towards a peer. More is a reset, or 504, flag SI.',
      ),
    clientIdle: durationSchema.prefault('5m').describe('A connection between requests.'),
    // Envoy's idle_timeout of its TCP proxy.
    tcpIdle: durationSchema.prefault('1h').describe('A TCP stream, a WebSocket or a tunnel without a byte.'),
    connections: z.number().int().min(1).optional().meta({
      description:
        'Connections, those in a handshake included, of all workers together. The default is 80 % of the descriptor limit, or 8192 without one.',
      example: 8192,
    }),
    streams: z
      .number()
      .int()
      .min(1)
      .max(10_000)
      .default(250)
      .describe('Requests in flight on one HTTP/2 connection. More are reset with REFUSED_STREAM.'),
    // Envoy's max_pending_requests.
    pendingRequests: z
      .number()
      .int()
      .min(1)
      .default(1024)
      .describe('Requests that wait for a connection to one upstream, of all workers together. More are 503, flag UO.'),
    heldBytes: z
      .number()
      .int()
      .min(1_048_576)
      .default(64 * 1_048_576)
      .meta({
        description:
          'Bytes that wait for slow readers, of all workers together. The reader that holds the most for the longest is cut (flag OM); where no reader is slow, new requests are 503.',
        unit: 'bytes',
      }),
    // Istio's terminationDrainDuration and MINIMUM_DRAIN_DURATION.
    drain: durationSchema
      .prefault('5s')
      .describe(
        "How long requests in flight may still take once `drainMinimum` is over, and the app's own connections.",
      ),
    drainMinimum: durationSchema
      .prefault('5s')
      .describe('How long all ports take new connections after SIGTERM, at least. SIGINT does not wait.'),
    drainWebSocket: durationSchema.optional().meta({
      description: 'How long WebSockets may last once they are told to close (1001). The default is `drain`.',
      example: '30s',
    }),
    drainTcp: durationSchema.optional().meta({
      description: 'How long TCP streams and tunnels may last in a drain. The default is `drain`.',
      example: '30s',
    }),
  })
  .prefault({})
  .describe('Limits of connections, requests and memory. The log line of what a limit stopped names it.');

/** The name of an upstream or provider. */
export const name = z.string().regex(/^[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?$/, 'a name holds a-z, 0-9, dots and dashes');

/**
 * One SPIFFE ID, or several of which a server must prove one: during a move, or beside a canary under another account.
 */
export const identities = z
  .union([z.string(), z.array(z.string()).min(1)], 'expected a SPIFFE ID, or a list of them')
  .transform((value, context): readonly string[] => {
    try {
      return [value].flat().map((one) => parseSpiffeId(one).uri);
    } catch (error) {
      context.addIssue({ code: 'custom', message: reasonOf(error) });
      return z.NEVER;
    }
  })
  .meta({
    description: 'The SPIFFE ID that the server must prove, or several of which it must prove one.',
    example: 'spiffe://demo.test/ns/shop/sa/orders',
  });

/** `tls`. */
export const tlsSchema = z
  .strictObject({
    // For hops of the mesh. Istio begins at 1.2.
    minVersion: z.enum(['1.2', '1.3']).default('1.3').describe('The lowest version of TLS on hops of the mesh.'),
    groups: z
      .array(z.enum(tlsGroups))
      .min(1)
      .default([...tlsGroups])
      .describe('The key-exchange groups that are allowed, the preferred ones first.'),
  })
  .prefault({})
  .describe('TLS on hops of the mesh.');

/** `gatewayTopology`, Istio's name for it. */
// Absent: no client address is taken from `x-forwarded-for`. In Istio's sidecars any peer's last entry counts.
export const topologySchema = z
  .strictObject({
    numTrustedProxies: z.number().int().min(0).max(64).meta({
      description:
        'How many proxies in front are trusted. With N, the client is the Nth entry from the end of `x-forwarded-for` at a gateway, and the one before it at a sidecar.',
      example: 1,
    }),
  })
  .optional()
  .describe('The proxies in front. Without it no client address is taken from `x-forwarded-for`.');

/** `trustDomain`. */
export const trustDomainSchema = text(parseTrustDomain).meta({
  description: 'The trust domain of our identity.',
  example: 'demo.test',
});

/** `workload`. */
export const workloadSchema = z
  .strictObject({
    namespace: z.string().min(1).default('default').describe('Our namespace. Policies of it apply to us.'),
    serviceAccount: z.string().min(1).meta({ description: 'Our service account.', example: 'orders' }),
    labels: z
      .record(z.string(), z.string())
      .default({})
      .meta({
        description: "Our labels, which a policy's `selector` matches.",
        example: { app: 'orders' },
      }),
  })
  .describe('What we are. The SPIFFE ID is `/ns/NAMESPACE/sa/ACCOUNT` of the trust domain.');

/** The `endpoints` of an upstream. */
export const endpointsSchema = z
  .array(text((value) => parseAddress(value, '127.0.0.1')))
  .min(1)
  .meta({
    description: 'The addresses that requests are balanced over. Names are resolved again and again.',
    example: ['10.0.0.7:15006', 'orders.internal:15006'],
  });

/** The `hosts` of an upstream. */
export const hostsSchema = z
  .array(z.string().min(1))
  .default([])
  .meta({ description: 'Other hosts that mean this upstream, besides its name.', example: ['orders.shop'] });

/** `admin`. */
export const adminSchema = addressOrPort('127.0.0.1').optional().meta({
  description: 'Port, or address with a port, of the admin pages: loopback only. Without it there are none.',
  example: 15_000,
});

/** `health`. */
export const healthSchema = addressOrPort('').optional().meta({
  description: 'Port, or address with a port, for probes and Prometheus. A port alone is on all addresses.',
  example: 15_021,
});

/** `accessLog`. */
export const accessLogSchema = z.string().default('stdout').meta({
  description: '`stdout`, or the file for one JSON line per request. It is reopened on SIGUSR1 and SIGHUP.',
  example: 'access.log',
});

/** `federatedBundles`. */
export const federatedBundlesSchema = z
  .record(text(parseTrustDomain), z.string().min(1))
  .default({})
  .meta({
    description: 'PEM files with the roots of other trust domains, by trust domain.',
    example: { 'partner.test': 'partner-bundle.pem' },
  });

/** `decisionHeader`. */
export const decisionHeaderSchema = z
  .boolean()
  .default(false)
  .describe("Adds the decision's id to responses: `x-sallyport-decision`.");

/** What `pathNormalization` is for. */
export const pathText = 'How paths are put into one spelling, for policies and for what is forwarded.';
/** What `pathNormalization.normalization` chooses. */
export const normalizationText =
  '`NONE` leaves paths as sent. `BASE` and `DEFAULT` are RFC 3986 normalization. The others merge slashes, and the last one decodes `%2F` and `%5C` first.';

/** The trust domains of `identities` without a bundle: their members can prove nothing. */
export function withoutBundle(
  identities: readonly string[],
  { trustDomain, federatedBundles }: { readonly trustDomain: string; readonly federatedBundles: object },
): ReadonlySet<string> {
  const domains = identities.map((uri) => parseSpiffeId(uri).trustDomain);
  return new Set(domains.filter((one) => one !== trustDomain && !Object.hasOwn(federatedBundles, one)));
}

/** The problem of a trust domain without a bundle. */
export function bundleMissing(trustDomain: string): string {
  return `there is no bundle for ${trustDomain}: name its file under 'federatedBundles'`;
}

/** Limits, by the names that the path uses. */
export function readLimits(limits: z.output<typeof limitsSchema>): Limits {
  return Object.freeze({
    headBytes: limits.headBytes,
    headFields: limits.headFields,
    urlBytes: limits.urlBytes ?? Number.POSITIVE_INFINITY,
    bodyBytes: limits.bodyBytes ?? Number.POSITIVE_INFINITY,
    slowBytesPerSecond: limits.slowBytesPerSecond ?? 0,
    handshakeMs: limits.handshake,
    protocolDetectionMs: limits.protocolDetection,
    headMs: limits.head,
    connectMs: limits.connect,
    streamIdleMs: limits.streamIdle,
    streamStallMs: limits.streamStall,
    clientIdleMs: limits.clientIdle,
    tcpIdleMs: limits.tcpIdle,
    connections: limits.connections ?? defaultConnections(),
    descriptors: descriptorLimit(),
    streams: limits.streams,
    pendingRequests: limits.pendingRequests,
    heldBytes: limits.heldBytes,
    drainMs: limits.drain,
    drainMinimumMs: limits.drainMinimum,
    drainWebSocketMs: limits.drainWebSocket ?? limits.drain,
    drainTcpMs: limits.drainTcp ?? limits.drain,
  });
}

/** The identity's source with absolute paths. */
export function absolute(who: IdentitySettings, base: string): IdentitySettings {
  if (who.files !== undefined) {
    const { svid, key, bundle, denied } = who.files;
    return {
      files: {
        svid: resolve(base, svid),
        key: resolve(base, key),
        bundle: resolve(base, bundle),
        ...(denied === undefined ? {} : { denied: resolve(base, denied) }),
      },
    };
  }
  if (who.ca === undefined) return who;
  const { bundle, tokenFile, kubernetesTokenFile, outDir } = who.ca;
  return {
    ca: {
      ...who.ca,
      bundle: resolve(base, bundle),
      outDir: resolve(base, outDir),
      ...(tokenFile === undefined ? {} : { tokenFile: resolve(base, tokenFile) }),
      ...(kubernetesTokenFile === undefined ? {} : { kubernetesTokenFile: resolve(base, kubernetesTokenFile) }),
    },
  };
}

/** 80 % of the descriptor limit: the rest is for files, upstreams and the admin port. */
function defaultConnections(): number {
  const limit = descriptorLimit();
  return Number.isFinite(limit) ? Math.max(1, Math.floor(limit * 0.8)) : 8192;
}
