// The traffic settings of an upstream: balancing, limits, outlier detection. Plain data, from Istio's DestinationRule
// or Envoy Gateway's BackendTrafficPolicy, in the terms of the former; absent values have our settings' defaults.

import type { HashSource } from '../exchange/upstream.ts';

/** How an endpoint is chosen for a request. */
export type BalancePlan =
  | { readonly by: 'leastRequest' | 'roundRobin' | 'random' }
  | {
      readonly by: 'ringHash' | 'maglev';
      readonly hash: HashSource;
      /** The minimum number of points on the ring, or the size of Maglev's table, a prime. */
      readonly size: number;
    };

/**
 * Beyond these a request is refused, or waits if it may. Connections and requests are counted for the whole upstream.
 */
export interface ConnectionPlan {
  readonly maxConnections?: number;
  readonly maxPending?: number;
  /** In flight at once, including those that wait. */
  readonly maxRequests?: number;
  readonly maxRequestsPerConnection?: number;
  readonly maxStreamsPerConnection?: number;
  /** Retries in flight; replaces the budget. */
  readonly maxRetries?: number;
  readonly connectMs?: number;
  readonly idleMs?: number;
  /** For TCP; 0: none. */
  readonly tcpIdleMs?: number;
  readonly maxConnectionMs?: number;
  readonly keepAlive?: { readonly timeMs?: number; readonly intervalMs?: number; readonly probes?: number };
  /** False: HTTP/1.1 to peers, too. */
  readonly http2?: boolean;
}

/** When an endpoint is ejected for its responses. A number of 0 disables its count. */
export interface OutlierPlan {
  readonly consecutive5xx: number;
  readonly consecutiveGateway: number;
  /** If present, our own failures (to connect, to get a response) are counted separately from its responses. */
  readonly consecutiveLocal?: number;
  readonly intervalMs: number;
  readonly baseEjectionMs: number;
  readonly maxEjectionPercent: number;
}

/** How endpoints are checked for health. */
export interface HealthCheckPlan {
  readonly type: 'http' | 'tcp';
  readonly path: string;
  readonly method: string;
  /** The Host of the check; undefined: the address. */
  readonly host?: string | undefined;
  /** Statuses that count as healthy. */
  readonly expectedStatuses: readonly number[];
  readonly intervalMs: number;
  readonly timeoutMs: number;
  readonly unhealthyThreshold: number;
  readonly healthyThreshold: number;
}

/** All parts are optional and independent. Times are milliseconds. */
export interface TrafficPlan {
  /** Default: of two endpoints chosen at random, the one with fewer requests in flight. */
  readonly balance?: BalancePlan;
  readonly connections?: ConnectionPlan;
  readonly outlier?: OutlierPlan;
  readonly health?: HealthCheckPlan;
  /** If a smaller share of the endpoints than this is usable, all are used; 0: never use unusable ones. */
  readonly panicPercent?: number;
}
