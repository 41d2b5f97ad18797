// The filters RequestHeaderModifier and ResponseHeaderModifier (Gateway API, HTTPHeaderFilter).

import { z } from 'zod';
import { headerName, named } from '../../schema/gateway-patterns.ts';

// No HTTP version can send such a value (RFC 9110 section 5.5).
const fieldValue = z
  .string()
  .min(1)
  .max(4096)
  .refine((value) => !/[\r\n\0]/.test(value), 'a value has no line breaks or NUL');
const header = z.strictObject({ name: headerName, value: fieldValue });
const headers = z.array(header).max(16).superRefine(named);

/** The fields of both filters. */
export const headerModifier = z.strictObject({
  set: headers.optional(),
  add: headers.optional(),
  remove: z.array(z.string().min(1)).max(16).optional(),
});

/** One modifier. */
export type HeadersPlan = Readonly<z.output<typeof headerModifier>>;
