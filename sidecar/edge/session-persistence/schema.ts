// `sessionPersistence` of a route's rule (GEP-1619). `idleTimeout` is read and then refused for its rule
// (routing/unsupported.ts): no state of a session is kept here, so its last use is unknown.

import { z } from 'zod';
import { duration } from '../../schema/gateway-patterns.ts';

/** `sessionPersistence` as written. */
export const sessionPersistence = z
  .strictObject({
    sessionName: z.string().max(128).optional(),
    absoluteTimeout: duration.optional(),
    // v1.6 of Gateway API removes it.
    idleTimeout: duration.optional(),
    type: z.enum(['Cookie', 'Header']).default('Cookie'),
    cookieConfig: z.strictObject({ lifetimeType: z.enum(['Permanent', 'Session']).default('Session') }).optional(),
  })
  .refine(
    ({ cookieConfig, absoluteTimeout }) => cookieConfig?.lifetimeType !== 'Permanent' || absoluteTimeout !== undefined,
    "a permanent cookie needs 'absoluteTimeout'",
  );

/** The session of one rule. */
export type SessionPersistencePlan = Readonly<z.output<typeof sessionPersistence>>;
