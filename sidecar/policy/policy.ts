// The nouns of authorization: documents as they were read, and decisions. A decision is frozen and made once per rule,
// when the configuration is compiled, so that evaluating a request allocates nothing.

/** The workload that policies are attached to. */
export interface Workload {
  readonly namespace: string;
  readonly serviceAccount: string;
  readonly labels: Readonly<Record<string, string>>;
}

/** Field name to values: the fields of attributes.ts, each with its `not` twin (`notPrincipals`). */
export type FieldValues = Readonly<Record<string, readonly string[]>>;

/** An entry of `when`. One of `values` must match and none of `notValues`; one of the two lists is not empty. */
export interface Condition {
  readonly key: string;
  readonly values?: readonly string[];
  readonly notValues?: readonly string[];
}

/**
 * A rule matches if `from`, `to` and `when` all hold; an entry of `from` or `to` is enough. An empty rule always
 * matches.
 */
export interface Rule {
  /** Absent: any source. */
  readonly from?: readonly FieldValues[];
  /** Absent: any operation. */
  readonly to?: readonly FieldValues[];
  /** All of them must hold. */
  readonly when?: readonly Condition[];
}

/** Evaluated as CUSTOM, DENY, ALLOW; AUDIT only marks. Istio's order. */
export type Action = 'ALLOW' | 'DENY' | 'AUDIT' | 'CUSTOM';

/** What a policy is attached to instead of workloads; for gateways and waypoints. */
export interface TargetRef {
  readonly group: string;
  readonly kind: string;
  readonly name: string;
}

/** An AuthorizationPolicy of security.istio.io, read and checked. */
export interface AuthorizationPolicy {
  readonly name: string;
  readonly namespace: string;
  readonly action: Action;
  /** The external authorizer that a CUSTOM policy asks. */
  readonly provider?: string;
  /** `istio.io/dry-run: "true"`: never enforced, but evaluated beside the enforced ones. */
  readonly dryRun: boolean;
  /** Absent: all workloads of the namespace, or of the mesh in the root namespace. */
  readonly matchLabels?: Readonly<Record<string, string>>;
  readonly targetRefs?: readonly TargetRef[];
  readonly rules: readonly Rule[];
  readonly file: string;
  readonly line: number;
}

/** A rule's place in the documents, for messages that name it. */
export interface RuleName {
  readonly namespace: string;
  readonly name: string;
  /** From 0. */
  readonly rule: number;
}

let make: (policy: string, by: RuleName | undefined) => Permit;

/** The proof that a request may pass. Nothing is forwarded without one, and only this module makes them. */
export class Permit {
  /** The rule that admits, `ns[shop]-policy[web]-rule[0]`; `default-action`; or `upstream[orders]` outbound. */
  readonly policy: string;
  readonly by: RuleName | undefined;
  /** Prevents the type checker from accepting a look-alike object. */
  readonly #minted = true;

  private constructor(policy: string, by: RuleName | undefined) {
    this.policy = policy;
    this.by = by;
    Object.freeze(this);
  }

  static {
    make = (policy, by) => new Permit(policy, by);
  }

  /** Whether this module made it: true for no other object, whatever its shape. */
  static is(value: object): value is Permit {
    return #minted in value;
  }
}

/** Makes a permit. For the two that compile permits: policies and the table of upstreams (a test holds this). */
export function mintPermit(policy: string, by?: RuleName): Permit {
  return make(policy, by);
}

let makeTunnel: (policy: string) => TunnelPermit;

/**
 * The proof that bytes may pass unread: what CONNECT opens. It is not a Permit, so a request that policy has admitted
 * as a request can never become a tunnel, even if its method is CONNECT. Only the table of upstreams makes them.
 */
export class TunnelPermit {
  /** `upstream[orders]`. */
  readonly policy: string;
  readonly #minted = true;

  private constructor(policy: string) {
    this.policy = policy;
    Object.freeze(this);
  }

  static {
    makeTunnel = (policy) => new TunnelPermit(policy);
  }

  /** Whether this module made it. False for a Permit. */
  static is(value: object): value is TunnelPermit {
    return #minted in value;
  }
}

/** Makes a tunnel's permit. For the table of upstreams alone (a test holds this). */
export function mintTunnelPermit(policy: string): TunnelPermit {
  return makeTunnel(policy);
}

/** A request is refused with 403, or a connection closed. Frozen, and the same for all requests of its rule. */
export interface Refusal {
  readonly code: 'policy_denied';
  /** The rule that matched, or `none` if no ALLOW rule did. */
  readonly policy: string;
  readonly by: RuleName | undefined;
  /** Envoy's text for `response_code_details`. */
  readonly details: string;
}

/** What `decide` returns. Refusals are values: refusing throws nothing and allocates nothing. */
export type Decision = Permit | Refusal;

/** True only for a permit of this module, whatever else has its shape. */
export function isPermit(decision: Decision): decision is Permit {
  return Permit.is(decision);
}

/** Called at compilation, once for each rule. `policy` is Istio's id of it; white space in details becomes `_`. */
export function refusalBy(policy: string, by?: RuleName): Refusal {
  const details = `rbac_access_denied_matched_policy[${policy}]`.replace(/\s/g, '_');
  return Object.freeze({ code: 'policy_denied', policy, by, details });
}

/** Istio's prefix, with the provider's name, of the id of a rule whose provider refuses. */
export const customPrefix = 'istio-ext-authz-';

/** Istio's id of a rule. */
export function ruleId({ namespace, name, rule }: RuleName): string {
  return `ns[${namespace}]-policy[${name}]-rule[${rule}]`;
}

/** For whom documents are compiled. `defaultAction` counts where no ALLOW policy is in scope. */
export interface PolicyScope {
  readonly trustDomain: string;
  /** Other names of our trust domain that policies may use. */
  readonly trustDomainAliases: readonly string[];
  /** Policies of this namespace apply to the whole mesh. */
  readonly rootNamespace: string;
  readonly workload: Workload;
  readonly defaultAction: 'deny' | 'allow';
}

/**
 * Root namespace: mesh-wide. Elsewhere: its own namespace. In both, `matchLabels` narrows to workloads that have all
 * labels.
 */
export function isAttached(
  policy: Pick<AuthorizationPolicy, 'namespace' | 'matchLabels' | 'targetRefs'>,
  { rootNamespace, workload }: PolicyScope,
): boolean {
  // Policies with target references are for gateways and waypoints: no workload's own proxy evaluates them.
  if (policy.targetRefs !== undefined) return false;
  if (policy.namespace !== rootNamespace && policy.namespace !== workload.namespace) return false;
  return Object.entries(policy.matchLabels ?? {}).every(([label, value]) => workload.labels[label] === value);
}
