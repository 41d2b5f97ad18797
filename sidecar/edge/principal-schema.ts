// `principal` of a rule of authorization: which callers it is about.

import { z } from 'zod';
import { isIpBlock } from '../policy/ip.ts';
import { objectName } from '../schema/gateway-patterns.ts';
import { filled, lowerHeader, refused } from '../schema/policy-fields.ts';

const values = (what: string) => z.array(filled(what)).min(1, `at least one ${what.replace(/^an? /, '')} is needed`);

const spiffeId = filled('a SPIFFE ID').superRefine((value, context) => {
  if (!/^spiffe:\/\/[a-z0-9._-]+\/(?:[A-Za-z0-9._-]+\/)*(?:\*|[A-Za-z0-9._-]+)$/.test(value))
    context.addIssue({
      code: 'custom',
      message: `'${value}' is neither a SPIFFE ID nor the start of one that ends in /*`,
    });
});

/** As written. At least one condition. */
export const principal = z
  .strictObject({
    clientCIDRs: z
      .array(
        z.string().refine(isIpBlock, { error: ({ input }) => `'${input}' is neither an address nor a CIDR block` }),
      )
      .min(1, 'an empty list matches no client: leave it out')
      .optional()
      .meta({ description: 'Addresses and blocks of clients, behind trusted proxies.', example: ['10.0.0.0/8'] }),
    jwt: z
      .strictObject({
        provider: objectName.meta({ description: 'The provider of the token, by its name.', example: 'login' }),
        scopes: values('a scope')
          .max(16)
          .optional()
          .meta({ description: 'Scopes that the token must all have.', example: ['orders:read'] }),
        claims: z
          .array(
            z.strictObject({
              name: filled('a claim').meta({
                description: 'The name of the claim; dots lead into objects.',
                example: 'groups',
              }),
              valueType: z
                .enum(['String', 'StringArray'])
                .default('String')
                .describe('Whether the claim is a string, or a list of strings.'),
              values: values('a value').meta({
                description: 'The claim must be one of these values, or a list with one of them.',
                example: ['admins'],
              }),
            }),
          )
          .min(1)
          .max(16)
          .optional()
          .describe('Claims that the token must all have.'),
      })
      .refine(({ scopes, claims }) => scopes !== undefined || claims !== undefined, "needs 'scopes' or 'claims'")
      .optional()
      .describe("The user's token."),
    headers: z
      .array(
        z.strictObject({
          name: lowerHeader.meta({ description: 'The name of the header.', example: 'x-tenant' }),
          values: values('a value').meta({ description: 'One of these values.', example: ['a'] }),
        }),
      )
      .min(1)
      .optional()
      .describe('Headers of the request that must all be there.'),
    clientIDs: values('a client')
      .optional()
      .meta({
        description:
          'Clients at a gateway, by the ID of their API key, their user name or the name in their certificate.',
        example: ['reports'],
      }),
    spiffeIDs: z
      .array(spiffeId)
      .min(1)
      .optional()
      .meta({
        description:
          "SPIFFE IDs of the client's certificate, or at a sidecar of the peer; or the start of some, with `/*` at its end.",
        example: ['spiffe://demo.test/ns/shop/*'],
      }),
    clientCert: refused("use 'spiffeIDs' to match the client's certificate"),
    sourceCIDRs: refused("use 'clientCIDRs', which match the client's address behind trusted proxies"),
    clientIPGeoLocations: refused('there is no database of the locations of addresses'),
  })
  .superRefine((value, context) => {
    if (Object.values(value).every((one) => one === undefined))
      context.addIssue({
        code: 'custom',
        message: "matches no caller: set 'clientCIDRs', 'jwt', 'headers', 'clientIDs' or 'spiffeIDs'",
      });
  });

/** An absent list is empty: it sets no condition. */
export function planOfPrincipal(who: Partial<z.output<typeof principal>> = {}) {
  return {
    ...(who.jwt === undefined
      ? {}
      : { jwt: { provider: who.jwt.provider, scopes: who.jwt.scopes ?? [], claims: who.jwt.claims ?? [] } }),
    clientCidrs: who.clientCIDRs ?? [],
    headers: who.headers ?? [],
    clientIds: who.clientIDs ?? [],
    spiffeIds: who.spiffeIDs ?? [],
  };
}

/** The conditions as plain data. */
export type PrincipalPlan = Readonly<ReturnType<typeof planOfPrincipal>>;
