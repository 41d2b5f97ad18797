// Whether a request is sent again, and when: Envoy's rules, and Gateway API's (GEP-1731), under which connection errors are
// tried again wherever a policy is. Pure but for the dice.

import { type CodeRow, SallyportError } from '../../cert-agent/base/errors.ts';
import type { Reply } from '../exchange/message.ts';
import type { RetryOn, RetryPolicy } from '../exchange/upstream.ts';
import { grpcStatusOf } from '../protocol/grpc.ts';

// RFC 9110 section 9.2.2: what may be sent twice without harm.
const idempotent = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE', 'PUT', 'DELETE']);

export function isIdempotent(method: string): boolean {
  return idempotent.has(method);
}

/** Nothing of the request has been sent: there was no connection to send it on. */
const connectFailures = new Set([
  'upstream_connect',
  'upstream_connect_timeout',
  'upstream_tls',
  'upstream_identity',
  'upstream_unresolved',
]);

/** The request may have been done, and nobody has said so. */
const resets = new Set([
  'upstream_closed',
  'upstream_reset',
  'upstream_refused_us',
  'upstream_protocol',
  'upstream_per_try_timeout',
]);

/** Envoy's names of what gRPC numbers. */
const grpcNames: Readonly<Record<number, RetryOn>> = {
  1: 'cancelled',
  4: 'deadline-exceeded',
  8: 'resource-exhausted',
  13: 'internal',
  14: 'unavailable',
};

/** Without an answer the caller gets 503, so whoever has those tried again means this as well (as Envoy). */
const forReset: readonly RetryOn[] = ['reset', 'gateway-error', '5xx'];
const forRefused: ReadonlySet<RetryOn> = new Set(['refused-stream', ...forReset]);
const forConnect: ReadonlySet<RetryOn> = new Set(['connect-failure', 'reset-before-request', ...forReset]);

/** Whether the policy has a request tried again that failed before the head of its answer. */
export function retriesError({ on }: RetryPolicy, method: string, { code }: SallyportError): boolean {
  // Whatever the method is: the other side has not looked at it (RFC 9113 section 8.7).
  if (code === 'upstream_refused_stream') return on.some((one) => forRefused.has(one));
  if (connectFailures.has(code)) return on.some((one) => forConnect.has(one));
  return resets.has(code) && isIdempotent(method) && on.some((one) => forReset.includes(one));
}

/** Whether it has one tried again that got this answer. Of its body nothing has gone on yet. */
export function retriesReply({ on, codes }: RetryPolicy, method: string, { status, fields }: Reply): boolean {
  // Whoever names statuses, of HTTP or gRPC, has said that the request may be done twice.
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

/** How long to wait before retry number `retry`, from 1: all of it is chance, so that those who failed together part. */
export function backoffMs(policy: RetryPolicy, retry: number, random: () => number = Math.random): number {
  const first = policy.backoffMs > 0 ? policy.backoffMs : usualBackoffMs;
  return random() * Math.min(policy.maxBackoffMs ?? first * 10, first * (2 ** retry - 1));
}

/** The last error of a request that was sent as often as it may be: its flag says so as Envoy's does, `UF,URX`. */
export class RetriesExhausted extends SallyportError {
  constructor(last: SallyportError, tries: number) {
    super(last.code, `${last.message} (and it was the last of ${tries} tries)`, { cause: last });
  }

  override get row(): CodeRow {
    const { row } = this.cause as SallyportError;
    return { ...row, flag: row.flag === '-' ? 'URX' : `${row.flag},URX` };
  }
}
