// Who sent a request, as far as the steps of authentication know.

import type { ConnectionFacts } from '../exchange/connection-facts.ts';
import { type Exchange, Slot } from '../exchange/exchange.ts';
import { vouchedFor } from '../tokens/transaction-token.ts';

/** Set: no cache stores its response or serves it from what is stored, as it is made for this caller. */
export const isForOneCaller = new Slot<true>();

/**
 * What identifies a caller: the same after its token or certificate was renewed, and all undefined for one without any
 * identity. The method is part of it: a user and an API key may have the same name.
 */
export function callerParts(exchange: Exchange, { client, peer }: ConnectionFacts): readonly (string | undefined)[] {
  const { auth, authMethod, clientId } = exchange;
  const vouched = vouchedFor.get(exchange);
  const subject = auth?.subject ?? textOf(auth?.claims['client_id']) ?? textOf(auth?.claims['azp']);
  return [
    authMethod,
    auth?.issuer,
    subject,
    clientId,
    client?.name,
    peer?.id.uri,
    vouched?.gateway,
    vouched?.auth.principal,
  ];
}

function textOf(claim: unknown): string | undefined {
  return typeof claim === 'string' ? claim : undefined;
}
