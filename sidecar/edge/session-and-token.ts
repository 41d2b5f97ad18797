// A session and a token together. With `oidc` and `jwt`, a browser's session replaces the token, and the claims are
// those of its ID token. A request that also has a token gets it verified, and the claims are the token's. With
// `passThroughAuthHeader` a token needs no session. Each of the two capabilities reads here what it needs of the
// other's plan.

import type { Exchange } from '../exchange/exchange.ts';
import { tokenSourceOf } from '../exchange/token-places.ts';
import { findTokens, type JwtRule } from '../policy/request-authentication.ts';
import type { Site } from './capability.ts';
import { bearerOf } from './credentials.ts';

type Beside = Pick<Site<unknown>, 'beside'>;

/** The part of `oidc` that tokens need. */
export interface Login {
  readonly issuer: string;
  readonly clientId: string;
  readonly forwardAccessToken: boolean;
}

/** A provider of `jwt`. */
export interface TokenProvider {
  readonly name: string;
  readonly rule: JwtRule;
}

/** The login of the same policy. */
export function loginBeside({ beside }: Beside): Login | undefined {
  return beside('oidc')[0] as Login | undefined;
}

/** The JWT providers of the same policy. */
export function providersBeside({ beside }: Beside): readonly TokenProvider[] {
  return (beside('jwt') as readonly { readonly providers: readonly TokenProvider[] }[]).flatMap((one) => one.providers);
}

/** True if the same policy introspects tokens. */
export function introspectsBeside({ beside }: Beside): boolean {
  return beside('introspection').length > 0;
}

/** A JWT provider of the same issuer that accepts tokens for this client would accept the ID token. */
export function standingFor(login: Login | undefined, providers: readonly TokenProvider[]): readonly TokenProvider[] {
  return providers.filter(
    ({ rule: { issuer, audiences } }) =>
      issuer === login?.issuer && (audiences.length === 0 || audiences.includes(login.clientId)),
  );
}

/** True if the request has a token that these providers would read. */
export function bringsToken(exchange: Exchange, providers: readonly TokenProvider[], introspects: boolean): boolean {
  if (introspects && bearerOf(exchange) !== undefined) return true;
  const source = tokenSourceOf(exchange, exchange.fields);
  return providers.some(({ rule }) => findTokens(rule, source).length > 0);
}
