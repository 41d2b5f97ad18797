// The filters RequestHeaderModifier and ResponseHeaderModifier (Gateway API, HTTPHeaderFilter).

import { z } from 'zod';
import { headerName, named } from '../../schema/gateway-patterns.ts';

// No HTTP version can send such a value (RFC 9110 section 5.5).
const fieldValue = z
  .string()
  .min(1)
  .max(4096)
  .refine((value) => !/[\r\n\0]/.test(value), 'a value has no line breaks or NUL');
const header = z.strictObject({
  name: headerName.describe('The name of the header.'),
  value: fieldValue.describe('The value of the header.'),
});
const headers = z.array(header).max(16).superRefine(named);

/** The fields of both filters. */
export const headerModifier = z
  .strictObject({
    set: headers.optional().describe('Headers that replace those of the same name.'),
    add: headers.optional().describe('Headers that are added to those of the same name.'),
    remove: z.array(z.string().min(1)).max(16).optional().describe('Names of headers that are removed.'),
  })
  .describe('Changes headers of the request, or of the response.');

/** One modifier. */
export type HeadersPlan = Readonly<z.output<typeof headerModifier>>;
