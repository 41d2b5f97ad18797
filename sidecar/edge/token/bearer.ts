// Bearer tokens at a gateway. JWTs follow the same rules as a sidecar's RequestAuthentication; opaque tokens are
// introspected. If both are configured, the token's form decides: three parts with dots between them are a JWT.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { deny } from '../../exchange/decision.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import { filterFields } from '../../exchange/fields.ts';
import { isSamePlace, takeOutAll, tokenSourceOf } from '../../exchange/token-places.ts';
import type { Authentication, AuthResult, Refused, Verified } from '../../policy/jwt.ts';
import {
  findTokens,
  type JwtRule,
  paramsOf,
  type TokenPlace,
  withoutParam,
} from '../../policy/request-authentication.ts';
import { passClaims, type ReportUnfit } from '../claims.ts';
import { bearerOf, challenge, refuseCaller } from '../credentials.ts';
import { vouchFor } from '../vouch.ts';
import type { Introspection } from './introspection.ts';
import type { JwtPlan } from './schema.ts';

/** What one policy verifies bearer tokens with. */
export interface BearerParts {
  readonly jwt: JwtPlan | undefined;
  /** Compiled from `jwt`. */
  readonly authentication: Authentication | undefined;
  readonly introspection: Introspection | undefined;
  /** A session's access token is put into `Authorization`: it is verified there, and forwarded to the app. */
  readonly sessionForwards: boolean;
  /** Rules of the providers that would accept a session's ID token: the session takes the place of their tokens. */
  readonly sessionRules: readonly JwtRule[];
  readonly report: ReportUnfit;
}

const introspectionProvider = Object.freeze(['introspection']);

/** The bearer tokens of one policy, JWTs and opaque ones. */
export class Bearer {
  readonly #parts: BearerParts;
  readonly #providers: ReadonlyMap<unknown, readonly string[]>;

  /** True if a JWT provider reads `Authorization`. */
  readonly #takesAuthorization: boolean;

  constructor(parts: BearerParts) {
    this.#parts = parts;
    const probe = { path: '/', header: (name: string) => (name === 'authorization' ? 'Bearer a.b.c' : undefined) };
    this.#takesAuthorization = parts.jwt?.providers.some(({ rule }) => findTokens(rule, probe).length > 0) === true;
    this.#providers = new Map(parts.jwt?.providers.map(({ name, rule }) => [rule, Object.freeze([name])]));
  }

  /**
   * Authenticates the caller by their token. Without a token the request passes if tokens are optional, or if it has a
   * session.
   * @throws SallyportError `jwt_missing`, `jwt_*`, `jwks_unavailable`, `introspection_*`; its promise rejects with the
   * same.
   */
  know(exchange: Exchange): undefined | Promise<void> {
    const { introspection } = this.#parts;
    const reading = introspection === undefined ? undefined : bearerOf(exchange);
    if (reading === undefined || (this.#takesAuthorization && isJwt(reading.token))) return this.#knowByJwt(exchange);
    if (!reading.sound)
      throw refuseToken(exchange, {
        kind: 'refused',
        error: new SallyportError('jwt_invalid', 'Authorization holds more than one bearer token, or a malformed one'),
        text: 'Jwt verification fails',
      });
    const known = introspection!.know(exchange, reading.token);
    if (known !== undefined) return known.then(() => this.#afterIntrospection(exchange));
    this.#afterIntrospection(exchange);
    return undefined;
  }

  #afterIntrospection(exchange: Exchange): void {
    vouchFor(exchange.auth!, introspectionProvider);
    const { jwt } = this.#parts;
    const rest = filterFields(exchange.fields, ({ lower }) => lower !== 'authorization');
    const source = tokenSourceOf(exchange, rest);
    if (jwt?.providers.some(({ rule }) => findTokens(rule, source).length > 0) === true)
      throw refuseToken(exchange, {
        kind: 'refused',
        error: new SallyportError('jwt_invalid', 'the request has two tokens, so its caller is ambiguous'),
        text: 'Jwt verification fails',
      });
  }

  #knowByJwt(exchange: Exchange): undefined | Promise<void> {
    const { authentication } = this.#parts;
    if (authentication === undefined) {
      this.#without(exchange);
      return undefined;
    }
    const result = authentication.check(tokenSourceOf(exchange, exchange.fields), Date.now());
    if (result instanceof Promise) return result.then((one) => this.#take(exchange, authentication, one));
    this.#take(exchange, authentication, result);
    return undefined;
  }

  #take(exchange: Exchange, authentication: Authentication, result: AuthResult): void {
    if (result.kind === 'none') return this.#without(exchange);
    if (result.kind === 'refused') {
      // A token in the query, valid or not, must not reach the access log.
      for (const rule of authentication.rules)
        for (const name of paramsOf(rule)) exchange.path = withoutParam(exchange.path, name);
      throw refuseToken(exchange, result);
    }
    vouchFor(result.auth, this.#providers.get(result.rule) ?? []);
    exchange.auth = result.auth;
    exchange.tokenValidUntil = Math.min(result.validUntil, exchange.tokenValidUntil);
    const bySession = exchange.authMethod === 'oidc';
    exchange.authMethod = 'jwt';
    this.#passOn(exchange, result, bySession && this.#parts.sessionForwards);
  }

  #without(exchange: Exchange): void {
    const { jwt } = this.#parts;
    if (exchange.authMethod === 'oidc') return this.#passSession(exchange);
    if (jwt?.optional === true) return;
    throw refuseCaller(exchange, 'jwt_missing', 'Jwt is missing', 'the request has no token', [
      challenge(exchange, 'Bearer'),
    ]);
  }

  /**
   * A session takes the place of a token of those providers: the app gets the claims that it would get of the token.
   */
  #passSession(exchange: Exchange): void {
    const { sessionRules, report } = this.#parts;
    for (const { outputClaimToHeaders } of sessionRules)
      passClaims(exchange, exchange.auth!.claims, outputClaimToHeaders, report);
  }

  /**
   * One valid token is enough, and the tokens of other providers are not verified. They are removed: an app that trusts
   * their places must not read a token that the caller made up.
   */
  #takeOutOthers(exchange: Exchange, verified: JwtRule, places: readonly TokenPlace[]): void {
    const { providers } = this.#parts.jwt!;
    if (providers.length === 1) return;
    const source = tokenSourceOf(exchange, exchange.fields);
    const others = providers.flatMap(({ rule }) =>
      rule === verified ? [] : findTokens(rule, source).map(({ place }) => place),
    );
    takeOutAll(
      exchange,
      others.filter((place) => !places.some((one) => isSamePlace(one, place))),
    );
  }

  /**
   * Prepares the request for the app: removes the token unless it is to be forwarded, and adds the configured claims.
   */
  #passOn(exchange: Exchange, { rule, places, auth }: Verified, keepAuthorization: boolean): void {
    this.#takeOutOthers(exchange, rule, places);
    const isKept = ({ kind, name }: TokenPlace): boolean =>
      rule.forwardOriginalToken || (keepAuthorization && kind === 'header' && name === 'authorization');
    takeOutAll(
      exchange,
      places.filter((place) => !isKept(place)),
    );
    passClaims(exchange, auth.claims, rule.outputClaimToHeaders, this.#parts.report);
  }
}

function isJwt(token: string): boolean {
  return /^[\w-]+\.[\w-]+\.[\w-]*$/.test(token);
}

/** The response to an invalid token (RFC 6750 section 3), with Envoy's texts. */
function refuseToken(exchange: Exchange, { error, text }: Refused): SallyportError {
  refuseCaller(exchange, error.code, text, error.message, [challenge(exchange, 'Bearer', ', error="invalid_token"')]);
  return deny(exchange, error, { details: `jwt_authn_access_denied{${text.replace(/\s/g, '_')}}` });
}
