// The schema of DestinationRule. It applies to outbound traffic, so only its `tls` could weaken security: only mutual
// TLS with the upstream's required identity is accepted. Fields that are not supported are errors with their positions.

import { z } from 'zod';
import type { Problem } from '../../../cert-agent/base/errors.ts';
import { durationSchema, readDocument, type YamlDocument } from '../../../cert-agent/base/yaml.ts';
import type { HashSource } from '../../exchange/upstream.ts';
import { normalizeHostPattern } from '../../policy/host.ts';
import type { DestinationRule } from '../../upstream/destination-rule.ts';
import type { BalancePlan, ConnectionPlan, OutlierPlan, TrafficPlan } from '../../upstream/traffic.ts';
import { enforcedMetadata } from './patterns.ts';

/** A field of Istio that this build does not support. */
const refused = (why: string) =>
  z
    .undefined({ error: why })
    .optional()
    .meta({ description: `Refused: ${why}.`, refused: true });

const positive = durationSchema.refine((ms) => ms >= 1, 'at least 1ms');
// Istio's fields are int32.
const count = z
  .number()
  .int()
  .min(0)
  .max(2 ** 31 - 1);
const percent = z.number().min(0, 'a percentage is 0 to 100').max(100, 'a percentage is 0 to 100');

const isPrime = (value: number): boolean => {
  for (let i = 2; i * i <= value; i++) if (value % i === 0) return false;
  return value > 1;
};

/** A ring is rebuilt, while requests wait, whenever an address is added or removed. */
const ringSize = z
  .number()
  .int()
  .min(1)
  .max(65_536, 'at most 65536 in this build: requests wait while a ring is built');

const consistentHash = z
  .strictObject({
    httpHeaderName: z.string().min(1).optional().describe('Hashes the value of this header.'),
    httpCookie: z
      .strictObject({
        name: z
          .string()
          .regex(/^[^\s;=,"]+$/, 'not a valid cookie name')
          .describe('The name of the cookie.'),
        path: cookiePath().describe('The path of a cookie that is made here.'),
        ttl: durationSchema
          .optional()
          .describe('Makes the cookie for clients without one. It lasts this long; with 0s, until the browser ends.'),
      })
      .optional()
      .describe('Hashes the value of a cookie.'),
    useSourceIp: z.boolean().optional().describe('Hashes the address of the client.'),
    httpQueryParameterName: z.string().min(1).optional().describe('Hashes the value of this query parameter.'),
    // The default is Istio's, the bounds are ours.
    ringHash: z
      .strictObject({ minimumRingSize: ringSize.default(1024).describe('The smallest number of points on the ring.') })
      .optional()
      .describe('Chooses on a ring of points.'),
    // The default is Istio's. Its table may be larger: a prime below 5000011.
    maglev: z
      .strictObject({
        tableSize: z
          .number()
          .int()
          .max(655_373, 'at most 655373 in this build: requests wait while a table is filled')
          .refine(isPrime, "Maglev's table has a prime for its size")
          .default(65_537)
          .describe('The size of the table, a prime.'),
      })
      .optional()
      .describe('Chooses by a table.'),
    // Istio's former name for `ringHash.minimumRingSize`.
    minimumRingSize: ringSize.optional().describe('The former name of `ringHash.minimumRingSize`.'),
  })
  .superRefine((value, context) => {
    const { httpHeaderName, httpCookie, useSourceIp, httpQueryParameterName, ringHash, maglev, minimumRingSize } =
      value;
    const keys = [httpHeaderName, httpCookie, useSourceIp === true ? true : undefined, httpQueryParameterName];
    if (keys.filter((one) => one !== undefined).length !== 1)
      context.addIssue({
        code: 'custom',
        message: "needs exactly one of 'httpHeaderName', 'httpCookie', 'useSourceIp' and 'httpQueryParameterName'",
      });
    if ([ringHash, maglev, minimumRingSize].filter((one) => one !== undefined).length > 1)
      context.addIssue({ code: 'custom', message: "only one of 'ringHash' and 'maglev' can be set" });
  });

function cookiePath() {
  return z
    .string()
    .regex(/^[^\s;]*$/, 'not a valid cookie path')
    .optional();
}

// LEAST_CONN is Istio's former name for LEAST_REQUEST. UNSPECIFIED, by which Istio chooses, is LEAST_REQUEST here.
const simple = ['UNSPECIFIED', 'LEAST_CONN', 'RANDOM', 'PASSTHROUGH', 'ROUND_ROBIN', 'LEAST_REQUEST'] as const;

const loadBalancer = z
  .strictObject({
    simple: z
      .enum(simple)
      .refine((one) => one !== 'PASSTHROUGH', 'PASSTHROUGH is not supported: an upstream has its own endpoints')
      .optional()
      .describe('How an endpoint is chosen. LEAST_CONN and UNSPECIFIED mean LEAST_REQUEST; PASSTHROUGH is refused.'),
    consistentHash: consistentHash
      .optional()
      .describe('Requests with the same value go to the same endpoint. Exactly one source of the value is needed.'),
    localityLbSetting: refused("'localityLbSetting' is not supported by this build: endpoints have no locality"),
    warmupDurationSecs: refused("'warmupDurationSecs' is not supported by this build"),
    warmup: refused("'warmup' is not supported by this build"),
  })
  .refine(
    (value) => value.simple === undefined || value.consistentHash === undefined,
    "only one of 'simple' and 'consistentHash' can be set",
  );

const connectionPool = z.strictObject({
  tcp: z
    .strictObject({
      maxConnections: count
        .optional()
        .describe("The most connections to the upstream. 0: only the process's own limit."),
      connectTimeout: positive
        .optional()
        .describe('How long connecting may take, with TLS. Default: `limits.connect`.'),
      tcpKeepalive: z
        .strictObject({
          probes: count.optional().describe('Lost probes after which the connection is closed.'),
          time: positive.optional().describe('Idle time before the first probe.'),
          interval: positive.optional().describe('Time between two probes.'),
        })
        .optional()
        .describe('Probes on idle connections.'),
      maxConnectionDuration: positive.optional().describe('Age after which a connection gets no further requests.'),
      idleTimeout: durationSchema.optional().describe('Idle time after which a stream of TCP is closed. 0s: never.'),
    })
    .optional()
    .describe('Limits of connections.'),
  http: z
    .strictObject({
      http1MaxPendingRequests: count
        .optional()
        .describe(
          "The most requests that wait for a connection, with any version of HTTP. 0: only the process's own limit.",
        ),
      http2MaxRequests: count
        .optional()
        .describe('The most requests in flight, with any version of HTTP. 0: no limit.'),
      maxRequestsPerConnection: count
        .optional()
        .describe('Requests after which a connection is replaced. 0: no limit.'),
      maxRetries: count
        .optional()
        .describe('The most retries in flight. 0: a fifth of the requests in flight, at least three.'),
      idleTimeout: positive.optional().describe('Idle time after which a connection is closed.'),
      // UPGRADE and DEFAULT change nothing: HTTP/2 is used where both ends support it.
      h2UpgradePolicy: z
        .enum(['DEFAULT', 'DO_NOT_UPGRADE', 'UPGRADE'])
        .optional()
        .describe('DO_NOT_UPGRADE: HTTP/1.1 only. Else HTTP/2 where both ends support it.'),
      useClientProtocol: z
        .literal(
          false,
          "'useClientProtocol' is not supported by this build: each hop uses what both of its ends support",
        )
        .optional()
        .describe('Only `false` is served: each hop uses what both of its ends support.'),
      maxConcurrentStreams: count
        .optional()
        .describe('The most requests in flight on one connection of HTTP/2. 0: what the upstream allows.'),
    })
    .optional()
    .describe('Limits of requests.'),
});

// Istio's defaults. `minHealthPercent: 0` means that unusable endpoints are never used, however few are left.
const outlierDetection = z.strictObject({
  consecutiveErrors: refused("'consecutiveErrors' was removed: use 'consecutiveGatewayErrors'"),
  splitExternalLocalOriginErrors: z
    .boolean()
    .default(false)
    .describe('Counts failures to connect or to get a response separately from responses with an error.'),
  consecutiveLocalOriginFailures: count
    .default(5)
    .describe('Ejects an endpoint after that many such failures in a row, if they are counted separately. 0: never.'),
  consecutiveGatewayErrors: count
    .default(0)
    .describe('Ejects an endpoint after that many responses 502, 503 or 504 in a row. 0: never.'),
  consecutive5xxErrors: count
    .default(5)
    .describe('Ejects an endpoint after that many responses 5xx in a row. 0: never.'),
  interval: positive.prefault('10s').describe('How often endpoints whose ejection is over are put back.'),
  baseEjectionTime: positive
    .prefault('30s')
    .describe('How long an ejection lasts, times the number of ejections so far, up to five minutes.'),
  maxEjectionPercent: percent
    .int()
    .default(10)
    .describe('The largest share of endpoints that may be ejected. One may always be.'),
  minHealthPercent: percent
    .int()
    .default(0)
    .describe('Uses all endpoints if a smaller share than this can be used. 0: unusable ones are never used.'),
});

const tlsWhy = 'an upstream is reached by mutual TLS and must prove its identity: only ISTIO_MUTUAL is supported';
// Istio's rule, too: with ISTIO_MUTUAL all other fields stay empty.
const ownTls = refused('with ISTIO_MUTUAL, Sallyport sets certificates and names: omit it');
const tls = z.strictObject({
  // Required: a `tls` without a mode means DISABLE in Istio.
  mode: z.literal('ISTIO_MUTUAL', tlsWhy).describe('Only ISTIO_MUTUAL is served: the upstream proves its identity.'),
  clientCertificate: ownTls,
  privateKey: ownTls,
  caCertificates: ownTls,
  credentialName: ownTls,
  subjectAltNames: ownTls,
  sni: ownTls,
  insecureSkipVerify: ownTls,
  caCrl: ownTls,
});

const settings = {
  loadBalancer: loadBalancer
    .optional()
    .describe('How an endpoint is chosen. Default: of two at random, the one with fewer requests in flight.'),
  connectionPool: connectionPool.optional().describe('Limits of connections and requests.'),
  outlierDetection: outlierDetection
    .optional()
    .describe('When an endpoint is left out because of its responses. Without it: never.'),
  tls: tls.optional().describe('The TLS of connections, which can only be confirmed here.'),
};

const portLevel = z
  .array(
    z.strictObject({
      port: z
        .strictObject({ number: z.number().int().min(1).max(65_535).describe('The number of the port.') })
        .describe('The port that the settings are for.'),
      ...settings,
    }),
  )
  .max(4096)
  .superRefine((list, context) => {
    for (const [index, { port }] of list.entries())
      if (list.findIndex((one) => one.port?.number === port?.number) !== index)
        context.addIssue({ code: 'custom', path: [index, 'port'], message: `port ${port.number} is listed twice` });
  });

const trafficPolicy = z.strictObject({
  ...settings,
  portLevelSettings: portLevel
    .default([])
    .describe('Settings of single ports. They replace those of the upstream as a whole.'),
  tunnel: refused("'tunnel' is not supported by this build"),
  proxyProtocol: refused("'proxyProtocol' is not supported by this build"),
});

const label = '[a-z0-9_](?:[-a-z0-9_]*[a-z0-9_])?';
const hostPattern = new RegExp(`^(?:\\*|(?:\\*\\.)?${label}(?:\\.${label})*)$`, 'i');

const spec = z.strictObject({
  host: z
    .string()
    .regex(hostPattern, "a host must be a name, '*', or '*.' and a suffix")
    .describe('The host of an upstream in sidecar.yaml or gateway.yaml: a name, `*.` and a suffix, or `*`.'),
  trafficPolicy: trafficPolicy.prefault({}).describe('The settings of the connections.'),
  subsets: z
    .array(z.unknown())
    .max(0, 'subsets are not supported by this build: no route selects one')
    .default([])
    .describe('Must be empty: no route selects a subset.'),
  exportTo: z
    .array(z.string().regex(/^(?:[.*]|[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)$/, "must be a namespace, '.' or '*'"))
    .default([])
    .describe('Namespaces of the callers that the document is for; `.` is its own. Empty: all.'),
  workloadSelector: refused("'workloadSelector' is not supported by this build: the file is beside its workload"),
});

/** The schema of the document. */
export const destinationRule = z.strictObject({
  // The fields are the same in all three.
  apiVersion: z
    .enum(['networking.istio.io/v1', 'networking.istio.io/v1beta1', 'networking.istio.io/v1alpha3'])
    .describe('The API version of the document.'),
  kind: z.literal('DestinationRule').describe('The kind of the document.'),
  metadata: enforcedMetadata,
  spec: spec.describe('An upstream, and how it is called.'),
  status: z.unknown().optional().describe('The state that a cluster reports. It is not read.'),
});

/** The document's value, frozen, or all problems. */
export function readDestinationRule(
  document: YamlDocument,
  file: string,
): { value: DestinationRule } | { problems: Problem[] } {
  const read = readDocument(destinationRule, document);
  if ('problems' in read) return read;
  const { metadata: meta, spec: parsed } = read.value;
  const { portLevelSettings, ...all } = parsed.trafficPolicy;
  const value: DestinationRule = {
    name: meta.name,
    namespace: meta.namespace,
    createdAt: meta.creationTimestamp == null ? 0 : Date.parse(meta.creationTimestamp),
    host: normalizeHostPattern(parsed.host),
    exportTo: parsed.exportTo,
    traffic: planOf(all),
    ports: portLevelSettings.map(({ port, ...rest }) => Object.freeze({ port: port.number, traffic: planOf(rest) })),
    file,
    line: document.problemAt(['metadata', 'name'], '').line,
  };
  return { value: Object.freeze(value) };
}

type Spec = Omit<z.output<typeof trafficPolicy>, 'portLevelSettings'>;

function planOf({ loadBalancer: balance, connectionPool: pool, outlierDetection: outlier }: Spec): TrafficPlan {
  return Object.freeze({
    ...(balance === undefined ? {} : { balance: balanceOf(balance) }),
    ...(pool === undefined ? {} : { connections: connectionsOf(pool) }),
    ...(outlier === undefined ? {} : { outlier: outlierOf(outlier), panicPercent: outlier.minHealthPercent }),
  });
}

function balanceOf({ simple: by, consistentHash: hash }: z.output<typeof loadBalancer>): BalancePlan {
  if (hash !== undefined) {
    const source = sourceOf(hash);
    if (hash.maglev !== undefined) return { by: 'maglev', hash: source, size: hash.maglev.tableSize };
    return { by: 'ringHash', hash: source, size: hash.ringHash?.minimumRingSize ?? hash.minimumRingSize ?? 1024 };
  }
  if (by === 'ROUND_ROBIN') return { by: 'roundRobin' };
  return { by: by === 'RANDOM' ? 'random' : 'leastRequest' };
}

function sourceOf(hash: z.output<typeof consistentHash>): HashSource {
  const { httpHeaderName, httpCookie, httpQueryParameterName } = hash;
  if (httpHeaderName !== undefined) return { headers: [httpHeaderName.toLowerCase()] };
  if (httpCookie !== undefined) return { cookie: httpCookie.name, path: httpCookie.path, ttlMs: httpCookie.ttl };
  return httpQueryParameterName === undefined ? { sourceIp: true } : { query: httpQueryParameterName };
}

/** In Istio, zero means unset, except for an idle timeout, which it disables. */
function connectionsOf({ tcp = {}, http = {} }: z.output<typeof connectionPool>): ConnectionPlan {
  const { tcpKeepalive: keep } = tcp;
  const limits: Record<string, number | boolean | object | undefined> = {
    maxConnections: tcp.maxConnections || undefined,
    maxPending: http.http1MaxPendingRequests || undefined,
    maxRequests: http.http2MaxRequests || undefined,
    maxRequestsPerConnection: http.maxRequestsPerConnection || undefined,
    maxStreamsPerConnection: http.maxConcurrentStreams || undefined,
    maxRetries: http.maxRetries || undefined,
    connectMs: tcp.connectTimeout,
    idleMs: http.idleTimeout,
    tcpIdleMs: tcp.idleTimeout,
    maxConnectionMs: tcp.maxConnectionDuration,
    keepAlive: keep && withoutUndefined({ timeMs: keep.time, intervalMs: keep.interval, probes: keep.probes }),
    http2: http.h2UpgradePolicy === 'DO_NOT_UPGRADE' ? false : undefined,
  };
  return withoutUndefined(limits);
}

function withoutUndefined<T extends object>(value: Record<string, unknown>): T {
  return Object.freeze(Object.fromEntries(Object.entries(value).filter(([, one]) => one !== undefined))) as T;
}

function outlierOf(parsed: z.output<typeof outlierDetection>): OutlierPlan {
  return Object.freeze({
    consecutive5xx: parsed.consecutive5xxErrors,
    consecutiveGateway: parsed.consecutiveGatewayErrors,
    ...(parsed.splitExternalLocalOriginErrors ? { consecutiveLocal: parsed.consecutiveLocalOriginFailures } : {}),
    intervalMs: parsed.interval,
    baseEjectionMs: parsed.baseEjectionTime,
    maxEjectionPercent: parsed.maxEjectionPercent,
  });
}
