// Problems that show only across all documents: a policy that is accepted, attached and compiled, but cannot work as
// intended. Each capability reviews its own plans.

import type { InForce } from '../edge/capability.ts';
import type { SecurityPolicy } from '../edge/policy.ts';
import { guardsIn } from '../edge/policy-parts.ts';
import type { Edge, Exchange } from '../exchange/exchange.ts';
import { emptyFields } from '../exchange/message.ts';
import { keyOf } from '../routing/documents.ts';
import type { Failure } from './failures.ts';
import { type GatewayPlan, placeOf } from './gateway-plan.ts';

/** A failure for each part of a SecurityPolicy that does not work with what all ports serve. */
export function reviewFailures(plan: GatewayPlan, edges: readonly Edge[]): Failure[] {
  return policiesInForce(plan).flatMap(([policy, inForce]) => {
    const { namespace, name } = policy;
    const rulesFor = ({ host, pathname }: URL) => {
      const asked = { authority: host, path: pathname, method: 'GET', fields: emptyFields } as unknown as Exchange;
      return edges.flatMap((edge) => {
        const { rule } = edge.find(asked);
        if (rule === undefined) return [];
        return [{ name: rule.name, underPolicy: rule.permit.policy === `securitypolicy[${inForce.policy}]` }];
      });
    };
    return guardsIn(policy).flatMap(({ capability, plan: part }) => {
      const review = capability.review?.(part, inForce, rulesFor);
      return review === undefined ? [] : [{ ...{ kind: 'SecurityPolicy', namespace, name }, ...review }];
    });
  });
}

/** The warnings. */
export function reviewDoubts(plan: GatewayPlan): string[] {
  return policiesInForce(plan).flatMap(([policy, inForce]) =>
    guardsIn(policy).flatMap(({ capability, plan: part }) => capability.doubts?.(part, inForce) ?? []),
  );
}

/** The policies that apply to some rule, each with the hosts of all its rules. */
function policiesInForce({ attachments, security }: GatewayPlan): [SecurityPolicy, InForce][] {
  const hostsOf = new Map<SecurityPolicy, Set<string>>();
  for (const listener of attachments.gateways.flatMap(({ listeners }) => listeners))
    for (const { route, hosts } of listener.programmed ? listener.attached : [])
      for (const rule of route.spec.rules ?? []) {
        const policy = security.policyFor(placeOf(listener, route, rule));
        if (policy === undefined || 'problems' in policy) continue;
        const known = hostsOf.get(policy) ?? new Set<string>();
        hostsOf.set(policy, known);
        for (const host of hosts) known.add(host);
      }
  return [...hostsOf].map(([policy, hosts]) => [policy, { policy: keyOf(policy), hosts: [...hosts] }]);
}
