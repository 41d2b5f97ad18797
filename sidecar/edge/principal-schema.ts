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
      .optional(),
    jwt: z
      .strictObject({
        provider: objectName,
        scopes: values('a scope').max(16).optional(),
        claims: z
          .array(
            z.strictObject({
              name: filled('a claim'),
              valueType: z.enum(['String', 'StringArray']).default('String'),
              values: values('a value'),
            }),
          )
          .min(1)
          .max(16)
          .optional(),
      })
      .refine(({ scopes, claims }) => scopes !== undefined || claims !== undefined, "needs 'scopes' or 'claims'")
      .optional(),
    headers: z
      .array(z.strictObject({ name: lowerHeader, values: values('a value') }))
      .min(1)
      .optional(),
    clientIDs: values('a client').optional(),
    spiffeIDs: z.array(spiffeId).min(1).optional(),
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
