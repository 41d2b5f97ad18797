// A policy as read: plain data from the process that reads documents. These types are its head. Its parts stand beside
// it by name, each the plan of the capability that reads it; they hold Secrets by name only.

import type { PolicyTarget } from '../schema/gateway-patterns.ts';
import type { MergeType } from '../schema/policy-fields.ts';

/** A policy's relation to less specific ones; see documents/envoy-gateway/merge.ts. */
export interface Layered<P> {
  /** It is merged with the policy of its listener or Gateway, and does not replace it. */
  readonly mergeType?: MergeType;
  /** The result of merging it with each policy that it may be merged with, by `namespace/name`; '' means none. */
  readonly merged?: Readonly<Record<string, P | { readonly problem: string }>>;
  /** A more specific policy may drop nothing of it. */
  readonly required?: boolean;
}

/** The head of every policy. */
export interface PolicyHead<P> extends Layered<P> {
  readonly name: string;
  readonly namespace: string;
  readonly targets: readonly PolicyTarget[];
  /** Milliseconds since 1970; absent if the document has none. Of two for one target the older wins. */
  readonly createdAt?: number;
  readonly file: string;
  readonly line: number;
}

/** The head of a SecurityPolicy of gateway.envoyproxy.io, read and checked. */
export interface SecurityPolicy extends PolicyHead<SecurityPolicy> {
  /** The namespaces of the parts that a merged policy has from another one: its Secrets and backends are there. */
  readonly namespaces?: Readonly<Record<string, string>>;
}

/** The group of our own kinds of document. */
export const ownGroup = 'sallyport.dev';
/** The only version of our own kinds. */
export const ownApiVersion = `${ownGroup}/v1alpha1`;

/**
 * The head of a document of one of our own kinds, read and checked. Its only part is the plan, under the name of its
 * kind.
 */
export interface OwnPolicy extends PolicyHead<OwnPolicy> {
  readonly kind: string;
}

/** A policy that may guard. */
export type GuardingPolicy = SecurityPolicy | OwnPolicy;

/** The kind of a policy as its document has it. */
export function kindOfPolicy(policy: GuardingPolicy): string {
  return 'kind' in policy ? policy.kind : 'SecurityPolicy';
}

/** `SecurityPolicy shop/users`, for messages. */
export function titleOf(policy: GuardingPolicy): string {
  return `${kindOfPolicy(policy)} ${policy.namespace}/${policy.name}`;
}
