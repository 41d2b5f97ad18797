// `oidc` of a SecurityPolicy. `cookieNames.accessToken` is accepted without effect: all tokens are in one cookie.

import { z } from 'zod';
import { durationSchema } from '../../../cert-agent/base/yaml.ts';
import {
  askedDirectly,
  claimHeaders,
  cookieName,
  filled,
  lowerHeader,
  offOnly,
  optional,
  ownHeader,
  refused,
  safeUrl,
  secretRef,
} from '../../schema/policy-fields.ts';

const denyRedirectHeader = z
  .strictObject({
    name: lowerHeader.describe('The name of the header.'),
    type: z
      .enum(['Exact', 'Prefix', 'Suffix', 'Contains'], 'a header is compared by Exact, Prefix, Suffix or Contains')
      .default('Exact')
      .describe('How the value is compared.'),
    value: filled('a value').describe('The value.'),
    ignoreCase: z.boolean().default(false).describe('Compares without regard to case.'),
  })
  .transform((value) => value);

const redirectUrl = z
  .string('required: the URL that the provider redirects browsers to is not guessed from the request')
  .superRefine((value, context) => {
    const checked = safeUrl.safeParse(value);
    if (!checked.success) context.addIssue({ code: 'custom', message: checked.error.issues[0]!.message });
    else if (new URL(value).search !== '')
      context.addIssue({ code: 'custom', message: `'${value}' must not have a query, as the provider adds one` });
  });

/** `oidc`, read to its plan. Secrets are read when the policy is compiled; nothing is fetched here. */
export const oidc = z
  .strictObject({
    provider: z
      .strictObject({
        issuer: safeUrl.describe('The URL of the provider, whose discovery document names its endpoints.'),
        authorizationEndpoint: safeUrl.optional().describe('Where browsers log in. Default: as discovered.'),
        tokenEndpoint: safeUrl.optional().describe('Where codes are exchanged for tokens. Default: as discovered.'),
        endSessionEndpoint: safeUrl.optional().describe('Where browsers log out. Default: as discovered.'),
        /** Ours: where the keys are, for a provider without discovery. */
        jwksURI: safeUrl.optional().describe('The URL of the keys, for a provider without discovery.'),
        backendRef: askedDirectly,
        backendRefs: askedDirectly,
        backendSettings: askedDirectly,
      })
      .describe('Who logs users in.'),
    clientID: z
      .string("required: 'clientIDRef' is not supported")
      .min(1, 'a client ID must not be empty')
      .describe('The name of this client at the provider.'),
    clientIDRef: refused("a client ID is not a secret: use 'clientID'"),
    clientSecret: secretRef.describe('A Secret with the password of this client, in its entry `client-secret`.'),
    /** Ours: a Secret with the entry `session-keys`, one key per line; the first encrypts, all decrypt. */
    sessionKeys: secretRef
      .optional()
      .describe(
        'A Secret with keys for cookies in its entry `session-keys`, one a line: the first encrypts, all decrypt.',
      ),
    scopes: z
      .array(z.string().regex(/^[\x21\x23-\x5b\x5d-\x7e]+$/, 'this is not a scope'))
      .default([])
      .describe('Scopes that are asked for, beside `openid`.'),
    resources: z.array(filled('a resource')).default([]).describe('Resources that tokens are asked for (RFC 8707).'),
    // Envoy Gateway's default is /oauth2/callback on the request's own host. A client chooses that host, so it must be
    // written here.
    redirectURL: redirectUrl.describe(
      'Where the provider redirects browsers to. Requests to its path do not reach the app.',
    ),
    logoutPath: z
      .string()
      .regex(/^\/[^?#\s]*$/, 'a path begins with / and has no query')
      // Envoy Gateway's default.
      .default('/logout')
      .describe('A request to this path ends the session.'),
    forwardAccessToken: z.boolean().default(false).describe('Sends the access token to the app, in `Authorization`.'),
    forwardIDToken: z
      .strictObject({ header: ownHeader.describe('The header for the ID token.') })
      .optional()
      .describe('Sends the ID token to the app.'),
    /** Ours: as in a provider of `jwt`. */
    claimToHeaders: claimHeaders,
    cookieNames: z
      .strictObject({
        accessToken: cookieName.optional().describe('It has no effect: all tokens are in one cookie.'),
        idToken: cookieName
          .optional()
          .describe(
            "The end of the session cookie's name, after `sallyport-session-`. Default: it is derived from the policy.",
          ),
      })
      .optional()
      .describe('Names of cookies.'),
    cookieDomain: z
      .string()
      .regex(/^[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)+$/, 'this is not a domain')
      .optional()
      .describe('The domain of the cookies, for sessions across hosts. Default: the host of the request.'),
    // Of session cookies; unset in Envoy Gateway, which leaves it to browsers. With Lax they go along with links from
    // other sites, and not with their forms.
    cookieConfig: z
      .strictObject({
        sameSite: z
          .enum(['Lax', 'Strict', 'None'])
          .default('Lax')
          .describe('With Lax, cookies go along with links from other websites and not with their forms.'),
      })
      .prefault({})
      .describe('Attributes of the cookies.'),
    // This default and those of the next three are Envoy Gateway's. With 0 the provider must send `expires_in`.
    defaultTokenTTL: durationSchema
      .prefault('0s')
      .describe('How long tokens last if the provider does not say so. 0s: it must.'),
    refreshToken: z.boolean().default(true).describe('Renews expired tokens without a login.'),
    defaultRefreshTokenTTL: durationSchema
      .prefault('168h')
      .describe('How long a session may be renewed without a login.'),
    csrfTokenTTL: durationSchema.prefault('10m').describe('How long a login may take.'),
    denyRedirect: z
      .strictObject({
        headers: z.array(denyRedirectHeader).min(1).max(16).describe('Headers, of which one must match.'),
      })
      .optional()
      .describe('Requests that get a 401 in place of a redirect, beside those of programs.'),
    disableTokenEncryption: offOnly('tokens are always encrypted'),
    passThroughAuthHeader: z
      .boolean()
      .default(false)
      .describe('Leaves a request with a token to `jwt` and `introspection`, of which the policy needs one.'),
  })
  .superRefine((value, context) => {
    const issue = (path: string[], message: string): void => context.addIssue({ code: 'custom', path, message });
    if (/[?]/.test(value.provider.issuer)) issue(['provider', 'issuer'], 'an issuer must not have a query');
    const redirect = URL.parse(value.redirectURL);
    if (redirect?.pathname === '/')
      issue(['redirectURL'], `'${value.redirectURL}' needs a path of its own: requests to it do not reach the app`);
    if (redirect?.pathname === value.logoutPath) issue(['logoutPath'], "must differ from the path of 'redirectURL'");
    const domain = value.cookieDomain;
    if (redirect !== null && domain !== undefined && `.${redirect.hostname}`.endsWith(`.${domain}`) === false)
      issue(['cookieDomain'], `'${redirect.hostname}' of redirectURL is not within '${domain}'`);
    if (value.forwardAccessToken && value.forwardIDToken?.header === 'authorization')
      issue(['forwardIDToken', 'header'], "'Authorization' already carries the access token");
    if (value.csrfTokenTTL < 1000) issue(['csrfTokenTTL'], 'a login takes longer than this');
  })
  .transform((value) => ({
    issuer: value.provider.issuer,
    ...optional('authorizationEndpoint', value.provider.authorizationEndpoint),
    ...optional('tokenEndpoint', value.provider.tokenEndpoint),
    ...optional('endSessionEndpoint', value.provider.endSessionEndpoint),
    ...optional('jwksUri', value.provider.jwksURI),
    clientId: value.clientID,
    clientSecret: value.clientSecret,
    ...optional('sessionKeys', value.sessionKeys),
    scopes: [...new Set(['openid', ...value.scopes])],
    resources: value.resources,
    redirectUrl: value.redirectURL,
    logoutPath: value.logoutPath,
    forwardAccessToken: value.forwardAccessToken,
    ...optional('forwardIdTokenHeader', value.forwardIDToken?.header),
    claimToHeaders: value.claimToHeaders,
    ...optional('cookieName', value.cookieNames?.idToken),
    ...optional('unusedCookieName', value.cookieNames?.accessToken),
    ...optional('cookieDomain', value.cookieDomain),
    sameSite: value.cookieConfig.sameSite,
    defaultTokenMs: value.defaultTokenTTL,
    refreshToken: value.refreshToken,
    refreshMs: value.defaultRefreshTokenTTL,
    loginMs: value.csrfTokenTTL,
    denyRedirect: value.denyRedirect?.headers ?? [],
    passThroughAuthHeader: value.passThroughAuthHeader,
  }))
  .describe('Authenticates users of browsers by a session, and redirects them to a login (OpenID Connect).');

/** Times are milliseconds; header names are in lower case. */
export type OidcPlan = Readonly<z.output<typeof oidc>>;

/** A condition on one header of a request. */
export type HeaderTest = Readonly<z.output<typeof denyRedirectHeader>>;
