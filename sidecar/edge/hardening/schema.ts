// `securityHeaders` of gateway.yaml. Off by default, as in every other gateway: a header such as HSTS binds browsers
// for a year.

import { z } from 'zod';

/** `securityHeaders` as written. */
export const securityHeaders = z
  .boolean()
  .describe('Adds headers that make browsers careful to every response, such as strict-transport-security.');

/** True if responses are hardened. */
export type HardeningPlan = z.output<typeof securityHeaders>;
