// What a workload is and whom it trusts, at one moment: SVID, bundles and deny-list of one generation. They change
// together, so nobody verifies with the bundle of one issuance and presents the certificate of another.

import type { TrustBundles } from './bundle.ts';
import type { DenyList } from './denied.ts';
import type { Svid } from './svid.ts';

/** One generation, frozen. */
export interface Identity {
  readonly svid: Svid;
  readonly bundles: TrustBundles;
  readonly denied: DenyList;
}

/** The identity files by path, as a person or an agent named them. Without `denied` nobody is denied. */
export interface IdentityPaths {
  readonly svid: string;
  readonly key: string;
  /** SPIFFE JSON or PEM. */
  readonly bundle: string;
  readonly denied?: string;
  /** The one whose SVID this must be. */
  readonly trustDomain: string;
}
