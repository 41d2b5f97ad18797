// `securityHeaders` of gateway.yaml. Off by default, as in every other gateway: a header such as HSTS binds browsers
// for a year.

import { z } from 'zod';

/** `securityHeaders` as written. */
export const securityHeaders = z.boolean();

/** True if responses are hardened. */
export type HardeningPlan = z.output<typeof securityHeaders>;
