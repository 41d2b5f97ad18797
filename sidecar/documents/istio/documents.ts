// What a directory of Istio documents says, as plain data: apart from the reader, which a running sidecar does not hold.

import type { PeerAuthentication } from '../../policy/mtls.ts';
import type { AuthorizationPolicy } from '../../policy/policy.ts';
import type { RequestAuthentication } from '../../policy/request-authentication.ts';
import type { DestinationRule } from '../../upstream/destination-rule.ts';

export interface IstioDocuments {
  readonly authorizationPolicies: readonly AuthorizationPolicy[];
  readonly peerAuthentications: readonly PeerAuthentication[];
  readonly requestAuthentications: readonly RequestAuthentication[];
  readonly destinationRules: readonly DestinationRule[];
}

/** How many documents there are. */
export function countOf(documents: IstioDocuments): number {
  return (
    documents.authorizationPolicies.length +
    documents.peerAuthentications.length +
    documents.requestAuthentications.length +
    documents.destinationRules.length
  );
}
