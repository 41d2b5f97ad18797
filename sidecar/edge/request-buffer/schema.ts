// `requestBuffer` of a BackendTrafficPolicy. Envoy Gateway's `mode` chooses when buffering starts; here it always
// starts with the body.

import { z } from 'zod';
import { notEvaluated } from '../../schema/gateway-patterns.ts';
import { quantity } from '../../schema/quantity.ts';

/** `requestBuffer` as written. */
export const requestBuffer = z
  .strictObject({
    limit: quantity.describe('The largest body; a larger one is refused with 413.'),
    mode: notEvaluated('requestBuffer.mode'),
  })
  .transform(({ limit }) => ({ limitBytes: limit }))
  .describe('Holds each request until its body is complete.');

/** The limit in bytes. */
export type RequestBufferPlan = Readonly<z.output<typeof requestBuffer>>;
