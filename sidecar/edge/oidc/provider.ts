// The provider of one OIDC policy, as its client sees it: where its endpoints are, codes and refresh tokens turned into
// tokens, and an ID token that is the provider's, for us, for this login, and of now (OpenID Connect Core section 3.1.3.7).
// A provider that says something else is refused; one that sleeps has five seconds.

import { reasonOf, SallyportError } from '../../../cert-agent/base/errors.ts';
import { jwtAlgorithms, type KeySource } from '../../policy/jwt.ts';
import type { JwtRule } from '../../policy/request-authentication.ts';
import { checkEndpoint, loadOAuth, type OAuth, type ProviderFetch, providerError } from '../provider-fetch.ts';
import type { OidcPlan } from './schema.ts';

/** A provider's endpoints move rarely; its keys have an interval of their own. */
const metadataMs = 3_600_000;
/** While a provider is down, it is asked this often and not once per browser. */
const coolDownMs = 1000;
/** A clock that is this far ahead of ours is not a lie. */
const issuedLeewayMs = 60_000;
const leewaySeconds = 10;

type OAuthModule = Awaited<ReturnType<typeof loadOAuth>>;

/** What the provider gave, verified. */
export interface Tokens {
  /** Absent when a refresh brought no new one. */
  readonly idToken: string | undefined;
  readonly accessToken: string;
  readonly refreshToken: string | undefined;
  readonly expiresMs: number | undefined;
  readonly claims: Readonly<Record<string, unknown>> | undefined;
}

/** What a login has bound to itself. */
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

  /** Where a browser logs in. @throws SallyportError `oidc_provider_*`. */
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
   * Turns what the browser brought back into tokens.
   * @throws SallyportError `oidc_login_refused` when the provider did not let the user in, `oidc_state_invalid` when the
   * answer is not of this provider, `oidc_provider_*` when the provider's tokens are not what they must be.
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
        throw new SallyportError('oidc_login_refused', `the provider lets nobody in: ${printable(error.error)}`);
      // RFC 9207: whose answer it is says the provider, and a mix-up of two is an attack.
      throw new SallyportError(
        'oidc_state_invalid',
        `what the browser brought is no answer of the provider: ${reasonOf(error)}`,
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
      throw providerError(error, 'the provider turns the code into no session');
    }
  }

  /**
   * New tokens for a session.
   * @throws SallyportError `session_invalid` when the provider knows it no longer, else `oidc_provider_*`.
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
        throw new SallyportError('session_invalid', 'the provider takes the refresh token no longer');
      throw providerError(error, 'the provider does not refresh the session');
    }
  }

  /** Where the provider's own session ends; undefined where it has no such place. */
  async logoutUrl(idToken: string): Promise<string | undefined> {
    const { server } = await this.#ready();
    if (server.end_session_endpoint === undefined) return undefined;
    const url = new URL(server.end_session_endpoint);
    url.searchParams.set('client_id', this.#policy.clientId);
    url.searchParams.set('id_token_hint', idToken);
    url.searchParams.set('post_logout_redirect_uri', new URL('/', this.#policy.redirectUrl).href);
    return url.href;
  }

  /** Its endpoints and keys; once known they stay known while it does not answer. */
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
    const said = whole ? undefined : await this.#ask();
    const end = endSessionEndpoint ?? said?.end_session_endpoint;
    const keysAt = checkEndpoint(jwksUri ?? said?.jwks_uri, 'jwks_uri');
    const server: OAuth.AuthorizationServer = {
      issuer,
      authorization_endpoint: checkEndpoint(
        authorizationEndpoint ?? said?.authorization_endpoint,
        'authorization_endpoint',
      ),
      token_endpoint: checkEndpoint(tokenEndpoint ?? said?.token_endpoint, 'token_endpoint'),
      ...(end === undefined ? {} : { end_session_endpoint: checkEndpoint(end, 'end_session_endpoint') }),
      // Neither 'none' nor a shared secret signs for anybody, whatever the provider offers.
      id_token_signing_alg_values_supported: (said?.id_token_signing_alg_values_supported ?? jwtAlgorithms).filter(
        (one): one is string => jwtAlgorithms.includes(one as string),
      ),
      ...(said?.token_endpoint_auth_methods_supported === undefined
        ? {}
        : { token_endpoint_auth_methods_supported: said.token_endpoint_auth_methods_supported }),
      ...(said?.authorization_response_iss_parameter_supported === true
        ? { authorization_response_iss_parameter_supported: true }
        : {}),
    };
    return { server, keys: this.#keysOf(keysRule(issuer, keysAt)), at: this.#now() };
  }

  /** OpenID Connect Discovery section 4.3: the document must be of the issuer that was asked for, to the letter. */
  async #ask(): Promise<OAuth.AuthorizationServer> {
    const { issuer } = this.#policy;
    const oauth = await loadOAuth();
    try {
      const url = new URL(issuer);
      const answer = await oauth.discoveryRequest(url, { algorithm: 'oidc', ...this.#options(oauth) });
      const said = await oauth.processDiscoveryResponse(url, answer);
      if (said.issuer !== issuer) throw new Error(`it calls itself '${printable(said.issuer)}'`);
      return said;
    } catch (error) {
      throw providerError(error, `the discovery document of ${issuer} cannot be had`);
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
      throw new SallyportError(
        'oidc_provider_unavailable',
        `the provider's keys are not to be had: ${reasonOf(error)}`,
      );
    });
    await set.verify(idToken).catch((error: unknown) => {
      throw new SallyportError(
        'oidc_provider_failed',
        `the ID token is not signed by the provider: ${reasonOf(error)}`,
      );
    });
  }

  /** What the library leaves to its callers: the end to the second, a time of issue that has come, and for whom it is. */
  #checkClaims({ exp, iat, azp, sub }: OAuth.IDToken): void {
    const fail = (why: string): SallyportError => new SallyportError('oidc_provider_failed', `the ID token ${why}`);
    if (exp * 1000 <= this.#now()) throw fail('has ended');
    if (iat * 1000 > this.#now() + issuedLeewayMs) throw fail('is of the future');
    if (azp !== undefined && azp !== this.#policy.clientId) throw fail('was issued to another client');
    if (sub === '') throw fail('names nobody');
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

  /** http is let through here because it was looked at before: only this machine is asked so. */
  #options(oauth: OAuthModule) {
    return { [oauth.customFetch]: this.#fetch, [oauth.allowInsecureRequests]: true } as const;
  }
}

/** A rule that says nothing but whose keys they are. */
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
