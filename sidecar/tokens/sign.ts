// A gateway's word on a user for the next hop, signed with the key of its current SVID: policy/transaction-token.ts says
// what it must be to be believed. The token of a user is made once and sent with each of his requests for half of its life,
// so that most cost a look-up; it has no `jti` to be remembered by whoever gets it, since it is worth something only on a
// connection of the very peer that signed it.

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

/** A user as a gateway knows him. An Exchange is one. */
export interface KnownUser {
  /** Claims that were verified; undefined where he came without. */
  readonly auth: RequestAuth | undefined;
  readonly clientId: string | undefined;
  /** How he was known: `jwt`, `oidc`, `apiKey`. Undefined: nobody has asked, and there is nothing to say. */
  readonly authMethod: string | undefined;
  /** Wall clock, milliseconds; Infinity where what he brought does not end. */
  readonly tokenValidUntil: number;
  readonly requestId: string;
}

/**
 * The token that tells `audience`, a SPIFFE ID, who `user` is. `txn` is the request for which it was made: those that it is
 * sent with again have request IDs of their own.
 * @throws SallyportError `txn_token_too_large`, `jwt_expired`, or `not_ready` while we have no SVID that holds.
 */
export type SignTransactionToken = (user: KnownUser, audience: string) => string;

/** What signed tokens may take in memory, in characters; when it is full it is filled anew. */
const rememberedLength = 8 * 1_048_576;

interface Signed {
  readonly token: string;
  /** Sent with further requests until then: half of its life, the other half is for the way and for clocks. */
  readonly until: number;
  readonly clientId: string | undefined;
  readonly authMethod: string;
  readonly validUntil: number;
}

/** What does not change while the SVID is the same. */
interface Signing {
  readonly svid: Svid;
  readonly key: KeyObject;
  readonly algorithm: TokenAlgorithm;
  /** base64url, with its dot. */
  readonly header: string;
  /** By audience, then by the user's claims themselves, or by his name where he has none. */
  readonly signed: Map<string, Map<RequestAuth | string, Signed>>;
  length: number;
}

/** The signer of a process: it follows every rotation, and forgets what the SVID before has signed. */
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
    if (authMethod === undefined) throw new TypeError('nobody was authenticated, and there is nothing to say of him');
    const time = now();
    const who = user.auth ?? `${authMethod} ${clientId}`;
    const known = signing.signed.get(audience)?.get(who);
    // The same claims, as the same method has read them just now: not, say, those of a session that has since been renewed.
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
      `the key of our SVID (${key.asymmetricKeyType} ${namedCurve ?? modulusLength ?? ''}) signs no transaction tokens`,
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
    throw new SallyportError('not_ready', 'our SVID has expired: a transaction token of ours would not be believed');
  // An end within this second: by the time that the token has arrived it would be over.
  if (exp <= iat || exp * 1000 <= time) throw new SallyportError('jwt_expired', 'what the user came with has expired');
  const claims = { ...claimsOf(user, authMethod), iss: svid.id.uri, aud: audience, iat, exp, txn: user.requestId };
  const text = header + encode(claims);
  const token = `${text}.${signText(text, key, algorithm).toString('base64url')}`;
  if (token.length > maxTransactionTokenLength) {
    throw new SallyportError(
      'txn_token_too_large',
      `the transaction token of a user by ${authMethod} has ${token.length} characters; ${maxTransactionTokenLength} are the limit`,
      { hint: 'have the issuer put fewer claims (groups, most of the time) into its tokens' },
    );
  }
  return { token, exp };
}

/** All that was verified of the user, whole or not at all: a policy with `notValues` must not miss a group that was left out. */
function claimsOf({ auth, clientId, tokenValidUntil }: KnownUser, method: string): Record<string, unknown> {
  const own = Object.entries(auth?.claims ?? {}).filter(([name]) => !gatewayClaims.has(name));
  // No assignments, which would make a claim named __proto__ something else.
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

/** RFC 8693 section 4.2: `scope` is one string. Policies read both; only what cannot be split anew goes on as a list. */
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
