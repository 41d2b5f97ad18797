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
    name: lowerHeader,
    type: z
      .enum(['Exact', 'Prefix', 'Suffix', 'Contains'], 'a header is compared by Exact, Prefix, Suffix or Contains')
      .default('Exact'),
    value: filled('a value'),
    ignoreCase: z.boolean().default(false),
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
    provider: z.strictObject({
      issuer: safeUrl,
      authorizationEndpoint: safeUrl.optional(),
      tokenEndpoint: safeUrl.optional(),
      endSessionEndpoint: safeUrl.optional(),
      /** Ours: where the keys are, for a provider without discovery. */
      jwksURI: safeUrl.optional(),
      backendRef: askedDirectly,
      backendRefs: askedDirectly,
      backendSettings: askedDirectly,
    }),
    clientID: z.string("required: 'clientIDRef' is not supported").min(1, 'a client ID must not be empty'),
    clientIDRef: refused("a client ID is not a secret: use 'clientID'"),
    clientSecret: secretRef,
    /** Ours: a Secret with the entry `session-keys`, one key per line; the first encrypts, all decrypt. */
    sessionKeys: secretRef.optional(),
    scopes: z.array(z.string().regex(/^[\x21\x23-\x5b\x5d-\x7e]+$/, 'this is not a scope')).default([]),
    resources: z.array(filled('a resource')).default([]),
    // Envoy Gateway's default is /oauth2/callback on the request's own host. A client chooses that host, so it must be
    // written here.
    redirectURL: redirectUrl,
    logoutPath: z
      .string()
      .regex(/^\/[^?#\s]*$/, 'a path begins with / and has no query')
      // Envoy Gateway's default.
      .default('/logout'),
    forwardAccessToken: z.boolean().default(false),
    forwardIDToken: z.strictObject({ header: ownHeader }).optional(),
    /** Ours: as in a provider of `jwt`. */
    claimToHeaders: claimHeaders,
    cookieNames: z.strictObject({ accessToken: cookieName.optional(), idToken: cookieName.optional() }).optional(),
    cookieDomain: z
      .string()
      .regex(/^[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)+$/, 'this is not a domain')
      .optional(),
    // Of session cookies; unset in Envoy Gateway, which leaves it to browsers. With Lax they go along with links from
    // other sites, and not with their forms.
    cookieConfig: z.strictObject({ sameSite: z.enum(['Lax', 'Strict', 'None']).default('Lax') }).prefault({}),
    // This default and those of the next three are Envoy Gateway's. With 0 the provider must send `expires_in`.
    defaultTokenTTL: durationSchema.prefault('0s'),
    refreshToken: z.boolean().default(true),
    defaultRefreshTokenTTL: durationSchema.prefault('168h'),
    csrfTokenTTL: durationSchema.prefault('10m'),
    denyRedirect: z.strictObject({ headers: z.array(denyRedirectHeader).min(1).max(16) }).optional(),
    disableTokenEncryption: offOnly('tokens are always encrypted'),
    passThroughAuthHeader: z.boolean().default(false),
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
  }));

/** Times are milliseconds; header names are in lower case. */
export type OidcPlan = Readonly<z.output<typeof oidc>>;

/** A condition on one header of a request. */
export type HeaderTest = Readonly<z.output<typeof denyRedirectHeader>>;
