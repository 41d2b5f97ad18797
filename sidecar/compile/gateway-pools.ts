// The pools of a gateway: for each upstream that a route names, one for requests and one for streams. A route whose
// policy balances, limits or checks its traffic differently gets a pool of its own.

import { hash } from 'node:crypto';
import { isLoopback } from '../../cert-agent/base/address.ts';
import type { OutsideUpstream, Settings } from '../config/settings.ts';
import type { BackendTrafficPolicy } from '../documents/envoy-gateway/backend-traffic-policy.ts';
import type { TlsVersion } from '../protocol/tls.ts';
import { authoritiesOf, backendTlsFor, lostBackendTls } from '../routing/backend-tls.ts';
import type { BackendTlsSpec, GatewayDocuments } from '../routing/documents.ts';
import { minVersionKey } from '../routing/tls-options.ts';
import type { PoolPlan } from '../upstream/pools.ts';
import type { BalancePlan, TrafficPlan } from '../upstream/traffic.ts';
import { spokenTo } from './backend-protocol.ts';

/** What a rule needs of the connections to its backend. */
export interface PoolWish {
  readonly upstream: string;
  /** `namespace/name:port` of the Service: the target of BackendTLSPolicies. */
  readonly service: string;
  readonly protocol: 'http' | 'tcp';
  readonly policy: BackendTrafficPolicy | undefined;
  /** Names what sends gRPC to it. */
  readonly grpc?: string | undefined;
  /** Names a policy that makes calls in gRPC of what is sent to it. */
  readonly translated?: string | undefined;
  /** True if the requests of one session stay with one endpoint. */
  readonly sticky: boolean;
}

/** Why an upstream cannot be used as configured. */
export interface NoPool {
  readonly problem: string;
}

/** Plans the pool for a wish; the same wish gives the same name. */
export function planPool(
  wish: PoolWish,
  settings: Settings,
  documents: GatewayDocuments,
  destinationRules: ReadonlyMap<string, TrafficPlan>,
): PoolPlan | NoPool {
  const { upstream, service, protocol, policy, sticky } = wish;
  const { limits, tls } = settings;
  const shaping = shapesTraffic(policy);
  const traffic = trafficFor(destinationRules.get(upstream), shaping, sticky);
  const suffix = shaping === undefined && !sticky ? '' : ` ${shortHash(traffic)}`;
  const common = { limits, ...(traffic === undefined ? {} : { traffic }) };
  const spoken = protocol === 'http' ? spokenTo(wish, settings, documents) : undefined;
  if (spoken?.problem !== undefined) return { problem: spoken.problem };
  const alpn = protocol === 'http' ? ['h2', 'http/1.1'] : [];
  const peer = Object.hasOwn(settings.upstreams, upstream) ? settings.upstreams[upstream] : undefined;
  if (peer !== undefined)
    return {
      ...common,
      name: `${protocol} ${upstream}${suffix}`,
      endpoints: peer.endpoints,
      peer: { upstream, isMeant: false, expected: peer.identity, tls, alpn },
    };
  const outside = settings.gateway!.outside[upstream]!;
  const lost = lostBackendTls(service, documents);
  if (lost !== undefined) return { problem: lost.why };
  const policyFor = backendTlsFor(service, documents);
  const http2 = spoken?.version === 'HTTP/2';
  const particular = spoken?.isParticular === true ? ` ${spoken.version}` : '';
  if (policyFor === undefined)
    return planPlain(outside, `${protocol} ${upstream}${particular}${suffix}`, upstream, { ...common, http2 });
  const { spec } = policyFor;
  const { hostname, subjectAltNames } = spec.validation;
  const authorities = authoritiesOf(policyFor, documents);
  if ('problem' in authorities) return authorities;
  const serverTls: PoolPlan['serverTls'] = {
    hostname,
    ca: authorities.ca,
    ...(subjectAltNames === undefined
      ? {}
      : { subjectAltNames: subjectAltNames.map(({ type, hostname: host, uri }) => ({ type, value: host ?? uri! })) }),
    tls: { ...tls, minVersion: minVersionOf(spec) },
    alpn: spoken?.version === undefined ? alpn : [http2 ? 'h2' : 'http/1.1'],
  };
  // By the result, not the text: the same text in two namespaces may name two authorities.
  const name = `${protocol} ${upstream} ${shortHash(serverTls)}${suffix}`;
  // An upstream that must speak HTTP/2 but does not negotiate it (ALPN) gets HTTP/2 as configured.
  return { ...common, name, endpoints: outside.endpoints, serverTls, http2 };
}

/** TLS 1.2 unless the policy requires more; other values were refused at reading. */
function minVersionOf({ options = {} }: BackendTlsSpec): TlsVersion {
  return options[minVersionKey] === '1.3' ? 'TLSv1.3' : 'TLSv1.2';
}

function planPlain(
  { endpoints, unsafePlaintext }: OutsideUpstream,
  name: string,
  upstream: string,
  common: Pick<PoolPlan, 'limits' | 'traffic' | 'http2'>,
): PoolPlan | NoPool {
  const open = endpoints.find((one) => 'host' in one && !isLoopback(one.host));
  if (open !== undefined && !unsafePlaintext)
    return {
      problem: `upstream '${upstream}' has neither 'identity' nor a BackendTLSPolicy: requests would travel in the clear ('unsafePlaintext: true' has them do so)`,
    };
  return { ...common, name, endpoints };
}

/** A route's policy overrides the upstream's DestinationRule, part by part. */
function trafficFor(
  rule: TrafficPlan | undefined,
  policy: BackendTrafficPolicy | undefined,
  sticky: boolean,
): TrafficPlan | undefined {
  if (policy === undefined && !sticky) return rule;
  const { circuitBreaker, healthCheck, timeout } = policy ?? {};
  const balance = sticky ? bySession : balanceOf(policy?.loadBalancer);
  const passive = healthCheck?.passive;
  const active = healthCheck?.active;
  return {
    ...rule,
    ...(balance === undefined ? {} : { balance }),
    connections: {
      ...rule?.connections,
      ...(circuitBreaker === undefined
        ? {}
        : {
            maxConnections: circuitBreaker.maxConnections,
            maxPending: circuitBreaker.maxPendingRequests,
            maxRequests: circuitBreaker.maxParallelRequests,
            maxRetries: circuitBreaker.maxParallelRetries,
            ...(circuitBreaker.maxRequestsPerConnection === undefined
              ? {}
              : { maxRequestsPerConnection: circuitBreaker.maxRequestsPerConnection }),
          }),
      ...(timeout?.connectMs === undefined ? {} : { connectMs: timeout.connectMs }),
      ...(timeout?.connectionIdleMs === undefined ? {} : { idleMs: timeout.connectionIdleMs }),
    },
    ...(passive === undefined
      ? {}
      : {
          outlier: {
            consecutive5xx: passive.consecutive5xxErrors,
            consecutiveGateway: passive.consecutiveGatewayErrors,
            intervalMs: passive.intervalMs,
            baseEjectionMs: passive.baseEjectionMs,
            maxEjectionPercent: passive.maxEjectionPercent,
          },
        }),
    ...(active === undefined
      ? {}
      : {
          health: {
            type: active.type === 'HTTP' ? ('http' as const) : ('tcp' as const),
            path: active.http?.path ?? '/',
            method: active.http?.method ?? 'GET',
            host: active.http?.hostname,
            expectedStatuses: active.http?.expectedStatuses ?? [200],
            intervalMs: active.intervalMs,
            timeoutMs: active.timeoutMs,
            unhealthyThreshold: active.unhealthyThreshold,
            healthyThreshold: active.healthyThreshold,
          },
        }),
  };
}

const tableSize = 65_537;
const bySession: BalancePlan = { by: 'maglev', hash: { session: true }, size: tableSize };

function balanceOf(plan: BackendTrafficPolicy['loadBalancer']): BalancePlan | undefined {
  if (plan === undefined) return undefined;
  if (plan.type === 'RoundRobin') return { by: 'roundRobin' };
  if (plan.type === 'Random') return { by: 'random' };
  if (plan.type === 'LeastRequest') return { by: 'leastRequest' };
  const { consistentHash } = plan;
  if (consistentHash?.type === 'Header') return hashed({ headers: consistentHash.names });
  if (consistentHash?.type === 'Cookie')
    return hashed({ cookie: consistentHash.name, path: '/', ttlMs: consistentHash.ttlMs });
  return hashed({ sourceIp: true });
}

function hashed(source: Extract<BalancePlan, { hash: unknown }>['hash']): BalancePlan {
  return { by: 'maglev', hash: source, size: tableSize };
}

function shortHash(value: unknown): string {
  return hash('sha256', JSON.stringify(value ?? null), 'base64url').slice(0, 8);
}

/** Only settings of connections make a pool of their own. */
function shapesTraffic(policy: BackendTrafficPolicy | undefined): BackendTrafficPolicy | undefined {
  const { loadBalancer, circuitBreaker, healthCheck, timeout } = policy ?? {};
  const shapes =
    loadBalancer !== undefined ||
    circuitBreaker !== undefined ||
    healthCheck !== undefined ||
    timeout?.connectMs !== undefined ||
    timeout?.connectionIdleMs !== undefined;
  return shapes ? policy : undefined;
}
