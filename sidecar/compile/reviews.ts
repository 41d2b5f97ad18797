// Problems that show only across all documents: a policy that is accepted, attached and compiled, but cannot work as
// intended. Each capability reviews its own plans.

import { capabilities } from '../edge/capabilities.ts';
import type { AnyCapability, InForce } from '../edge/capability.ts';
import { type GuardingPolicy, kindOfPolicy } from '../edge/policy.ts';
import { guardsIn } from '../edge/policy-parts.ts';
import type { Edge, Exchange } from '../exchange/exchange.ts';
import { emptyFields } from '../exchange/message.ts';
import { keyOf } from '../routing/documents.ts';
import type { Failure } from './failures.ts';
import { type GatewayPlan, placeOf } from './gateway-plan.ts';
import { listenerName, ruleName } from './gateway-rule.ts';

type Table = readonly AnyCapability[];

/** A failure for each part of a policy that does not work with what all ports serve. */
export function reviewFailures(plan: GatewayPlan, edges: readonly Edge[], table: Table = capabilities): Failure[] {
  return policiesInForce(plan).flatMap(([policy, inForce, rules]) => {
    const { namespace, name } = policy;
    const rulesFor = ({ host, pathname }: URL) => {
      const asked = { authority: host, path: pathname, method: 'GET', fields: emptyFields } as unknown as Exchange;
      return edges.flatMap((edge) => {
        const { listener, rule } = edge.find(asked);
        return rule === undefined ? [] : [{ name: rule.name, underPolicy: rules.has(`${listener} ${rule.name}`) }];
      });
    };
    return guardsIn(policy, table).flatMap(({ capability, plan: part }) => {
      const review = capability.review?.(part, inForce, rulesFor);
      return review === undefined ? [] : [{ ...{ kind: kindOfPolicy(policy), namespace, name }, ...review }];
    });
  });
}

/** The warnings. */
export function reviewDoubts(plan: GatewayPlan, table: Table = capabilities): string[] {
  return policiesInForce(plan).flatMap(([policy, inForce]) =>
    guardsIn(policy, table).flatMap(({ capability, plan: part }) => capability.doubts?.(part, inForce) ?? []),
  );
}

/** A policy, where it applies, and the rules as `listener rule`. */
export type PolicyInForce = readonly [policy: GuardingPolicy, inForce: InForce, rules: ReadonlySet<string>];

/** Asked for several times for each plan, and each asks for every rule. */
const known = new WeakMap<GatewayPlan, readonly PolicyInForce[]>();

/** The policies that apply to some rule, each with the hosts of all its rules, and their listeners and names. */
export function policiesInForce(plan: GatewayPlan): readonly PolicyInForce[] {
  const found = known.get(plan) ?? findPolicies(plan);
  known.set(plan, found);
  return found;
}

function findPolicies({ attachments, security, own }: GatewayPlan): readonly PolicyInForce[] {
  const found = new Map<GuardingPolicy, { readonly hosts: Set<string>; readonly rules: Set<string> }>();
  for (const listener of attachments.gateways.flatMap(({ listeners }) => listeners))
    for (const { route, hosts } of listener.programmed ? listener.attached : [])
      for (const [index, rule] of (route.spec.rules ?? [{}]).entries()) {
        const place = placeOf(listener, route, rule);
        for (const table of [security, ...own.values()]) {
          const policy = table.policyFor(place);
          if (policy === undefined || 'problems' in policy) continue;
          const where = found.get(policy) ?? { hosts: new Set(), rules: new Set() };
          found.set(policy, where);
          where.rules.add(`${listenerName(listener)} ${ruleName(route, index)}`);
          for (const host of hosts) where.hosts.add(host);
        }
      }
  return [...found].map(([policy, { hosts, rules }]) => [policy, { policy: keyOf(policy), hosts: [...hosts] }, rules]);
}
