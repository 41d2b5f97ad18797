// The filters of HTTPRoute and GRPCRoute: each names its type and brings that type's field and no other.

import { z } from 'zod';
import { fieldsOf } from '../../edge/capabilities.ts';
import { schemasOf } from '../../edge/schemas.ts';
import { duration, headerName, hostname, localRef, millisecondsOf, port } from '../../schema/gateway-patterns.ts';

const header = z.strictObject({ name: headerName, value: z.string().min(1).max(4096) });

/** A list whose members are told apart by name; header names without regard to case. */
export function named<T extends { readonly name: string }>(list: readonly T[], context: z.RefinementCtx): void {
  const seen = new Set<string>();
  for (const [index, { name }] of list.entries()) {
    const key = name.toLowerCase();
    if (seen.has(key)) context.addIssue({ code: 'custom', path: [index, 'name'], message: `'${name}' is named twice` });
    seen.add(key);
  }
}

const headers = z.array(header).max(16).superRefine(named);
const headerModifier = z.strictObject({
  set: headers.optional(),
  add: headers.optional(),
  remove: z.array(z.string().min(1)).max(16).optional(),
});

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

const methods = ['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'CONNECT', 'OPTIONS', 'TRACE', 'PATCH'] as const;

/** The filters that capabilities of the edge serve. */
const served = [...fieldsOf('filter').values()].map(({ field }) => field);
const servedSchemas = await schemasOf('filter');

const fields: Readonly<Record<string, z.ZodType>> = {
  ...Object.fromEntries(served.map(({ name, filter }) => [filter!.key, servedSchemas[name]!])),
  requestHeaderModifier: headerModifier.optional(),
  responseHeaderModifier: headerModifier.optional(),
  requestRedirect: z
    .strictObject({
      scheme: z.enum(['http', 'https']).optional(),
      hostname: hostname(false).optional(),
      path: pathModifier.optional(),
      port: port.optional(),
      statusCode: z
        .union([z.literal(301), z.literal(302), z.literal(303), z.literal(307), z.literal(308)])
        .default(302),
    })
    .optional(),
  urlRewrite: z.strictObject({ hostname: hostname(false).optional(), path: pathModifier.optional() }).optional(),
  extensionRef: localRef.optional(),
  requestRateLimit: z
    .strictObject({
      rules: z
        .array(
          z.strictObject({
            limit: z.number().int().min(1),
            period: duration.refine((text) => millisecondsOf(text) > 0, 'a limit is in a period of some length'),
            burst: z.number().int().min(0).optional(),
          }),
        )
        .min(1)
        .max(16),
    })
    .optional(),
};

const types: Readonly<Record<string, string>> = {
  ...Object.fromEntries(served.map(({ name, filter }) => [name, filter!.key])),
  RequestHeaderModifier: 'requestHeaderModifier',
  ResponseHeaderModifier: 'responseHeaderModifier',
  RequestRedirect: 'requestRedirect',
  URLRewrite: 'urlRewrite',
  ExtensionRef: 'extensionRef',
  // Informal, and read with a warning: see gateway-informal.ts.
  RequestRateLimit: 'requestRateLimit',
};

function filterOf(allowed: readonly string[]) {
  const own = Object.fromEntries(allowed.map((type) => [types[type]!, fields[types[type]!]!]));
  return z.strictObject({ type: z.enum(allowed), ...own }).superRefine((value, context) => {
    const bag = value as unknown as Record<string, unknown> & { readonly type: string };
    if (bag[types[bag.type]!] === undefined)
      context.addIssue({ code: 'custom', message: `a filter of type ${bag.type} needs '${types[bag.type]}'` });
    for (const [type, field] of Object.entries(types))
      if (type !== bag.type && bag[field] !== undefined)
        context.addIssue({
          code: 'custom',
          path: [field],
          message: `'${field}' is not for a filter of type ${bag.type}`,
        });
  });
}

/** May stand several times in a rule. */
const repeatable = new Set([
  'ExtensionRef',
  ...served.flatMap(({ name, filter }) => (filter!.repeatable ? [name] : [])),
]);

function filtersOf(allowed: readonly string[]) {
  return z
    .array(filterOf(allowed))
    .max(16, 'a rule has at most 16 filters')
    .superRefine((list, context) => {
      const all = list as unknown as readonly { readonly type: string }[];
      for (const [index, { type }] of all.entries())
        if (!repeatable.has(type) && all.findIndex((one) => one.type === type) < index)
          context.addIssue({ code: 'custom', path: [index], message: `a rule has at most one ${type} filter` });
      if (all.some(({ type }) => type === 'RequestRedirect') && all.some(({ type }) => type === 'URLRewrite'))
        context.addIssue({ code: 'custom', message: 'a redirect and a rewrite exclude each other' });
    })
    .optional();
}

export const httpFilters = filtersOf(Object.keys(types));
export const grpcFilters = filtersOf([
  ...served.flatMap(({ name, filter }) => (filter!.grpc ? [name] : [])),
  'RequestHeaderModifier',
  'ResponseHeaderModifier',
  'ExtensionRef',
]);
export const routeMethods = methods;
