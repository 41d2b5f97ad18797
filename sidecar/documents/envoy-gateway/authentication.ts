// How a SecurityPolicy wants callers to be known: the parts `jwt`, `oidc`, `introspection`, `apiKeyAuth` and `basicAuth`.

import { z } from 'zod';
import { durationSchema } from '../../../cert-agent/base/yaml.ts';
import type {
  ApiKeyPolicy,
  BasicPolicy,
  HeaderTest,
  IntrospectionPolicy,
  JwtPolicy,
  OidcPolicy,
} from '../../edge/security-policy.ts';
import { headerName, objectName } from '../../schema/gateway-patterns.ts';
import { cookieName, filled, lowerHeader, offOnly, ownHeader, refused, safeUrl, secretRef } from './fields.ts';

const backendSettings =
  'its host is asked directly, and what a backend needs beyond that is not looked at: leave it out';

const jwks = z.string().superRefine((value, context) => {
  let parsed: unknown;
  try {
    parsed = JSON.parse(value);
  } catch {
    return context.addIssue({ code: 'custom', message: 'this is not JSON' });
  }
  const keys = typeof parsed === 'object' && parsed !== null && 'keys' in parsed ? parsed.keys : undefined;
  if (!Array.isArray(keys) || !keys.every((key) => typeof key === 'object' && key !== null && 'kty' in key))
    context.addIssue({ code: 'custom', message: "a JWK Set is an object with a list 'keys', each with its 'kty'" });
});

const jwtProvider = z
  .strictObject({
    name: objectName,
    // Envoy would take tokens of any issuer then, as long as one of the keys fits.
    issuer: z.string('a provider says whose tokens it is for').min(1, 'an issuer is not empty').max(253),
    audiences: z.array(filled('an audience')).max(8).default([]),
    remoteJWKS: z
      .strictObject({
        uri: safeUrl,
        backendRef: refused(backendSettings),
        backendRefs: refused(backendSettings),
        backendSettings: refused(backendSettings),
        cacheDuration: refused('keys are asked for anew every five minutes: leave it out'),
      })
      .optional(),
    localJWKS: z
      .strictObject({
        type: z.literal('Inline', "only type Inline is read: put the keys into 'inline'").default('Inline'),
        inline: jwks,
        valueRef: refused("only type Inline is read: put the keys into 'inline'"),
      })
      .optional(),
    claimToHeaders: z.array(z.strictObject({ header: ownHeader, claim: filled('a claim') })).default([]),
    recomputeRoute: offOnly('a route is chosen once, before anybody is known: it is not chosen again by claims'),
    extractFrom: z
      .strictObject({
        headers: z.array(z.strictObject({ name: headerName, valuePrefix: z.string().default('') })).default([]),
        cookies: z.array(cookieName).default([]),
        params: z.array(filled('a parameter')).default([]),
      })
      .optional(),
    /** Ours, under the name that Istio has for it. */
    forwardOriginalToken: z.boolean().default(false),
  })
  .superRefine((value, context) => {
    if ((value.remoteJWKS === undefined) === (value.localJWKS === undefined))
      context.addIssue({ code: 'custom', message: "a provider needs exactly one of 'remoteJWKS' and 'localJWKS'" });
  });

export const jwt = z
  .strictObject({
    optional: z.boolean().default(false),
    providers: z.array(jwtProvider).min(1, 'at least one provider is needed').max(4, 'at most four providers are read'),
  })
  .superRefine(({ providers }, context) => {
    for (const [index, { name }] of providers.entries())
      if (providers.findIndex((one) => one.name === name) < index)
        context.addIssue({ code: 'custom', path: ['providers', index, 'name'], message: `'${name}' is named twice` });
  })
  .transform(
    ({ optional, providers }): JwtPolicy => ({
      optional,
      providers: providers.map(({ name, issuer, audiences, remoteJWKS, localJWKS, extractFrom, ...rest }) => ({
        name,
        rule: {
          issuer,
          audiences,
          ...(remoteJWKS === undefined ? {} : { jwksUri: remoteJWKS.uri }),
          ...(localJWKS === undefined ? {} : { jwks: localJWKS.inline }),
          fromHeaders: extractFrom?.headers.map((one) => ({ name: one.name, prefix: one.valuePrefix })) ?? [],
          fromParams: extractFrom?.params ?? [],
          fromCookies: extractFrom?.cookies ?? [],
          outputClaimToHeaders: rest.claimToHeaders,
          forwardOriginalToken: rest.forwardOriginalToken,
          timeoutMs: 5000,
          spaceDelimitedClaims: [],
        },
      })),
    }),
  );

const denyRedirectHeader = z
  .strictObject({
    name: lowerHeader,
    type: z
      .enum(['Exact', 'Prefix', 'Suffix', 'Contains'], 'a header is compared by Exact, Prefix, Suffix or Contains')
      .default('Exact'),
    value: filled('a value'),
    ignoreCase: z.boolean().default(false),
  })
  .transform((value): HeaderTest => value);

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
      backendRef: refused(backendSettings),
      backendRefs: refused(backendSettings),
      backendSettings: refused(backendSettings),
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
    claimToHeaders: z.array(z.strictObject({ header: ownHeader, claim: filled('a claim') })).default([]),
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
  .transform(
    (said): OidcPolicy => ({
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
    }),
  );

function optional<K extends string, V>(key: K, value: V | undefined): { readonly [key in K]?: V } {
  return (value === undefined ? {} : { [key]: value }) as { readonly [key in K]?: V };
}

/** Ours: RFC 7662, for bearer tokens that say nothing themselves. */
export const introspection = z
  .strictObject({
    endpoint: safeUrl,
    clientID: filled('a client ID'),
    clientSecret: secretRef,
    cacheTTL: durationSchema.prefault('60s'),
    audiences: z.array(filled('an audience')).default([]),
    forwardOriginalToken: z.boolean().default(false),
  })
  .superRefine(({ cacheTTL }, context) => {
    if (cacheTTL > 600_000)
      context.addIssue({
        code: 'custom',
        path: ['cacheTTL'],
        message: 'a token that was withdrawn would be good for that long: at most 10m',
      });
  })
  .transform(
    ({ clientID, cacheTTL, ...rest }): IntrospectionPolicy => ({ ...rest, clientId: clientID, cacheMs: cacheTTL }),
  );

const places = z
  .strictObject({
    headers: z.array(lowerHeader).min(1).optional(),
    params: z.array(filled('a parameter')).min(1).optional(),
    cookies: z.array(cookieName).min(1).optional(),
  })
  .superRefine((value, context) => {
    if (Object.values(value).filter((one) => one !== undefined).length !== 1)
      context.addIssue({ code: 'custom', message: "needs exactly one of 'headers', 'params' and 'cookies'" });
  })
  .transform(({ headers = [], params = [], cookies = [] }) => ({ headers, params, cookies }));

export const apiKeyAuth = z
  .strictObject({
    credentialRefs: z.array(secretRef).min(1, 'at least one Secret is needed').max(64),
    extractFrom: z.array(places).min(1, 'say where the key stands in a request').max(16),
    forwardClientIDHeader: ownHeader.optional(),
    sanitize: z.boolean().default(true),
  })
  .transform(
    ({ credentialRefs, forwardClientIDHeader, ...rest }): ApiKeyPolicy => ({
      ...rest,
      credentials: credentialRefs,
      ...optional('forwardClientIdHeader', forwardClientIDHeader),
    }),
  );

export const basicAuth = z
  .strictObject({
    users: secretRef,
    forwardUsernameHeader: ownHeader.optional(),
    /** Ours, as with API keys. */
    sanitize: z.boolean().default(true),
  })
  .transform(
    ({ forwardUsernameHeader, ...rest }): BasicPolicy => ({
      ...rest,
      ...optional('forwardUsernameHeader', forwardUsernameHeader),
    }),
  );
