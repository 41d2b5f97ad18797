// The filter RequestMirror (Gateway API, HTTPRequestMirrorFilter): `percent` or `fraction` of the requests, all by
// default.

import { z } from 'zod';
import { backendObjectRef } from '../../schema/gateway-patterns.ts';

/** `requestMirror` as written. */
export const requestMirror = z
  .strictObject({
    backendRef: backendObjectRef.describe('The backend that gets the copies.'),
    // GEP-3171, as `fraction`. The default of its denominator is the standard's.
    percent: z
      .number()
      .int()
      .min(0)
      .max(100)
      .optional()
      .describe('The share of the requests that are copied. Default: all.'),
    fraction: z
      .strictObject({
        numerator: z.number().int().min(0).describe('The requests that are copied, of `denominator`.'),
        denominator: z
          .number()
          .int()
          .min(1)
          .default(100)
          .describe('The number of requests that `numerator` refers to.'),
      })
      .refine(({ numerator, denominator }) => numerator <= denominator, 'numerator is larger than denominator')
      .optional()
      .describe('The share of the requests that are copied, as a fraction.'),
  })
  .refine(
    ({ percent, fraction }) => percent === undefined || fraction === undefined,
    "only one of 'percent' and 'fraction' can be set",
  )
  .describe('Sends a copy of requests to another backend, whose response is dropped.');

/** One mirror of a rule. */
export type MirrorPlan = Readonly<z.output<typeof requestMirror>>;
