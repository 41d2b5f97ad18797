// BackendTrafficPolicy as read: plain data from the process that reads documents. Times are milliseconds, sizes bytes.
// A missing field has Envoy Gateway's default if there is one, else undefined.

import type { PolicyHead } from '../../edge/policy.ts';

/** A BackendTrafficPolicy as read. */
export interface BackendTrafficPolicy extends PolicyHead<BackendTrafficPolicy> {
  readonly retry?: RetrySettings;
  readonly timeout?: TimeoutSettings;
  readonly loadBalancer?: LoadBalancerSettings;
  readonly circuitBreaker?: CircuitBreakerSettings;
  readonly healthCheck?: HealthCheckSettings;
}

/** Envoy's names of what can be retried. */
export const retryTriggers = [
  ...(['5xx', 'gateway-error', 'reset', 'reset-before-request', 'connect-failure', 'retriable-4xx'] as const),
  ...(['refused-stream', 'retriable-status-codes'] as const),
  ...(['cancelled', 'deadline-exceeded', 'internal', 'resource-exhausted', 'unavailable'] as const),
] as const;
/** A trigger of `retryOn`. */
export type RetryTrigger = (typeof retryTriggers)[number];

/** `retry`. */
export interface RetrySettings {
  readonly numRetries: number;
  readonly triggers: readonly RetryTrigger[];
  /** The statuses of `retriable-status-codes`. */
  readonly statusCodes: readonly number[];
  readonly perTryTimeoutMs?: number;
  readonly backOff?: { readonly baseMs: number; readonly maxMs: number };
}

/** `timeout`. */
export interface TimeoutSettings {
  readonly connectMs?: number;
  /** For the whole response; 0: none. */
  readonly requestMs?: number;
  readonly connectionIdleMs?: number;
}

/** `loadBalancer`. */
export interface LoadBalancerSettings {
  readonly type: 'RoundRobin' | 'LeastRequest' | 'Random' | 'ConsistentHash';
  readonly consistentHash?:
    | { readonly type: 'SourceIP' }
    /** Lower case. */
    | { readonly type: 'Header'; readonly names: readonly string[] }
    | { readonly type: 'Cookie'; readonly name: string; readonly ttlMs?: number };
}

/** `circuitBreaker`. */
export interface CircuitBreakerSettings {
  readonly maxConnections: number;
  readonly maxPendingRequests: number;
  readonly maxParallelRequests: number;
  readonly maxParallelRetries: number;
  /** Undefined: no limit. */
  readonly maxRequestsPerConnection?: number;
}

/** `healthCheck`. */
export interface HealthCheckSettings {
  readonly active?: {
    readonly type: 'HTTP' | 'TCP';
    readonly http?: {
      readonly path: string;
      readonly method: string;
      readonly expectedStatuses: readonly number[];
      readonly hostname?: string;
    };
    readonly intervalMs: number;
    readonly timeoutMs: number;
    readonly unhealthyThreshold: number;
    readonly healthyThreshold: number;
  };
  readonly passive?: {
    readonly consecutive5xxErrors: number;
    /** 0: they are not counted separately. */
    readonly consecutiveGatewayErrors: number;
    readonly intervalMs: number;
    readonly baseEjectionMs: number;
    readonly maxEjectionPercent: number;
  };
}
