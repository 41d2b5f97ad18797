// Which client certificates a listener requests: what its Gateway says (GEP-91), and the ClientTrafficPolicies for it.
// Several policies add up, since CRLs only refuse; where two differ, the stricter one counts.

import type { CrlSettings } from '../../cert-agent/identity/crl-check.ts';
import type { Unresolved } from './conditions.ts';
import type {
  ClientPolicy,
  ClientValidation,
  Document,
  GatewayDocuments,
  GatewaySpec,
  ListenerSpec,
} from './documents.ts';
import { keyOf } from './documents.ts';
import { type GatewayWorld, resolveAuthorities, resolveCrls } from './references.ts';
import type { TlsOptions } from './tls-options.ts';

/** `AllowAbsent`: a client may show none, and one that it shows must be valid. The strictest is first. */
export const clientModes = ['AllowValidOnly', 'AllowAbsent', 'AllowInsecureFallback'] as const;
/** Gateway API's two modes (GEP-91), and `AllowAbsent` for Envoy Gateway's `clientValidation.optional`. */
export type ClientMode = (typeof clientModes)[number];

/** What is demanded of clients, and the references that cannot be resolved. */
export interface ClientDemands {
  readonly check: { readonly authorities: string; readonly mode: ClientMode; readonly crls?: CrlSettings };
  readonly problems: readonly Unresolved[];
}

/** The policies for a listener: for itself first, then for its Gateway; of equals the older first. */
export function clientPoliciesOf(
  gateway: Document<GatewaySpec>,
  spec: ListenerSpec,
  { clientPolicies = [] }: GatewayDocuments,
): readonly ClientPolicy[] {
  const near = (policy: ClientPolicy): number | undefined => {
    if (policy.namespace !== gateway.namespace) return undefined;
    const named = policy.targets.filter((one) => one.gateway === gateway.name);
    if (named.some(({ listener }) => listener === spec.name)) return 0;
    return named.some(({ listener }) => listener === undefined) ? 1 : undefined;
  };
  const ageOf = ({ createdAt }: ClientPolicy): number => createdAt ?? Number.MAX_VALUE;
  return clientPolicies
    .filter((one) => near(one) !== undefined)
    .toSorted((a, b) => near(a)! - near(b)! || ageOf(a) - ageOf(b) || (keyOf(a) < keyOf(b) ? -1 : 1));
}

/**
 * What a listener that terminates TLS demands of its clients; undefined: nothing. `validation` is what its Gateway
 * says. Authorities come from the Gateway and from the first policy that has some.
 */
export function clientDemandsOf(
  gateway: Document<GatewaySpec>,
  validation: ClientValidation | undefined,
  policies: readonly ClientPolicy[],
  documents: GatewayDocuments,
  { clientCrls }: Pick<GatewayWorld, 'clientCrls'>,
): ClientDemands | undefined {
  const from = { group: 'gateway.networking.k8s.io', kind: 'Gateway', namespace: gateway.namespace };
  const byPolicy = { ...from, group: 'gateway.envoyproxy.io', kind: 'ClientTrafficPolicy' };
  const trusting = policies.filter(({ caCertificateRefs }) => caCertificateRefs !== undefined);
  if (validation === undefined && trusting.length === 0) return undefined;
  const found = [
    resolveAuthorities(validation?.caCertificateRefs ?? [], from, documents),
    resolveAuthorities(trusting[0]?.caCertificateRefs ?? [], byPolicy, documents),
  ];
  const modes: ClientMode[] = [
    ...(validation === undefined ? [] : [validation.mode]),
    ...trusting.map(({ optional }) => (optional ? 'AllowAbsent' : 'AllowValidOnly')),
  ];
  const checking = policies.flatMap(({ crl }) => crl ?? []);
  const lists = checking.map(({ refs }) => resolveCrls(refs, byPolicy, documents));
  const isChecked = checking.length > 0 || clientCrls !== undefined;
  const crls: CrlSettings = {
    sources: [...lists.flatMap(({ sources }) => sources), ...(clientCrls?.sources ?? [])],
    onlyLeaf: [...checking, ...(clientCrls === undefined ? [] : [clientCrls])].every(({ onlyLeaf }) => onlyLeaf),
  };
  return {
    check: {
      authorities: found.map(({ pem }) => pem).join(''),
      mode: clientModes.find((one) => modes.includes(one))!,
      ...(isChecked ? { crls } : {}),
    },
    problems: [...found, ...lists].flatMap(({ problems }) => problems),
  };
}

/** Why a listener is closed by its policies: a demand that could not be kept would be believed to be in force. */
export function policyRefusal(
  spec: ListenerSpec,
  policies: readonly ClientPolicy[],
  terminates: boolean,
  options: TlsOptions | Unresolved,
  isDemanding: boolean,
): Unresolved | undefined {
  const reason = 'UnsupportedValue';
  const [first] = policies;
  if (first === undefined) return undefined;
  const title = `ClientTrafficPolicy ${keyOf(first)}`;
  const isOwn = first.targets.some(({ listener }) => listener === spec.name);
  if (!terminates) return isOwn ? { reason, message: `${title} has no effect where TLS is not terminated` } : undefined;
  if (!isDemanding)
    return { reason, message: `${title} has CRLs, and nothing says by which authorities clients are verified` };
  if (!('reason' in options) && options.clients === 'SIMPLE')
    return { reason, message: `tls.options ask for no client certificates, and ${title} does` };
  return undefined;
}
