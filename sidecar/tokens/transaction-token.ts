// Transaction tokens on a request: taken from a gateway, put there by one, and removed from what everybody else says.
// Whoever could sign one for himself would be any user to a policy that asks only for claims, so they are believed of the
// peers under `gateways` alone, and removed from others in every spelling, in heads and in trailers.

import type { Connection } from '../connection.ts';
import type { Exchange, PortRules } from '../exchange/exchange.ts';
import { changeRequest } from '../exchange/fields.ts';
import type { FieldName } from '../exchange/message.ts';
import {
  checkVouched,
  transactionTokenField,
  transactionTokenRefusal,
  type Vouched,
  verifyTransactionToken,
} from '../policy/transaction-token.ts';
import { countTransactionToken } from './metrics.ts';
import type { SignTransactionToken } from './sign.ts';

const tokenField: ReadonlySet<string> = new Set([transactionTokenField]);

/**
 * Fills in `vouched`, inbound, from a peer whose word is taken; the peer has been checked. The token stays where it is: it is
 * addressed to this workload, whose app may read it.
 * @throws SallyportError `txn_token_invalid`.
 */
export function takeTransactionToken(exchange: Exchange, connection: Connection): void {
  // What was verified stands in the head; behind the body it would be anybody's.
  addTaken(exchange);
  const at = findToken(exchange);
  if (at === -1) return;
  const { peer, verifiedUnder: ours } = connection;
  if (peer === undefined || ours === undefined || !exchange.rules.gateways.has(peer.id.uri))
    return removeToken(exchange, 'untrusted_peer');
  try {
    exchange.vouched = verify(exchange, at, peer.id.uri, ours);
  } catch (error) {
    countTransactionToken('refused');
    exchange.decision = 'deny';
    throw error;
  }
  countTransactionToken('verified');
}

/**
 * Asks again for an exchange in flight: a peer that is no longer named under `gateways` vouches for nobody.
 * @throws SallyportError `txn_token_invalid` when whoever signed is denied by now, or no longer trusted.
 */
export function takeTransactionTokenAgain(
  exchange: Exchange,
  { verifiedUnder }: Connection,
  { gateways }: PortRules,
): void {
  const { vouched } = exchange;
  if (vouched === undefined) return;
  if (verifiedUnder === undefined || !gateways.has(vouched.gateway)) exchange.vouched = undefined;
  else checkVouched(vouched, verifiedUnder);
}

/** Removes one from what our own app sends: it is addressed to us, and would be nothing but a secret at the next hop. */
export function dropTransactionToken(exchange: Exchange): void {
  addTaken(exchange);
  if (findToken(exchange) !== -1) removeToken(exchange, 'own_app');
}

/**
 * What a gateway knows of the user goes on to the next hop, in place of what the caller may have claimed. Nothing is said of
 * nobody, nor to an upstream without an identity. It comes after the route, whose identity it is made for.
 * @throws SallyportError as `sign`.
 */
export function carryTransactionToken(exchange: Exchange, sign: SignTransactionToken): void {
  const audience = exchange.route?.principal;
  const known = audience !== undefined && exchange.authMethod !== undefined;
  // Nobody is known, and what the caller claims was taken out when he came in.
  if (!known && exchange.taken?.has(transactionTokenField) === true) return;
  // Of several identities it is for the one that is reached: forward.ts asks for it then.
  if (known && exchange.route?.otherPrincipals !== undefined) {
    changeRequest(exchange, tokenField, []);
    exchange.addressed = (peer) => [transactionTokenField, sign(exchange, peer)];
    return;
  }
  changeRequest(exchange, tokenField, known ? [[transactionTokenField, sign(exchange, audience)]] : []);
}

function verify(exchange: Exchange, at: number, peer: string, ours: NonNullable<Connection['verifiedUnder']>): Vouched {
  const { names, values } = exchange.fields;
  if (names[at]!.lower !== transactionTokenField || names.some((one, i) => i > at && isToken(one)))
    throw transactionTokenRefusal(peer, 'the request has several, or one of another spelling');
  return verifyTransactionToken(values[at]!, peer, ours, Date.now());
}

function findToken({ fields: { names } }: Exchange): number {
  for (let i = 0; i < names.length; i++) if (isToken(names[i]!)) return i;
  return -1;
}

/** In every spelling that servers fold into this one. */
function isToken({ folded }: FieldName): boolean {
  return folded === transactionTokenField;
}

function addTaken(exchange: Exchange): void {
  const { taken } = exchange;
  if (taken === undefined) exchange.taken = tokenField;
  else if (!taken.has(transactionTokenField)) exchange.taken = new Set([...taken, transactionTokenField]);
}

function removeToken(exchange: Exchange, outcome: 'untrusted_peer' | 'own_app'): void {
  changeRequest(exchange, tokenField, []);
  countTransactionToken(outcome);
}
