// The only place where an exchange is recorded as allowed or denied, and where the record gets the reason for its end:
// Envoy's flag and details, and the error.

import type { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Denial } from './ends.ts';
import type { Exchange } from './exchange.ts';

/** Details of a refusal beside its error. */
interface Refused {
  /** The policy that decided; by default the recorded one. */
  readonly policy?: string;
  /** Envoy's details, if they differ from the error's row in the table. */
  readonly details?: string;
  /** The response, if it has its own text. */
  readonly denial?: Denial;
}

/** Records that `policy` allows the exchange. */
export function allow(exchange: Exchange, policy: string): void {
  exchange.decision = 'allow';
  exchange.policy = policy;
}

/** Records that the exchange is refused, and returns the error to throw. */
export function deny(exchange: Exchange, error: SallyportError, refused: Refused = {}): SallyportError {
  exchange.decision = 'deny';
  exchange.details = refused.details ?? error.row.details;
  if (refused.policy !== undefined) exchange.policy = refused.policy;
  if (refused.denial !== undefined) exchange.denial = refused.denial;
  return error;
}

/** Records what ended, or answered, an exchange that was not refused. */
export function end(exchange: Exchange, details: string): void {
  exchange.details = details;
}

/** Records that the client left before the end. What ended it earlier stands. */
export function endByClient(exchange: Exchange, details: string): void {
  if (exchange.flag !== '-') return;
  exchange.flag = 'DC';
  if (!hasOwnDetails(exchange)) end(exchange, details);
}

/** Records the error that ends the exchange. `details` are the error's, unless a decision has set its own. */
export function fail(exchange: Exchange, error: SallyportError, details: string = error.row.details): void {
  exchange.failure = error;
  exchange.flag = error.row.flag;
  exchange.details = details;
}

/** True if a step has recorded details that say more than that the upstream has responded. */
export function hasOwnDetails({ details }: Exchange): boolean {
  return details !== '-' && details !== 'via_upstream';
}
