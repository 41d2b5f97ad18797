// Changes header fields of requests and responses by the filters of a rule, then by those of the chosen backend.

import { changeRequest } from '../../exchange/fields.ts';
import type { Field, Service } from '../capability.ts';
import { changeFields, compileHeaderChange } from './header-change.ts';
import type { HeadersPlan } from './schema.ts';

const fieldFor = (name: string, key: string): Field => ({
  kind: 'filter',
  name,
  schema: async () => (await import('./schema.ts')).headerModifier,
  filter: { key, grpc: true, repeatable: false },
});

export const headers: Service<HeadersPlan, undefined> = {
  name: 'headers',
  guards: false,
  combines: true,
  fields: [
    fieldFor('RequestHeaderModifier', 'requestHeaderModifier'),
    fieldFor('ResponseHeaderModifier', 'responseHeaderModifier'),
  ],
  compile(plans) {
    const of = (name: string) =>
      compileHeaderChange(plans.flatMap(({ field, plan }) => (field === name ? [plan] : [])));
    const requests = of('RequestHeaderModifier');
    const responses = of('ResponseHeaderModifier');
    return {
      ...(requests !== undefined && {
        rewrite(exchange) {
          const { taken, set, add } = requests;
          // In every spelling, and in trailers too: if a rule removes a header, no app may read it.
          changeRequest(exchange, taken, add.length === 0 ? set : [...set, ...add]);
          // A request ID that the rule sets replaces ours.
          exchange.requestIdGiven ||= exchange.fields.names.some(({ lower }) => lower === 'x-request-id');
        },
      }),
      ...(responses !== undefined && { received: (_, { fields }) => changeFields(fields, responses) }),
    };
  },
};
