// `oidc` of a SecurityPolicy. `cookieNames.accessToken` is read and has no effect: all tokens are in one cookie.

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
  .string('say it: which URL the provider sends a browser back to is not guessed from the request')
  .superRefine((value, context) => {
    const checked = safeUrl.safeParse(value);
    if (!checked.success) context.addIssue({ code: 'custom', message: checked.error.issues[0]!.message });
    else if (new URL(value).search !== '')
      context.addIssue({ code: 'custom', message: `'${value}' has a query, and the provider adds one` });
  });

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
    clientID: z.string("say it here: 'clientIDRef' is not read").min(1, 'a client ID is not empty'),
    clientIDRef: refused("a client ID is no secret: write it as 'clientID'"),
    clientSecret: secretRef,
    /** Ours: a Secret with the key `session-keys`, one key a line; the first encrypts, all decrypt. */
    sessionKeys: secretRef.optional(),
    scopes: z.array(z.string().regex(/^[\x21\x23-\x5b\x5d-\x7e]+$/, 'this is not a scope')).default([]),
    resources: z.array(filled('a resource')).default([]),
    redirectURL: redirectUrl,
    logoutPath: z
      .string()
      .regex(/^\/[^?#\s]*$/, 'a path begins with / and has no query')
      .default('/logout'),
    forwardAccessToken: z.boolean().default(false),
    forwardIDToken: z.strictObject({ header: ownHeader }).optional(),
    /** Ours: as a provider of `jwt` has it. */
    claimToHeaders: claimHeaders,
    cookieNames: z.strictObject({ accessToken: cookieName.optional(), idToken: cookieName.optional() }).optional(),
    cookieDomain: z
      .string()
      .regex(/^[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)+$/, 'this is not a domain')
      .optional(),
    cookieConfig: z.strictObject({ sameSite: z.enum(['Lax', 'Strict', 'None']).default('Lax') }).prefault({}),
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
    if (/[?]/.test(value.provider.issuer)) issue(['provider', 'issuer'], 'an issuer has no query');
    const redirect = URL.parse(value.redirectURL);
    if (redirect?.pathname === '/')
      issue(['redirectURL'], `'${value.redirectURL}' needs a path of its own: what comes there is not for the app`);
    if (redirect?.pathname === value.logoutPath)
      issue(['logoutPath'], 'the logout is at another path than the redirect');
    const domain = value.cookieDomain;
    if (redirect !== null && domain !== undefined && `.${redirect.hostname}`.endsWith(`.${domain}`) === false)
      issue(['cookieDomain'], `'${redirect.hostname}' of redirectURL is not within '${domain}'`);
    if (value.forwardAccessToken && value.forwardIDToken?.header === 'authorization')
      issue(['forwardIDToken', 'header'], "'Authorization' carries the access token already");
    if (value.csrfTokenTTL < 1000) issue(['csrfTokenTTL'], 'a login takes longer than this');
  })
  .transform((said) => ({
    issuer: said.provider.issuer,
    ...optional('authorizationEndpoint', said.provider.authorizationEndpoint),
    ...optional('tokenEndpoint', said.provider.tokenEndpoint),
    ...optional('endSessionEndpoint', said.provider.endSessionEndpoint),
    ...optional('jwksUri', said.provider.jwksURI),
    clientId: said.clientID,
    clientSecret: said.clientSecret,
    ...optional('sessionKeys', said.sessionKeys),
    scopes: [...new Set(['openid', ...said.scopes])],
    resources: said.resources,
    redirectUrl: said.redirectURL,
    logoutPath: said.logoutPath,
    forwardAccessToken: said.forwardAccessToken,
    ...optional('forwardIdTokenHeader', said.forwardIDToken?.header),
    claimToHeaders: said.claimToHeaders,
    ...optional('cookieName', said.cookieNames?.idToken),
    ...optional('cookieDomain', said.cookieDomain),
    sameSite: said.cookieConfig.sameSite,
    defaultTokenMs: said.defaultTokenTTL,
    refreshToken: said.refreshToken,
    refreshMs: said.defaultRefreshTokenTTL,
    loginMs: said.csrfTokenTTL,
    denyRedirect: said.denyRedirect?.headers ?? [],
    passThroughAuthHeader: said.passThroughAuthHeader,
  }));

/** Times are milliseconds; header names are in lower case. */
export type OidcPlan = Readonly<z.output<typeof oidc>>;

/** How one header of a request is compared. */
export type HeaderTest = Readonly<z.output<typeof denyRedirectHeader>>;
