// sidecar.yaml: text becomes a complete, typed, frozen value, or every problem with its place. Limits that are not named
// have the defaults of the table below; each is named in the log line of what it stopped.

import { dirname, resolve } from 'node:path';
import { z } from 'zod';
import { type Address, isLoopback, parseAddress } from '../../cert-agent/base/address.ts';
import { descriptorLimit } from '../../cert-agent/base/descriptors.ts';
import { reasonOf } from '../../cert-agent/base/errors.ts';
import { durationSchema, readYaml } from '../../cert-agent/base/yaml.ts';
import { parseSpiffeId, parseTrustDomain } from '../../cert-agent/identity/spiffe-id.ts';
import type { Limits } from '../exchange/limits.ts';
import type { LearnSettings } from '../observe/learned.ts';
import { normalizeHostPattern } from '../policy/host.ts';
import { type PathNormalization, pathNormalizations } from '../policy/path.ts';
import type { Workload } from '../policy/policy.ts';
import { type TlsSettings, tlsGroups } from '../protocol/tls.ts';
import type { AppCheck } from '../upstream/probe.ts';
import { appHealth, checkAppHealth, healthPath, readAppHealth } from './app-health.ts';
import { checkProviders, extensionProvider, type ProviderSettings, readProvider } from './extension-providers.ts';
import type { GatewaySettings } from './gateway-settings.ts';

/** What an app speaks: HTTP/1.1, HTTP/2 by prior knowledge (gRPC is that), or bytes. */
const protocols = ['http', 'http2', 'grpc', 'tcp'] as const;

export const port = z.number().int().min(0).max(65_535);

/** A string that `read` turns into a value; what it throws becomes the problem's sentence. */
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

const loopbackAddress = text((value) => parseAddress(value, '127.0.0.1'));
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
  outDir: z.string(),
  ttl: durationSchema.optional(),
});

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

export const limitsSchema = z
  .strictObject({
    headBytes: z
      .number()
      .int()
      .min(1024)
      .max(1_048_576)
      .default(60 * 1024),
    headFields: z.number().int().min(10).max(1000).default(100),
    urlBytes: z.number().int().min(256).max(1_048_576).optional(),
    bodyBytes: z.number().int().min(0).optional(),
    slowBytesPerSecond: z.number().int().min(0).optional(),
    handshake: durationSchema.prefault('10s'),
    protocolDetection: durationSchema.prefault('1s'),
    head: durationSchema.prefault('10s'),
    connect: durationSchema.prefault('5s'),
    streamIdle: durationSchema.prefault('5m'),
    streamStall: durationSchema.prefault('1m'),
    clientIdle: durationSchema.prefault('5m'),
    tcpIdle: durationSchema.prefault('1h'),
    connections: z.number().int().min(1).optional(),
    streams: z.number().int().min(1).max(10_000).default(250),
    pendingRequests: z.number().int().min(1).default(1024),
    heldBytes: z
      .number()
      .int()
      .min(1_048_576)
      .default(64 * 1_048_576),
    drain: durationSchema.prefault('5s'),
    drainMinimum: durationSchema.prefault('5s'),
    drainWebSocket: durationSchema.optional(),
    drainTcp: durationSchema.optional(),
  })
  .prefault({});

export const name = z.string().regex(/^[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?$/, 'a name holds a-z, 0-9, dots and dashes');

/** One SPIFFE ID, or several of which a server must prove one: while it moves, or beside a canary under another account. */
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

const upstream = z.strictObject({
  endpoints: z.array(text((value) => parseAddress(value, '127.0.0.1'))).min(1),
  identity: identities,
  /** What it speaks where ALPN does not say: a TLS terminator, Ghostunnel and stunnel negotiate nothing. */
  protocol: z.enum(['http', 'http2', 'grpc']).optional(),
  hosts: z.array(z.string().min(1)).default([]),
});

export const tlsSchema = z
  .strictObject({
    minVersion: z.enum(['1.2', '1.3']).default('1.3'),
    groups: z
      .array(z.enum(tlsGroups))
      .min(1)
      .default([...tlsGroups]),
  })
  .prefault({});

export const topologySchema = z.strictObject({ numTrustedProxies: z.number().int().min(0).max(64) }).optional();

/** sidecar.yaml as it is written. */
export const sidecarYaml = z
  .strictObject({
    trustDomain: text(parseTrustDomain),
    workload: z.strictObject({
      namespace: z.string().min(1).default('default'),
      serviceAccount: z.string().min(1),
      labels: z.record(z.string(), z.string()).default({}),
    }),
    identity,
    inbound: z
      .array(
        z.strictObject({
          port,
          bind: z.string().optional(),
          app: loopbackAddress,
          /** The app is another machine's, and what goes there can be read and changed on the way. */
          unsafePlaintext: z.boolean().default(false),
          protocol: z.enum(protocols).default('http'),
          policyPort: port.optional(),
          appHealth: appHealth.optional(),
        }),
      )
      .default([]),
    outbound: z
      .array(
        z.strictObject({
          port,
          bind: z.string().default('127.0.0.1'),
          upstream: name.optional(),
          protocol: z.enum(protocols).default('http'),
        }),
      )
      .default([]),
    upstreams: z.record(name, upstream).default({}),
    policies: z.string().optional(),
    admin: addressOrPort('127.0.0.1').optional(),
    health: addressOrPort('').optional(),
    /** Of the first inbound port. */
    appHealth: healthPath.optional(),
    accessLog: z.string().default('stdout'),
    defaultAction: z.enum(['deny', 'allow']).default('deny'),
    defaultMtls: z.enum(['STRICT', 'PERMISSIVE']).default('STRICT'),
    gateways: z.array(text((value) => parseSpiffeId(value).uri)).default([]),
    federatedBundles: z.record(text(parseTrustDomain), z.string().min(1)).default({}),
    rootNamespace: z.string().min(1).default('istio-system'),
    extensionProviders: z.array(extensionProvider).default([]),
    decisionHeader: z.boolean().default(false),
    learn: z
      .strictObject({
        file: z.string().min(1),
        edges: z.number().int().min(10).max(1_000_000).default(10_000),
        keep: durationSchema.prefault('720h'),
      })
      .optional(),
    trustDomainAliases: z.array(text(parseTrustDomain)).default([]),
    pathNormalization: z
      .strictObject({ normalization: z.enum(pathNormalizations) })
      .prefault({ normalization: 'BASE' }),
    gatewayTopology: topologySchema,
    tls: tlsSchema,
    limits: limitsSchema,
  })
  .superRefine((value, context) => {
    const at = (path: (string | number)[], message: string): void =>
      context.addIssue({ code: 'custom', path, message });
    if (value.inbound.length + value.outbound.length === 0)
      at([], "there is nothing to do: neither 'inbound' nor 'outbound' names a port");
    const ports = new Map<string, string>();
    for (const [kind, list] of [
      ['inbound', value.inbound],
      ['outbound', value.outbound],
    ] as const) {
      for (const [index, one] of list.entries()) {
        const key = `${one.bind ?? ''}:${one.port}`;
        const taken = one.port === 0 ? undefined : ports.get(key);
        if (taken !== undefined) at([kind, index, 'port'], `port ${one.port} is already used by ${taken}`);
        ports.set(key, `${kind}[${index}]`);
      }
    }
    for (const [index, { app, unsafePlaintext }] of value.inbound.entries()) {
      const isNear = 'path' in app || isLoopback(app.host);
      if (!isNear && !unsafePlaintext)
        at(
          ['inbound', index, 'app'],
          `'${app.host}' is not loopback: requests would leave this machine in plaintext, and others could ask the app directly; run the app beside its sidecar, or add 'unsafePlaintext: true' to this entry`,
        );
      if (isNear && unsafePlaintext)
        at(['inbound', index, 'unsafePlaintext'], 'the app is on this machine: nothing goes out in plaintext');
    }
    for (const [index, one] of value.outbound.entries()) {
      if (one.protocol === 'tcp' && one.upstream === undefined)
        at(
          [index, 'upstream'].toSpliced(0, 0, 'outbound'),
          "a tcp port needs 'upstream': TCP has no Host to choose by",
        );
      if (one.upstream !== undefined && !Object.hasOwn(value.upstreams, one.upstream))
        at(['outbound', index, 'upstream'], `there is no upstream '${one.upstream}'`);
    }
    for (const [index, { bind }] of value.outbound.entries()) {
      if (!isLoopback(bind))
        at(
          ['outbound', index, 'bind'],
          `'${bind}' is not loopback, and whoever reaches this port speaks as this workload`,
        );
    }
    if (value.admin !== undefined && 'host' in value.admin && !isLoopback(value.admin.host))
      at(['admin'], `'${value.admin.host}' is not loopback: use 'health' for what others may see`);
    for (const name of Object.keys(value.federatedBundles)) {
      if (name === value.trustDomain)
        at(['federatedBundles', name], "this is our own trust domain, whose bundle comes with 'identity'");
    }
    for (const [index, uri] of value.gateways.entries()) {
      const { path } = parseSpiffeId(uri);
      if (path === '') at(['gateways', index], `'${uri}' is a trust domain, and no workload of it`);
      for (const trustDomain of withoutBundle([uri], value)) at(['gateways', index], bundleMissing(trustDomain));
    }
    checkAppHealth(
      value.appHealth,
      value.inbound.map((one) => ({ ...one, policyPort: policyPortOf(one) })),
      at,
    );
    checkProviders(value.extensionProviders, value.upstreams, at);
    const hosts = new Map<string, string>();
    for (const [id, one] of Object.entries(value.upstreams)) {
      for (const trustDomain of withoutBundle(one.identity, value))
        at(['upstreams', id, 'identity'], bundleMissing(trustDomain));
      for (const host of [id, ...one.hosts]) {
        const key = normalizeHostPattern(host);
        const owner = hosts.get(key);
        if (owner !== undefined && owner !== id)
          at(['upstreams', id], `the host '${host}' already means upstream '${owner}'`);
        hosts.set(key, id);
      }
    }
  });

/** The trust domains of `identities` that there is no bundle for: nobody of them can prove anything. */
export function withoutBundle(
  identities: readonly string[],
  { trustDomain, federatedBundles }: { readonly trustDomain: string; readonly federatedBundles: object },
): ReadonlySet<string> {
  const domains = identities.map((uri) => parseSpiffeId(uri).trustDomain);
  return new Set(domains.filter((one) => one !== trustDomain && !Object.hasOwn(federatedBundles, one)));
}

export function bundleMissing(trustDomain: string): string {
  return `there is no bundle for ${trustDomain}: name its file under 'federatedBundles'`;
}

type Parsed = z.output<typeof sidecarYaml>;

export interface InboundSettings {
  readonly port: number;
  /** Undefined binds all addresses, both families where the machine has them. */
  readonly bind: string | undefined;
  readonly app: Address;
  readonly protocol: (typeof protocols)[number];
  /** The port that policies see. */
  readonly policyPort: number;
  /** What the app is asked when a probe asks us. */
  readonly appHealth?: AppCheck | undefined;
}

export interface UpstreamSettings {
  readonly endpoints: readonly Address[];
  /** SPIFFE IDs, of which the server must prove one. */
  readonly identity: readonly string[];
  /** Undefined: as ALPN says, and HTTP/1.1 where it says nothing. */
  readonly protocol?: 'http' | 'http2' | 'grpc' | undefined;
  readonly hosts: readonly string[];
}

export interface Settings {
  readonly file: string;
  readonly trustDomain: string;
  readonly workload: Workload;
  readonly identity: Parsed['identity'];
  readonly inbound: readonly InboundSettings[];
  readonly outbound: Parsed['outbound'];
  readonly upstreams: Readonly<Record<string, UpstreamSettings>>;
  /** Directory, absolute; undefined is 'no policy at all'. */
  readonly policies: string | undefined;
  readonly admin: Address | undefined;
  readonly health: Address | undefined;
  readonly accessLog: string;
  readonly defaultAction: 'deny' | 'allow';
  readonly defaultMtls: 'STRICT' | 'PERMISSIVE';
  /** SPIFFE IDs of the gateways whose word on users is taken, in transaction tokens. */
  readonly gateways: readonly string[];
  /** Bundles of other trust domains, absolute paths by name. */
  readonly federatedBundles: Readonly<Record<string, string>>;
  readonly rootNamespace: string;
  readonly extensionProviders: readonly ProviderSettings[];
  /** Whether answers name the decision, `x-sallyport-decision`. */
  readonly decisionHeader: boolean;
  /** Learn mode: who called what is kept there. */
  readonly learn: LearnSettings | undefined;
  /** Other names of our trust domain, which policies may use for it. */
  readonly trustDomainAliases: readonly string[];
  readonly pathNormalization: PathNormalization;
  /** How many proxies in front of this workload's callers may be believed; undefined: nobody's word on a client's address. */
  readonly numTrustedProxies: number | undefined;
  readonly tls: TlsSettings;
  readonly limits: Limits;
  /** Present for a gateway, which has no app beside it. */
  readonly gateway?: GatewaySettings;
}

/**
 * Reads sidecar.yaml. Paths in it are relative to the file.
 * @throws SallyportError `config_invalid` with every problem.
 */
export function parseSettings(source: string, file: string): Settings {
  const parsed: Parsed = readYaml(sidecarYaml, source, file);
  const base = dirname(resolve(file));
  const {
    limits,
    tls,
    inbound,
    identity: who,
    policies,
    pathNormalization,
    gatewayTopology,
    extensionProviders,
    learn,
    appHealth: ofFirst,
    ...rest
  } = parsed;
  return Object.freeze({
    ...rest,
    file,
    admin: parsed.admin,
    health: parsed.health,
    identity: absolute(who, base),
    pathNormalization: pathNormalization.normalization,
    numTrustedProxies: gatewayTopology?.numTrustedProxies,
    extensionProviders: extensionProviders.map(readProvider),
    learn:
      learn === undefined
        ? undefined
        : Object.freeze({ file: resolve(base, learn.file), edges: learn.edges, keepMs: learn.keep }),
    policies: policies === undefined ? undefined : resolve(base, policies),
    federatedBundles: Object.freeze(
      Object.fromEntries(Object.entries(parsed.federatedBundles).map(([name, file]) => [name, resolve(base, file)])),
    ),
    accessLog: parsed.accessLog === 'stdout' ? 'stdout' : resolve(base, parsed.accessLog),
    inbound: inbound.map((one, index) => {
      const written = one.appHealth ?? (index === 0 ? ofFirst : undefined);
      return Object.freeze({
        ...one,
        bind: one.bind,
        policyPort: policyPortOf(one),
        appHealth: written === undefined ? undefined : Object.freeze(readAppHealth(written)),
      });
    }),
    tls: Object.freeze({ minVersion: tls.minVersion === '1.2' ? 'TLSv1.2' : 'TLSv1.3', groups: tls.groups }),
    limits: readLimits(limits),
  });
}

/** Policies know a port by the app's own where they are not told another. */
function policyPortOf({ policyPort, app, port: ours }: Parsed['inbound'][number]): number {
  return policyPort ?? ('port' in app ? app.port : ours);
}

/** Limits by the names that the path has for them. */
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

export function absolute(who: Parsed['identity'], base: string): Parsed['identity'] {
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
  const { bundle, tokenFile, outDir } = who.ca;
  return {
    ca: {
      ...who.ca,
      bundle: resolve(base, bundle),
      outDir: resolve(base, outDir),
      ...(tokenFile === undefined ? {} : { tokenFile: resolve(base, tokenFile) }),
    },
  };
}

/** 80 % of the descriptor limit: the rest is for files, upstreams and the admin port. */
function defaultConnections(): number {
  const limit = descriptorLimit();
  return Number.isFinite(limit) ? Math.max(1, Math.floor(limit * 0.8)) : 8192;
}
