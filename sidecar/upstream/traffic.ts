// What an upstream's traffic is to be like: balancing, limits, whom to leave out. Plain data, from Istio's DestinationRule or
// Envoy Gateway's BackendTrafficPolicy, in the words of the former; what is absent has the default of our settings.

import type { HashSource } from '../exchange/upstream.ts';

/** How an endpoint is chosen for a request. */
export type BalancePlan =
  | { readonly by: 'leastRequest' | 'roundRobin' | 'random' }
  | {
      readonly by: 'ringHash' | 'maglev';
      readonly hash: HashSource;
      /** The least number of points on the ring, or the size of Maglev's table, a prime. */
      readonly size: number;
    };

/** Past these a request is refused, or waits where it may. Connections and requests are those of the whole upstream. */
export interface ConnectionPlan {
  readonly maxConnections?: number;
  readonly maxPending?: number;
  /** In flight at once, those that wait included. */
  readonly maxRequests?: number;
  readonly maxRequestsPerConnection?: number;
  readonly maxStreamsPerConnection?: number;
  /** Retries in flight; in place of the budget. */
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

/** When an endpoint is left out for what it answered. A number of 0 switches its count off. */
export interface OutlierPlan {
  readonly consecutive5xx: number;
  readonly consecutiveGateway: number;
  /** Where present, failures of ours (to connect, to get an answer) are counted apart from what it answers. */
  readonly consecutiveLocal?: number;
  readonly intervalMs: number;
  readonly baseEjectionMs: number;
  readonly maxEjectionPercent: number;
}

/** How endpoints are asked whether they are well. */
export interface HealthCheckPlan {
  readonly type: 'http' | 'tcp';
  readonly path: string;
  readonly method: string;
  /** The Host that is asked; undefined: the address. */
  readonly host?: string | undefined;
  /** Statuses that mean well. */
  readonly expectedStatuses: readonly number[];
  readonly intervalMs: number;
  readonly timeoutMs: number;
  readonly unhealthyThreshold: number;
  readonly healthyThreshold: number;
}

export interface TrafficPlan {
  /** Default: the endpoint with fewer requests in flight, of two drawn by lot. */
  readonly balance?: BalancePlan;
  readonly connections?: ConnectionPlan;
  readonly outlier?: OutlierPlan;
  readonly health?: HealthCheckPlan;
  /** With a smaller part of the endpoints fit for use than this, all are used; 0: never those that are not. */
  readonly panicPercent?: number;
}
