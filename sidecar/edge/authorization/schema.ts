// `authorization` of a SecurityPolicy.

import { z } from 'zod';
import { objectName } from '../../schema/gateway-patterns.ts';
import { filled } from '../../schema/policy-fields.ts';
import { planOfPrincipal, principal } from '../principal-schema.ts';

const action = z.enum(['Allow', 'Deny'], "an action is 'Allow' or 'Deny'");

const path = filled('a path').superRefine((value, context) => {
  if (!/^(?:\/|\*)/.test(value))
    context.addIssue({ code: 'custom', message: `'${value}' matches no path: a path begins with / or *` });
  if (/[{}?#]/.test(value) || /.\*./.test(value))
    context.addIssue({ code: 'custom', message: `'${value}': a path has one star at most, at an end, and no query` });
});

const rule = z.strictObject({
  name: objectName.optional().describe('The name of the rule, in logs. Default: its index.'),
  action: action.describe('Whether a match is allowed.'),
  operation: z
    .strictObject({
      methods: z
        .array(z.string().regex(/^[A-Z]+$/, 'a method is written in capitals'))
        .min(1)
        .max(16)
        .optional()
        .describe('Methods, of which one must match.'),
      paths: z.array(path).min(1).optional().describe('Paths, of which one must match. A star may be at one end.'),
    })
    .refine(({ methods, paths }) => methods !== undefined || paths !== undefined, "needs 'methods' or 'paths'")
    .optional()
    .describe('The requests that the rule is about. Without it: all.'),
  // Required, as in Envoy Gateway.
  principal: principal.describe('The callers that the rule is about. Every field must match.'),
});

/** An absent list is empty. A rule without a name is named by its index, as in Envoy Gateway. */
export const authorization = z
  // The default is Envoy Gateway's. The maximum is ours.
  .strictObject({
    defaultAction: action.default('Deny').describe('What happens to a request that no rule matches.'),
    rules: z.array(rule).max(1024).default([]).describe('Rules in their order: the first that matches decides.'),
  })
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
      ...planOfPrincipal(who),
    })),
  }))
  .describe('Which authenticated callers may do what.');

/** Rules in their order: the first that matches decides, else `defaultAction`. Empty lists match anything. */
export type AuthorizationPlan = Readonly<z.output<typeof authorization>>;
