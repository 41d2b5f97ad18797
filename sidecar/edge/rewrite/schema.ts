// The filters URLRewrite and RequestRedirect (Gateway API). 303, 307 and 308 are extended support of the standard.

import { z } from 'zod';
import { hostname, port } from '../../schema/gateway-patterns.ts';

const pathModifier = z
  .strictObject({
    type: z
      .enum(['ReplaceFullPath', 'ReplacePrefixMatch'])
      .describe('Whether the whole path is replaced, or the prefix that matched.'),
    replaceFullPath: z.string().max(1024).optional().describe('The new path.'),
    replacePrefixMatch: z.string().max(1024).optional().describe('What the prefix is replaced with; empty removes it.'),
  })
  .superRefine((value, context) => {
    const wanted = value.type === 'ReplaceFullPath' ? 'replaceFullPath' : 'replacePrefixMatch';
    const other = value.type === 'ReplaceFullPath' ? 'replacePrefixMatch' : 'replaceFullPath';
    const path = value[wanted];
    if (path !== undefined && !path.startsWith('/') && !(wanted === 'replacePrefixMatch' && path === ''))
      context.addIssue({ code: 'custom', path: [wanted], message: `'${path}' is not a path: it begins with '/'` });
    if (value[wanted] === undefined)
      context.addIssue({ code: 'custom', message: `type ${value.type} needs '${wanted}'` });
    if (value[other] !== undefined)
      context.addIssue({ code: 'custom', path: [other], message: `'${other}' is not for type ${value.type}` });
  });

/** `urlRewrite` as written. */
export const urlRewrite = z
  .strictObject({
    hostname: hostname(false).optional().describe('The host that the backend gets.'),
    path: pathModifier.optional().describe('The new path.'),
  })
  .describe('Changes the host or path of the request to the backend.');

/** `requestRedirect` as written. */
export const requestRedirect = z
  .strictObject({
    scheme: z.enum(['http', 'https']).optional().describe('The scheme to redirect to. Default: that of the request.'),
    hostname: hostname(false).optional().describe('The host to redirect to. Default: that of the request.'),
    path: pathModifier.optional().describe('The path to redirect to. Default: that of the request.'),
    port: port
      .optional()
      .describe('The port to redirect to. Default: that of the scheme if one is set, else that of the listener.'),
    statusCode: z
      .union([z.literal(301), z.literal(302), z.literal(303), z.literal(307), z.literal(308)])
      .default(302)
      .describe('The status of the response.'),
  })
  .describe('Answers with a redirect.');

/** A replacement for a path. */
export type PathPlan = Readonly<z.output<typeof pathModifier>>;
/** One rewrite. */
export type RewritePlan = Readonly<z.output<typeof urlRewrite>>;
/** One redirect. */
export type RedirectPlan = Readonly<z.output<typeof requestRedirect>>;
