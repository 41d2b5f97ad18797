// Transaction tokens on a request: accepted from a gateway, added by one, and removed from everything else. A peer that
// could sign one for itself could be any user to a policy that tests only claims. So tokens are accepted only from the
// peers under `gateways`, and removed from other requests in every spelling, in heads and in trailers.

import { asSallyportError } from '../../cert-agent/base/errors.ts';
import type { Connection } from '../connection.ts';
import { deny } from '../exchange/decision.ts';
import { type Exchange, type PortRules, Slot } from '../exchange/exchange.ts';
import { changeRequest } from '../exchange/fields.ts';
import type { FieldName } from '../exchange/message.ts';
import {
  checkVouched,
  transactionTokenField,
  transactionTokenRefusal,
  type Vouched,
  verifyTransactionToken,
} from '../policy/transaction-token.ts';
import type { TransactionTokenCounts } from './metrics.ts';
import type { SignTransactionToken } from './sign.ts';

/** A gateway's assertion about the user, from a verified token. */
export const vouchedFor = new Slot<Vouched>();

/** Gives the field to add for the identity that the upstream proves, if there are several. */
export const addressedToken = new Slot<(peer: string) => readonly [string, string]>();

const tokenField: ReadonlySet<string> = new Set([transactionTokenField]);

/**
 * Sets `vouchedFor` on inbound requests from a trusted gateway; the peer has been checked. The token is forwarded: it
 * is addressed to this workload, whose app may read it.
 * @throws SallyportError `txn_token_invalid`.
 */
export function takeTransactionToken(exchange: Exchange, connection: Connection, counts: TransactionTokenCounts): void {
  // The verified token is in the head; in a trailer it could be anything.
  addTaken(exchange);
  const at = findToken(exchange);
  if (at === -1) return;
  const { peer, verifiedUnder: ours } = connection;
  if (peer === undefined || ours === undefined || !exchange.rules.gateways.has(peer.id.uri))
    return removeToken(exchange, counts, 'untrusted_peer');
  try {
    vouchedFor.set(exchange, verify(exchange, at, peer.id.uri, ours));
  } catch (error) {
    counts.count('refused');
    throw deny(exchange, asSallyportError(error, 'internal', 'the transaction token cannot be verified'));
  }
  counts.count('verified');
}

/**
 * Checks an exchange in flight again: a peer that is no longer under `gateways` vouches for no user.
 * @throws SallyportError `txn_token_invalid` if the signer has been denied since, or is no longer trusted.
 */
export function takeTransactionTokenAgain(
  exchange: Exchange,
  { verifiedUnder }: Connection,
  { gateways }: PortRules,
): void {
  const vouched = vouchedFor.get(exchange);
  if (vouched === undefined) return;
  if (verifiedUnder === undefined || !gateways.has(vouched.gateway)) vouchedFor.set(exchange, undefined);
  else checkVouched(vouched, verifiedUnder);
}

/**
 * Removes one from our own app's requests: it is addressed to us, and at the next hop it would only be a leaked secret.
 */
export function dropTransactionToken(exchange: Exchange, counts: TransactionTokenCounts): void {
  addTaken(exchange);
  if (findToken(exchange) !== -1) removeToken(exchange, counts, 'own_app');
}

/**
 * Sends the gateway's assertion about the user to the next hop, in place of anything that the client may have claimed.
 * Nothing is sent for an unauthenticated user, nor to an upstream without an identity. It runs after the route, which
 * gives the identity it is made for.
 * @throws SallyportError as `sign`.
 */
export function carryTransactionToken(exchange: Exchange, sign: SignTransactionToken): void {
  const audience = exchange.route?.principal;
  const known = audience !== undefined && exchange.authMethod !== undefined;
  // No user is authenticated, and the client's own token was removed on arrival.
  if (!known && exchange.taken?.has(transactionTokenField) === true) return;
  // With several identities it is made for the one that is reached: forward.ts does that later.
  if (known && exchange.route?.otherPrincipals !== undefined) {
    changeRequest(exchange, tokenField, []);
    addressedToken.set(exchange, (peer) => [transactionTokenField, sign(exchange, peer)]);
    return;
  }
  changeRequest(exchange, tokenField, known ? [[transactionTokenField, sign(exchange, audience)]] : []);
}

function verify(exchange: Exchange, at: number, peer: string, ours: NonNullable<Connection['verifiedUnder']>): Vouched {
  const { names, values } = exchange.fields;
  if (names[at]!.lower !== transactionTokenField || names.some((one, i) => i > at && isToken(one)))
    throw transactionTokenRefusal(peer, 'the request has several tokens, or one in another spelling');
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

function removeToken(exchange: Exchange, counts: TransactionTokenCounts, outcome: 'untrusted_peer' | 'own_app'): void {
  changeRequest(exchange, tokenField, []);
  counts.count(outcome);
}
