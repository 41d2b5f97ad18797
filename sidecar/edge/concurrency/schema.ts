// `concurrency` of a BackendTrafficPolicy. It is our own field: Envoy Gateway counts requests in flight per backend
// only, in `circuitBreaker`, which has no limit per client.

import { z } from 'zod';

const perOf = { Route: 'route', Client: 'client' } as const;

/** `concurrency` as written. */
export const concurrency = z
  .strictObject({ maxInFlight: z.number().int().min(1), per: z.enum(['Route', 'Client']).default('Route') })
  .transform(({ maxInFlight, per }) => ({ maxInFlight, per: perOf[per] }));

/** How many requests of a route, or of each client of a route, may be in flight at once. */
export type ConcurrencyPlan = Readonly<z.output<typeof concurrency>>;
