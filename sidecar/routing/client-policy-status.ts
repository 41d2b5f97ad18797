// The statuses of ClientTrafficPolicies, and warnings about those for nothing that exists.

import { sayFor } from './conditions.ts';
import { type ClientPolicy, type GatewayDocuments, keyOf } from './documents.ts';
import { controllerName } from './names.ts';
import { resolveAuthorities, resolveCrls } from './references.ts';
import type { PolicyItem } from './status.ts';

/** Policies for what does not exist: an operator may believe that they are in force. One sentence each. */
export function idleClientPolicies({ clientPolicies = [], gateways }: GatewayDocuments): readonly string[] {
  return clientPolicies.flatMap((policy) =>
    policy.targets.flatMap((target) => {
      const lost = lostTarget(policy, target, gateways);
      return lost === undefined ? [] : [`ClientTrafficPolicy ${keyOf(policy)} is for ${lost}: it has no effect`];
    }),
  );
}

type Target = ClientPolicy['targets'][number];

function lostTarget(
  { namespace }: ClientPolicy,
  { gateway, listener }: Target,
  gateways: GatewayDocuments['gateways'],
): string | undefined {
  const found = gateways.find((one) => one.namespace === namespace && one.name === gateway);
  if (found?.spec.listeners.some(({ name }) => listener === undefined || name === listener)) return undefined;
  const what = listener === undefined ? `Gateway ${gateway}` : `listener ${listener} of Gateway ${gateway}`;
  return `${what}, which does not exist`;
}

/** The status of each policy. `now` in milliseconds. */
export function clientPolicyStatuses(documents: GatewayDocuments, now: number): PolicyItem[] {
  const say = sayFor({ generation: 1 }, now);
  return (documents.clientPolicies ?? []).map((policy) => {
    const { namespace, caCertificateRefs = [], crl } = policy;
    const from = { group: 'gateway.envoyproxy.io', kind: 'ClientTrafficPolicy', namespace };
    const [problem] = [
      ...resolveAuthorities(caCertificateRefs, from, documents).problems,
      ...resolveCrls(crl?.refs ?? [], from, documents).problems,
    ];
    const resolved =
      problem === undefined
        ? say('ResolvedRefs', true, 'ResolvedRefs')
        : say('ResolvedRefs', false, problem.reason, problem.message);
    const ancestors = policy.targets.map((target) => {
      const lost = lostTarget(policy, target, documents.gateways);
      const { gateway: name, listener } = target;
      const section = listener === undefined ? {} : { sectionName: listener };
      const accepted =
        lost === undefined ? say('Accepted', true, 'Accepted') : say('Accepted', false, 'TargetNotFound', lost);
      return {
        ancestorRef: { group: 'gateway.networking.k8s.io', kind: 'Gateway', name, namespace, ...section },
        ...{ controllerName, conditions: [accepted, resolved] },
      };
    });
    return { kind: 'ClientTrafficPolicy', policy, ancestors };
  });
}
