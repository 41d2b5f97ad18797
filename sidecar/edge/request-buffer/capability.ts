// Holds a request until its body is complete, and refuses one whose body exceeds the limit.

import type { Exchange } from '../../exchange/exchange.ts';
import { limitBody } from '../../protocol/body-limit.ts';
import type { Service } from '../capability.ts';
import { gatherBody, waitsForBody } from '../gather-body.ts';
import type { RequestBufferPlan } from './schema.ts';

export const requestBuffer: Service<RequestBufferPlan, undefined> = {
  name: 'request-buffer',
  guards: false,
  fields: [
    {
      kind: 'BackendTrafficPolicy',
      name: 'requestBuffer',
      schema: async () => (await import('./schema.ts')).requestBuffer,
    },
  ],
  compile([planned]) {
    if (planned === undefined) return undefined;
    const { limitBytes } = planned.plan;
    return {
      admit(exchange: Exchange): void {
        limitBody(exchange, limitBytes, `requestBuffer of BackendTrafficPolicy ${planned.of}`);
      },
      serve: (exchange) => (waitsForBody(exchange) ? gatherBody(exchange) : undefined),
    };
  },
};
