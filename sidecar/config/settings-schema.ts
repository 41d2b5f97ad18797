// Parts of the schemas that sidecar.yaml and gateway.yaml share, and how they are read.

import { resolve } from 'node:path';
import { z } from 'zod';
import { type Address, parseAddress } from '../../cert-agent/base/address.ts';
import { descriptorLimit } from '../../cert-agent/base/descriptors.ts';
import { reasonOf } from '../../cert-agent/base/errors.ts';
import { durationSchema } from '../../cert-agent/base/yaml.ts';
import { parseSpiffeId } from '../../cert-agent/identity/spiffe-id.ts';
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

const filesIdentity = z.strictObject({
  svid: z.string(),
  key: z.string(),
  bundle: z.string(),
  denied: z.string().optional(),
});

const caIdentity = z.strictObject({
  url: z.url({ protocol: /^https$/, error: 'expected an https:// URL' }),
  bundle: z.string(),
  tokenFile: z.string().optional(),
  kubernetesTokenFile: z.string().optional(),
  outDir: z.string(),
  ttl: durationSchema.optional(),
});

/** `identity`: exactly one source. `agent`, the SPIFFE Workload API, is refused with a message of its own. */
export const identity = z
  .strictObject({ files: filesIdentity.optional(), ca: caIdentity.optional(), agent: z.string().optional() })
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
  });

/** `limits`, with their bounds. */
export const limitsSchema = z
  .strictObject({
    // Envoy's max_request_headers_kb, 60, and its max_headers_count, 100.
    headBytes: z
      .number()
      .int()
      .min(1024)
      .max(1_048_576)
      .default(60 * 1024),
    headFields: z.number().int().min(10).max(1000).default(100),
    urlBytes: z.number().int().min(256).max(1_048_576).optional(),
    bodyBytes: z.number().int().min(0).optional(),
    // Kestrel's 240 at a gateway (see gateway-settings.ts): strangers come there, and to a sidecar only peers and the
    // app.
    slowBytesPerSecond: z.number().int().min(0).optional(),
    handshake: durationSchema.prefault('10s'),
    // Istio's protocolDetectionTimeout was 5 s: a protocol whose server speaks first would wait as long.
    protocolDetection: durationSchema.prefault('1s'),
    head: durationSchema.prefault('10s'),
    // Envoy's connect_timeout and stream_idle_timeout.
    connect: durationSchema.prefault('5s'),
    streamIdle: durationSchema.prefault('5m'),
    streamStall: durationSchema.prefault('1m'),
    clientIdle: durationSchema.prefault('5m'),
    // Envoy's idle_timeout of its TCP proxy.
    tcpIdle: durationSchema.prefault('1h'),
    connections: z.number().int().min(1).optional(),
    streams: z.number().int().min(1).max(10_000).default(250),
    // Envoy's max_pending_requests.
    pendingRequests: z.number().int().min(1).default(1024),
    heldBytes: z
      .number()
      .int()
      .min(1_048_576)
      .default(64 * 1_048_576),
    // Istio's terminationDrainDuration and MINIMUM_DRAIN_DURATION.
    drain: durationSchema.prefault('5s'),
    drainMinimum: durationSchema.prefault('5s'),
    drainWebSocket: durationSchema.optional(),
    drainTcp: durationSchema.optional(),
  })
  .prefault({});

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
  });

/** `tls`. */
export const tlsSchema = z
  .strictObject({
    // For hops of the mesh. Istio begins at 1.2.
    minVersion: z.enum(['1.2', '1.3']).default('1.3'),
    groups: z
      .array(z.enum(tlsGroups))
      .min(1)
      .default([...tlsGroups]),
  })
  .prefault({});

/** `gatewayTopology`, Istio's name for it. */
// Absent: no client address is taken from `x-forwarded-for`. In Istio's sidecars any peer's last entry counts.
export const topologySchema = z.strictObject({ numTrustedProxies: z.number().int().min(0).max(64) }).optional();

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
