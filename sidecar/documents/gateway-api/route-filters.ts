// The filters of HTTPRoute and GRPCRoute: each names its type and has that type's field and no other.

import { z } from 'zod';
import { fieldsOf } from '../../edge/capabilities.ts';
import { schemasOf } from '../../edge/schemas.ts';
import { localRef } from '../../schema/gateway-patterns.ts';

/** The filters that capabilities of the edge serve. */
const served = [...fieldsOf('filter').values()].map(({ field }) => field);
const servedSchemas = await schemasOf('filter');

// `ExternalAuth` (GEP-1494, experimental since v1.4) is not served. As with every unknown type, its rule answers 500:
// a filter must not be skipped.
const fields: Readonly<Record<string, z.ZodType>> = {
  ...Object.fromEntries(served.map(({ name, filter }) => [filter!.key, servedSchemas[name]!])),
  extensionRef: localRef
    .optional()
    .describe('The object that a filter of type ExtensionRef names. None is known: its rule answers 500.'),
};

const types: Readonly<Record<string, string>> = {
  ...Object.fromEntries(served.map(({ name, filter }) => [name, filter!.key])),
  ExtensionRef: 'extensionRef',
};

function filterOf(allowed: readonly string[]) {
  const own = Object.fromEntries(allowed.map((type) => [types[type]!, fields[types[type]!]!]));
  return z
    .strictObject({
      type: z.enum(allowed).describe('What the filter does. It needs the field of that name, and no other.'),
      ...own,
    })
    .superRefine((value, context) => {
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

/** Allowed several times in a rule. */
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
    .optional()
    .describe('What is changed or done before a backend is called.');
}

/** The filters of an HTTPRoute's rule or backend. */
export const httpFilters = filtersOf(Object.keys(types));
/** The filters of a GRPCRoute's rule or backend. */
export const grpcFilters = filtersOf([
  ...served.flatMap(({ name, filter }) => (filter!.grpc ? [name] : [])),
  'ExtensionRef',
]);
