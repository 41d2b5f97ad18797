// CORS as the filter of an HTTPRoute (GEP-1767) and as `cors` of a SecurityPolicy. They differ in two fields: the
// filter's `maxAge` is a number of seconds, the policy's a duration; and the policy, as in Envoy Gateway, takes a star
// for a port of an origin.

import { z } from 'zod';
import { durationSchema } from '../../../cert-agent/base/yaml.ts';
import { headerName } from '../../schema/gateway-patterns.ts';
import { isOriginPattern } from './origin.ts';

/** The standard's pattern, and nothing wider: `https://*bar.com` would allow evilbar.com. */
const origin = z
  .string()
  .max(253)
  .regex(/^(?:\*|https?:\/\/(?:\*|(?:\*\.)?(?:[a-zA-Z0-9-]+\.)*[a-zA-Z0-9-]+)(?::\d{1,5})?)$/, {
    error: ({ input }) => noOrigin(input),
  });

/** Envoy Gateway's pattern: the port may be a star as well. */
const policyOrigin = z
  .string()
  .max(253)
  .refine(isOriginPattern, { error: ({ input }) => noOrigin(input) });

function noOrigin(input: unknown): string {
  return `'${String(input)}' is not an origin: write https://a.test, with one star for the first labels of a host (https://*.a.test), or *`;
}

const methods = ['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'CONNECT', 'OPTIONS', 'TRACE', 'PATCH', '*'] as const;

/** The filter `CORS`. Five seconds are the default of both standards. */
export const corsFilter = z
  .strictObject({
    allowOrigins: z
      .array(origin)
      .max(64)
      .default([])
      .describe('Origins such as `https://a.test`; the first labels of a host may be a star. `*`: any.'),
    allowCredentials: z.boolean().default(false).describe('Lets these websites send cookies along.'),
    allowMethods: z.array(z.enum(methods)).max(9).default([]).describe('Methods that a preflight allows. `*`: any.'),
    allowHeaders: z
      .array(headerName)
      .max(64)
      .default([])
      .describe('Request headers that a preflight allows. `*`: any.'),
    exposeHeaders: z.array(headerName).max(64).default([]).describe('Response headers that the website may read.'),
    maxAge: z
      .number()
      .int()
      .min(1)
      .default(5)
      .meta({ description: 'How long a browser may remember a preflight.', unit: 'seconds' }),
  })
  .describe('Which websites may read responses.');

/** `cors` of a SecurityPolicy. Credentials with any origin are refused, where Envoy Gateway accepts them. */
export const corsPolicy = z
  .strictObject({
    allowOrigins: z
      .array(policyOrigin)
      .min(1, 'an empty list allows no origin: leave it out')
      .default([])
      .describe('Origins such as `https://a.test`; the first labels of a host, and the port, may be a star. `*`: any.'),
    allowMethods: z
      .array(z.string().regex(/^(?:\*|[A-Z]+)$/, 'not a valid method'))
      .default([])
      .describe('Methods that a preflight allows. `*`: any.'),
    allowHeaders: z.array(z.string().min(1)).default([]).describe('Request headers that a preflight allows. `*`: any.'),
    exposeHeaders: z.array(z.string().min(1)).default([]).describe('Response headers that the website may read.'),
    allowCredentials: z
      .boolean()
      .default(false)
      .describe('Lets these websites send cookies along. It is refused with any origin.'),
    maxAge: durationSchema.prefault('5s').describe('How long a browser may remember a preflight.'),
  })
  .superRefine(({ allowCredentials, allowOrigins }, context) => {
    if (allowCredentials && allowOrigins.some((one) => one === '*' || /^https?:\/\/\*(?::|$)/.test(one)))
      context.addIssue({
        code: 'custom',
        path: ['allowOrigins'],
        message: 'with credentials any website could act as the user: name the origins',
      });
  })
  .transform(({ maxAge, ...rest }) => ({ ...rest, maxAge: Math.floor(maxAge / 1000) }))
  .describe('Which websites may read responses.');

/** The rules of one place. Empty lists allow nothing; `maxAge` is in seconds. */
export type CorsPlan = Readonly<z.output<typeof corsPolicy>>;
