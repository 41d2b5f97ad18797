// `sessionPersistence` of a route's rule (GEP-1619). `idleTimeout` is read and then refused for its rule
// (routing/unsupported.ts): no state of a session is kept here, so its last use is unknown.

import { z } from 'zod';
import { duration } from '../../schema/gateway-patterns.ts';

/** `sessionPersistence` as written. */
export const sessionPersistence = z
  .strictObject({
    sessionName: z.string().max(128).optional().describe('The name of the cookie or header.'),
    absoluteTimeout: duration
      .optional()
      .describe('How long a session lasts from its first request. Without it: as long as the client keeps it.'),
    // v1.6 of Gateway API removes it.
    idleTimeout: duration.optional().describe('Not served: no state of a session is kept. Its rule answers 500.'),
    type: z.enum(['Cookie', 'Header']).default('Cookie').describe('Whether the session is in a cookie or in a header.'),
    cookieConfig: z
      .strictObject({
        lifetimeType: z
          .enum(['Permanent', 'Session'])
          .default('Session')
          .describe('Permanent: the cookie lasts for `absoluteTimeout`. Session: until the browser ends.'),
      })
      .optional()
      .describe('About the cookie.'),
  })
  .refine(
    ({ cookieConfig, absoluteTimeout }) => cookieConfig?.lifetimeType !== 'Permanent' || absoluteTimeout !== undefined,
    "a permanent cookie needs 'absoluteTimeout'",
  )
  .describe('Sends the requests of a client to the same backend and endpoint.');

/** The session of one rule. */
export type SessionPersistencePlan = Readonly<z.output<typeof sessionPersistence>>;
