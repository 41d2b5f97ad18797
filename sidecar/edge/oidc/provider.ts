// The OpenID Connect client of one policy. It discovers the provider's endpoints, and exchanges codes and refresh
// tokens for tokens. It verifies that an ID token is signed by the provider, for this client, for this login, and
// current (OpenID Connect Core section 3.1.3.7). Any other response is refused. The provider has five seconds to
// respond.

import { reasonOf, SallyportError } from '../../../cert-agent/base/errors.ts';
import { jwtAlgorithms, type KeySource } from '../../policy/jwt.ts';
import type { JwtRule } from '../../policy/request-authentication.ts';
import { checkEndpoint, loadOAuth, type OAuth, type ProviderFetch, providerError } from '../provider-fetch.ts';
import type { OidcPlan } from './schema.ts';

/** A provider's endpoints change rarely; its keys have a separate interval. */
const metadataMs = 3_600_000;
/** While a provider is down it is retried at this interval, not once per browser. */
const coolDownMs = 1000;
/** The provider's clock may be this far ahead of ours. */
const issuedLeewayMs = 60_000;
const leewaySeconds = 10;

type OAuthModule = Awaited<ReturnType<typeof loadOAuth>>;

/** Verified tokens of the provider. */
export interface Tokens {
  /** Absent if a refresh gave no new one. */
  readonly idToken: string | undefined;
  readonly accessToken: string;
  readonly refreshToken: string | undefined;
  readonly expiresMs: number | undefined;
  readonly claims: Readonly<Record<string, unknown>> | undefined;
}

/** Secrets that are bound to one login. */
export interface LoginSecrets {
  readonly state: string;
  readonly nonce: string;
  readonly verifier: string;
}

interface Known {
  readonly server: OAuth.AuthorizationServer;
  readonly keys: KeySource;
  readonly at: number;
}

/** A client of one provider. Discovery is made at the first need and shared by all who wait for it. */
export class OidcProvider {
  readonly #policy: OidcPlan;
  readonly #secret: string;
  readonly #fetch: ProviderFetch;
  readonly #keysOf: (rule: JwtRule) => KeySource;
  readonly #now: () => number;
  #known: Known | undefined = undefined;
  #asking: Promise<Known> | undefined = undefined;
  #failed: { readonly error: unknown; readonly at: number } | undefined = undefined;

  constructor(
    policy: OidcPlan,
    secret: string,
    fetch: ProviderFetch,
    keysOf: (rule: JwtRule) => KeySource,
    now: () => number,
  ) {
    this.#policy = policy;
    this.#secret = secret;
    this.#fetch = fetch;
    this.#keysOf = keysOf;
    this.#now = now;
  }

  /** The URL that a browser logs in at. @throws SallyportError `oidc_provider_*`. */
  async loginUrl({ state, nonce, verifier }: LoginSecrets): Promise<string> {
    const [oauth, { server }] = await Promise.all([loadOAuth(), this.#ready()]);
    const { clientId, redirectUrl, scopes, resources } = this.#policy;
    const url = new URL(server.authorization_endpoint!);
    const asked = {
      response_type: 'code',
      client_id: clientId,
      redirect_uri: redirectUrl,
      scope: scopes.join(' '),
      state,
      nonce,
      code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
      code_challenge_method: 'S256',
    };
    for (const [name, value] of Object.entries(asked)) url.searchParams.set(name, value);
    for (const resource of resources) url.searchParams.append('resource', resource);
    return url.href;
  }

  /**
   * Exchanges the parameters of the callback for tokens.
   * @throws SallyportError `oidc_login_refused` if the provider refused the login, `oidc_state_invalid` if the response
   * is not from this provider, `oidc_provider_*` if the tokens are not valid.
   */
  async redeem(brought: URLSearchParams, login: LoginSecrets): Promise<Tokens> {
    const [oauth, known] = await Promise.all([loadOAuth(), this.#ready()]);
    const { server } = known;
    const client = this.#client(oauth);
    let parameters: URLSearchParams;
    try {
      parameters = oauth.validateAuthResponse(server, client, brought, login.state);
    } catch (error) {
      if (error instanceof oauth.AuthorizationResponseError)
        throw new SallyportError('oidc_login_refused', `the provider refused the login: ${printable(error.error)}`);
      // RFC 9207: the response names its issuer, which prevents an attack that mixes up two providers.
      throw new SallyportError(
        'oidc_state_invalid',
        `invalid authorization response in the callback: ${reasonOf(error)}`,
      );
    }
    try {
      const answer = await oauth.authorizationCodeGrantRequest(
        server,
        client,
        this.#proof(oauth, server),
        parameters,
        this.#policy.redirectUrl,
        login.verifier,
        this.#options(oauth),
      );
      const result = await oauth.processAuthorizationCodeResponse(server, client, answer, {
        expectedNonce: login.nonce,
        requireIdToken: true,
      });
      return await this.#verify(oauth, known, result);
    } catch (error) {
      throw providerError(error, 'cannot exchange the code for tokens');
    }
  }

  /**
   * New tokens for a session.
   * @throws SallyportError `session_invalid` if the provider no longer knows it, else `oidc_provider_*`.
   */
  async refresh(refreshToken: string): Promise<Tokens> {
    const [oauth, known] = await Promise.all([loadOAuth(), this.#ready()]);
    const { server } = known;
    const client = this.#client(oauth);
    try {
      const answer = await oauth.refreshTokenGrantRequest(
        server,
        client,
        this.#proof(oauth, server),
        refreshToken,
        this.#options(oauth),
      );
      const result = await oauth.processRefreshTokenResponse(server, client, answer);
      return await this.#verify(oauth, known, result);
    } catch (error) {
      if (error instanceof oauth.ResponseBodyError && error.error === 'invalid_grant')
        throw new SallyportError('session_invalid', 'the provider rejected the refresh token');
      throw providerError(error, 'cannot refresh the session');
    }
  }

  /** The URL that ends the provider's own session; undefined if it has none. */
  async logoutUrl(idToken: string): Promise<string | undefined> {
    const { server } = await this.#ready();
    if (server.end_session_endpoint === undefined) return undefined;
    const url = new URL(server.end_session_endpoint);
    url.searchParams.set('client_id', this.#policy.clientId);
    url.searchParams.set('id_token_hint', idToken);
    url.searchParams.set('post_logout_redirect_uri', new URL('/', this.#policy.redirectUrl).href);
    return url.href;
  }

  /** The provider's endpoints and keys. The last known ones are used while it does not respond. */
  async #ready(): Promise<Known> {
    if (this.#known !== undefined && this.#now() - this.#known.at < metadataMs) return this.#known;
    if (this.#asking === undefined && this.#failed !== undefined && this.#now() - this.#failed.at < coolDownMs) {
      if (this.#known !== undefined) return this.#known;
      throw this.#failed.error;
    }
    this.#asking ??= this.#discover().finally(() => {
      this.#asking = undefined;
    });
    try {
      this.#known = await this.#asking;
      this.#failed = undefined;
    } catch (error) {
      this.#failed = { error, at: this.#now() };
      if (this.#known === undefined) throw error;
    }
    return this.#known;
  }

  async #discover(): Promise<Known> {
    const { issuer, authorizationEndpoint, tokenEndpoint, endSessionEndpoint, jwksUri } = this.#policy;
    const whole = authorizationEndpoint !== undefined && tokenEndpoint !== undefined && jwksUri !== undefined;
    const found = whole ? undefined : await this.#ask();
    const end = endSessionEndpoint ?? found?.end_session_endpoint;
    const keysAt = checkEndpoint(jwksUri ?? found?.jwks_uri, 'jwks_uri');
    const server: OAuth.AuthorizationServer = {
      issuer,
      authorization_endpoint: checkEndpoint(
        authorizationEndpoint ?? found?.authorization_endpoint,
        'authorization_endpoint',
      ),
      token_endpoint: checkEndpoint(tokenEndpoint ?? found?.token_endpoint, 'token_endpoint'),
      ...(end === undefined ? {} : { end_session_endpoint: checkEndpoint(end, 'end_session_endpoint') }),
      // 'none' and shared secrets are never accepted as signatures, whatever the provider offers.
      id_token_signing_alg_values_supported: (found?.id_token_signing_alg_values_supported ?? jwtAlgorithms).filter(
        (one): one is string => jwtAlgorithms.includes(one as string),
      ),
      ...(found?.token_endpoint_auth_methods_supported === undefined
        ? {}
        : { token_endpoint_auth_methods_supported: found.token_endpoint_auth_methods_supported }),
      ...(found?.authorization_response_iss_parameter_supported === true
        ? { authorization_response_iss_parameter_supported: true }
        : {}),
    };
    return { server, keys: this.#keysOf(keysRule(issuer, keysAt)), at: this.#now() };
  }

  /** OpenID Connect Discovery section 4.3: the document's issuer must equal the configured one exactly. */
  async #ask(): Promise<OAuth.AuthorizationServer> {
    const { issuer } = this.#policy;
    const oauth = await loadOAuth();
    try {
      const url = new URL(issuer);
      const answer = await oauth.discoveryRequest(url, { algorithm: 'oidc', ...this.#options(oauth) });
      const server = await oauth.processDiscoveryResponse(url, answer);
      if (server.issuer !== issuer) throw new Error(`its issuer is '${printable(server.issuer)}'`);
      return server;
    } catch (error) {
      throw providerError(error, `cannot fetch the discovery document of ${issuer}`);
    }
  }

  async #verify(oauth: OAuthModule, known: Known, result: OAuth.TokenEndpointResponse): Promise<Tokens> {
    const { id_token: idToken, access_token: accessToken, refresh_token: refreshToken, expires_in: seconds } = result;
    const claims = oauth.getValidatedIdTokenClaims(result);
    if (idToken !== undefined && claims !== undefined) {
      await this.#checkSignature(idToken, known.keys);
      this.#checkClaims(claims);
    }
    return {
      idToken,
      accessToken,
      refreshToken,
      expiresMs: seconds === undefined ? undefined : seconds * 1000,
      claims: claims as Readonly<Record<string, unknown>> | undefined,
    };
  }

  async #checkSignature(idToken: string, keys: KeySource): Promise<void> {
    const { kid } = JSON.parse(Buffer.from(idToken.split('.')[0]!, 'base64url').toString('utf8')) as { kid?: unknown };
    const named = typeof kid === 'string' ? kid : undefined;
    const set = await keys.keysFor(named).catch((error: unknown) => {
      throw new SallyportError('oidc_provider_unavailable', `cannot fetch the provider's keys: ${reasonOf(error)}`);
    });
    await set.verify(idToken).catch((error: unknown) => {
      throw new SallyportError(
        'oidc_provider_failed',
        `the ID token is not signed by the provider: ${reasonOf(error)}`,
      );
    });
  }

  /** Checks that the library leaves to its callers: expiry to the second, time of issue, and the client it is for. */
  #checkClaims({ exp, iat, azp, sub }: OAuth.IDToken): void {
    const fail = (why: string): SallyportError => new SallyportError('oidc_provider_failed', `the ID token ${why}`);
    if (exp * 1000 <= this.#now()) throw fail('has expired');
    if (iat * 1000 > this.#now() + issuedLeewayMs) throw fail('was issued in the future');
    if (azp !== undefined && azp !== this.#policy.clientId) throw fail('was issued to another client');
    if (sub === '') throw fail('has an empty subject');
  }

  #client(oauth: OAuthModule): OAuth.Client {
    return {
      client_id: this.#policy.clientId,
      [oauth.clockTolerance]: leewaySeconds,
      [oauth.clockSkew]: Math.round((this.#now() - Date.now()) / 1000),
    };
  }

  #proof(
    oauth: OAuthModule,
    { token_endpoint_auth_methods_supported: methods }: OAuth.AuthorizationServer,
  ): OAuth.ClientAuth {
    const post = methods?.includes('client_secret_post') === true && !methods.includes('client_secret_basic');
    return post ? oauth.ClientSecretPost(this.#secret) : oauth.ClientSecretBasic(this.#secret);
  }

  /** http is allowed because the URL was checked before: only endpoints on this machine may use it. */
  #options(oauth: OAuthModule) {
    return { [oauth.customFetch]: this.#fetch, [oauth.allowInsecureRequests]: true } as const;
  }
}

/** A rule with only an issuer and its keys. */
function keysRule(issuer: string, jwksUri: string): JwtRule {
  return {
    issuer,
    audiences: [],
    jwksUri,
    fromHeaders: [],
    fromParams: [],
    fromCookies: [],
    outputClaimToHeaders: [],
    forwardOriginalToken: false,
    timeoutMs: 5000,
    spaceDelimitedClaims: [],
  };
}

function printable(text: string): string {
  return text.slice(0, 100).replace(/[^\x20-\x7e]/g, '?');
}
