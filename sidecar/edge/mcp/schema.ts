// `MCPAuthorization`, a kind of our own: which callers may use which tools, prompts and resources of an MCP server. Its
// words are those of a SecurityPolicy's `authorization`.

import { z } from 'zod';
import { objectName } from '../../schema/gateway-patterns.ts';
import { filled } from '../../schema/policy-fields.ts';
import { quantity } from '../../schema/quantity.ts';
import { planOfPrincipal, principal } from '../principal-schema.ts';
import { isPlainUri } from './names.ts';

const action = z.enum(['Allow', 'Deny'], "an action is 'Allow' or 'Deny'");

/** A name, or a star at one end of a part of one. */
const pattern = (what: string) =>
  filled(what).superRefine((value, context) => {
    if (/.\*./.test(value) || value === '**')
      context.addIssue({ code: 'custom', message: `'${value}': one star at most, at an end` });
  });

const names = (what: string) => z.array(pattern(what)).min(1, 'an empty list names nothing: leave it out').max(1000);

const resource = pattern('a URI').superRefine((value, context) => {
  if (!value.includes('*') && !isPlainUri(value))
    context.addIssue({
      code: 'custom',
      message: `'${value}' is not a URI in its usual spelling: servers could read it as another one`,
    });
});

const operation = z
  .strictObject({
    methods: names('a method')
      .optional()
      .meta({ description: 'Methods of the protocol; a star at an end matches more.', example: ['tools/*'] }),
    tools: names('a tool')
      .optional()
      .meta({ description: 'Tools, by name.', example: ['search', 'read_*'] }),
    prompts: names('a prompt')
      .optional()
      .meta({ description: 'Prompts, by name.', example: ['summarize'] }),
    resources: z
      .array(resource)
      .min(1, 'an empty list names nothing: leave it out')
      .max(1000)
      .optional()
      .meta({ description: 'Resources, by URI.', example: ['file:///docs/*'] }),
  })
  .refine(
    (value) => Object.values(value).some((one) => one !== undefined),
    "names nothing: set 'methods', 'tools', 'prompts' or 'resources', or leave 'operation' out",
  );

const rule = z.strictObject({
  name: objectName
    .optional()
    .meta({ description: "The rule's name in logs. The default is its index.", example: 'readers' }),
  action: action.describe('What the rule does.'),
  principal: principal.optional().describe('The callers that the rule is about. By default every caller.'),
  operation: operation
    .optional()
    .describe(
      'What the rule is about. Without it, a Deny rule is about everything, and an Allow rule about the methods of the protocol.',
    ),
});

/** A rule without a name is named by its index. */
export const mcpAuthorization = z
  .strictObject({
    defaultAction: action.default('Deny').describe('What happens where no rule matches.'),
    rules: z.array(rule).max(1024).default([]).describe('The rules. The first that matches decides.'),
    bodyLimit: quantity.default(2 ** 20).describe('The largest body of a request.'),
    responseLimit: quantity.default(4 * 2 ** 20).describe('The largest JSON response, or event of a stream.'),
  })
  .superRefine(({ rules }, context) => {
    for (const [index, { name }] of rules.entries())
      if (name !== undefined && rules.findIndex((one) => one.name === name) < index)
        context.addIssue({ code: 'custom', path: ['rules', index, 'name'], message: `'${name}' is named twice` });
  })
  .transform(({ rules, ...rest }) => ({
    ...rest,
    rules: rules.map(({ name, action: what, principal: who, operation: on }, index) => ({
      name: name ?? `${index}`,
      action: what,
      principal: planOfPrincipal(who),
      ...(on === undefined ? {} : { operation: on }),
    })),
  }))
  .describe('Decides which callers may use which tools, prompts and resources of an MCP server.');

export type McpPlan = Readonly<z.output<typeof mcpAuthorization>>;
export type McpRule = McpPlan['rules'][number];
