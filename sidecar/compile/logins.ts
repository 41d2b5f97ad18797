// Logins that cannot come back: nobody sees that in a document, and each user does. The provider sends browsers to `redirectURL`,
// where a rule under the same policy has to take them, and where the cookie of the login has to be, which its own host alone gets.

import type { OidcPlan } from '../edge/oidc/schema.ts';
import type { SecurityPolicy } from '../edge/security-policy.ts';
import type { Edge, Exchange } from '../exchange/exchange.ts';
import { emptyFields } from '../exchange/message.ts';
import { keyOf } from '../routing/documents.ts';
import type { Failure } from './failures.ts';
import { type GatewayPlan, placeOf } from './gateway-plan.ts';

/** A failure for each SecurityPolicy whose logins do not come back, by what is served on all ports. */
export function lostLogins(plan: GatewayPlan, edges: readonly Edge[]): Failure[] {
  return [...loginHosts(plan)].flatMap(([policy, hosts]) => {
    const said = whyLost(policy, oidcOf(policy)!, [...hosts], edges);
    if (said === undefined) return [];
    const { namespace, name } = policy;
    return [{ ...{ kind: 'SecurityPolicy', namespace, name }, type: 'LoginsComplete' as const, ...said }];
  });
}

/** What is to be warned of: under a star one host may be meant alone, or many, whose users could not log in. */
export function doubtfulLogins(plan: GatewayPlan): string[] {
  return [...loginHosts(plan)].flatMap(([policy, hosts]) => {
    const { redirectUrl, cookieDomain } = oidcOf(policy)!;
    const { hostname } = new URL(redirectUrl);
    return [...hosts]
      .filter((one) => one.startsWith('*.') && !isWithin(one.slice(2), cookieDomain))
      .map(
        (one) =>
          `SecurityPolicy ${keyOf(policy)}: a login that begins on another host of ${one} than ${hostname} does not come back to where its cookie is: set 'cookieDomain', or name ${hostname} in the route`,
      );
  });
}

/** The hosts under each policy whose users log in. */
function loginHosts({ attachments, security }: GatewayPlan): Map<SecurityPolicy, Set<string>> {
  const hostsOf = new Map<SecurityPolicy, Set<string>>();
  for (const listener of attachments.gateways.flatMap(({ listeners }) => listeners))
    for (const { route, hosts } of listener.programmed ? listener.attached : [])
      for (const rule of route.spec.rules ?? []) {
        const policy = security.policyFor(placeOf(listener, route, rule));
        if (policy === undefined || 'problems' in policy || oidcOf(policy) === undefined) continue;
        const known = hostsOf.get(policy) ?? new Set<string>();
        hostsOf.set(policy, known);
        for (const host of hosts) known.add(host);
      }
  return hostsOf;
}

/** The part by which users log in. */
function oidcOf(policy: SecurityPolicy): OidcPlan | undefined {
  return (policy as { readonly oidc?: OidcPlan }).oidc;
}

function whyLost(
  policy: SecurityPolicy,
  { redirectUrl, cookieDomain }: OidcPlan,
  hosts: readonly string[],
  edges: readonly Edge[],
): Pick<Failure, 'reason' | 'message'> | undefined {
  const { host, hostname, pathname } = new URL(redirectUrl);
  const asked = { authority: host, path: pathname, method: 'GET', fields: emptyFields } as unknown as Exchange;
  const found = edges.map((edge) => edge.find(asked).rule).filter((rule) => rule !== undefined);
  if (!found.some(({ permit }) => permit.policy === `securitypolicy[${keyOf(policy)}]`)) {
    const other = found[0] === undefined ? '' : `: ${found[0].name} has it, without this policy`;
    return {
      reason: 'CallbackNotServed',
      message: `no rule under this policy serves ${host}${pathname}, where its 'redirectURL' leads back to${other}`,
    };
  }
  // A star may stand for the right host alone: nobody knows, and `doubtfulLogins` says it.
  const lost = hosts.filter((one) => !one.includes('*') && one !== hostname && !isWithin(one, cookieDomain));
  if (lost.length === 0) return undefined;
  return {
    reason: 'HostNotServed',
    message: `a login that begins on ${lost.join(', ')} comes back to ${hostname}, where its cookie is not: attach a policy with a redirectURL of its own, or set 'cookieDomain' where they share a domain`,
  };
}

function isWithin(host: string, domain: string | undefined): boolean {
  return domain !== undefined && `.${host}`.endsWith(`.${domain}`);
}
