// The only place where an exchange is recorded as allowed or denied.

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
