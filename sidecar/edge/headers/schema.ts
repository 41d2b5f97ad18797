// The filters RequestHeaderModifier and ResponseHeaderModifier (Gateway API, HTTPHeaderFilter).

import { z } from 'zod';
import { headerName, named } from '../../schema/gateway-patterns.ts';

const header = z.strictObject({ name: headerName, value: z.string().min(1).max(4096) });
const headers = z.array(header).max(16).superRefine(named);

/** The fields of both filters. */
export const headerModifier = z.strictObject({
  set: headers.optional(),
  add: headers.optional(),
  remove: z.array(z.string().min(1)).max(16).optional(),
});

/** One modifier. */
export type HeadersPlan = Readonly<z.output<typeof headerModifier>>;
