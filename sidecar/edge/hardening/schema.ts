// `securityHeaders` of gateway.yaml. Off by default, as in every other gateway: a header such as HSTS binds browsers
// for a year.

import { z } from 'zod';

/** `securityHeaders` as written. */
export const securityHeaders = z
  .boolean()
  .describe(
    'Adds headers that make browsers careful, such as strict-transport-security, and removes those that name the software of the backend. Responses of gRPC and tunnels are left alone.',
  );

/** True if responses are hardened. */
export type HardeningPlan = z.output<typeof securityHeaders>;
