// Which policy holds for which rule. Envoy Gateway's order: a policy of the rule itself, then of its route, then of the
// listener, then of the Gateway; the nearer takes the place of the farther, they are not merged. Of two policies for one
// target the older holds, and the other is told so.

import type { Condition } from './conditions.ts';
import { sayFor } from './conditions.ts';
import type { GatewayDocuments } from './documents.ts';
import { controllerName } from './names.ts';

export interface Target {
  readonly group: string;
  readonly kind: string;
  readonly name: string;
  readonly sectionName?: string | undefined;
}

/** What a policy must have to be attached. */
export interface Attachable {
  readonly namespace: string;
  readonly name: string;
  readonly targets: readonly Target[];
  readonly createdAt?: number;
}

/** Where a rule stands. */
export interface RulePlace {
  readonly kind: string;
  readonly namespace: string;
  readonly route: string;
  readonly rule: string | undefined;
  readonly gatewayNamespace: string;
  readonly gateway: string;
  readonly listener: string;
}

export interface AncestorStatus {
  readonly ancestorRef: Target & { readonly namespace: string };
  readonly controllerName: string;
  readonly conditions: readonly Condition[];
}

export interface PolicyStatus<P> {
  readonly policy: P;
  readonly ancestors: readonly AncestorStatus[];
}

/** Policies of one kind, attached. */
export interface PolicyTable<P extends Attachable> {
  /** The policy that holds for a rule. */
  policyFor(place: RulePlace): P | undefined;
  readonly statuses: readonly PolicyStatus<P>[];
}

/** How policies of a kind fail. */
export interface Failing<P> {
  /** Why one that is well formed cannot be served. */
  refusalOf(policy: P): string | undefined;
  /** What stands in the place of one whose section is not there: something that closes whatever it is attached to. */
  closing(policy: P, why: string): P;
}

/**
 * Attaches policies. One that names a section that its target does not have was to protect some part of it, and nobody can
 * say which: the whole target is closed, where Envoy Gateway would leave it open.
 */
export function attachPolicies<P extends Attachable>(
  policies: readonly P[],
  documents: GatewayDocuments,
  now: number,
  failing: Failing<P> = { refusalOf: () => undefined, closing: (policy) => policy },
): PolicyTable<P> {
  const owners = new Map<string, P>();
  const lost = new Map<string, P>();
  const say = sayFor({ generation: 1 }, now);
  const sorted = policies.toSorted(
    (a, b) => (a.createdAt || Number.POSITIVE_INFINITY) - (b.createdAt || Number.POSITIVE_INFINITY) || order(a, b),
  );
  const statuses = sorted.map((policy) => {
    const refusal = failing.refusalOf(policy);
    const ancestors = policy.targets.map((target): AncestorStatus => {
      const ancestorRef = { ...target, namespace: policy.namespace };
      const with_ = (condition: Condition): AncestorStatus => ({
        ...{ ancestorRef, controllerName },
        conditions: [condition],
      });
      if (!isThere(target, policy.namespace, documents)) {
        const why = `there is no ${nameOf(target, policy.namespace)}`;
        const whole = { ...target, sectionName: undefined };
        if (target.sectionName !== undefined && isThere(whole, policy.namespace, documents))
          lost.set(`${target.kind} ${policy.namespace}/${target.name}`, failing.closing(policy, why));
        return with_(say('Accepted', false, 'TargetNotFound', why));
      }
      const key = keyOf(target, policy.namespace);
      const owner = owners.get(key);
      if (owner !== undefined)
        return with_(
          say('Accepted', false, 'Conflicted', `${owner.namespace}/${owner.name} has the same target, and comes first`),
        );
      owners.set(key, policy);
      return with_(
        refusal === undefined ? say('Accepted', true, 'Accepted') : say('Accepted', false, 'Invalid', refusal),
      );
    });
    return { policy, ancestors };
  });
  return {
    statuses,
    policyFor({ kind, namespace, route, rule, gatewayNamespace, gateway, listener }) {
      const ofRoute = `${kind} ${namespace}/${route}`;
      const ofGateway = `Gateway ${gatewayNamespace}/${gateway}`;
      return (
        lost.get(ofRoute) ??
        lost.get(ofGateway) ??
        (rule === undefined ? undefined : owners.get(`${ofRoute} ${rule}`)) ??
        owners.get(`${ofRoute} `) ??
        owners.get(`${ofGateway} ${listener}`) ??
        owners.get(`${ofGateway} `)
      );
    },
  };
}

function keyOf({ kind, name, sectionName = '' }: Target, namespace: string): string {
  return `${kind} ${namespace}/${name} ${sectionName}`;
}

function nameOf({ kind, name, sectionName }: Target, namespace: string): string {
  return `${kind} ${namespace}/${name}${sectionName === undefined ? '' : ` with a section '${sectionName}'`}`;
}

function order(a: Attachable, b: Attachable): number {
  const [first, second] = [`${a.namespace}/${a.name}`, `${b.namespace}/${b.name}`];
  return first < second ? -1 : first > second ? 1 : 0;
}

/** A target that is not valid is there all the same: it is not served, and neither is what comes through it. */
function isThere(
  { kind, name, sectionName }: Target,
  namespace: string,
  { gateways, routes, refused }: GatewayDocuments,
): boolean {
  const is = (one: { readonly namespace: string; readonly name: string; readonly kind: string }): boolean =>
    one.kind === kind && one.namespace === namespace && one.name === name;
  if (refused.some(is)) return true;
  const sections =
    kind === 'Gateway'
      ? gateways.find(is)?.spec.listeners.map((one) => one.name)
      : routes.find(is)?.spec.rules?.map((one) => one.name);
  if (sections === undefined) return kind === 'Gateway' ? gateways.some(is) : routes.some(is);
  return sectionName === undefined || sections.includes(sectionName);
}
