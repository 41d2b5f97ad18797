// Whether and when a request is retried: Envoy's rules, and Gateway API's (GEP-1731), under which any retry policy also
// retries connection errors. Pure except for random numbers.

import { type CodeRow, SallyportError } from '../../cert-agent/base/errors.ts';
import type { Reply } from '../exchange/message.ts';
import type { RetryOn, RetryPolicy } from '../exchange/upstream.ts';
import { grpcStatusOf } from '../protocol/grpc.ts';

// RFC 9110 section 9.2.2: methods that may be sent twice without harm.
const idempotent = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE', 'PUT', 'DELETE']);

/** RFC 9110 section 9.2.2: sending it twice is as sending it once. */
export function isIdempotent(method: string): boolean {
  return idempotent.has(method);
}

/** Nothing of the request was sent: there was no connection for it. */
const connectFailures = new Set([
  'upstream_connect',
  'upstream_connect_timeout',
  'upstream_tls',
  'upstream_identity',
  'upstream_unresolved',
]);

/** The request may have been processed without a response. */
const resets = new Set([
  'upstream_closed',
  'upstream_reset',
  'upstream_refused_us',
  'upstream_protocol',
  'upstream_per_try_timeout',
]);

/** Envoy's names for gRPC's numbers. */
const grpcNames: Readonly<Record<number, RetryOn>> = {
  1: 'cancelled',
  4: 'deadline-exceeded',
  8: 'resource-exhausted',
  13: 'internal',
  14: 'unavailable',
};

/** Without a response the client gets 503, so a policy that retries 503 includes this case (as in Envoy). */
const forReset: readonly RetryOn[] = ['reset', 'gateway-error', '5xx'];
const forRefused: ReadonlySet<RetryOn> = new Set(['refused-stream', ...forReset]);
const forConnect: ReadonlySet<RetryOn> = new Set(['connect-failure', 'reset-before-request', ...forReset]);

/** Whether the policy retries a request that failed before the head of its response. */
export function retriesError({ on }: RetryPolicy, method: string, { code }: SallyportError): boolean {
  // For any method: the other side has not processed it (RFC 9113 section 8.7).
  if (code === 'upstream_refused_stream') return on.some((one) => forRefused.has(one));
  if (connectFailures.has(code)) return on.some((one) => forConnect.has(one));
  return resets.has(code) && isIdempotent(method) && on.some((one) => forReset.includes(one));
}

/** Whether the policy retries a request that got this response. Nothing of its body has been passed on yet. */
export function retriesReply({ on, codes }: RetryPolicy, method: string, { status, fields }: Reply): boolean {
  // A policy that names statuses, of HTTP or gRPC, accepts that the request may be processed twice.
  if (codes.includes(status)) return true;
  if (on.length === 0) return false;
  const grpc = grpcStatusOf(fields);
  const name = grpc === undefined ? undefined : grpcNames[grpc];
  if (name !== undefined && on.includes(name)) return true;
  if (!isIdempotent(method)) return false;
  return on.some(
    (one) =>
      (one === '5xx' && status >= 500) ||
      (one === 'gateway-error' && status >= 502 && status <= 504) ||
      (one === 'retriable-4xx' && status === 409),
  );
}

/** Envoy's default base. */
const usualBackoffMs = 25;

/**
 * How long to wait before retry number `retry`, from 1: fully random, so that requests that failed together spread out.
 */
export function backoffMs(policy: RetryPolicy, retry: number, random: () => number = Math.random): number {
  const first = policy.backoffMs > 0 ? policy.backoffMs : usualBackoffMs;
  return random() * Math.min(policy.maxBackoffMs ?? first * 10, first * (2 ** retry - 1));
}

/** The last error of a request with no tries left: its flag shows it as Envoy's does, `UF,URX`. */
export class RetriesExhausted extends SallyportError {
  constructor(last: SallyportError, tries: number) {
    super(last.code, `${last.message} (the last of ${tries} tries)`, { cause: last });
  }

  /** That of the last error, with Envoy's flag URX added. */
  override get row(): CodeRow {
    const { row } = this.cause as SallyportError;
    return { ...row, flag: row.flag === '-' ? 'URX' : `${row.flag},URX` };
  }
}
