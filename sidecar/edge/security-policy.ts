// SecurityPolicy as it was read: plain data that crosses from the process that reads documents. Secrets stand here by their
// names only; whoever compiles the policy asks for them.

import type { ApiKeyPlan } from './api-key/schema.ts';
import type { AuthorizationPlan } from './authorization/schema.ts';
import type { BasicPlan } from './basic-auth/schema.ts';
import type { ExtAuthPlan } from './ext-auth/schema.ts';
import type { OidcPlan } from './oidc/schema.ts';
import type { IntrospectionPlan, JwtPlan } from './token/schema.ts';

/** What a policy is attached to: a Gateway or a route in its own namespace, or one section of it. */
export interface PolicyTarget {
  readonly group: string;
  readonly kind: string;
  readonly name: string;
  readonly sectionName?: string;
}

/** How a policy stands to those that are less specific; see documents/envoy-gateway/merge.ts. */
export interface Layered<P> {
  /** It is laid over the policy of its listener or Gateway, and does not take its place. */
  readonly mergeType?: 'StrategicMerge' | 'JSONMerge';
  /** What it is together with each policy that it may be laid over, by `namespace/name`; '' stands for none. */
  readonly merged?: Readonly<Record<string, P | { readonly problem: string }>>;
  /** Nothing of it may be lost to a policy that is more specific. */
  readonly required?: boolean;
}

/** One SecurityPolicy of gateway.envoyproxy.io, read and checked. */
export interface SecurityPolicy extends Layered<SecurityPolicy> {
  readonly name: string;
  readonly namespace: string;
  readonly targets: readonly PolicyTarget[];
  /** Milliseconds since 1970; absent where the document does not say. Of two for one target the older holds. */
  readonly createdAt?: number;
  readonly jwt?: JwtPlan;
  readonly oidc?: OidcPlan;
  readonly introspection?: IntrospectionPlan;
  readonly apiKeyAuth?: ApiKeyPlan;
  readonly basicAuth?: BasicPlan;
  readonly extAuth?: ExtAuthPlan;
  readonly authorization?: AuthorizationPlan;
  /** The namespaces of the parts that a merged policy has from another one: its Secrets and backends are there. */
  readonly namespaces?: Readonly<Record<string, string>>;
  readonly file: string;
  readonly line: number;
}
