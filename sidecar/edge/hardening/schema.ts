// `securityHeaders` of gateway.yaml. Off by default, as in every other gateway: a header such as HSTS binds browsers
// for a year.

import { z } from 'zod';

export const securityHeaders = z.boolean();

export type HardeningPlan = z.output<typeof securityHeaders>;
