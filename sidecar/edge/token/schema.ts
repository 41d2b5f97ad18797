// `jwt` and `introspection` of a SecurityPolicy: how bearer tokens are verified.

import { z } from 'zod';
import { durationSchema } from '../../../cert-agent/base/yaml.ts';
import { headerName, objectName } from '../../schema/gateway-patterns.ts';
import {
  askedDirectly,
  claimHeaders,
  cookieName,
  filled,
  offOnly,
  refused,
  safeUrl,
  secretRef,
} from '../../schema/policy-fields.ts';

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
    name: objectName.describe('The name of the provider, for `authorization`.'),
    // Without an issuer, Envoy accepts tokens of any issuer that one of the keys verifies.
    issuer: z
      .string('a provider needs an issuer')
      .min(1, 'an issuer must not be empty')
      .max(253)
      .describe('The issuer of the tokens.'),
    // Envoy Gateway's maximum, as the four providers below.
    audiences: z
      .array(filled('an audience'))
      .max(8)
      .default([])
      .describe('A token must be for one of these. Empty: for anyone.'),
    remoteJWKS: z
      .strictObject({
        uri: safeUrl.describe('The URL of the keys, a JWK Set.'),
        backendRef: askedDirectly,
        backendRefs: askedDirectly,
        backendSettings: askedDirectly,
        cacheDuration: refused('keys are fetched again every five minutes: leave it out'),
      })
      .optional()
      .describe('Where the keys are fetched.'),
    localJWKS: z
      .strictObject({
        type: z
          .literal('Inline', "only type Inline is supported: put the keys into 'inline'")
          .default('Inline')
          .describe('Where the keys are: written here.'),
        inline: jwks.describe('The keys, a JWK Set in JSON.'),
        valueRef: refused("only type Inline is supported: put the keys into 'inline'"),
      })
      .optional()
      .describe('The keys themselves.'),
    claimToHeaders: claimHeaders,
    recomputeRoute: offOnly('the route is chosen once, before authentication, and claims do not change it'),
    // Without it: `Authorization: Bearer` and the query parameter `access_token`, as in Envoy Gateway and Istio.
    extractFrom: z
      .strictObject({
        headers: z
          .array(
            z.strictObject({
              name: headerName.describe('The name of the header.'),
              valuePrefix: z
                .string()
                .default('')
                .describe('The text before the token, which is cut off. Without it the value does not match.'),
            }),
          )
          .default([])
          .describe('Headers that hold the token.'),
        cookies: z.array(cookieName).default([]).describe('Cookies that hold the token.'),
        params: z.array(filled('a parameter')).default([]).describe('Query parameters that hold the token.'),
      })
      .optional()
      .describe('Places of the token. Default: `Authorization: Bearer` and the parameter `access_token`.'),
    /** Ours, with Istio's name for it. */
    forwardOriginalToken: z.boolean().default(false).describe('Leaves the token in the request to the app.'),
  })
  .superRefine((value, context) => {
    if ((value.remoteJWKS === undefined) === (value.localJWKS === undefined))
      context.addIssue({ code: 'custom', message: "a provider needs exactly one of 'remoteJWKS' and 'localJWKS'" });
  });

/** `jwt` of a SecurityPolicy, read to its plan. Keys of a `remoteJWKS` are not fetched here. */
export const jwt = z
  .strictObject({
    // Envoy Gateway's default. Either way, a token that is present must be valid.
    optional: z
      .boolean()
      .default(false)
      .describe('Lets requests without a token pass. One that is present must be valid.'),
    providers: z
      .array(jwtProvider)
      .min(1, 'at least one provider is needed')
      .max(4, 'at most four providers are allowed')
      .describe('The accepted issuers.'),
  })
  .superRefine(({ providers }, context) => {
    for (const [index, { name }] of providers.entries())
      if (providers.findIndex((one) => one.name === name) < index)
        context.addIssue({ code: 'custom', path: ['providers', index, 'name'], message: `'${name}' is named twice` });
  })
  .transform(({ optional, providers }) => ({
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
        // Istio's default for a RequestAuthentication; a SecurityPolicy has no such field.
        timeoutMs: 5000,
        spaceDelimitedClaims: [],
      },
    })),
  }))
  .describe('Authenticates users by JWTs (RFC 7519).');

/** Providers in the form of a sidecar's RequestAuthentication. */
export type JwtPlan = Readonly<z.output<typeof jwt>>;

/** Ours: RFC 7662, for opaque bearer tokens. */
export const introspection = z
  .strictObject({
    endpoint: safeUrl.describe("The URL of the provider's introspection."),
    clientID: filled('a client ID').describe('The name of this client at the provider.'),
    clientSecret: secretRef.describe('A Secret with the password of this client, in its entry `client-secret`.'),
    // How long a revoked token may still be accepted.
    cacheTTL: durationSchema.prefault('60s').meta({
      description: 'How long an answer is kept, and a revoked token may still be accepted.',
      bounds: 'up to 10m',
    }),
    audiences: z
      .array(filled('an audience'))
      .default([])
      .describe('A token must be for one of these. Empty: for anyone.'),
    forwardOriginalToken: z.boolean().default(false).describe('Leaves the token in the request to the app.'),
  })
  .superRefine(({ cacheTTL }, context) => {
    if (cacheTTL > 600_000)
      context.addIssue({
        code: 'custom',
        path: ['cacheTTL'],
        message: 'a revoked token would be accepted for that long: at most 10m',
      });
  })
  .transform(({ clientID, cacheTTL, ...rest }) => ({ ...rest, clientId: clientID, cacheMs: cacheTTL }))
  .describe('Authenticates users by opaque tokens, which the provider is asked about (RFC 7662).');

/** RFC 7662. Times are milliseconds; the client's secret is a reference. */
export type IntrospectionPlan = Readonly<z.output<typeof introspection>>;
