// The filters URLRewrite and RequestRedirect (Gateway API). 303, 307 and 308 are extended support of the standard.

import { z } from 'zod';
import { hostname, port } from '../../schema/gateway-patterns.ts';

const pathModifier = z
  .strictObject({
    type: z.enum(['ReplaceFullPath', 'ReplacePrefixMatch']),
    replaceFullPath: z.string().max(1024).optional(),
    replacePrefixMatch: z.string().max(1024).optional(),
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
export const urlRewrite = z.strictObject({ hostname: hostname(false).optional(), path: pathModifier.optional() });

/** `requestRedirect` as written. */
export const requestRedirect = z.strictObject({
  scheme: z.enum(['http', 'https']).optional(),
  hostname: hostname(false).optional(),
  path: pathModifier.optional(),
  port: port.optional(),
  statusCode: z.union([z.literal(301), z.literal(302), z.literal(303), z.literal(307), z.literal(308)]).default(302),
});

/** A replacement for a path. */
export type PathPlan = Readonly<z.output<typeof pathModifier>>;
/** One rewrite. */
export type RewritePlan = Readonly<z.output<typeof urlRewrite>>;
/** One redirect. */
export type RedirectPlan = Readonly<z.output<typeof requestRedirect>>;
