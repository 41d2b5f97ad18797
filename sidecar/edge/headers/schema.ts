// The filters RequestHeaderModifier and ResponseHeaderModifier (Gateway API, HTTPHeaderFilter).

import { z } from 'zod';
import { headerName, named } from '../../schema/gateway-patterns.ts';

const header = z.strictObject({ name: headerName, value: z.string().min(1).max(4096) });
const headers = z.array(header).max(16).superRefine(named);

export const headerModifier = z.strictObject({
  set: headers.optional(),
  add: headers.optional(),
  remove: z.array(z.string().min(1)).max(16).optional(),
});

export type HeadersPlan = Readonly<z.output<typeof headerModifier>>;
