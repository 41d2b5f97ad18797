// Compiles one rule of a route: its policies, its filters, and each of its backends.

import { hash } from 'node:crypto';
import { reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import { askAtEdge } from '../ask-authorizer.ts';
import type { GatewayConfig } from '../config/gateway-config.ts';
import type { Configuration } from '../config/watch.ts';
import type { BackendTrafficPolicy } from '../documents/envoy-gateway/backend-traffic-policy.ts';
import { capabilities } from '../edge/capabilities.ts';
import type { AnyCapability, NamedBackend } from '../edge/capability.ts';
import { layOut, type NamedHooks } from '../edge/phases.ts';
import { type GuardingPolicy, kindOfPolicy, ownGroup, titleOf } from '../edge/policy.ts';
import type { EdgeRule, Phases, Route } from '../exchange/exchange.ts';
import type { Destination } from '../exchange/upstream.ts';
import { mintPermit, type Permit } from '../policy/policy.ts';
import { type ServedListener, sentenceOf } from '../routing/attach.ts';
import {
  type GrpcRule,
  type HttpRule,
  keyOf,
  type RouteDocument,
  type RouteFilter,
  type RouteRule,
} from '../routing/documents.ts';
import { isGranted, type ResolvedBackend, resolveBackend } from '../routing/references.ts';
import type { TrafficPlan } from '../upstream/traffic.ts';
import { askedInGrpc, grpcOf } from './backend-protocol.ts';
import { chooseBackend, clusterOf, refusing, retryOf, timeoutsOf } from './backends.ts';
import type { Failure } from './failures.ts';
import { type GatewayPlan, ownFor, placeOf } from './gateway-plan.ts';
import { type NoPool, type PoolWish, planPool } from './gateway-pools.ts';
import { blamedOn, displacedBy, HookCompiler, type HookTools, namespaceOf, type PlanKind, sticks } from './hooks.ts';
import { cookiePathOf, prefixOf } from './matches.ts';
import { principalsOf, trafficOf } from './sidecar-ports.ts';

/** Compiles policies: the results outlive generations that do not change them. */
export interface GatewayTools extends HookTools {}

/** Compiles the rules of one generation. */
export class RuleCompiler {
  readonly #configuration: Configuration;
  readonly #config: GatewayConfig;
  readonly #plan: GatewayPlan;
  readonly #pools: ReadonlyMap<string, Destination>;
  readonly #traffic: ReadonlyMap<string, TrafficPlan>;
  readonly #hooks: HookCompiler;
  readonly #table: readonly AnyCapability[];
  /** The hooks of gateway.yaml for every request, including those that no rule matches. */
  readonly portPhases: Phases;
  /** The same on each listener, so they are kept by their text. */
  readonly #failures = new Map<string, Failure>();

  constructor(
    configuration: Configuration,
    plan: GatewayPlan,
    pools: ReadonlyMap<string, Destination>,
    tools: GatewayTools,
    table: readonly AnyCapability[] = capabilities,
  ) {
    this.#table = table;
    this.#configuration = configuration;
    this.#config = configuration.gateway!;
    this.#plan = plan;
    this.#pools = pools;
    this.#traffic = trafficOf(configuration.settings, configuration.documents.destinationRules).traffic;
    this.#hooks = new HookCompiler(
      this.#config,
      configuration.settings,
      tools,
      (...asked) => this.#beside(...asked),
      table,
    );
    this.portPhases = layOut(this.#hooks.forPort(), askAtEdge);
  }

  /** What cannot be served as intended, of all rules so far. */
  get failures(): readonly Failure[] {
    return [...this.#failures.values()];
  }

  /** Once for each different failure: a rule on two listeners fails once. */
  note(failure: Failure): void {
    this.#failures.set(JSON.stringify(failure), failure);
  }

  /** One rule on one listener. If any part cannot be served as intended, the rule is broken and answers 500. */
  rule(
    listener: ServedListener,
    route: RouteDocument,
    rule: HttpRule | GrpcRule,
    index: number,
    backendOf: (ref: object) => ResolvedBackend | undefined,
  ): EdgeRule {
    const name = ruleName(route, index);
    const place = placeOf(listener, route, rule);
    const security = this.#plan.security.policyFor(place);
    const traffic = this.#plan.traffic.policyFor(place);
    const closed = this.#plan.closed.policyFor(place);
    const attached = ownFor(this.#plan, place);
    const permit = mintPermit(security === undefined ? `route[${name}]` : `securitypolicy[${keyOf(security)}]`);
    let broken: SallyportError | undefined;
    const breakBy = (error: unknown): undefined => {
      broken ??= new SallyportError('rule_broken', `${name} cannot be served: ${reasonOf(error)}`, { cause: error });
    };
    // These are in the statuses already.
    if (rule.broken !== undefined) breakBy(new Error(rule.broken.message));
    for (const policy of [security, traffic, closed, ...attached])
      if (policy !== undefined && 'problems' in policy)
        breakBy(new Error(`${policy.kind} ${keyOf(policy)} is not valid: ${sentenceOf(policy)}`));
    const good = security === undefined || 'problems' in security ? undefined : security;
    const ours = attached.filter((one) => !('problems' in one));
    const limiting = traffic === undefined || 'problems' in traffic ? undefined : traffic;
    const extension = rule.filters?.find(({ type }) => type === 'ExtensionRef')?.extensionRef;
    if (extension !== undefined)
      breakBy(new Error(`its filter ${extension.group}/${extension.kind} ${extension.name} is not known`));
    for (const policy of [good, ...ours].filter((one) => one?.required === true))
      for (const { type, field } of displacedBy(rule.filters ?? [], policy, this.#table)) {
        const why = `its ${type} filter would take the place of '${field}' of ${titleOf(policy!)}, which has to be inherited (sallyport.dev/inherit: required)`;
        this.note({ ...ofRoute(route), message: `rule ${index}: ${why}` });
        breakBy(new Error(why));
      }
    const prefix = prefixOf(rule);
    const fail = (error: unknown, of: PlanKind): void => {
      const policy = blamedOn(of, { security: good, traffic: limiting, own: ours });
      const kind = policy !== undefined && 'kind' in policy ? policy.kind : of;
      this.note({ ...(policy === undefined ? ofRoute(route) : ofPolicy(kind, policy)), message: reasonOf(error) });
      breakBy(error);
    };
    const hooksWith = (own: readonly RouteFilter[]): NamedHooks =>
      this.#hooks.compile(
        {
          ...{ name, prefix, path: cookiePathOf(rule), rule, security: good, traffic: limiting, own: ours },
          filters: [...(rule.filters ?? []), ...own],
          route: (ref) => this.#filterRoute(route, backendOf(ref), permit),
        },
        fail,
      );
    const hooks = hooksWith([]);
    const backends = (rule.backendRefs ?? []).flatMap((ref) => backendOf(ref) ?? []);
    // All of them first: what breaks the rule at one backend breaks it at each.
    const hooked = backends.map((backend) => {
      const { filters: own = [] } = backend.ref;
      return { backend, own: own.length === 0 ? undefined : hooksWith(own) };
    });
    const choices = hooked.map(({ backend, own }) => {
      const to = this.#backend(backend, { name, route, rule, policy: limiting, sticky: sticks(rule), permit });
      // A backend with filters of its own has phases of its own: all capabilities see both lists.
      const phases = own === undefined ? {} : { phases: layOut(own, askAtEdge, broken) };
      return { weight: backend.ref.weight ?? 1, route: Object.freeze({ ...to, ...phases }) };
    });
    return Object.freeze({
      ...{ name, permit, broken },
      digest: digestOf([route.kind, keyOf(route), rule, ...[good, ...ours].map(withoutPlace)]),
      phases: layOut(hooks, askAtEdge, broken),
      preflight: hooks.find(([, one]) => one.preflight !== undefined)?.[1].preflight,
      answers: hooks.some(([, one]) => one.answers === true),
      backendFor: chooseBackend(choices, hooks.find(([, one]) => one.share !== undefined)?.[1].share),
    });
  }

  /** A filter's backend, as a route of its own; undefined if it cannot be reached. */
  #filterRoute(route: RouteDocument, backend: ResolvedBackend | undefined, permit: Permit): Route | undefined {
    if (backend === undefined || backend.problem !== undefined) return undefined;
    const destination = this.destination(backend, 'http', undefined, false, route);
    return 'problem' in destination
      ? undefined
      : { name: 'filter', cluster: clusterOf(backend), destination, permit, ...this.principalsOf(backend) };
  }

  /**
   * A backend as a route of its own. One that cannot be reached is also a route: it fails its share of the requests.
   */
  #backend(
    backend: ResolvedBackend,
    of: {
      readonly name: string;
      readonly route: RouteDocument;
      readonly rule: RouteRule;
      readonly policy: BackendTrafficPolicy | undefined;
      readonly sticky: boolean;
      readonly permit: Permit;
    },
  ): Route {
    const found =
      backend.problem === undefined
        ? this.destination(backend, 'http', of.policy, of.sticky, of.route)
        : refusing('backend_invalid', `${backend.problem.reason}: ${backend.problem.message}`);
    const destination = 'problem' in found ? refusing('rule_broken', found.problem) : found;
    const own = backend.ref.filters ?? [];
    const extension = own.find(({ type }) => type === 'ExtensionRef')?.extensionRef;
    return Object.freeze({
      name: of.name,
      cluster: clusterOf(backend),
      destination:
        extension === undefined ? destination : refusing('rule_broken', `the filter ${extension.name} is not known`),
      permit: of.permit,
      ...this.principalsOf(backend),
      retry: retryOf(of.rule, of.policy),
      timeouts: timeoutsOf(of.rule, of.policy),
    });
  }

  /** The identities that the mesh expects there. */
  principalsOf({ upstream }: ResolvedBackend): Pick<Route, 'principal' | 'otherPrincipals'> {
    const known = upstream === undefined ? undefined : this.#configuration.settings.upstreams[upstream];
    return principalsOf(known?.identity ?? []);
  }

  /** The pool of a backend. Without one, the reason is reported. */
  destination(
    { upstream, key }: ResolvedBackend,
    protocol: 'http' | 'tcp',
    policy: BackendTrafficPolicy | undefined,
    sticky: boolean,
    route?: RouteDocument,
    grpc = route === undefined ? undefined : grpcOf(route),
  ): Destination | NoPool {
    const tell = (reason: string, message: string): void => {
      if (route !== undefined) this.note({ ...ofRoute(route), type: 'BackendsAvailable', reason, message });
    };
    if (upstream === undefined) {
      const why = `Service ${key} has no endpoint: 'backends' does not name an upstream for it`;
      tell('EndpointsNotFound', why);
      return refusing('upstream_unresolved', why);
    }
    const wish: PoolWish = { upstream, service: key, protocol, policy, sticky, grpc };
    const plan = planPool(wish, this.#configuration.settings, this.#config.documents, this.#traffic);
    if (!('problem' in plan)) return this.#pools.get(plan.name)!;
    tell('InvalidBackend', plan.problem);
    return plan;
  }

  /** The endpoints of a backend that a part of a policy names. @throws SallyportError `config_invalid`. */
  #beside(policy: GuardingPolicy, backendRef: NamedBackend, field: string): Destination {
    const own = namespaceOf(policy, field);
    const namespace = backendRef.namespace ?? own;
    const kind = kindOfPolicy(policy);
    const from = { group: 'kind' in policy ? ownGroup : 'gateway.envoyproxy.io', kind, namespace: own };
    const { documents } = this.#config;
    if (!isGranted(documents, from, { ...backendRef, namespace }))
      throw new SallyportError(
        'config_invalid',
        `no ReferenceGrant in ${namespace} lets ${keyOf(policy)} ask ${backendRef.name}`,
      );
    const backend = resolveBackend(backendRef, { kind, namespace }, documents, this.#plan.world);
    if (backend.problem !== undefined) throw new SallyportError('config_invalid', backend.problem.message);
    const destination = this.destination(
      backend,
      'http',
      undefined,
      false,
      undefined,
      askedInGrpc(policy, backendRef, field),
    );
    if ('problem' in destination) throw new SallyportError('config_invalid', destination.problem);
    return destination;
  }
}

/** The document that a failure is reported on. */
type Because = Omit<Failure, 'message'>;

/** For a rule that cannot be served while the rest of its route can. */
export function ofRoute({ kind, namespace, name }: RouteDocument): Because {
  return { ...{ kind, namespace, name }, type: 'PartiallyInvalid', reason: 'UnsupportedValue' };
}

function ofPolicy(kind: string, { namespace, name }: { readonly namespace: string; readonly name: string }): Because {
  return { ...{ kind, namespace, name }, type: 'Accepted', reason: 'Invalid' };
}

/** A policy that moves within its file, or to another gateway, says the same. */
function withoutPlace(policy: GuardingPolicy | undefined): object {
  return { ...policy, file: undefined, line: undefined, createdAt: undefined };
}

/** Few rules need it, so it is made when it is first asked for. */
function digestOf(parts: readonly unknown[]): () => string {
  let digest: string | undefined;
  return () => {
    digest ??= hash('sha256', JSON.stringify(parts), 'base64url');
    return digest;
  };
}

/** `httproute/shop/orders/rule/0`. */
export function ruleName(route: RouteDocument, index: number): string {
  return `${route.kind.toLowerCase()}/${keyOf(route)}/rule/${index}`;
}

/** `namespace/gateway/section`. */
export function listenerName({ gateway, spec }: ServedListener): string {
  return `${keyOf(gateway)}/${spec.name}`;
}
