// Reads sidecar.yaml into a complete, typed, frozen value, or reports every problem with its place. Limits that are not
// set have the defaults of the table below; the log line of a refusal names its limit.

import { dirname, resolve } from 'node:path';
import { z } from 'zod';
import { isLoopback, parseAddress } from '../../cert-agent/base/address.ts';
import { deepFreeze } from '../../cert-agent/base/live.ts';
import { durationSchema, parseYaml, readYaml } from '../../cert-agent/base/yaml.ts';
import { parseSpiffeId, parseTrustDomain } from '../../cert-agent/identity/spiffe-id.ts';
import type { AnyCapability } from '../edge/capability.ts';
import { normalizeHostPattern } from '../policy/host.ts';
import { pathNormalizations } from '../policy/path.ts';
import { appHealth, appProbes, checkAppHealth, healthPath, readAppHealth, readAppProbes } from './app-health.ts';
import { checkProviders, extensionProvider, readProvider } from './extension-providers.ts';
import type { Settings } from './settings.ts';
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
  port,
  readLimits,
  text,
  tlsSchema,
  topologySchema,
  trustDomainSchema,
  withoutBundle,
  workloadSchema,
} from './settings-schema.ts';

/** The app's protocol: HTTP/1.1, HTTP/2 by prior knowledge (gRPC is that), or bytes. */
const protocols = ['http', 'http2', 'grpc', 'tcp'] as const;

const loopbackAddress = text((value) => parseAddress(value, '127.0.0.1'));

const upstream = z.strictObject({
  endpoints: endpointsSchema,
  identity: identities,
  // TLS terminators such as Ghostunnel and stunnel negotiate nothing.
  protocol: z
    .enum(['http', 'http2', 'grpc'])
    .optional()
    .describe('The protocol where the server negotiates none (ALPN). Without it that is HTTP/1.1.'),
  hosts: hostsSchema,
});

/** sidecar.yaml as written, without the fields of capabilities. */
export const sidecarYaml = z
  .strictObject({
    trustDomain: trustDomainSchema,
    workload: workloadSchema,
    identity,
    inbound: z
      .array(
        z.strictObject({
          port: port.meta({
            description: 'The port that peers connect to. 0 lets the system choose.',
            example: 15_006,
          }),
          bind: z.string().optional().meta({
            description: 'The address to listen on. By default all addresses, of both families.',
            example: '10.0.0.7',
          }),
          app: loopbackAddress.meta({
            description: 'The address of the app: `host:port`, `:port` on 127.0.0.1, or `unix:path`.',
            example: '127.0.0.1:8080',
          }),
          unsafePlaintext: z
            .boolean()
            .default(false)
            .describe(
              'Must be true if the app runs on another machine: its traffic can be read and changed on the way.',
            ),
          protocol: z
            .enum(protocols)
            .default('http')
            .meta({ description: "The app's protocol. `grpc` is HTTP/2, and `tcp` is bytes.", example: 'grpc' }),
          policyPort: port.optional().meta({
            description: "The port that policies match. The default is the app's port.",
            example: 8080,
          }),
          appHealth: appHealth.optional(),
        }),
      )
      .default([])
      .describe('The ports that accept requests of peers, by mutual TLS, and pass them to the app.'),
    outbound: z
      .array(
        z.strictObject({
          port: port.meta({
            description: 'The port that the app sends requests to. 0 lets the system choose.',
            example: 15_001,
          }),
          bind: z
            .string()
            .default('127.0.0.1')
            .describe('The address to listen on. Everyone who reaches it has the identity of the app.'),
          upstream: name.optional().meta({
            description: 'The upstream of all requests. Without it Host chooses; `protocol: tcp` needs it.',
            example: 'orders',
          }),
          protocol: z.enum(protocols).default('http').meta({
            description: 'What the app speaks on this port. `grpc` is HTTP/2, and `tcp` is bytes.',
            example: 'tcp',
          }),
        }),
      )
      .default([])
      .describe("The ports for the app's own requests, in plaintext on loopback."),
    upstreams: z.record(name, upstream).default({}).describe('The services that the app may call, by name.'),
    policies: z.string().optional().meta({
      description:
        'Directory with documents of Istio: AuthorizationPolicy, RequestAuthentication, PeerAuthentication, DestinationRule. All directories below are read.',
      example: 'policies/',
    }),
    admin: adminSchema,
    health: healthSchema,
    appHealth: healthPath.optional().meta({
      description: 'How a probe that asks us checks the app of the first inbound port: a path for GET.',
      example: '/healthz',
    }),
    appProbes: appProbes.optional(),
    accessLog: accessLogSchema,
    // Istio allows where no ALLOW policy applies. We are an allow-list: with no policy nothing passes.
    defaultAction: z
      .enum(['deny', 'allow'])
      .default('deny')
      .describe('What happens to requests for which there is no ALLOW policy.'),
    // Istio's default is PERMISSIVE, for meshes that grow around running services.
    defaultMtls: z
      .enum(['STRICT', 'PERMISSIVE'])
      .default('STRICT')
      .describe('Whether inbound ports take plaintext too, where no PeerAuthentication says so.'),
    gateways: z
      .array(text((value) => parseSpiffeId(value).uri))
      .default([])
      .meta({
        description: 'SPIFFE IDs of the gateways whose transaction tokens are accepted.',
        example: ['spiffe://demo.test/ns/default/sa/my-api-gateway'],
      }),
    federatedBundles: federatedBundlesSchema,
    // Istio's default, so that its documents mean the same here.
    rootNamespace: z
      .string()
      .min(1)
      .default('istio-system')
      .describe('The namespace whose policies apply to every workload.'),
    extensionProviders: z
      .array(extensionProvider)
      .default([])
      .describe("External authorizers of CUSTOM policies, as in Istio's meshConfig."),
    decisionHeader: decisionHeaderSchema,
    learn: z
      .strictObject({
        file: z.string().min(1).meta({ description: 'The file for what was observed.', example: 'learned.json' }),
        edges: z
          .number()
          .int()
          .min(10)
          .max(1_000_000)
          .default(10_000)
          .describe('How many different calls are remembered.'),
        keep: durationSchema.prefault('720h').describe('How long a call is remembered that is not seen again.'),
      })
      .optional()
      .describe('Records who called what, for `sallyport policy propose`.'),
    trustDomainAliases: z
      .array(text(parseTrustDomain))
      .default([])
      .meta({ description: 'Other names of our trust domain, which policies may use.', example: ['old.test'] }),
    pathNormalization: z
      .strictObject({
        normalization: z.enum(pathNormalizations).meta({ description: normalizationText, example: 'MERGE_SLASHES' }),
      })
      // Istio's default. A gateway merges slashes besides (gateway-settings.ts).
      .prefault({ normalization: 'BASE' })
      .describe(pathText),
    gatewayTopology: topologySchema,
    tls: tlsSchema,
    limits: limitsSchema,
  })
  .superRefine((value, context) => {
    const at = (path: (string | number)[], message: string): void =>
      context.addIssue({ code: 'custom', path, message });
    if (value.inbound.length + value.outbound.length === 0)
      at([], "nothing to do: neither 'inbound' nor 'outbound' names a port");
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
        at(['inbound', index, 'unsafePlaintext'], 'the app is on this machine: nothing is sent in plaintext');
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
          `'${bind}' is not loopback, and everyone who can connect to this port speaks as this workload`,
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
      if (path === '') at(['gateways', index], `'${uri}' is a trust domain, not a workload`);
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

type Fields = Readonly<Record<string, z.ZodType>>;

type Parsed = z.output<typeof sidecarYaml>;

/**
 * Reads sidecar.yaml with the fields of capabilities. Their table takes longer to load than the file takes to read, so
 * that it is loaded only if the file has a field that is not in the schema above. `table` is for tests.
 * @throws SallyportError `config_invalid` with every problem.
 */
export async function readSettings(source: string, file: string, table?: readonly AnyCapability[]): Promise<Settings> {
  const fields = Object.keys(parseYaml(source, file).documents[0]?.value ?? {});
  if (fields.every((field) => Object.hasOwn(sidecarYaml.shape, field))) return parseSettings(source, file);
  const { schemasOf } = await import('../edge/schemas.ts');
  return parseSettings(source, file, await schemasOf('sidecar.yaml', table));
}

/**
 * Reads sidecar.yaml. Paths in it are relative to the file. `fields` are those of capabilities.
 * @throws SallyportError `config_invalid` with every problem.
 */
export function parseSettings(source: string, file: string, fields: Fields = {}): Settings {
  const whole = readYaml(sidecarYaml.safeExtend(fields as Record<never, never>), source, file);
  const isOfCapability = ([name]: readonly [string, unknown]): boolean => Object.hasOwn(fields, name);
  const parsed = Object.fromEntries(Object.entries(whole).filter((one) => !isOfCapability(one))) as Parsed;
  const plans = Object.entries(whole).filter(
    (one) => isOfCapability(one) && one[1] !== undefined && (one[1] as unknown) !== false,
  );
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
    appProbes: probes,
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
    ...(probes === undefined ? {} : { appProbes: deepFreeze(readAppProbes(probes, inbound)) }),
    limits: readLimits(limits),
    ...(plans.length === 0 ? {} : { capabilities: deepFreeze(Object.fromEntries(plans)) }),
  });
}

/** Policies see the app's port unless another is set. */
function policyPortOf({ policyPort, app, port: ours }: Parsed['inbound'][number]): number {
  return policyPort ?? ('port' in app ? app.port : ours);
}
