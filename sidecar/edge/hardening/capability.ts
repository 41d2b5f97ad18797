// Adds the headers that restrict browsers, and removes those that tell attackers what runs behind the gateway.

import { Slot } from '../../exchange/exchange.ts';
import type { Service } from '../capability.ts';
import { harden, withoutTelling } from './hardening.ts';
import type { HardeningPlan } from './schema.ts';

export const hardening: Service<HardeningPlan, undefined> = {
  name: 'hardening',
  guards: false,
  fields: [
    {
      kind: 'gateway.yaml',
      name: 'securityHeaders',
      schema: async () => (await import('./schema.ts')).securityHeaders,
    },
  ],
  compile([planned], { beside }) {
    if (planned === undefined) return undefined;
    const settled = namesIn(beside('ResponseHeaderModifier'));
    return {
      received(exchange, reply) {
        fromBackend.set(exchange, true);
        return withoutTelling(exchange, reply);
      },
      // The rule's filters change a backend's response only: the gateway's own gets every header.
      reply: (exchange, reply) => harden(exchange, reply, fromBackend.get(exchange) === true ? settled : none),
    };
  },
};

/** The response is the backend's. */
const fromBackend = new Slot<true>();
const none: ReadonlySet<string> = new Set();

/** Headers, in lower case, that the rule's own filters set or remove: those are left to the filters. */
function namesIn(changes: readonly unknown[]): ReadonlySet<string> {
  return new Set(
    (changes as readonly Partial<Record<'set' | 'remove', readonly (string | { readonly name: string })[]>>[]).flatMap(
      ({ set = [], remove = [] }) =>
        [...set, ...remove].map((one) => (typeof one === 'string' ? one : one.name).toLowerCase()),
    ),
  );
}
