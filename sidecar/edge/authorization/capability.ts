// Allows or denies requests by rules, once the caller is authenticated.

import type { Guarding } from '../capability.ts';
import { compileEdgeAuthorization } from './authorization.ts';
import { mismatches, nameRules } from './plan.ts';
import type { AuthorizationPlan } from './schema.ts';

export const authorization: Guarding<AuthorizationPlan, undefined> = {
  name: 'authorization',
  guards: 'requests',
  perPolicy: true,
  fields: [
    {
      ...{ kind: 'SecurityPolicy', name: 'authorization', mismatches, named: nameRules },
      schema: async () => (await import('./schema.ts')).authorization,
    },
  ],
  ownHeaders: () => [],
  secretParams: () => [],
  compile([planned], { policy }) {
    if (planned === undefined) return undefined;
    return {
      authorize: compileEdgeAuthorization(planned.plan, policy),
      // Every request in flight is authorized again, so the guard compares nothing.
      guard: { known: undefined, stillHolds: () => true },
    };
  },
};
