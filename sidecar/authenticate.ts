// Step: who is the caller? The peer by its certificate, and the user by a gateway's assertion, or by a token if
// RequestAuthentication requires one. It waits only for a token that is not cached. The token is removed from its
// place, and fields that only we may set for the app are dropped from the request, so that no client can set them.

import { SallyportError } from '../cert-agent/base/errors.ts';
import type { Connection } from './connection.ts';
import { deny } from './exchange/decision.ts';
import type { Denial } from './exchange/ends.ts';
import { type Exchange, type PortRules, Slot } from './exchange/exchange.ts';
import { pathWithoutQuery, preflightFor, receivedOf } from './exchange/facts.ts';
import { addFields, changeRequest } from './exchange/fields.ts';
import { takeOutAll, tokenSourceOf } from './exchange/token-places.ts';
import type { PeerCheck } from './peer.ts';
import type { Authentication, AuthResult, Refused, Verified } from './policy/jwt.ts';
import { claimText, findTokens, paramsOf, type TokenSource, withoutParam } from './policy/request-authentication.ts';
import type { TransactionTokenCounts } from './tokens/metrics.ts';
import {
  dropTransactionToken,
  takeTransactionToken,
  takeTransactionTokenAgain,
  vouchedFor,
} from './tokens/transaction-token.ts';

/** The documents by which tokens were looked for, for a new evaluation. */
const authenticatedBy = new Slot<Authentication>();

/** What authentication uses and does not own. */
export interface AuthenticateTools {
  readonly checkPeer: PeerCheck;
  readonly transactionTokens: TransactionTokenCounts;
}

/**
 * Sets `auth`. If a gateway vouches for a user and the request also carries a token for RequestAuthentication, both
 * must hold, and the claims are the token's: they come from its issuer directly.
 * @throws SallyportError `svid_*` if the peer is not valid, `txn_token_invalid`, `jwt_*` or `jwks_unavailable` if a
 * token is not; a returned promise rejects with the same.
 */
export function authenticate(
  exchange: Exchange,
  connection: Connection,
  { checkPeer, transactionTokens }: AuthenticateTools,
): undefined | Promise<void> {
  const { authentication, direction, protocol } = exchange.rules;
  if (direction !== 'inbound') {
    if (direction === 'outbound' && protocol === 'http') dropTransactionToken(exchange, transactionTokens);
    return undefined;
  }
  // A stranger's token is not even looked at.
  checkPeer(connection);
  if (protocol === 'tcp') return undefined;
  takeTransactionToken(exchange, connection, transactionTokens);
  note(exchange, undefined);
  if (authentication === undefined) return undefined;
  authenticatedBy.set(exchange, authentication);
  // A preflight carries no token by definition (Fetch standard, section 4.8); policy evaluates it as unauthenticated.
  if (preflightFor(exchange) !== undefined) {
    dropOutputs(exchange, authentication);
    // If it carries a token all the same, the token is removed: it is not verified.
    const source = tokenSourceOf(exchange, exchange.fields);
    takeOutAll(
      exchange,
      authentication.rules.flatMap((rule) => findTokens(rule, source).map(({ place }) => place)),
    );
    return undefined;
  }
  exchange.received = receivedOf(exchange);
  const result = authentication.check(sourceOf(exchange), Date.now());
  if (result instanceof Promise) return result.then((one) => take(exchange, authentication, one));
  take(exchange, authentication, result);
  return undefined;
}

/**
 * Checks an exchange in flight again, by the current `rules` and with a peer that was just checked: its token may have
 * expired, the documents may have changed, or the gateway that vouched for it may no longer be trusted.
 * @returns a promise if a token must be verified anew; until then the last result holds.
 * @throws SallyportError as `authenticate`.
 */
export function authenticateAgain(
  exchange: Exchange,
  connection: Connection,
  rules: PortRules,
): undefined | Promise<unknown> {
  const { authentication } = rules;
  const vouched = vouchedFor.get(exchange);
  takeTransactionTokenAgain(exchange, connection, rules);
  // Claims without their gateway's assertion are dropped; those that RequestAuthentication verified are independent of
  // it.
  if (vouched !== vouchedFor.get(exchange) && exchange.auth === vouched?.auth) note(exchange, undefined);
  if (authenticatedBy.get(exchange) === authentication) {
    if (exchange.tokenValidUntil <= Date.now())
      throw new SallyportError('jwt_expired', 'the token of the request has expired');
    return undefined;
  }
  if (authentication === undefined) {
    // No rule verifies tokens any more; a gateway may still vouch.
    note(exchange, undefined);
    authenticatedBy.set(exchange, undefined);
    return undefined;
  }
  exchange.received ??= receivedOf(exchange);
  const result = authentication.check(sourceOf(exchange), Date.now());
  if (result instanceof Promise) return result;
  if (result.kind === 'refused') throw result.error;
  note(exchange, result.kind === 'verified' ? result : undefined);
  authenticatedBy.set(exchange, authentication);
  return undefined;
}

/** The part of the request that is searched for tokens: as received. */
function sourceOf(exchange: Exchange): TokenSource {
  return tokenSourceOf(exchange, exchange.received!.fields, exchange.received!.path);
}

function take(exchange: Exchange, authentication: Authentication, result: AuthResult): void {
  if (result.kind === 'refused') {
    hideTokens(exchange, authentication);
    throw deny(exchange, result.error, {
      details: `jwt_authn_access_denied{${result.text.replace(/\s/g, '_')}}`,
      denial: denialFor(exchange, result),
    });
  }
  note(exchange, result.kind === 'verified' ? result : undefined);
  dropOutputs(exchange, authentication);
  if (result.kind === 'verified') passOn(exchange, result);
}

/** Keeps a token in the query, valid or not, out of the record. */
function hideTokens(exchange: Exchange, { rules }: Authentication): void {
  for (const name of new Set(rules.flatMap(paramsOf))) exchange.path = withoutParam(exchange.path, name);
}

/** The claims of a verified token, else those that a gateway vouches for; they hold until the first of the two ends. */
function note(exchange: Exchange, verified: Verified | undefined): void {
  const vouched = vouchedFor.get(exchange);
  exchange.auth = verified?.auth ?? vouched?.auth;
  exchange.tokenValidUntil = Math.min(
    verified?.validUntil ?? Number.POSITIVE_INFINITY,
    vouched?.validUntil ?? Number.POSITIVE_INFINITY,
  );
}

function dropOutputs(exchange: Exchange, { outputHeaders }: Authentication): void {
  if (outputHeaders.size > 0) changeRequest(exchange, outputHeaders, []);
}

/**
 * Sets the request as the app gets it: without the token unless it is to be forwarded, and with the configured claims.
 */
function passOn(exchange: Exchange, { rule, places, alsoTaken = [], payload, auth }: Verified): void {
  takeOutAll(exchange, rule.forwardOriginalToken ? alsoTaken : [...places, ...alsoTaken]);
  const added: [string, string][] =
    rule.outputPayloadToHeader === undefined ? [] : [[rule.outputPayloadToHeader, payload]];
  for (const { header, claim } of rule.outputClaimToHeaders) {
    const value = claimText(auth.claims, claim);
    if (typeof value === 'string') added.push([header, value]);
  }
  if (added.length > 0) changeRequest(exchange, none, added);
}

const none: ReadonlySet<string> = new Set();

/** RFC 6750 section 3: the response for the client, with Envoy's text. */
function denialFor(exchange: Exchange, { error, text }: Refused): Denial {
  const realm = `https://${exchange.authority}${pathWithoutQuery(exchange.path)}`
    .slice(0, 256)
    .replace(/["\\]/g, '%22');
  return {
    status: error.row.status,
    fields: addFields({ names: [], values: [] }, [
      ['content-type', 'text/plain; charset=utf-8'],
      ['www-authenticate', `Bearer realm="${realm}", error="invalid_token"`],
    ]),
    body: Buffer.from(text),
  };
}
