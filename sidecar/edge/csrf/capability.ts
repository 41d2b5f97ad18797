// Refuses requests that a page of another site makes a browser send.

import type { Guarding } from '../capability.ts';
import { refuseCaller } from '../credentials.ts';
import { compileCsrf } from './csrf.ts';
import type { CsrfPlan } from './schema.ts';

export const csrf: Guarding<CsrfPlan, undefined> = {
  name: 'csrf',
  guards: 'requests',
  perPolicy: true,
  fields: [{ kind: 'SecurityPolicy', name: 'csrf', schema: async () => (await import('./schema.ts')).csrf }],
  ownHeaders: () => [],
  secretParams: () => [],
  compile([planned]) {
    if (planned === undefined) return undefined;
    const whyForged = compileCsrf(planned.plan);
    return {
      admit(exchange) {
        const why = whyForged(exchange);
        if (why !== undefined) throw refuseCaller(exchange, 'csrf_origin_mismatch', 'Invalid origin', why);
      },
      // A request in flight is checked again by its own fields.
      guard: { known: undefined, stillHolds: (exchange) => whyForged(exchange) === undefined },
    };
  },
};
