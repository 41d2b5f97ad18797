// The documents of a directory as plain data. Separate from the reader, which a running sidecar does not load.

import type { PeerAuthentication } from '../../policy/mtls.ts';
import type { AuthorizationPolicy } from '../../policy/policy.ts';
import type { RequestAuthentication } from '../../policy/request-authentication.ts';
import type { DestinationRule } from '../../upstream/destination-rule.ts';

/** Of all namespaces, in the order of reading, and frozen. The compiler selects those of the workload. */
export interface IstioDocuments {
  readonly authorizationPolicies: readonly AuthorizationPolicy[];
  readonly peerAuthentications: readonly PeerAuthentication[];
  readonly requestAuthentications: readonly RequestAuthentication[];
  readonly destinationRules: readonly DestinationRule[];
}

/** The number of documents. */
export function countOf(documents: IstioDocuments): number {
  return (
    documents.authorizationPolicies.length +
    documents.peerAuthentications.length +
    documents.requestAuthentications.length +
    documents.destinationRules.length
  );
}
