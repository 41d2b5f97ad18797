// A policy as it was read: plain data that crosses from the process that reads documents. What stands here is its head. Beside it
// stand its parts by name, each the plan of the capability that reads it; Secrets are in them by their names only.

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

/** What every policy says about itself. */
export interface PolicyHead<P> extends Layered<P> {
  readonly name: string;
  readonly namespace: string;
  readonly targets: readonly PolicyTarget[];
  /** Milliseconds since 1970; absent or 0 where the document does not say. Of two for one target the older holds. */
  readonly createdAt?: number;
  readonly file: string;
  readonly line: number;
}

/** The head of a SecurityPolicy of gateway.envoyproxy.io, read and checked. */
export interface SecurityPolicy extends PolicyHead<SecurityPolicy> {
  /** The namespaces of the parts that a merged policy has from another one: its Secrets and backends are there. */
  readonly namespaces?: Readonly<Record<string, string>>;
}
