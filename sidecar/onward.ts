// The end of the path behind permission: the request as its rule changes it, to its destination. Capabilities that
// fetch responses themselves use the same steps.

import type { Exchange } from './exchange/exchange.ts';
import type { Onward } from './exchange/onward.ts';
import { forward } from './forward.ts';
import type { Permit } from './policy/policy.ts';
import { answerReply, refuse } from './respond.ts';
import type { SignTransactionToken } from './tokens/sign.ts';
import { carryTransactionToken } from './tokens/transaction-token.ts';

/** Rewrites and forwards an exchange, then runs what follows. */
export function passOn(
  exchange: Exchange,
  permit: Permit,
  clientCert: string | undefined,
  sign: SignTransactionToken,
): void {
  const { phases } = exchange;
  if (phases !== undefined) for (const change of phases.rewrite) change(exchange);
  if (exchange.edge !== undefined) carryTransactionToken(exchange, sign);
  forward(exchange, permit, clientCert);
  if (phases !== undefined) for (const follow of phases.forwarded) follow(exchange, clientCert);
}

/** The same for capabilities, at a gateway, whose rules have a permit. */
export function createOnward(sign: SignTransactionToken): Onward {
  return {
    forward: (exchange, clientCert) => passOn(exchange, exchange.edge!.permit, clientCert, sign),
    answer: answerReply,
    refuse,
  };
}
