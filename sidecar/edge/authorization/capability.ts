// Decides by rules which requests of callers may pass, once it is known who is calling.

import type { Guarding } from '../capability.ts';
import { compileEdgeAuthorization } from './authorization.ts';
import type { AuthorizationPlan } from './schema.ts';

export const authorization: Guarding<AuthorizationPlan, undefined> = {
  name: 'authorization',
  guards: 'requests',
  perPolicy: true,
  fields: [
    { kind: 'SecurityPolicy', name: 'authorization', schema: async () => (await import('./schema.ts')).authorization },
  ],
  ownHeaders: () => [],
  secretParams: () => [],
  compile([planned], { policy }) {
    if (planned === undefined) return undefined;
    return {
      authorize: compileEdgeAuthorization(planned.plan, policy),
      // It is asked again about each request in flight, and needs nothing of what was known before.
      guard: { known: undefined, stillHolds: () => true },
    };
  },
};
