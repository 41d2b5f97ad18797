// Compiles a configuration: for each port the rules of its connections, and for each upstream its pool's plan and its
// permit. Pure; the result is frozen and swapped in as a whole.

import { parseSpiffeId } from '../../cert-agent/identity/spiffe-id.ts';
import type { ProviderSettings } from '../config/extension-providers.ts';
import type { InboundSettings, Settings, UpstreamSettings } from '../config/settings.ts';
import type { Configuration } from '../config/watch.ts';
import type { Phases, PortRules, PortTraits, Route } from '../exchange/exchange.ts';
import type { FrontListener } from '../front-door.ts';
import { normalizeHostPattern } from '../policy/host.ts';
import { resolveMtls } from '../policy/mtls.ts';
import { mintPermit, mintTunnelPermit } from '../policy/policy.ts';
import { createAuthorizer } from '../upstream/authorizer.ts';
import { type DestinationRule, type MatchedRules, matchRules } from '../upstream/destination-rule.ts';
import type { Pool } from '../upstream/pool.ts';
import { appPoolName, type PoolPlan } from '../upstream/pools.ts';
import type { Judgement } from './policies.ts';

/** The purpose of one port, and its address. */
export interface PortPlan {
  /** `inbound :15006`: the same port in the next generation has the same key. */
  readonly key: string;
  readonly number: number;
  readonly bind: string | undefined;
  readonly rules: PortRules;
  /** For an inbound port: its rules for TLS that the app itself terminates. */
  readonly streams?: PortRules;
  /** For a gateway's port: its listeners where it speaks TLS, and its streams. */
  readonly gateway?: {
    readonly front: readonly FrontListener[] | undefined;
    readonly streams: PortRules;
    readonly proxies?: readonly string[] | undefined;
  };
}

/** The pools of these settings: one for each app, and one for each upstream and protocol that a port may use. */
export function planPools(settings: Settings, rules: readonly DestinationRule[] = []): readonly PoolPlan[] {
  const { limits, tls } = settings;
  const { traffic } = trafficOf(settings, rules);
  const apps = new Map(
    settings.inbound.map(({ app, protocol }) => {
      const http2 = speaksHttp2(protocol);
      const plan: PoolPlan = { name: appPoolName(app, http2), endpoints: [app], limits, http2 };
      return [plan.name, plan];
    }),
  );
  const overTcp = new Set(settings.outbound.flatMap((one) => (one.protocol === 'tcp' ? [one.upstream] : [])));
  for (const { service, port, http } of settings.extensionProviders) {
    if (Object.hasOwn(settings.upstreams, service)) continue;
    const address = { host: service, port };
    const http2 = http === undefined;
    const plan: PoolPlan = { name: appPoolName(address, http2), endpoints: [address], limits, http2 };
    apps.set(plan.name, plan);
  }
  const peers = Object.entries(settings.upstreams).flatMap(([upstream, one]) => {
    const expected = withAliases(one.identity, settings);
    const plan = (kind: PeerPool, isMeant: boolean): PoolPlan => ({
      name: peerPoolName(upstream, kind),
      endpoints: one.endpoints,
      limits,
      ...(kind === 'http2' ? { http2: true } : {}),
      ...(traffic.has(upstream) ? { traffic: traffic.get(upstream)! } : {}),
      peer: { upstream, isMeant, expected, tls, alpn: alpnOf(kind, one.protocol) },
    });
    const tcp = overTcp.has(upstream);
    const asking = settings.outbound.filter(
      (port) => port.protocol !== 'tcp' && (port.upstream === undefined || port.upstream === upstream),
    );
    const kinds = new Set(asking.map((port) => peerPoolOf(port.protocol, one)));
    for (const provider of settings.extensionProviders)
      if (provider.service === upstream) kinds.add(peerPoolOf(spokenBy(provider), one));
    // An upstream with a TCP port of its own can be reached by Host as well, but hardly ever is.
    return [...[...kinds].map((kind) => plan(kind, !tcp)), ...(tcp ? [plan('tcp', true)] : [])];
  });
  return [...apps.values(), ...peers];
}

/** The upstream of each DestinationRule, and the rules that have none. */
export function trafficOf(settings: Settings, rules: readonly DestinationRule[]): MatchedRules {
  const upstreams = Object.entries(settings.upstreams).map(([name, { hosts, endpoints }]) => {
    const ports = new Set(endpoints.map((one) => ('port' in one ? one.port : 0)));
    return { name, hosts, port: ports.size === 1 ? [...ports][0]! : undefined };
  });
  const { workload, rootNamespace } = settings;
  return matchRules(rules, upstreams, { namespace: workload.namespace, rootNamespace });
}

/** What capabilities do on the ports of a sidecar. A direction in which they do nothing is absent. */
export interface SidecarRules {
  readonly inbound: PortHooks | undefined;
  readonly outbound: PortHooks | undefined;
}

/** The same for all ports of one direction. */
export interface PortHooks {
  readonly phases: Phases;
  readonly traits: PortTraits;
}

/** All ports of a configuration. `ofCapabilities` is absent where sidecar.yaml sets no field of one. */
export function compilePorts(
  configuration: Configuration,
  judgement: Judgement,
  pools: ReadonlyMap<string, Pool>,
  ofCapabilities?: SidecarRules,
): readonly PortPlan[] {
  const { settings, generation } = configuration;
  const { peerAuthentications } = configuration.documents;
  const authorizers = new Map(
    settings.extensionProviders.map((one) => [
      one.name,
      createAuthorizer(one, pools.get(providerPoolName(one, settings))!),
    ]),
  );
  const { limits } = settings;
  const inbound = settings.inbound.map((one, index) => {
    const rules = Object.freeze({
      ...inboundRules(
        one,
        generation,
        settings,
        judgement,
        authorizers,
        resolveMtls(peerAuthentications, settings, one.policyPort),
        pools,
      ),
      ...ofCapabilities?.inbound,
    });
    return {
      ...{ key: keyOf('inbound', one, index), number: one.port, bind: one.bind, rules },
      streams: asBytes(rules),
    };
  });
  const { traffic } = trafficOf(settings, configuration.documents.destinationRules);
  const outbound = settings.outbound.map((one, index) => {
    const { port, upstream } = one;
    const tcpIdleMs = upstream === undefined ? undefined : traffic.get(upstream)?.connections?.tcpIdleMs;
    const protocol = kindOf(one.protocol);
    const findRoute = compileOutbound(settings, pools, one);
    const rules = {
      generation,
      direction: 'outbound',
      protocol,
      // 0s disables it, as in Istio.
      limits: tcpIdleMs === undefined ? limits : { ...limits, tcpIdleMs: tcpIdleMs || Number.POSITIVE_INFINITY },
      policyPort: port,
      policies: undefined,
      shadow: undefined,
      authentication: undefined,
      gateways: noGateways,
      authorizers: noAuthorizers,
      decisionHeader: false,
      pathNormalization: settings.pathNormalization,
      numTrustedProxies: undefined,
      mtls: undefined,
      findRoute,
      ...ofCapabilities?.outbound,
    } as const;
    return { key: keyOf('outbound', one, index), number: port, bind: one.bind, rules: Object.freeze(rules) };
  });
  return [...inbound, ...outbound];
}

/** Ports chosen by the system have no number yet; their place in the list is used instead. */
function keyOf(
  direction: string,
  one: { readonly port: number; readonly bind: string | undefined },
  index: number,
): string {
  return `${direction} ${one.bind ?? ''}:${one.port === 0 ? `#${index}` : one.port}`;
}

function inboundRules(
  one: InboundSettings,
  generation: number,
  settings: Settings,
  judgement: Judgement,
  authorizers: PortRules['authorizers'],
  mtls: PortRules['mtls'],
  pools: ReadonlyMap<string, Pool>,
): PortRules {
  const { policyPort } = one;
  const protocol = kindOf(one.protocol);
  const route: Route = Object.freeze({
    name: 'default',
    cluster: `inbound|${policyPort}||`,
    destination: pools.get(appPoolName(one.app, speaksHttp2(one.protocol)))!,
    permit: undefined,
    principal: undefined,
  });
  return {
    generation,
    direction: 'inbound',
    protocol,
    limits: settings.limits,
    policyPort,
    ...judgement,
    gateways: new Set(settings.gateways),
    authorizers,
    decisionHeader: settings.decisionHeader,
    pathNormalization: settings.pathNormalization,
    numTrustedProxies: settings.numTrustedProxies,
    mtls,
    findRoute: () => route,
  };
}

/** The rules for bytes of a client that speaks TLS with the app itself. */
function asBytes(rules: PortRules): PortRules {
  return rules.protocol === 'tcp' ? rules : Object.freeze({ ...rules, protocol: 'tcp', unread: true });
}

/**
 * Finds the route of an outbound request by its authority: an upstream's name or one of its hosts, with or without
 * port.
 */
function compileOutbound(
  settings: Settings,
  pools: ReadonlyMap<string, Pool>,
  { port, protocol, upstream: only }: Settings['outbound'][number],
): PortRules['findRoute'] {
  const byHost = new Map<string, Route>();
  for (const [name, one] of Object.entries(settings.upstreams)) {
    if (only !== undefined && only !== name) continue;
    const route: Route = Object.freeze({
      name,
      cluster: `outbound|${port}||${name}`,
      destination: pools.get(peerPoolName(name, peerPoolOf(protocol, one)))!,
      permit: mintPermit(`upstream[${name}]`),
      tunnelPermit: mintTunnelPermit(`upstream[${name}]`),
      ...principalsOf(withAliases(one.identity, settings)),
    });
    for (const host of [name, ...one.hosts]) byHost.set(normalizeHostPattern(host), route);
  }
  if (only !== undefined) {
    const fixed = byHost.get(normalizeHostPattern(only));
    return () => fixed;
  }
  // The authority has one spelling (head.ts), with a port or without.
  return (authority) => byHost.get(authority) ?? byHost.get(authority.replace(/:\d+$/, ''));
}

/**
 * The IDs that stand for `identities`: as in Istio, one of our own trust domain may also be proved under each of its
 * other names. Each of those names needs a bundle (`federatedBundles`), or no peer can prove it.
 */
function withAliases(
  identities: readonly string[],
  { trustDomain, trustDomainAliases }: Pick<Settings, 'trustDomain' | 'trustDomainAliases'>,
): readonly string[] {
  const names = [trustDomain, ...trustDomainAliases];
  const all = identities.flatMap((uri) => {
    const { trustDomain: own, path } = parseSpiffeId(uri);
    return names.includes(own) ? [uri, ...names.map((one) => `spiffe://${one}${path}`)] : [uri];
  });
  return [...new Set(all)];
}

/** The identities that a route expects, as the route holds them. */
export function principalsOf([principal, ...otherPrincipals]: readonly string[]): Pick<
  Route,
  'principal' | 'otherPrincipals'
> {
  return { principal, ...(otherPrincipals.length === 0 ? {} : { otherPrincipals }) };
}

/** The traffic to an upstream: requests as ALPN says, requests in HTTP/2 if ALPN says nothing, or bytes. */
type PeerPool = 'http' | 'http2' | 'tcp';

/** The upstream's configured protocol decides, else the port's. */
function peerPoolOf(port: InboundSettings['protocol'], { protocol }: Pick<UpstreamSettings, 'protocol'>): PeerPool {
  if (port === 'tcp') return 'tcp';
  return speaksHttp2(protocol ?? port) ? 'http2' : 'http';
}

/** An upstream with a configured protocol is offered that alone. */
function alpnOf(kind: PeerPool, said: UpstreamSettings['protocol']): readonly string[] {
  if (kind === 'tcp') return [];
  return said === undefined ? ['h2', 'http/1.1'] : kind === 'http2' ? ['h2'] : ['http/1.1'];
}

/** The path knows requests and streams of bytes only. */
function kindOf(protocol: InboundSettings['protocol']): 'http' | 'tcp' {
  return protocol === 'tcp' ? 'tcp' : 'http';
}

function speaksHttp2(protocol: InboundSettings['protocol']): boolean {
  return protocol === 'http2' || protocol === 'grpc';
}

const noAuthorizers: PortRules['authorizers'] = new Map();
const noGateways: PortRules['gateways'] = new Set();

/** A provider is an upstream, reached like any other, or a process on loopback. */
function providerPoolName(provider: ProviderSettings, { upstreams }: Settings): string {
  const { service, port, http } = provider;
  if (Object.hasOwn(upstreams, service))
    return peerPoolName(service, peerPoolOf(spokenBy(provider), upstreams[service]!));
  return appPoolName({ host: service, port }, http === undefined);
}

function peerPoolName(name: string, kind: PeerPool): string {
  return `${kind} ${name}`;
}

/** The protocol of an authorizer. */
function spokenBy({ http }: ProviderSettings): 'http' | 'grpc' {
  return http === undefined ? 'grpc' : 'http';
}
