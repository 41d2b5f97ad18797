// What a directory of Istio documents says, as plain data: apart from the reader, which a running sidecar does not hold.

import type { PeerAuthentication } from '../policy/mtls.ts';
import type { AuthorizationPolicy } from '../policy/policy.ts';

export interface IstioDocuments {
  readonly authorizationPolicies: readonly AuthorizationPolicy[];
  readonly peerAuthentications: readonly PeerAuthentication[];
}

/** How many documents there are. */
export function countOf({ authorizationPolicies, peerAuthentications }: IstioDocuments): number {
  return authorizationPolicies.length + peerAuthentications.length;
}
