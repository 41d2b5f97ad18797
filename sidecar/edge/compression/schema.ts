// `compression` of a BackendTrafficPolicy, and of gateway.yaml for all rules. Envoy Gateway's `minContentLength` is not
// served: compress.ts decides what is worth coding, and a field without effect is refused. So is `compressor`, its
// older name.

import { z } from 'zod';
import { notEvaluated } from '../../schema/gateway-patterns.ts';

/** The content codings that are supported (RFC 9110 section 8.4.1). */
export type Coding = 'br' | 'gzip';

/** In the order of preference. */
export type CompressionPlan = readonly Coding[];

/** `compression` of a BackendTrafficPolicy. */
export const policyCompression = z
  .array(
    z.strictObject({
      // Not Envoy Gateway's Zstd. Its settings of levels and windows are refused too: the two objects must be empty.
      type: z.enum(['Gzip', 'Brotli']).describe('The coding.'),
      gzip: z.strictObject({}).optional().describe('Must be empty: there are no settings.'),
      brotli: z.strictObject({}).optional().describe('Must be empty: there are no settings.'),
      minContentLength: notEvaluated('minContentLength'),
    }),
  )
  .min(1)
  .superRefine((list, context) => {
    for (const [index, one] of list.entries()) {
      if (list.findIndex(({ type }) => type === one.type) < index)
        context.addIssue({ code: 'custom', path: [index, 'type'], message: `${one.type} is listed twice` });
      const other = one.type === 'Gzip' ? 'brotli' : 'gzip';
      if (one[other] !== undefined)
        context.addIssue({ code: 'custom', path: [index, other], message: `'${other}' is not for type ${one.type}` });
    }
  })
  .transform((list): CompressionPlan => list.map(({ type }) => (type === 'Gzip' ? 'gzip' : 'br')))
  .describe('The codings of responses, the preferred one first, for clients that accept it.');

/** Brotli makes text a sixth smaller than gzip does, and takes twice the time. */
const allCodings: CompressionPlan = ['br', 'gzip'];

/** `compression: true` in gateway.yaml. */
export const gatewayCompression = z
  .boolean()
  .transform((on) => (on ? allCodings : undefined))
  .describe('Compresses responses with brotli and gzip, for clients that accept it.');
