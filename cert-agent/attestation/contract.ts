// What proves a workload's identity to the CA. Each kind is one file with both halves: what an agent gathers, and how
// the CA verifies it. `kinds.ts` has the table. The evidence alone decides an identity; names in a CSR are never read.

import type { SpiffeId } from '../identity/spiffe-id.ts';
import type { Svid } from '../identity/svid.ts';

/** What an agent may have to prove itself with. Paths are absolute; files are read each time. */
export interface Holdings {
  /** Valid or expired: the CA decides. */
  readonly svid: Svid | undefined;
  readonly tokenFile?: string | undefined;
  readonly kubernetesTokenFile?: string | undefined;
  /** Receives a warning if others can read a secret. */
  warn(message: string): void;
}

/** Evidence that goes to the CA. */
export type Gathered =
  | { readonly kind: 'svid'; readonly svid: Svid }
  | { readonly kind: 'token' | 'kubernetes'; readonly token: string; readonly file: string };

/** One kind at the agent. */
export interface GatheredKind {
  /** Undefined if the agent has none of this kind yet. @throws SallyportError for a file that cannot be used. */
  gather(holdings: Holdings): Gathered | undefined;
}

/** A join token. */
export interface TokenEvidence {
  readonly kind: 'token';
  readonly id: SpiffeId;
  readonly hash: string;
  /** Milliseconds since 1970. */
  readonly expiresAt: number;
  /** The DNS names that it is for; what is allowed now decides. */
  readonly names: readonly string[];
  readonly bound: { readonly keyHash: string; readonly serial: string } | undefined;
}

/** A service-account token of a pod. */
export interface KubernetesEvidence {
  readonly kind: 'kubernetes';
  readonly id: SpiffeId;
  /** `pod uid`, for the ledger; the certificates of one pod are limited together. */
  readonly pod: string;
  /** The DNS names that the operator gives this account; what is allowed now decides. */
  readonly names: readonly string[];
}

/** An earlier SVID. */
export interface SvidEvidence {
  readonly kind: 'svid';
  readonly id: SpiffeId;
  readonly serial: string;
  /** The DNS names in it: a guess at what the next one will have, which the record decides. */
  readonly names: readonly string[];
  /** True if it had expired. */
  readonly expired: boolean;
  /** Milliseconds since 1970. */
  readonly notBefore: number;
  readonly notAfter: number;
}

/** Verified evidence. Whether its ID is denied is another question. */
export type Evidence = TokenEvidence | KubernetesEvidence | SvidEvidence;

/** What the CA verifies evidence with. */
export interface Verifiers {
  /** The token on record, by its hash. */
  findToken(hash: string): Promise<
    | {
        readonly id: string;
        readonly expiresAt: number;
        readonly names?: readonly string[];
        readonly bound?: TokenEvidence['bound'];
      }
    | undefined
  >;
  readonly trustDomain: string;
  /** Milliseconds since 1970. */
  now(): number;
  /** The cluster whose pods may enrol; undefined: none may. */
  readonly cluster: ClusterTokens | undefined;
}

/** Verifies the tokens of one cluster. */
export interface ClusterTokens {
  /** The DNS names of an account. */
  namesOf(pod: ClusterPod): readonly string[];
  /** @throws SallyportError `kubernetes_token_invalid`, or `kubernetes_unavailable` if the cluster cannot be asked. */
  verify(token: string): Promise<ClusterPod>;
}

/** Whose token it is. */
export interface ClusterPod {
  readonly namespace: string;
  readonly serviceAccount: string;
  readonly pod: string;
  readonly podUid: string;
}

/** One kind at the CA, for workloads that have no SVID yet: they send it in a field of their request. */
export interface EnrolmentKind {
  /** The field of `POST /v1/svid`. */
  readonly field: string;
  /** Longer values are refused unread. */
  readonly maxLength: number;
  /** @throws SallyportError that names only what the client has sent. */
  verify(value: string, verifiers: Verifiers): Promise<TokenEvidence | KubernetesEvidence>;
}
