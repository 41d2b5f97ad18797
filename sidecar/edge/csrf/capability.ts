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
  compile([planned], { warn }) {
    if (planned === undefined) return undefined;
    for (const { type, value } of planned.plan.additionalOrigins) {
      if (type === 'Prefix') warn(`csrf: the prefix '${value}' matches hosts of any domain that begin so`);
      if (type === 'Suffix' && !/^[.:]/.test(value))
        warn(`csrf: the suffix '${value}' matches every host that ends so: begin it with a dot`);
    }
    const whyForged = compileCsrf(planned.plan);
    return {
      // Behind CORS, so that a page which may read responses can read this refusal.
      authenticate(exchange) {
        const why = whyForged(exchange);
        if (why !== undefined) throw refuseCaller(exchange, 'csrf_origin_mismatch', 'Invalid origin', why);
      },
      // A request in flight is checked again by its own fields.
      guard: { known: undefined, stillHolds: (exchange) => whyForged(exchange) === undefined },
    };
  },
};
