// `authorization` of a SecurityPolicy.

import { z } from 'zod';
import { isIpBlock } from '../../policy/ip.ts';
import { objectName } from '../../schema/gateway-patterns.ts';
import { filled, lowerHeader, refused } from '../../schema/policy-fields.ts';

const action = z.enum(['Allow', 'Deny'], "an action is 'Allow' or 'Deny'");
const values = (what: string) => z.array(filled(what)).min(1, `at least one ${what.replace(/^an? /, '')} is needed`);

const path = filled('a path').superRefine((value, context) => {
  if (!/^(?:\/|\*)/.test(value))
    context.addIssue({ code: 'custom', message: `'${value}' matches no path: a path begins with / or *` });
  if (/[{}?#]/.test(value) || /.\*./.test(value))
    context.addIssue({ code: 'custom', message: `'${value}': a path has one star at most, at an end, and no query` });
});

const spiffeId = filled('a SPIFFE ID').superRefine((value, context) => {
  if (!/^spiffe:\/\/[a-z0-9._-]+\/(?:[A-Za-z0-9._-]+\/)*(?:\*|[A-Za-z0-9._-]+)$/.test(value))
    context.addIssue({
      code: 'custom',
      message: `'${value}' is neither a SPIFFE ID nor the start of one that ends in /*`,
    });
});

const principal = z
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

const rule = z.strictObject({
  name: objectName.optional(),
  action,
  operation: z
    .strictObject({
      methods: z
        .array(z.string().regex(/^[A-Z]+$/, 'a method is written in capitals'))
        .min(1)
        .max(16)
        .optional(),
      paths: z.array(path).min(1).optional(),
    })
    .refine(({ methods, paths }) => methods !== undefined || paths !== undefined, "needs 'methods' or 'paths'")
    .optional(),
  // Required, as in Envoy Gateway.
  principal,
});

/** An absent list is empty. A rule without a name is named by its index, as in Envoy Gateway. */
export const authorization = z
  // The default is Envoy Gateway's. The maximum is ours.
  .strictObject({ defaultAction: action.default('Deny'), rules: z.array(rule).max(1024).default([]) })
  .superRefine(({ rules }, context) => {
    for (const [index, { name }] of rules.entries())
      if (name !== undefined && rules.findIndex((one) => one.name === name) < index)
        context.addIssue({ code: 'custom', path: ['rules', index, 'name'], message: `'${name}' is named twice` });
  })
  .transform(({ defaultAction, rules }) => ({
    defaultAction,
    rules: rules.map(({ name, action: what, operation, principal: who }, index) => ({
      name: name ?? `${index}`,
      action: what,
      methods: operation?.methods ?? [],
      paths: operation?.paths ?? [],
      clientCidrs: who.clientCIDRs ?? [],
      ...(who.jwt === undefined
        ? {}
        : { jwt: { provider: who.jwt.provider, scopes: who.jwt.scopes ?? [], claims: who.jwt.claims ?? [] } }),
      headers: who.headers ?? [],
      clientIds: who.clientIDs ?? [],
      spiffeIds: who.spiffeIDs ?? [],
    })),
  }));

/** Rules in their order: the first that matches decides, else `defaultAction`. Empty lists match anything. */
export type AuthorizationPlan = Readonly<z.output<typeof authorization>>;
