// The one place where an exchange is put on record as allowed or denied.

import type { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Denial } from './ends.ts';
import type { Exchange } from './exchange.ts';

/** What a refusal says beside its error. */
interface Refused {
  /** The policy that decided; by default the one on record. */
  readonly policy?: string;
  /** Envoy's details, where the error's row in the table cannot know them. */
  readonly details?: string;
  /** The response, where it has words of its own. */
  readonly denial?: Denial;
}

/** Records that `policy` allows the exchange. */
export function allow(exchange: Exchange, policy: string): void {
  exchange.decision = 'allow';
  exchange.policy = policy;
}

/** Records that the exchange is refused, and returns the error, to be thrown. */
export function deny(exchange: Exchange, error: SallyportError, refused: Refused = {}): SallyportError {
  exchange.decision = 'deny';
  exchange.details = refused.details ?? error.row.details;
  if (refused.policy !== undefined) exchange.policy = refused.policy;
  if (refused.denial !== undefined) exchange.denial = refused.denial;
  return error;
}
