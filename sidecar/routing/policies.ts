// Which policy applies to which rule. Envoy Gateway's order: a policy of the rule itself, then of its route, then of
// the listener, then of the Gateway. The nearer takes the place of the farther, unless its `mergeType` merges it with
// the policy of the listener or Gateway. What is lost that way is reported, and is an error if the farther one is
// required. Of two policies for one target the one in force applies, else the older, and the other's status says so.

import type { PolicyTarget } from '../schema/gateway-patterns.ts';
import type { Condition, Say } from './conditions.ts';
import { sayFor } from './conditions.ts';
import type { Document, GatewayDocuments } from './documents.ts';
import { controllerName } from './names.ts';

/** What a policy needs in order to be attached. */
export interface Attachable {
  readonly namespace: string;
  readonly name: string;
  readonly targets: readonly PolicyTarget[];
  readonly createdAt?: number;
  /** It is merged with a farther one. */
  readonly mergeType?: string;
  /** Nothing of it may be lost to a nearer one. */
  readonly required?: boolean;
}

/** Where a rule belongs. */
export interface RulePlace {
  readonly kind: string;
  readonly namespace: string;
  readonly route: string;
  readonly rule: string | undefined;
  readonly gatewayNamespace: string;
  readonly gateway: string;
  readonly listener: string;
}

/**
 * Gateway API's PolicyAncestorStatus (GEP-713). The ancestor of an attached policy is its target here, and its Gateways
 * where it is written to an API server (ancestors.ts); that of a BackendTLSPolicy is a Gateway that reaches its Service.
 */
export interface AncestorStatus {
  readonly ancestorRef: PolicyTarget & { readonly namespace: string };
  readonly controllerName: string;
  readonly conditions: readonly Condition[];
}

/** A policy, with one status for each of its targets. */
export interface PolicyStatus<P> {
  readonly policy: P;
  readonly ancestors: readonly AncestorStatus[];
}

/** Policies of one kind, attached. */
export interface PolicyTable<P extends Attachable> {
  /** The policy that applies to a rule. */
  policyFor(place: RulePlace): P | undefined;
  readonly statuses: readonly PolicyStatus<P>[];
  /** A sentence for each policy that loses something to a nearer one. */
  readonly losses: readonly string[];
  /** The policy of each target: a later policy does not take it. */
  readonly owners: ReadonlyMap<string, string>;
}

/** The specifics of a kind of policy. */
export interface PolicyKind<P> {
  readonly kind: string;
  /** The plural in Envoy Gateway's conditions. */
  readonly plural: string;
  /** Whether its policies may have a `mergeType`. */
  readonly isMerged: boolean;
  /** Why a well-formed policy cannot be served. */
  refusalOf(policy: P): string | undefined;
  /** The stand-in for a policy that cannot be served as written: it closes everything that it is attached to. */
  closing(policy: P, why: string): P;
  /** `policy` merged with `below`, or alone; or why that is impossible. */
  mergedWith(policy: P, below: P | undefined): P | { readonly problem: string };
  /** What of `below` is lost if `policy` applies, by the names of its parts. */
  lostOf(below: P, policy: P): readonly string[];
  /** Parts of `policy` that weaken `below`. */
  weakening(below: P, policy: P): readonly string[];
}

/** The owner of a target. */
interface Owner<P> {
  /** `Gateway shop/g web`; the last word is empty for the whole Gateway. */
  readonly key: string;
  readonly policy: P;
}

/** The outcome for one target's policy. */
interface Fate {
  readonly listeners: Set<string>;
  readonly routes: Set<string>;
  readonly rules: Set<string>;
  /** The policies that it is merged with. */
  readonly mergedWith: Set<string>;
  readonly refusals: Set<string>;
}

interface Resolved<P> {
  readonly held: P;
  /** Why it is closed, if it is. */
  readonly refusal: string | undefined;
  readonly parent: Owner<P> | undefined;
  /** The policies behind it, each with what it loses. */
  readonly behind: readonly { readonly owner: Owner<P>; readonly lost: readonly string[] }[];
}

/**
 * Attaches policies. A policy that names a section that its target does not have was meant to protect some part of it,
 * and it is unknown which: the whole target is closed, where Envoy Gateway would leave it open. `places` are those of
 * all rules.
 */
export function attachPolicies<P extends Attachable>(
  policies: readonly P[],
  documents: GatewayDocuments,
  now: number,
  kind: PolicyKind<P>,
  places: Iterable<RulePlace> = [],
  inForce: PolicyTable<P>['owners'] = new Map(),
): PolicyTable<P> {
  return new Attaching(documents, kind, sayFor({ generation: 1 }, now)).attach(policies, places, inForce);
}

class Attaching<P extends Attachable> {
  readonly #documents: GatewayDocuments;
  #sections: Sections = new Map();
  readonly #kind: PolicyKind<P>;
  readonly #say: Say;
  readonly #owners = new Map<string, P>();
  /** Targets whose policy was in force before. */
  readonly #reserved = new Map<string, P>();
  /** What a policy that names a missing section closes, by its target. */
  readonly #lost = new Map<string, P>();
  /** Targets with two policies, of which a required one would be lost. */
  readonly #closed = new Map<string, P>();
  readonly #resolved = new Map<string, Resolved<P>>();
  readonly #fates = new Map<string, Fate>();
  readonly #losses = new Map<string, { readonly sentence: string; readonly where: Set<string> }>();

  constructor(documents: GatewayDocuments, kind: PolicyKind<P>, say: Say) {
    this.#documents = documents;
    this.#kind = kind;
    this.#say = say;
  }

  attach(policies: readonly P[], places: Iterable<RulePlace>, inForce: PolicyTable<P>['owners']): PolicyTable<P> {
    if (policies.length > 0) this.#sections = sectionsIn(this.#documents);
    for (const policy of policies)
      for (const target of policy.targets) {
        const key = keyOf(target, policy.namespace);
        if (inForce.get(key) === named(policy)) this.#reserved.set(key, policy);
      }
    const sorted = policies.toSorted(
      (a, b) => (a.createdAt || Number.POSITIVE_INFINITY) - (b.createdAt || Number.POSITIVE_INFINITY) || order(a, b),
    );
    const claims = sorted.map((policy) => ({
      policy,
      ancestors: policy.targets.map((target) => this.#claim(policy, target)),
    }));
    for (const place of places) this.#note(place);
    this.#noteListeners();
    return {
      statuses: claims.map(({ policy, ancestors }) => ({
        policy,
        ancestors: ancestors.map(({ key, conditions, ancestorRef }) => ({
          ...{ ancestorRef, controllerName },
          conditions: key === undefined ? conditions : this.#withFate(key, conditions),
        })),
      })),
      owners: new Map([...this.#owners].map(([key, policy]) => [key, named(policy)])),
      losses: [...this.#losses.values()].map(({ sentence, where }) => `${sentence} for ${listed([...where])}`),
      policyFor: (place) => {
        // Of most kinds there is no policy, and each rule asks for each kind, several times.
        if (this.#owners.size === 0 && this.#lost.size === 0) return undefined;
        const owners = this.#ownersOf(place);
        const closed =
          this.#lost.get(routeOf(place)) ??
          this.#lost.get(gatewayOf(place)) ??
          owners.map(({ key }) => this.#closed.get(key)).find((one) => one !== undefined);
        return closed ?? this.#resolve(owners)?.held;
      },
    };
  }

  /** Gives a policy its target, unless another one has it. Returns `key` if it got it. */
  #claim(policy: P, target: PolicyTarget) {
    const { namespace } = policy;
    const ancestorRef = { ...target, namespace };
    const result = (condition: Condition, key?: string) => ({ ancestorRef, conditions: [condition], key });
    const say = this.#say;
    const sections = this.#sections.get(wholeOf(target, namespace));
    const { sectionName } = target;
    if (sections === undefined || (sections !== 'all' && sectionName !== undefined && !sections.has(sectionName))) {
      const why = `there is no ${nameOf(target, namespace)}`;
      if (sections !== undefined) this.#lost.set(wholeOf(target, namespace), this.#kind.closing(policy, why));
      return result(say('Accepted', false, 'TargetNotFound', why));
    }
    const key = keyOf(target, namespace);
    const reserved = this.#reserved.get(key);
    const owner = this.#owners.get(key) ?? (reserved === policy ? undefined : reserved);
    if (owner !== undefined) return result(say('Accepted', false, 'Conflicted', this.#conflict(key, policy, owner)));
    this.#owners.set(key, policy);
    const refusal = this.#kind.refusalOf(policy);
    return result(
      refusal === undefined ? say('Accepted', true, 'Accepted') : say('Accepted', false, 'Invalid', refusal),
      key,
    );
  }

  /** Of two policies with one target one is lost: if either is required, the target is closed. */
  #conflict(key: string, policy: P, owner: P): string {
    const required = [policy, owner].find((one) => one.required === true);
    if (required === undefined) return `${named(owner)} has the same target and comes first`;
    const why = `${named(policy)} and ${named(owner)} have the same target, and ${named(required)} must be inherited (sallyport.dev/inherit: required)`;
    this.#closed.set(key, this.#kind.closing(required, why));
    return why;
  }

  /** The owners of everything that a rule is part of, the nearest first. */
  #ownersOf(place: RulePlace): Owner<P>[] {
    const { rule, listener } = place;
    const keys = [
      ...(rule === undefined ? [] : [`${routeOf(place)} ${rule}`]),
      ...[`${routeOf(place)} `, `${gatewayOf(place)} ${listener}`, `${gatewayOf(place)} `],
    ];
    return keys.flatMap((key) => {
      const policy = this.#owners.get(key);
      return policy === undefined ? [] : [{ key, policy }];
    });
  }

  #resolve(owners: readonly Owner<P>[]): Resolved<P> | undefined {
    const [nearest, ...behind] = owners;
    if (nearest === undefined) return undefined;
    const key = owners.map((one) => one.key).join('\n');
    const known = this.#resolved.get(key);
    if (known !== undefined) return known;
    const resolved = this.#settle(nearest, behind);
    this.#resolved.set(key, resolved);
    return resolved;
  }

  #settle(nearest: Owner<P>, behind: readonly Owner<P>[]): Resolved<P> {
    const { policy } = nearest;
    const close = (why: string, parent?: Owner<P>): Resolved<P> => ({
      ...{ held: this.#kind.closing(policy, why), refusal: why, parent },
      behind: behind.map((owner) => ({ owner, lost: [] })),
    });
    if (this.#kind.refusalOf(policy) !== undefined)
      return {
        held: policy,
        refusal: undefined,
        parent: undefined,
        behind: behind.map((owner) => ({ owner, lost: [] })),
      };
    // Envoy Gateway's rule: only the policy of a listener or a Gateway is merged.
    const parent = policy.mergeType === undefined ? undefined : behind.find(({ key }) => key.startsWith('Gateway '));
    const held = policy.mergeType === undefined ? policy : this.#kind.mergedWith(policy, parent?.policy);
    if ('problem' in held) return close(held.problem, parent);
    const losing = behind.map((owner) => ({ owner, lost: this.#kind.lostOf(owner.policy, held) }));
    for (const { owner, lost } of losing) {
      if (owner.policy.required !== true) continue;
      const weakening = this.#kind.weakening(owner.policy, held);
      const what =
        lost.length > 0
          ? `${quoted(lost)} of ${this.#kind.kind} ${named(owner.policy)} would be lost`
          : weakening.length > 0
            ? `${quoted(weakening)} would bypass ${this.#kind.kind} ${named(owner.policy)}`
            : undefined;
      if (what !== undefined)
        return close(`${what}, which must be inherited (sallyport.dev/inherit: required)`, parent);
    }
    return { held, refusal: undefined, parent, behind: losing };
  }

  /** Records the policy of a rule for the statuses of all policies concerned. */
  #note(place: RulePlace): void {
    const owners = this.#ownersOf(place);
    const resolved = this.#resolve(owners);
    if (resolved === undefined) return;
    const [nearest] = owners as [Owner<P>];
    const { refusal, parent, behind } = resolved;
    if (refusal !== undefined) this.#fateOf(nearest.key).refusals.add(refusal);
    else if (parent !== undefined) this.#fateOf(nearest.key).mergedWith.add(named(parent.policy));
    for (const { owner, lost } of behind) {
      if (owner !== parent) this.#overridden(owner.key, nearest.key, place);
      if (lost.length > 0) this.#lose(nearest, owner, lost, placeName(nearest.key, place));
    }
  }

  #overridden(key: string, by: string, place: RulePlace): void {
    const fate = this.#fateOf(key);
    if (by.startsWith('Gateway ')) fate.listeners.add(place.listener);
    else if (key.startsWith('Gateway ')) fate.routes.add(`${place.namespace}/${place.route}`);
    else fate.rules.add(place.rule ?? '');
  }

  /** A listener's policy takes its Gateway's place whether routes are attached to it or not. */
  #noteListeners(): void {
    for (const [key, policy] of this.#owners) {
      const [kind, gateway, listener = ''] = key.split(' ') as [string, string, string?];
      const below = this.#owners.get(`${kind} ${gateway} `);
      if (kind !== 'Gateway' || listener === '' || below === undefined) continue;
      const owners = [
        { key, policy },
        { key: `${kind} ${gateway} `, policy: below },
      ] as const;
      const { refusal, behind } = this.#resolve(owners)!;
      this.#fateOf(`${kind} ${gateway} `).listeners.add(listener);
      if (refusal !== undefined) this.#fateOf(key).refusals.add(refusal);
      for (const { owner, lost } of behind)
        if (lost.length > 0) this.#lose(owners[0], owner, lost, `listener ${listener} of Gateway ${gateway}`);
    }
  }

  #lose(by: Owner<P>, owner: Owner<P>, lost: readonly string[], where: string): void {
    const { kind, isMerged } = this.#kind;
    const mend =
      !isMerged || by.key.startsWith('Gateway ') || by.policy.mergeType !== undefined
        ? ''
        : ' (mergeType would keep it)';
    const sentence = `${kind} ${named(by.policy)} takes the place of ${quoted(lost)} of ${kind} ${named(owner.policy)}${mend}`;
    const known = this.#losses.get(sentence) ?? { sentence, where: new Set<string>() };
    known.where.add(where);
    this.#losses.set(sentence, known);
  }

  #fateOf(key: string): Fate {
    const known = this.#fates.get(key);
    if (known !== undefined) return known;
    const fate = { listeners: new Set<string>(), routes: new Set<string>(), rules: new Set<string>() };
    const all = { ...fate, mergedWith: new Set<string>(), refusals: new Set<string>() };
    this.#fates.set(key, all);
    return all;
  }

  #withFate(key: string, conditions: readonly Condition[]): readonly Condition[] {
    const fate = this.#fates.get(key);
    if (fate === undefined) return conditions;
    const say = this.#say;
    const { listeners, routes, rules, mergedWith, refusals } = fate;
    const over = [
      ...(listeners.size === 0 ? [] : [`these listeners: [${[...listeners].toSorted().join(' ')}]`]),
      ...(routes.size === 0 ? [] : [`these routes: [${[...routes].toSorted().join(' ')}]`]),
      ...(rules.size === 0 ? [] : [`these route rules: [${[...rules].toSorted().join(' ')}]`]),
    ];
    return [
      ...(refusals.size === 0 ? conditions : [say('Accepted', false, 'Invalid', [...refusals].join('; '))]),
      ...(mergedWith.size === 0
        ? []
        : [say('Merged', true, 'Merged', `Merged with policy ${[...mergedWith].toSorted().join(', ')}`)]),
      ...(over.length === 0
        ? []
        : [
            say(
              'Overridden',
              true,
              'Overridden',
              `This policy is being overridden by other ${this.#kind.plural} for ${over.join(' and ')}`,
            ),
          ]),
    ];
  }
}

function routeOf({ kind, namespace, route }: RulePlace): string {
  return `${kind} ${namespace}/${route}`;
}

function gatewayOf({ gatewayNamespace, gateway }: RulePlace): string {
  return `Gateway ${gatewayNamespace}/${gateway}`;
}

/** The place where the policy of `key` applies. */
function placeName(key: string, place: RulePlace): string {
  if (key.startsWith('Gateway ')) return `listener ${place.listener} of ${gatewayOf(place)}`;
  return key.endsWith(' ') ? routeOf(place) : `rule ${place.rule} of ${routeOf(place)}`;
}

/** The first few, and how many more. */
function listed(all: readonly string[]): string {
  return all.length <= 5 ? all.join(', ') : `${all.slice(0, 5).join(', ')} and ${all.length - 5} more`;
}

function quoted(names: readonly string[]): string {
  return names.map((one) => `'${one}'`).join(', ');
}

function named({ namespace, name }: Attachable): string {
  return `${namespace}/${name}`;
}

function keyOf({ kind, name, sectionName = '' }: PolicyTarget, namespace: string): string {
  return `${kind} ${namespace}/${name} ${sectionName}`;
}

function nameOf({ kind, name, sectionName }: PolicyTarget, namespace: string): string {
  return `${kind} ${namespace}/${name}${sectionName === undefined ? '' : ` with a section '${sectionName}'`}`;
}

function order(a: Attachable, b: Attachable): number {
  const [first, second] = [`${a.namespace}/${a.name}`, `${b.namespace}/${b.name}`];
  return first < second ? -1 : first > second ? 1 : 0;
}

/** The sections of each object that can be a target, by kind, namespace and name: `all` if any name counts as there. */
function sectionsIn({ gateways, routes, refused }: GatewayDocuments): Sections {
  const found = new Map<string, 'all' | ReadonlySet<string | undefined>>();
  const add = (one: Pick<Document<unknown>, 'kind' | 'namespace' | 'name'>, names: Named | undefined): void => {
    const key = wholeOf(one, one.namespace);
    if (!found.has(key)) found.set(key, names === undefined ? 'all' : new Set(names.map(({ name }) => name)));
  };
  // An invalid target counts as existing: it is not served, and neither is anything behind it.
  for (const one of refused) add(one, undefined);
  for (const one of gateways) add(one, one.spec.listeners);
  for (const one of routes) add(one, one.spec.rules);
  return found;
}

type Sections = ReadonlyMap<string, 'all' | ReadonlySet<string | undefined>>;

type Named = readonly { readonly name?: string | undefined }[];

function wholeOf({ kind, name }: Pick<PolicyTarget, 'kind' | 'name'>, namespace: string): string {
  return `${kind} ${namespace}/${name}`;
}
