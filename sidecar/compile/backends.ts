// The backends of a rule: which one an exchange gets, its retries and timeouts, and a destination that cannot be
// reached.

import { parseDuration } from '../../cert-agent/base/clock.ts';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { BackendTrafficPolicy } from '../documents/envoy-gateway/backend-traffic-policy.ts';
import type { Hooks } from '../edge/capability.ts';
import type { EdgeRule, Route } from '../exchange/exchange.ts';
import type { Destination, RetryPolicy, RouteTimeouts } from '../exchange/upstream.ts';
import type { RouteRule } from '../routing/documents.ts';
import type { ResolvedBackend } from '../routing/references.ts';

/** A destination that refuses: the exchange fails when it asks for it, after policy has been evaluated. */
export function refusing(code: 'backend_invalid' | 'upstream_unresolved' | 'rule_broken', why: string): Destination {
  const refuse = (): never => {
    throw new SallyportError(code, why);
  };
  return Object.freeze({ acquire: refuse, dialSocket: async () => refuse() });
}

/** Envoy's name for a backend, as Istio makes it. */
export function clusterOf({ ref, namespace }: ResolvedBackend): string {
  return `outbound|${ref.port ?? ''}||${ref.name}.${namespace}.svc.cluster.local`;
}

/** One backend of a rule, with its weight. */
export interface Choice {
  readonly weight: number;
  readonly route: Route;
}

/** Chooses an exchange's backend by weight, with `share` or a random number. */
export function chooseBackend(choices: readonly Choice[], share: Hooks['share']): EdgeRule['backendFor'] {
  if (choices.length === 0) return () => undefined;
  const choose = chooseByWeight(choices);
  if (share !== undefined) return (exchange) => choose(share(exchange));
  if (choices.length === 1 && choices[0]!.weight > 0) {
    const [{ route }] = choices as [Choice];
    return () => route;
  }
  return () => choose(Math.random());
}

/** By a number from 0 to 1. */
export function chooseByWeight(choices: readonly Choice[]): (share: number) => Route {
  const total = choices.reduce((sum, { weight }) => sum + weight, 0);
  if (total === 0) {
    const nowhere: Route = {
      ...choices[0]!.route,
      destination: refusing('backend_invalid', 'all backends have weight 0'),
    };
    return () => nowhere;
  }
  return function chooseOne(share) {
    let left = share * total;
    for (const { weight, route } of choices) {
      left -= weight;
      if (left < 0) return route;
    }
    return choices.findLast(({ weight }) => weight > 0)!.route;
  };
}

/**
 * HTTPRouteRetry (GEP-1731): with `retry`, failed connections are always retried; so are the statuses that it names.
 */
export function retryOf({ retry }: RouteRule, policy: BackendTrafficPolicy | undefined): RetryPolicy | undefined {
  if (retry !== undefined)
    return {
      attempts: retry.attempts ?? 1,
      codes: retry.codes ?? [],
      on: ['connect-failure', 'refused-stream', 'reset'],
      backoffMs: retry.backoff === undefined ? defaultBackoffMs : milliseconds(retry.backoff),
      perTryTimeoutMs: 0,
    };
  const said = policy?.retry;
  if (said === undefined) return undefined;
  return {
    attempts: said.numRetries,
    codes: said.triggers.includes('retriable-status-codes') ? said.statusCodes : [],
    on: said.triggers.flatMap((one) =>
      one === 'retriable-status-codes' ? [] : one === 'reset-before-request' ? ['refused-stream' as const] : [one],
    ),
    backoffMs: said.backOff?.baseMs ?? defaultBackoffMs,
    maxBackoffMs: said.backOff?.maxMs,
    perTryTimeoutMs: said.perTryTimeoutMs ?? 0,
  };
}

/** Envoy's default. */
const defaultBackoffMs = 25;

/** The timeouts of a request and of each try; undefined if neither document sets one. */
export function timeoutsOf(
  { timeouts }: RouteRule,
  policy: BackendTrafficPolicy | undefined,
): RouteTimeouts | undefined {
  const requestMs =
    timeouts?.request === undefined ? (policy?.timeout?.requestMs ?? 0) : milliseconds(timeouts.request);
  const backendRequestMs = timeouts?.backendRequest === undefined ? 0 : milliseconds(timeouts.backendRequest);
  return requestMs + backendRequestMs === 0 ? undefined : { requestMs, backendRequestMs };
}

/** Parses a duration that the schema has checked. */
export function milliseconds(text: string): number {
  return parseDuration(text) ?? 0;
}
