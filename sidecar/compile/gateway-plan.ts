// The plan of a gateway's documents, before compilation: what is attached to what, which policy applies where, and
// which pools this needs. Pure. The printed statuses come from the same plan.

import { isDeepStrictEqual } from 'node:util';
import type { BrokenPolicy, GatewayConfig } from '../config/gateway-config.ts';
import type { Configuration } from '../config/watch.ts';
import type { BackendTrafficPolicy } from '../documents/envoy-gateway/backend-traffic-policy.ts';
import { capabilities, fieldsOf, ownKindsOf } from '../edge/capabilities.ts';
import type { AnyCapability, Field } from '../edge/capability.ts';
import {
  kindOfPolicy,
  type Layered,
  type OwnPolicy,
  ownApiVersion,
  ownGroup,
  type SecurityPolicy,
  titleOf,
} from '../edge/policy.ts';
import { askingParts, backendsOf, knowingParts, partsOf } from '../edge/policy-parts.ts';
import { type Attachments, attach, inForceOf, type ServedListener, sentenceOf } from '../routing/attach.ts';
import { backendTlsStatuses } from '../routing/backend-tls.ts';
import { clientPolicyStatuses, idleClientPolicies } from '../routing/client-policy-status.ts';
import { keyOf, type RouteDocument, type RouteRule } from '../routing/documents.ts';
import { attachPolicies, type PolicyKind, type PolicyTable, type RulePlace } from '../routing/policies.ts';
import { type GatewayWorld, type InForce, type ResolvedBackend, resolveBackend } from '../routing/references.ts';
import { type StatusList, statusList } from '../routing/status.ts';
import type { PoolPlan } from '../upstream/pools.ts';
import { askedInGrpc, grpcOf, spokenTo } from './backend-protocol.ts';
import { type PoolWish, planPool } from './gateway-pools.ts';
import { displacedBy, namespaceOf, sticks } from './hooks.ts';
import { trafficOf } from './sidecar-ports.ts';

/** The result for all documents. */
export interface GatewayPlan {
  readonly attachments: Attachments;
  readonly security: PolicyTable<SecurityPolicy | BrokenAsPolicy>;
  readonly traffic: PolicyTable<BackendTrafficPolicy | BrokenAsPolicy>;
  /** Policies of our own kinds, by kind. */
  readonly own: ReadonlyMap<string, PolicyTable<OwnPolicy | BrokenAsPolicy>>;
  /** Policies of kinds that are not evaluated here: nothing is served where one is attached. */
  readonly closed: PolicyTable<BrokenAsPolicy>;
  readonly pools: readonly PoolPlan[];
  /** Warnings about settings that another document overrides. */
  readonly losses: readonly string[];
  readonly world: GatewayWorld;
  /** The protocol of each backend of requests, and which document sets it: one sentence each. */
  readonly spoken: readonly string[];
}

type BrokenAsPolicy = BrokenPolicy;
type PolicyName = 'SecurityPolicy' | 'BackendTrafficPolicy';
type Table = readonly AnyCapability[];

/** The owners in a plan, as plain data: the first worker of a gateway sends them to the others. */
export interface Owners {
  /** As in InForce. */
  readonly routes: readonly (readonly [listener: string, routes: readonly string[]])[];
  readonly places: InForce['places'];
  /** For each kind, the policy of each target. */
  readonly security: Held;
  readonly traffic: Held;
  readonly own: readonly (readonly [kind: string, held: Held])[];
  readonly closed: Held;
}

type Held = readonly (readonly [target: string, policy: string])[];

/** The owners of a plan: newer claims do not displace them. */
export function ownersIn({ attachments, security, traffic, own, closed }: GatewayPlan): Owners {
  const { routes, places } = inForceOf(attachments);
  return {
    ...{ routes: [...routes], places },
    ...{ security: [...security.owners], traffic: [...traffic.owners], closed: [...closed.owners] },
    own: [...own].map(([kind, { owners }]) => [kind, [...owners]]),
  };
}

const noOwners: Owners = { routes: [], places: [], security: [], traffic: [], own: [], closed: [] };

/**
 * Plans the documents: what is attached to what, and which pools this needs. `last` is the plan in force; `owners` by
 * default are those of `last`. `table` has the capabilities that read our own kinds of document.
 */
export function planGateway(
  configuration: Configuration,
  now: number,
  last?: GatewayPlan,
  owners: Owners = last === undefined ? noOwners : ownersIn(last),
  table: Table = capabilities,
): GatewayPlan {
  const { settings, documents: istio } = configuration;
  const config = configuration.gateway!;
  const world = worldOf(config, configuration, now, last, owners);
  const { documents } = config;
  const attachments = attach(documents, world);
  const broken = (kind: PolicyName): BrokenAsPolicy[] => config.broken.filter((one) => one.kind === kind);
  const places = placesIn(attachments);
  const security = attachPolicies<SecurityPolicy | BrokenAsPolicy>(
    [...config.securityPolicies, ...broken('SecurityPolicy')],
    ...([
      documents,
      now,
      kindOf<SecurityPolicy>('SecurityPolicy', 'securityPolicies', table),
      places,
      new Map(owners.security),
    ] as const),
  );
  const traffic = attachPolicies<BackendTrafficPolicy | BrokenAsPolicy>(
    [...config.trafficPolicies, ...broken('BackendTrafficPolicy')],
    ...([
      documents,
      now,
      kindOf<BackendTrafficPolicy>('BackendTrafficPolicy', 'backendTrafficPolicies', table),
      places,
      new Map(owners.traffic),
    ] as const),
  );
  // Those of a kind that the table lacks as well: the rule compiler refuses them.
  const ownKinds = new Set([...ownKindsOf(table), ...config.ownPolicies.map(({ kind }) => kind)]);
  const isOwn = ({ kind, apiVersion = '' }: BrokenPolicy): boolean =>
    ownKinds.has(kind) && apiVersion.startsWith(`${ownGroup}/`);
  const own = new Map(
    [...ownKinds].map((kind) => {
      const all = [...config.ownPolicies, ...config.broken.filter(isOwn)].filter((one) => one.kind === kind);
      const held = new Map(owners.own).get(kind);
      const attached = attachPolicies<OwnPolicy | BrokenAsPolicy>(
        all,
        ...([documents, now, kindOf<OwnPolicy>(kind, `${kind} documents`, table), places, new Map(held)] as const),
      );
      return [kind, attached] as const;
    }),
  );
  const closed = attachPolicies<BrokenAsPolicy>(
    config.broken.filter((one) => one.kind !== 'SecurityPolicy' && one.kind !== 'BackendTrafficPolicy' && !isOwn(one)),
    ...([documents, now, kindOf<never>('policy', 'policies', table), places, new Map(owners.closed)] as const),
  );
  const losses = [
    ...security.losses,
    ...traffic.losses,
    ...[...own.values()].flatMap((one) => one.losses),
    ...[security, ...own.values()].flatMap((one) => filterLosses(attachments, one, table)),
    ...streamLosses(attachments, traffic, own, table),
    ...idleClientPolicies(documents),
  ];
  const plan = { attachments, security, traffic, own, closed, world, losses };
  const { traffic: rules } = trafficOf(settings, istio.destinationRules);
  const pools = new Map<string, PoolPlan>();
  const wishes = wishesOf(plan, config, table);
  for (const wish of wishes) {
    const pool = planPool(wish, settings, documents, rules);
    if (!('problem' in pool)) pools.set(pool.name, pool);
  }
  const spoken = wishes.flatMap((wish) => (wish.protocol === 'http' ? spokenTo(wish, settings, documents) : []));
  return {
    ...plan,
    losses: [...losses, ...new Set(spoken.flatMap(({ contradictions }) => contradictions))],
    pools: [...pools.values()],
    spoken: [...new Set(spoken.map(({ sentence }) => sentence))],
  };
}

/** What differs between kinds of policies. A policy that cannot be served closes its targets, as a broken one does. */
function kindOf<P extends Placed & Layered<P>>(
  kind: string,
  plural: string,
  table: Table,
): PolicyKind<P | BrokenAsPolicy> {
  const isBroken = (policy: P | BrokenAsPolicy): policy is BrokenAsPolicy => 'problems' in policy;
  return {
    ...{ kind, plural, isMerged: isPolicyName(kind) },
    refusalOf: (policy) => (isBroken(policy) ? sentenceOf(policy) : undefined),
    closing({ namespace, name, targets, file, line }, message) {
      return {
        ...{ kind, namespace, name, targets, file, line, ownHeaders: [], secretParams: [], required: false },
        problems: [{ file, line, column: 1, message }],
      };
    },
    mergedWith(policy, below) {
      if (isBroken(policy)) return policy;
      if (below !== undefined && isBroken(below)) return { problem: `${kind} ${keyOf(below)} is not valid` };
      const merged = policy.merged?.[below === undefined ? '' : keyOf(below)];
      return merged ?? { problem: `it was not merged with ${below === undefined ? 'nothing' : keyOf(below)}` };
    },
    lostOf(below, policy) {
      if (isBroken(policy)) return [];
      // It closes its targets for every part that it might have had.
      if (isBroken(below)) return ['spec'];
      const lost = partsOf(below).filter((part) => !isKept(kind, part, below, policy, table));
      // A kind of our own has one part, which is the rest of its spec.
      return isPolicyName(kind) || lost.length === 0 ? lost : ['spec'];
    },
    weakening: (below, policy) => (kind === 'SecurityPolicy' ? waysAround(below, policy, table) : []),
  };
}

/** True if a part is unchanged, and its Secrets and backends are in the same places. Limits may be added to. */
function isKept(
  kind: string,
  part: string,
  below: Placed,
  policy: Placed & Pick<SecurityPolicy, 'namespaces'>,
  table: Table,
): boolean {
  const of = (one: object): unknown => (one as Readonly<Record<string, unknown>>)[part];
  const fields: Field['kind'] = isPolicyName(kind) ? kind : `sallyport.dev/${kind}`;
  const keeps = fieldsOf(fields, table).get(part)?.capability.keeps;
  if (keeps !== undefined) return of(policy) !== undefined && keeps(of(below), of(policy));
  // A part that guards nothing has no Secrets and no backends; a BackendTrafficPolicy names neither.
  const isThere =
    kind === 'BackendTrafficPolicy' ||
    !askingParts(policy, table).includes(part) ||
    (policy.namespaces?.[part] ?? policy.namespace) === below.namespace;
  return isThere && isDeepStrictEqual(of(below), of(policy));
}

function isPolicyName(kind: string): kind is PolicyName {
  return kind === 'SecurityPolicy' || kind === 'BackendTrafficPolicy';
}

/** Parts beside those of `below` that could authenticate callers in another way than it requires. */
function waysAround(below: object, policy: object, table: Table): readonly string[] {
  const had = askingParts(below, table);
  if (had.length === 0) return [];
  return knowingParts(policy, table).filter((part) => !had.includes(part));
}

function mergedOf({ merged = {} }: SecurityPolicy): readonly SecurityPolicy[] {
  return Object.values(merged).flatMap((one) => ('problem' in one ? [] : [one]));
}

type Placed = Pick<BrokenPolicy, 'namespace' | 'name' | 'targets' | 'file' | 'line'>;

/** The statuses of a plan. */
export function statusOf(
  { attachments, security, traffic, own, closed }: GatewayPlan,
  { documents }: GatewayConfig,
  now: number,
): StatusList {
  const policies = [
    ...security.statuses.map((one) => ({ kind: 'SecurityPolicy', ...one })),
    ...traffic.statuses.map((one) => ({ kind: 'BackendTrafficPolicy', ...one })),
    ...[...own].flatMap(([kind, { statuses }]) => statuses.map((one) => ({ kind, apiVersion: ownApiVersion, ...one }))),
    ...closed.statuses.map((one) => ({
      ...one,
      kind: one.policy.kind,
      ...(one.policy.apiVersion === undefined ? {} : { apiVersion: one.policy.apiVersion }),
    })),
    ...backendTlsStatuses(attachments, documents, now),
    ...clientPolicyStatuses(documents, now),
  ];
  return statusList(attachments, policies, documents, now);
}

function worldOf(
  config: GatewayConfig,
  { settings }: Configuration,
  now: number,
  last: GatewayPlan | undefined,
  { routes, places }: Owners,
): GatewayWorld {
  const { backends, listeners } = settings.gateway!;
  const served = last?.attachments.gateways.flatMap((one) => one.listeners).flatMap((one) => one.certificates) ?? [];
  const lastCertificates = new Map(served.map((pair) => [pair.secret, pair]));
  const inForce = { routes: new Map(routes), places };
  return {
    backends,
    listeners,
    certificates: config.certificates,
    clientCrls: config.clientCrls,
    lastCertificates,
    inForce,
    now,
  };
}

/** The place of a rule, for the policies attached there. */
export function placeOf(listener: ServedListener, route: RouteDocument, rule: RouteRule): RulePlace {
  const { gateway, spec } = listener;
  return {
    ...{ kind: route.kind, namespace: route.namespace, route: route.name, rule: rule.name },
    ...{ gatewayNamespace: gateway.namespace, gateway: gateway.name, listener: spec.name },
  };
}

/** The policies of our own kinds that apply to a rule. */
export function ownFor({ own }: Pick<GatewayPlan, 'own'>, place: RulePlace): readonly (OwnPolicy | BrokenAsPolicy)[] {
  return [...own.values()].flatMap((one) => one.policyFor(place) ?? []);
}

/** A route's own filter that replaces a field of its policy: warned of as for two policies. */
function filterLosses(
  { gateways }: Attachments,
  policies: PolicyTable<SecurityPolicy | OwnPolicy | BrokenAsPolicy>,
  table: Table,
): string[] {
  const said = gateways.flatMap(({ listeners }) =>
    listeners.flatMap((listener) =>
      listener.attached.flatMap(({ route }) =>
        (route.spec.rules ?? []).flatMap((rule) => {
          const policy = policies.policyFor(placeOf(listener, route, rule));
          if (policy === undefined || 'problems' in policy) return [];
          return displacedBy(rule.filters ?? [], policy, table).map(
            ({ type, field }) =>
              `the ${type} filter of ${route.kind} ${keyOf(route)} takes the place of '${field}' of ${titleOf(policy)}`,
          );
        }),
      ),
    ),
  );
  return [...new Set(said)];
}

/** The fields of a BackendTrafficPolicy that apply to streams; the others are about requests. */
const ofStreams = new Set(['loadBalancer', 'circuitBreaker', 'healthCheck', 'timeout']);

/** A Gateway's policy applies to its streams as well; its limits do not. */
function streamLosses(
  { gateways }: Attachments,
  traffic: PolicyTable<BackendTrafficPolicy | BrokenAsPolicy>,
  own: GatewayPlan['own'],
  table: Table,
): string[] {
  const said = gateways.flatMap(({ listeners }) =>
    listeners.flatMap((listener) =>
      listener.attached.flatMap(({ route }) => {
        if (route.kind !== 'TLSRoute' && route.kind !== 'TCPRoute') return [];
        const place = placeOf(listener, route, route.spec.rules?.[0] ?? {});
        const without = `has no effect on ${route.kind} ${keyOf(route)}: it is about requests`;
        // One that guards closes the route.
        const ours = ownFor({ own }, place).flatMap((one) =>
          'problems' in one || askingParts(one, table).length > 0 ? [] : [`${titleOf(one)} ${without}`],
        );
        const policy = traffic.policyFor(place);
        if (policy === undefined || 'problems' in policy) return ours;
        const idle = partsOf(policy).filter((part) => !ofStreams.has(part));
        if (idle.length === 0) return ours;
        const what = idle.map((one) => `'${one}'`).join(', ');
        return [...ours, `${what} of BackendTrafficPolicy ${keyOf(policy)} ${without}`];
      }),
    ),
  );
  return [...new Set(said)];
}

/** The places of all rules. */
function placesIn({ gateways }: Attachments): readonly RulePlace[] {
  return gateways.flatMap(({ listeners }) =>
    listeners.flatMap((listener) =>
      listener.attached.flatMap(({ route }) =>
        (route.spec.rules ?? [{}]).map((rule) => placeOf(listener, route, rule)),
      ),
    ),
  );
}

/** Names a policy that makes calls in gRPC of the requests of a rule. */
function translatedBy({ own }: Pick<GatewayPlan, 'own'>, place: RulePlace, table: Table): string | undefined {
  for (const { name } of table.flatMap(({ callsGrpc, fields }) => (callsGrpc === true ? fields : []))) {
    const policy = own.get(name)?.policyFor(place);
    if (policy !== undefined && !('problems' in policy)) return titleOf(policy);
  }
  return undefined;
}

/** Every pool that a rule of some listener may need. */
function wishesOf(plan: Omit<GatewayPlan, 'pools' | 'spoken'>, config: GatewayConfig, table: Table): PoolWish[] {
  const wishes: PoolWish[] = [];
  const wish = (
    backend: ResolvedBackend,
    protocol: 'http' | 'tcp',
    policy?: BackendTrafficPolicy,
    sticky = false,
    grpc?: string,
    translated?: string,
  ): void => {
    if (backend.upstream === undefined || backend.problem !== undefined) return;
    wishes.push({ upstream: backend.upstream, service: backend.key, protocol, policy, sticky, grpc, translated });
  };
  for (const { listeners } of plan.attachments.gateways)
    for (const listener of listeners)
      for (const { route } of listener.attached) {
        const backends = plan.attachments.backendsOf(route);
        const streams = route.kind === 'TLSRoute' || route.kind === 'TCPRoute';
        let next = 0;
        for (const rule of route.spec.rules ?? []) {
          const place = placeOf(listener, route, rule);
          const policy = plan.traffic.policyFor(place);
          const good = policy === undefined || 'problems' in policy ? undefined : policy;
          const translated = translatedBy(plan, place, table);
          for (const _ of rule.backendRefs ?? [])
            wish(backends[next++]!, streams ? 'tcp' : 'http', good, sticks(rule), grpcOf(route), translated);
        }
        for (const backend of backends.slice(next)) wish(backend, 'http', undefined, false, grpcOf(route));
      }
  const security = config.securityPolicies.flatMap((one) => [one, ...mergedOf(one)]);
  for (const policy of [...security, ...config.ownPolicies]) {
    for (const { field, backend } of backendsOf(policy, table)) {
      const namespace = backend.namespace ?? namespaceOf(policy, field);
      const from = { kind: kindOfPolicy(policy), namespace };
      const found = resolveBackend(backend, from, config.documents, plan.world);
      wish(found, 'http', undefined, false, askedInGrpc(policy, backend, field));
    }
  }
  return wishes;
}
