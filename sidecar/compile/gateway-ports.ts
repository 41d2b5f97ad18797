// Compiles a gateway's ports: the listeners of each, and for each listener its attached routes, indexed for lookup.
// What cannot be served as intended answers 500 and shows in the status; the rest is served. Each generation is
// compiled as a whole, frozen, and swapped in.

import { parseAddress } from '../../cert-agent/base/address.ts';
import type { Configuration } from '../config/watch.ts';
import { capabilities } from '../edge/capabilities.ts';
import type { AnyCapability } from '../edge/capability.ts';
import { titleOf } from '../edge/policy.ts';
import { askingParts, namedHeadersOf, traitsOf } from '../edge/policy-parts.ts';
import type { Edge, EdgeSecrets, Exchange, PortRules, Route } from '../exchange/exchange.ts';
import { compileClientFields } from '../exchange/proxy-fields.ts';
import type { Destination } from '../exchange/upstream.ts';
import type { FrontListener } from '../front-door.ts';
import { mintPermit } from '../policy/policy.ts';
import { type AttachedRoute, type ServedListener, sentenceOf } from '../routing/attach.ts';
import { keyOf, type RouteDocument, type RouteRule } from '../routing/documents.ts';
import { patternsFor } from '../routing/hosts.ts';
import { compileTable, type TableEntry } from '../routing/table.ts';
import { chooseByWeight, clusterOf, refusing } from './backends.ts';
import type { Failure } from './failures.ts';
import { type GatewayPlan, ownFor, placeOf } from './gateway-plan.ts';
import { type GatewayTools, listenerName, ofRoute, RuleCompiler } from './gateway-rule.ts';
import { matchesOf } from './matches.ts';
import { reviewFailures } from './reviews.ts';
import type { PortPlan } from './sidecar-ports.ts';

/** Compiles all ports of a plan, with the pools that it asked for. */
export function compileGatewayPorts(
  configuration: Configuration,
  plan: GatewayPlan,
  pools: ReadonlyMap<string, Destination>,
  tools: GatewayTools,
  table: readonly AnyCapability[] = capabilities,
): CompiledGateway {
  const compiler = new PortCompiler(configuration, plan, pools, tools, table);
  const ports = plan.attachments.gateways.flatMap(({ gateway, listeners }) => {
    const served = listeners.filter(({ programmed }) => programmed);
    const byPort = Map.groupBy(served, ({ spec }) => spec.port);
    return [...byPort].map(([port, list]) =>
      compiler.port(
        keyOf(gateway),
        port,
        list,
        listeners.filter((one) => !one.programmed && one.spec.port === port && one.family === list[0]!.family),
      ),
    );
  });
  const edges = ports.flatMap(({ rules }) => rules.edge ?? []);
  return { ports, failures: [...compiler.failures, ...reviewFailures(plan, edges, table)] };
}

/** The compiled ports, and what failed on the way. */
export interface CompiledGateway {
  readonly ports: readonly PortPlan[];
  /** What cannot be served as intended, though it was accepted. */
  readonly failures: readonly Failure[];
}

class PortCompiler {
  readonly #configuration: Configuration;
  readonly #plan: GatewayPlan;
  readonly #rules: RuleCompiler;
  readonly #table: readonly AnyCapability[];
  /** From all policies, attached and served or not: clients may set these headers on no route. */
  readonly #ownHeaders: ReadonlySet<string>;
  readonly #namedHeaders: ReadonlySet<string>;
  readonly #secrets: EdgeSecrets;

  constructor(
    configuration: Configuration,
    plan: GatewayPlan,
    pools: ReadonlyMap<string, Destination>,
    tools: GatewayTools,
    table: readonly AnyCapability[],
  ) {
    this.#configuration = configuration;
    this.#plan = plan;
    this.#table = table;
    this.#rules = new RuleCompiler(configuration, plan, pools, tools, table);
    const { securityPolicies, ownPolicies, broken } = configuration.gateway!;
    const policies = [...securityPolicies, ...ownPolicies];
    const traits = policies.map((one) => traitsOf(one, table));
    this.#ownHeaders = new Set([...traits, ...broken].flatMap(({ ownHeaders }) => [...ownHeaders]));
    this.#namedHeaders = new Set(policies.flatMap((one) => [...namedHeadersOf(one, table)]));
    this.#secrets = Object.freeze({
      params: [...new Set([...traits, ...broken].flatMap(({ secretParams }) => secretParams))],
      paths: new Set(traits.flatMap(({ secretPaths }) => secretPaths)),
    });
  }

  get failures(): readonly Failure[] {
    return this.#rules.failures;
  }

  /**
   * `closed` are the listeners of the same port that cannot be served. They keep their host names: a less specific
   * listener would not make their demands on the client, such as a certificate.
   */
  port(
    gateway: string,
    port: number,
    listeners: readonly ServedListener[],
    closed: readonly ServedListener[],
  ): PortPlan {
    const key = `${gateway}:${port}`;
    const { host, port: number } = this.#place(key, port, listeners[0]!);
    const [{ spec }] = listeners as [ServedListener];
    const requests = listeners.filter(takesRequests);
    const isTls = spec.protocol === 'HTTPS' || spec.protocol === 'TLS';
    const front = isTls ? [...listeners, ...closed].map(frontOf) : undefined;
    const streams = this.#streamRules(port, listeners);
    // All of them: a host of a stream or of a closed listener is not for the next best listener.
    const edge = requests.length === 0 ? undefined : this.#edge([...listeners, ...closed]);
    const rules: PortRules =
      edge === undefined ? streams : Object.freeze({ ...this.#common(port), protocol: 'http', edge });
    return {
      key: `gateway ${key}`,
      number,
      bind: host,
      rules,
      gateway: { front, streams, proxies: this.#proxiesOf(key) },
    };
  }

  /** The proxies that must announce the client's address on this port; undefined if none may. */
  #proxiesOf(key: string): readonly string[] | undefined {
    const said = this.#configuration.settings.gateway?.proxyProtocol;
    if (said === undefined || said.listeners?.includes(key) === false) return undefined;
    return said.trustedCIDRs;
  }

  /** The address of the Gateway's port. */
  #place(key: string, port: number, { gateway }: ServedListener): { host: string | undefined; port: number } {
    const said = this.#plan.world.listeners[key];
    if (said === undefined) return { host: gateway.spec.addresses?.[0]?.value, port };
    const address = parseAddress(said, '') as { host: string; port: number };
    return { host: address.host === '' ? undefined : address.host, port: address.port };
  }

  #common(port: number): Omit<PortRules, 'protocol'> {
    const { settings, generation } = this.#configuration;
    return {
      generation,
      direction: 'gateway',
      limits: settings.limits,
      policyPort: port,
      policies: undefined,
      shadow: undefined,
      authentication: undefined,
      gateways: noGateways,
      authorizers: none,
      decisionHeader: settings.decisionHeader,
      pathNormalization: settings.pathNormalization,
      numTrustedProxies: settings.numTrustedProxies,
      phases: this.#rules.portPhases,
      mtls: undefined,
      findRoute: () => undefined,
    };
  }

  #edge(listeners: readonly ServedListener[]): Edge {
    const table = compileTable(
      listeners.map((listener) => ({
        name: listenerName(listener),
        hostname: listener.spec.hostname,
        entries: takesRequests(listener)
          ? listener.attached.flatMap((one, at) => this.#entries(listener, one, at))
          : [],
      })),
    );
    return Object.freeze({
      find: (exchange: Exchange) => table.find(exchange),
      mayClientSet: compileClientFields(this.#configuration.settings.gateway?.unsafeClientHeaders ?? []),
      ownHeaders: this.#ownHeaders,
      namedHeaders: this.#namedHeaders,
      secrets: this.#secrets,
    });
  }

  /** `rank` orders the route among those of its listener. */
  #entries(listener: ServedListener, { route, hosts, isNew }: AttachedRoute, rank: number): TableEntry[] {
    const backends = new Map(this.#plan.attachments.backendsOf(route).map((one) => [one.ref as object, one]));
    let order = rank * 10_000;
    return (route.spec.rules ?? [{}]).flatMap((rule, index) => {
      const compiled = this.#rules.rule(listener, route, rule, index, (ref) => backends.get(ref));
      return matchesOf(route, rule).map((match): TableEntry => {
        // Its path is ambiguous, and it came after the others: see AttachedRoute.
        const taken = isNew === true && match.widened === 'path' ? { ...match, widened: undefined } : match;
        return { ...taken, hosts, order: order++, rule: compiled };
      });
    });
  }

  /** Where a stream goes: TLSRoute by listener and server name, TCPRoute by listener. */
  #streamRules(port: number, listeners: readonly ServedListener[]): PortRules {
    const byListener = new Map<string, ReadonlyMap<string, PickStream>>();
    for (const listener of listeners) {
      const routes = new Map<string, PickStream>();
      for (const { route, hosts } of listener.attached) {
        if (route.kind !== 'TLSRoute' && route.kind !== 'TCPRoute') continue;
        const pick = this.#streamRoute(listener, route);
        // Of two for one name, the first counts.
        for (const host of hosts) if (!routes.has(host)) routes.set(host, pick);
      }
      byListener.set(listenerName(listener), routes);
    }
    const [only] = byListener.values();
    return Object.freeze({
      ...this.#common(port),
      protocol: 'tcp' as const,
      findStream(listener: string | undefined, serverName: string | undefined, last?: Route) {
        const routes = listener === undefined ? only : byListener.get(listener);
        for (const pattern of patternsFor(serverName?.toLowerCase() ?? '')) {
          const pick = routes?.get(pattern);
          if (pick !== undefined) return pick(last);
        }
        return undefined;
      },
    });
  }

  /**
   * Why a stream must be refused: a policy that guards applies to its listener, and its demands are about requests.
   * They cannot be evaluated for bytes, and a stream must not be a way around them. A policy that cannot be read closes
   * everything.
   */
  #unjudged(listener: ServedListener, route: RouteDocument): string | undefined {
    const place = placeOf(listener, route, onlyRuleOf(route));
    const closed = this.#plan.closed.policyFor(place);
    if (closed !== undefined) return `${closed.kind} ${keyOf(closed)}: ${sentenceOf(closed)}`;
    const traffic = this.#plan.traffic.policyFor(place);
    if (traffic !== undefined && 'problems' in traffic)
      return `BackendTrafficPolicy ${keyOf(traffic)} is not valid: ${sentenceOf(traffic)}`;
    const policy = [this.#plan.security.policyFor(place) ?? [], ...ownFor(this.#plan, place)]
      .flat()
      .find((one) => 'problems' in one || askingParts(one, this.#table).length > 0);
    if (policy === undefined) return undefined;
    const title = 'problems' in policy ? `${policy.kind} ${keyOf(policy)}` : titleOf(policy);
    return `${title} applies to listener ${listener.spec.name}, but evaluates requests only: attach it to listeners for HTTP`;
  }

  /** An open stream keeps its backend while the route names it, whatever the new weights would choose. */
  #streamRoute(listener: ServedListener, route: RouteDocument): PickStream {
    const name = `${route.kind.toLowerCase()}/${keyOf(route)}/rule/0`;
    const permit = mintPermit(`route[${name}]`);
    const { broken } = onlyRuleOf(route);
    if (broken !== undefined) {
      const destination = refusing('rule_broken', broken.message);
      const refused: Route = Object.freeze({ name, cluster: '', destination, permit, principal: undefined });
      return (last) => (last === undefined ? refused : undefined);
    }
    const unjudged = this.#unjudged(listener, route);
    const traffic = this.#plan.traffic.policyFor(placeOf(listener, route, onlyRuleOf(route)));
    const shaping = traffic === undefined || 'problems' in traffic ? undefined : traffic;
    if (unjudged !== undefined) this.#rules.note({ ...ofRoute(route), message: unjudged });
    const choices = this.#plan.attachments.backendsOf(route).map((backend) => {
      const found =
        unjudged !== undefined
          ? refusing('rule_broken', unjudged)
          : backend.problem === undefined
            ? this.#rules.destination(backend, 'tcp', shaping, false, route)
            : refusing('backend_invalid', `${backend.problem.reason}: ${backend.problem.message}`);
      const destination = 'problem' in found ? refusing('rule_broken', found.problem) : found;
      return {
        weight: backend.ref.weight ?? 1,
        route: Object.freeze({
          name,
          cluster: clusterOf(backend),
          destination,
          permit,
          ...this.#rules.principalsOf(backend),
        }),
      };
    });
    const choose = chooseByWeight(choices);
    return (last) =>
      last === undefined
        ? choose(Math.random())
        : unjudged !== undefined
          ? undefined
          : choices.find(({ route: one }) => one.cluster === last.cluster)?.route;
  }
}

/** A route of streams has one rule. */
function onlyRuleOf({ spec }: RouteDocument): RouteRule {
  return spec.rules?.[0] ?? {};
}

type PickStream = (last?: Route) => Route | undefined;

const noGateways: PortRules['gateways'] = new Set();
const none: PortRules['authorizers'] = new Map();

function takesRequests({ programmed, spec }: ServedListener): boolean {
  return programmed && (spec.protocol === 'HTTP' || spec.protocol === 'HTTPS');
}

function frontOf(listener: ServedListener): FrontListener {
  const { spec, certificates, clients, minVersion } = listener;
  return {
    name: listenerName(listener),
    hostname: spec.hostname,
    closed: !listener.programmed,
    passthrough: spec.tls?.mode === 'Passthrough',
    streams: spec.protocol === 'TLS',
    certificates,
    clients,
    minVersion,
  };
}
