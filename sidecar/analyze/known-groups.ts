// Which documents `check` knows: a chart renders Deployments beside policies, and VirtualServices beside DestinationRules.
// A slip in the kind or group of a known kind is a problem, not a document of others.

import { nearestTo } from '../../cert-agent/base/did-you-mean.ts';
import type { Problem } from '../../cert-agent/base/errors.ts';
import type { YamlDocument } from '../../cert-agent/base/yaml.ts';
import { gatewayKinds } from '../documents/gateway-api/gateway.ts';
import { hintFor, isExistingKind } from '../documents/gateway-api/kinds.ts';
import { headOf } from '../documents/gateway-api/read.ts';
import { ownKindsOf } from '../edge/capabilities.ts';
import { ownGroup } from '../edge/policy.ts';

/** The group of each kind that is checked. */
const groupOf: ReadonlyMap<string, string> = new Map([
  ...['AuthorizationPolicy', 'PeerAuthentication', 'RequestAuthentication'].map(
    (kind) => [kind, 'security.istio.io'] as const,
  ),
  ['DestinationRule', 'networking.istio.io'],
  ...Object.keys(gatewayKinds).map((kind) => [kind, 'gateway.networking.k8s.io'] as const),
  ...['SecurityPolicy', 'BackendTrafficPolicy', 'ClientTrafficPolicy'].map(
    (kind) => [kind, 'gateway.envoyproxy.io'] as const,
  ),
  ...ownKindsOf().map((kind) => [kind, ownGroup] as const),
]);
const groups = new Set(groupOf.values());

/** What is to be done with a document. */
export type Verdict =
  | 'check'
  /** Of a kind that exists and is not checked here. */
  | { readonly other: Problem }
  /** Of a kind that is checked, in a group that differs by a slip. */
  | { readonly slip: Problem };

/** Decides by kind and group. Documents without either are left to their readers, who report them. Throws nothing. */
export function sortDocument(document: YamlDocument): Verdict {
  const { kind, apiVersion } = headOf(document.value);
  if (kind === '' || apiVersion === '') return 'check';
  const group = apiVersion.includes('/') ? apiVersion.slice(0, apiVersion.indexOf('/')) : '';
  if (groups.has(group) && !isUnread(kind)) return 'check';
  const own = groupOf.get(kind);
  const meant = own ?? (isExistingKind(kind) ? undefined : nearGroup(kind));
  // The core group has none of these kinds.
  if (meant !== undefined && (group === '' || nearestTo(group, [meant]) !== undefined)) {
    if (own === undefined) return 'check';
    return {
      slip: document.problemAt(
        ['apiVersion'],
        `kind ${kind} belongs to group ${own}, not to apiVersion '${apiVersion}'`,
      ),
    };
  }
  const namesake = own === undefined ? '' : `, which is not ${own}`;
  const message = `kind ${kind} of ${group === '' ? 'the core group' : `group ${group}`}${namesake} is not checked here`;
  // Others have kinds with the same names.
  const hint = isOfTheseProjects(group) ? hintFor(kind) : undefined;
  return { other: document.problemAt(['kind'], message, hint === undefined ? {} : { hint }) };
}

/** `networking.k8s.io` has Ingress, `telemetry.istio.io` Telemetry: groups of which nothing is checked. */
function isOfTheseProjects(group: string): boolean {
  return groups.has(group) || /\.(?:istio|k8s)\.io$/.test(group);
}

/** True for a kind of these projects for which there is no validation here. */
function isUnread(kind: string): boolean {
  return isExistingKind(kind) && !groupOf.has(kind);
}

function nearGroup(kind: string): string | undefined {
  const near = nearestTo(kind, groupOf.keys());
  return near === undefined ? undefined : groupOf.get(near);
}
