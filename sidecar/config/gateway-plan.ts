// What a gateway's documents come to, before anything is compiled: what is attached to what, which policy holds where, and
// which pools that needs. Pure; the statuses that are printed come from the same look.

import type { BackendTrafficPolicy } from '../filters/backend-traffic-policy.ts';
import type { SecurityPolicy } from '../filters/security-policy.ts';
import { type Attachments, attach, type ServedListener, sentenceOf } from '../routing/attach.ts';
import { backendTlsStatuses } from '../routing/backend-tls.ts';
import type { BackendRef, RouteDocument, RouteRule } from '../routing/documents.ts';
import { attachPolicies, type Failing, type PolicyTable, type RulePlace } from '../routing/policies.ts';
import { type GatewayWorld, type ResolvedBackend, resolveBackend } from '../routing/references.ts';
import { type StatusList, statusList } from '../routing/status.ts';
import type { PoolPlan } from '../upstream/pools.ts';
import { type PoolWish, planPool } from './gateway-pools.ts';
import type { BrokenPolicy, GatewayConfig } from './gateway-read.ts';
import { trafficOf } from './generation.ts';
import type { Configuration } from './watch.ts';

/** Everything that was found out about the documents. */
export interface GatewayPlan {
  readonly attachments: Attachments;
  readonly security: PolicyTable<SecurityPolicy | BrokenAsPolicy>;
  readonly traffic: PolicyTable<BackendTrafficPolicy | BrokenAsPolicy>;
  readonly pools: readonly PoolPlan[];
  readonly world: GatewayWorld;
}

type BrokenAsPolicy = BrokenPolicy & { readonly createdAt?: number };

/** Looks at the documents: what is attached to what, and which pools that needs. `last` is what is served now. */
export function planGateway(configuration: Configuration, now: number, last?: GatewayPlan): GatewayPlan {
  const { settings, documents: istio } = configuration;
  const config = configuration.gateway!;
  const world = worldOf(config, configuration, now, last);
  const { documents } = config;
  const attachments = attach(documents, world);
  const broken = (kind: BrokenPolicy['kind']): BrokenAsPolicy[] => config.broken.filter((one) => one.kind === kind);
  const security = attachPolicies<SecurityPolicy | BrokenAsPolicy>(
    [...config.securityPolicies, ...broken('SecurityPolicy')],
    ...([documents, now, failing<SecurityPolicy>('SecurityPolicy')] as const),
  );
  const traffic = attachPolicies<BackendTrafficPolicy | BrokenAsPolicy>(
    [...config.trafficPolicies, ...broken('BackendTrafficPolicy')],
    ...([documents, now, failing<BackendTrafficPolicy>('BackendTrafficPolicy')] as const),
  );
  const plan = { attachments, security, traffic, world };
  const { traffic: rules } = trafficOf(settings, istio.destinationRules);
  const pools = new Map<string, PoolPlan>();
  for (const wish of wishesOf(plan, config)) {
    const pool = planPool(wish, settings, documents, rules);
    if (!('problem' in pool)) pools.set(pool.name, pool);
  }
  return { ...plan, pools: [...pools.values()] };
}

/** A policy that cannot be served closes what it was for: as a broken one does. */
function failing<P extends Placed>(kind: BrokenPolicy['kind']): Failing<P | BrokenAsPolicy> {
  return {
    refusalOf: (policy) => ('problems' in policy ? sentenceOf(policy as BrokenPolicy) : undefined),
    closing({ namespace, name, targets, file, line }, message) {
      return {
        ...{ kind, namespace, name, targets, file, line, ownHeaders: [], secretParams: [] },
        problems: [{ file, line, column: 1, message }],
      };
    },
  };
}

type Placed = Pick<BrokenPolicy, 'namespace' | 'name' | 'targets' | 'file' | 'line'>;

/** The statuses of what was planned. */
export function statusOf(
  { attachments, security, traffic }: GatewayPlan,
  { documents }: GatewayConfig,
  now: number,
): StatusList {
  const policies = [
    ...security.statuses.map((one) => ({ kind: 'SecurityPolicy', ...one })),
    ...traffic.statuses.map((one) => ({ kind: 'BackendTrafficPolicy', ...one })),
    ...backendTlsStatuses(attachments, documents, now),
  ];
  return statusList(attachments, policies, documents, now);
}

function worldOf(
  config: GatewayConfig,
  { settings }: Configuration,
  now: number,
  last: GatewayPlan | undefined,
): GatewayWorld {
  const { backends, listeners } = settings.gateway!;
  const served = last?.attachments.gateways.flatMap((one) => one.listeners).flatMap((one) => one.certificates) ?? [];
  const lastCertificates = new Map(served.map((pair) => [pair.secret, pair]));
  return { backends, listeners, certificates: config.certificates, lastCertificates, now };
}

/** Where a rule stands, for the policies that are attached. */
export function placeOf(listener: ServedListener, route: RouteDocument, rule: RouteRule): RulePlace {
  const { gateway, spec } = listener;
  return {
    ...{ kind: route.kind, namespace: route.namespace, route: route.name, rule: rule.name },
    ...{ gatewayNamespace: gateway.namespace, gateway: gateway.name, listener: spec.name },
  };
}

/** Every pool that some rule of some listener could ask for. */
function wishesOf(plan: Omit<GatewayPlan, 'pools'>, config: GatewayConfig): PoolWish[] {
  const wishes: PoolWish[] = [];
  const wish = (
    backend: ResolvedBackend,
    protocol: 'http' | 'tcp',
    policy?: BackendTrafficPolicy,
    sticky = false,
  ): void => {
    if (backend.upstream === undefined || backend.problem !== undefined) return;
    wishes.push({ upstream: backend.upstream, service: backend.key, protocol, policy, sticky });
  };
  for (const { listeners } of plan.attachments.gateways)
    for (const listener of listeners)
      for (const { route } of listener.attached) {
        const backends = plan.attachments.backendsOf(route);
        const streams = route.kind === 'TLSRoute' || route.kind === 'TCPRoute';
        let next = 0;
        for (const rule of route.spec.rules ?? []) {
          const policy = plan.traffic.policyFor(placeOf(listener, route, rule));
          const good = policy === undefined || 'problems' in policy ? undefined : policy;
          for (const _ of rule.backendRefs ?? [])
            wish(
              backends[next++]!,
              streams ? 'tcp' : 'http',
              streams ? undefined : good,
              rule.sessionPersistence !== undefined,
            );
        }
        for (const backend of backends.slice(next)) wish(backend, 'http');
      }
  for (const policy of config.securityPolicies) {
    const { extAuth, namespace } = policy;
    if (extAuth === undefined) continue;
    const ref: BackendRef = extAuth.backendRef;
    wish(
      resolveBackend(
        ref,
        { kind: 'SecurityPolicy', namespace: ref.namespace ?? namespace },
        config.documents,
        plan.world,
      ),
      'http',
    );
  }
  return wishes;
}
