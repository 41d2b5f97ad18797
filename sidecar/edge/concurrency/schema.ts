// `concurrency` of a BackendTrafficPolicy. It is our own field: Envoy Gateway counts requests in flight per backend
// only, in `circuitBreaker`, which has no limit per client.

import { z } from 'zod';

const perOf = { Route: 'route', Client: 'client' } as const;

/** `concurrency` as written. */
export const concurrency = z
  .strictObject({
    maxInFlight: z.number().int().min(1).describe('The most requests in flight at once.'),
    per: z
      .enum(['Route', 'Client'])
      .default('Route')
      .describe('Whether all requests of a route count together, or those of each client.'),
  })
  .transform(({ maxInFlight, per }) => ({ maxInFlight, per: perOf[per] }))
  .describe('The most requests in flight at once; further ones are refused with 429.');

/** How many requests of a route, or of each client of a route, may be in flight at once. */
export type ConcurrencyPlan = Readonly<z.output<typeof concurrency>>;
