// Adds the headers that restrict browsers, and removes those that tell attackers what runs behind the gateway.

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
    return { received: withoutTelling, reply: (exchange, reply) => harden(exchange, reply, settled) };
  },
};

/** Headers, in lower case, that the rule's own filters set or remove: those are left to the filters. */
function namesIn(changes: readonly unknown[]): ReadonlySet<string> {
  return new Set(
    (changes as readonly Partial<Record<'set' | 'remove', readonly (string | { readonly name: string })[]>>[]).flatMap(
      ({ set = [], remove = [] }) =>
        [...set, ...remove].map((one) => (typeof one === 'string' ? one : one.name).toLowerCase()),
    ),
  );
}
