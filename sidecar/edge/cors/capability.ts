// CORS: responds to preflights, and tells browsers which origins may read a response. A route's own filter replaces the
// policy's.

import { addReplyFields, answerOwn } from '../../exchange/answer.ts';
import { preflightFor } from '../../exchange/facts.ts';
import { filterFields } from '../../exchange/fields.ts';
import type { Service } from '../capability.ts';
import { compileCors, corsFields, preflightFields, replyCorsFields } from './cors.ts';
import type { CorsPlan } from './schema.ts';

export const cors: Service<CorsPlan, undefined> = {
  name: 'cors',
  guards: false,
  fields: [
    {
      kind: 'filter',
      name: 'CORS',
      schema: async () => (await import('./schema.ts')).corsFilter,
      filter: { key: 'cors', grpc: false, repeatable: false },
      // Gateway API accepts what SecurityPolicy refuses.
      warnings: ({ allowCredentials, allowOrigins }: CorsPlan) =>
        allowCredentials && allowOrigins.some((of) => /^(?:https?:\/\/)?\*(?::|$)/.test(of))
          ? [{ path: ['allowOrigins'], message: 'with credentials any website can act as the user: name the origins' }]
          : [],
    },
    { kind: 'SecurityPolicy', name: 'cors', schema: async () => (await import('./schema.ts')).corsPolicy },
  ],
  compile([planned]) {
    if (planned === undefined) return undefined;
    const rules = compileCors(planned.plan);
    return {
      preflight: (exchange) => JSON.stringify(preflightFields(exchange, rules)),
      admit(exchange) {
        if (preflightFor(exchange) !== undefined) answerOwn(exchange, 204, preflightFields(exchange, rules));
      },
      authenticate: (exchange) => addReplyFields(exchange, replyCorsFields(exchange, rules)),
      // Two Access-Control-Allow-Origin fields are an error to browsers: the rule's replace the backend's.
      received: (_, { fields }) => filterFields(fields, ({ lower }) => !corsFields.has(lower)),
    };
  },
};
