// The filter RequestMirror (Gateway API, HTTPRequestMirrorFilter): `percent` or `fraction` of the requests, all by
// default.

import { z } from 'zod';
import { backendObjectRef } from '../../schema/gateway-patterns.ts';

/** `requestMirror` as written. */
export const requestMirror = z
  .strictObject({
    backendRef: backendObjectRef,
    // GEP-3171, as `fraction`. The default of its denominator is the standard's.
    percent: z.number().int().min(0).max(100).optional(),
    fraction: z
      .strictObject({ numerator: z.number().int().min(0), denominator: z.number().int().min(1).default(100) })
      .refine(({ numerator, denominator }) => numerator <= denominator, 'numerator is larger than denominator')
      .optional(),
  })
  .refine(
    ({ percent, fraction }) => percent === undefined || fraction === undefined,
    "only one of 'percent' and 'fraction' can be set",
  );

/** One mirror of a rule. */
export type MirrorPlan = Readonly<z.output<typeof requestMirror>>;
