// Signs a gateway's assertion about a user for the next hop, with the key of its current SVID;
// policy/transaction-token.ts has the rules for accepting it. A user's token is made once and sent with each of their
// requests for half of its life, so that most requests cost a look-up. It has no `jti` for recipients to remember,
// since it is valid only on a connection of the very peer that signed it.

import { createPrivateKey, type KeyObject } from 'node:crypto';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Live } from '../../cert-agent/base/live.ts';
import type { Identity } from '../../cert-agent/identity/identity.ts';
import type { Svid } from '../../cert-agent/identity/svid.ts';
import type { RequestAuth } from '../policy/facts.ts';
import { algorithmOf, signText, type TokenAlgorithm } from '../policy/token-algorithms.ts';
import {
  gatewayClaims,
  maxTransactionTokenLength,
  maxTransactionTokenSeconds,
  transactionTokenType,
} from '../policy/transaction-token.ts';

/** A user as the gateway has authenticated them. An Exchange is one. */
export interface KnownUser {
  /** Verified claims; undefined if there are none. */
  readonly auth: RequestAuth | undefined;
  readonly clientId: string | undefined;
  /**
   * How the user was authenticated: `jwt`, `oidc`, `apiKey`. Undefined: not authenticated, and there is nothing to
   * assert.
   */
  readonly authMethod: string | undefined;
  /** Wall clock, milliseconds; Infinity if the user's credential does not expire. */
  readonly tokenValidUntil: number;
  readonly requestId: string;
}

/**
 * The token that tells `audience`, a SPIFFE ID, who `user` is. `txn` is the request for which it was made; later
 * requests that carry it have request IDs of their own.
 * @throws SallyportError `txn_token_too_large`, `jwt_expired`, or `not_ready` while we have no valid SVID.
 */
export type SignTransactionToken = (user: KnownUser, audience: string) => string;

/** The most memory of signed tokens, in characters; when full it is emptied. */
const rememberedLength = 8 * 1_048_576;

interface Signed {
  readonly token: string;
  /**
   * Until then it is sent with further requests: half of its life; the other half is for transit and clock differences.
   */
  readonly until: number;
  readonly clientId: string | undefined;
  readonly authMethod: string;
  readonly validUntil: number;
}

/** The parts that stay the same with the SVID. */
interface Signing {
  readonly svid: Svid;
  readonly key: KeyObject;
  readonly algorithm: TokenAlgorithm;
  /** base64url, with its dot. */
  readonly header: string;
  /** By audience, then by the user's claims object, or by the user's name if there are no claims. */
  readonly signed: Map<string, Map<RequestAuth | string, Signed>>;
  length: number;
}

/** The signer of a process: it follows every rotation, and drops the tokens that the previous SVID signed. */
export function createTokenSigner(
  identity: Live<Identity | undefined>,
  now: () => number = Date.now,
): SignTransactionToken {
  let signing: Signing | undefined;

  return function signTransactionToken(user, audience) {
    const svid = identity.current()?.svid;
    if (svid === undefined) throw new SallyportError('not_ready', 'there is no SVID to sign a transaction token with');
    if (signing?.svid !== svid) signing = startSigning(svid);
    const { authMethod, clientId, tokenValidUntil: validUntil } = user;
    if (authMethod === undefined) throw new TypeError('the request has no authenticated user to assert');
    const time = now();
    const who = user.auth ?? `${authMethod} ${clientId}`;
    const known = signing.signed.get(audience)?.get(who);
    // The same claims, read by the same method just now: not, say, those of a session that has since been renewed.
    if (
      known !== undefined &&
      time < known.until &&
      known.clientId === clientId &&
      known.authMethod === authMethod &&
      known.validUntil === validUntil
    )
      return known.token;
    const { token, exp } = makeToken(signing, user, authMethod, audience, time);
    remember(signing, audience, who, {
      ...{ token, clientId, authMethod, validUntil },
      until: time + (exp * 1000 - time) / 2,
    });
    return token;
  };
}

function startSigning(svid: Svid): Signing {
  const key = createPrivateKey(svid.keyPem);
  const algorithm = algorithmOf(key);
  if (algorithm === undefined) {
    const { namedCurve, modulusLength } = key.asymmetricKeyDetails ?? {};
    throw new SallyportError(
      'key_unreadable',
      `the key of our SVID (${key.asymmetricKeyType} ${namedCurve ?? modulusLength ?? ''}) cannot sign transaction tokens`,
      { hint: 'use EC P-256 or P-384, Ed25519, or RSA of at least 2048 bits' },
    );
  }
  const header = {
    typ: transactionTokenType,
    alg: algorithm.name,
    x5c: svid.chain.map((der) => der.toString('base64')),
  };
  return { svid, key, algorithm, header: `${encode(header)}.`, signed: new Map(), length: 0 };
}

function makeToken(
  { svid, key, algorithm, header }: Signing,
  user: KnownUser,
  authMethod: string,
  audience: string,
  time: number,
): { token: string; exp: number } {
  const iat = Math.floor(time / 1000);
  const end = Math.floor(Math.min(svid.notAfter, user.tokenValidUntil) / 1000);
  const exp = Math.min(iat + maxTransactionTokenSeconds, end);
  if (svid.notAfter <= time)
    throw new SallyportError('not_ready', 'our SVID has expired: a transaction token signed with it would be refused');
  // It ends within this second, before the token would arrive.
  if (exp <= iat || exp * 1000 <= time)
    throw new SallyportError('jwt_expired', 'the credential of the user has expired');
  const claims = { ...claimsOf(user, authMethod), iss: svid.id.uri, aud: audience, iat, exp, txn: user.requestId };
  const text = header + encode(claims);
  const token = `${text}.${signText(text, key, algorithm).toString('base64url')}`;
  if (token.length > maxTransactionTokenLength) {
    throw new SallyportError(
      'txn_token_too_large',
      `the transaction token of a user by ${authMethod} has ${token.length} characters; the limit is ${maxTransactionTokenLength}`,
      { hint: 'configure the issuer to put fewer claims into its tokens; groups are the usual cause' },
    );
  }
  return { token, exp };
}

/** All verified claims of the user, or an error: a policy with `notValues` must not miss a group that was left out. */
function claimsOf({ auth, clientId, tokenValidUntil }: KnownUser, method: string): Record<string, unknown> {
  const own = Object.entries(auth?.claims ?? {}).filter(([name]) => !gatewayClaims.has(name));
  // No assignments, since a claim named __proto__ would change the prototype.
  const claims: Record<string, unknown> = Object.fromEntries(
    own.map(([name, value]) => [name, name === 'scope' ? scopeText(value) : value]),
  );
  return {
    ...claims,
    sub: auth?.subject ?? clientId,
    auth: {
      method,
      iss: auth?.issuer,
      exp: Number.isFinite(tokenValidUntil) ? tokenValidUntil / 1000 : undefined,
    },
  };
}

/**
 * RFC 8693 section 4.2: `scope` is one string. Policies read both; only values that could not be split again stay a
 * list.
 */
function scopeText(scope: unknown): unknown {
  const isWords = Array.isArray(scope) && scope.every((one) => typeof one === 'string' && /^\S+$/.test(one));
  return isWords ? scope.join(' ') : scope;
}

function remember(signing: Signing, audience: string, who: RequestAuth | string, one: Signed): void {
  if (signing.length > rememberedLength) {
    signing.signed.clear();
    signing.length = 0;
  }
  const ofAudience = signing.signed.get(audience) ?? new Map<RequestAuth | string, Signed>();
  signing.signed.set(audience, ofAudience);
  ofAudience.set(who, one);
  signing.length += one.token.length;
}

function encode(value: object): string {
  return Buffer.from(JSON.stringify(value)).toString('base64url');
}
