// The identity of a workload at one moment: SVID, bundles and deny list of one generation. They change together, so no
// connection verifies with the bundle of one issuance and presents the certificate of another.

import type { TrustBundles } from './bundle.ts';
import type { DenyList } from './denied.ts';
import type { Svid } from './svid.ts';

/** One generation, frozen. */
export interface Identity {
  readonly svid: Svid;
  readonly bundles: TrustBundles;
  readonly denied: DenyList;
}

/** The paths of the identity files. Without `denied` no peer is denied. */
export interface IdentityPaths {
  readonly svid: string;
  readonly key: string;
  /** SPIFFE JSON or PEM. */
  readonly bundle: string;
  readonly denied?: string;
  /** The trust domain that the SVID must belong to. */
  readonly trustDomain: string;
}
