// Copies requests to other backends. If a mirror cannot be reached, it gets no copies and the rule is served all the
// same.

import type { Service } from '../capability.ts';
import { Copies, type Mirror } from './mirror.ts';
import type { MirrorPlan } from './schema.ts';

export const mirror: Service<MirrorPlan, Copies> = {
  name: 'mirror',
  guards: false,
  combines: true,
  fields: [
    {
      kind: 'filter',
      name: 'RequestMirror',
      schema: async () => (await import('./schema.ts')).requestMirror,
      filter: { key: 'requestMirror', grpc: true, repeatable: true },
    },
  ],
  async share({ registry, onClose }) {
    const copies = new Copies();
    const { registerMirrorMetrics } = await import('./metrics.ts');
    registerMirrorMetrics(registry, copies.outcomes);
    onClose(() => copies.drop());
    return copies;
  },
  shareDry: () => new Copies(),
  compile(plans, { route, shared }) {
    const mirrors = plans.flatMap(({ plan }): Mirror[] => {
      const to = route(plan.backendRef);
      return to === undefined ? [] : [{ route: to, share: shareOf(plan) }];
    });
    if (mirrors.length === 0) return undefined;
    return {
      forwarded: (exchange, clientCert) => shared.begin(exchange, mirrors, clientCert),
      finished: (exchange) => shared.finished(exchange),
    };
  },
};

/** The part of the requests that is copied, from 0 to 1. */
function shareOf({ percent, fraction }: MirrorPlan): number {
  if (percent !== undefined) return percent / 100;
  return fraction === undefined ? 1 : fraction.numerator / fraction.denominator;
}
