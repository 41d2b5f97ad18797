// The decision, in Istio's order: a CUSTOM rule that matches asks its provider first; then a DENY rule that matches
// refuses; else, with no ALLOW policy in scope, the default action; else an ALLOW rule that matches permits; else it is
// refused. AUDIT marks and changes nothing. Pure, without allocation, under a microsecond.

import type { CompiledRule, PolicySet, RuleTable } from './compile.ts';
import { createFacts, type RequestFacts } from './facts.ts';
import { addRule, createIndex, firstMatch, type IndexedRule, matches, type RuleIndex } from './index-rules.ts';
import type { Action, Decision } from './policy.ts';
import type { Clause, Shape } from './shape.ts';

/** The rules that could concern one peer: those that test no peer, and those for this one. */
export interface PeerPolicies {
  readonly set: PolicySet;
  readonly custom: readonly CompiledRule[];
  readonly deny: PeerTable;
  readonly allow: PeerTable;
  readonly audit: PeerTable;
  readonly otherwise: Decision;
}

interface PeerTable {
  readonly shared: RuleIndex;
  readonly own: RuleIndex | undefined;
}

/** Peers are authenticated and few; beyond this bound a peer's rules are looked up each time. */
const maxPeers = 4096;
/** Rules visited between two yields. */
const rulesPerStep = 100;

/**
 * The rules that could concern a peer; `null` is a peer without identity. Looked up once per connection and generation.
 * `principal` is the whole SPIFFE URI.
 */
export function policiesFor(set: PolicySet, principal: string | null): PeerPolicies {
  const known = set.peers.get(principal ?? '');
  if (known !== undefined) return known as PeerPolicies;
  const steps = lookUpInSteps(set, principal ?? '');
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
}

/** The same for a peer that is already connected, yielding between steps: thousands of rules could concern it. */
export function* lookUpInSteps(set: PolicySet, principal: string): Generator<void, PeerPolicies> {
  const { tables } = set;
  const made: PeerPolicies = Object.freeze({
    set,
    custom: tables.CUSTOM.all,
    deny: yield* tableFor(tables.DENY, principal),
    allow: yield* tableFor(tables.ALLOW, principal),
    audit: yield* tableFor(tables.AUDIT, principal),
    otherwise: set.otherwise,
  });
  if (set.peers.size < maxPeers) set.peers.set(principal, made);
  return made;
}

/** Evaluates one request, or one TCP connection, of that peer. CUSTOM policies are not part of it. */
export function decide(peer: PeerPolicies, facts: RequestFacts): Decision {
  const denied = first(peer.deny, facts);
  if (denied !== undefined) return denied.verdict;
  return first(peer.allow, facts)?.verdict ?? peer.otherwise;
}

/** The AUDIT rule that marks this request, if any. */
export function auditOf(peer: PeerPolicies, facts: RequestFacts): string | undefined {
  return first(peer.audit, facts)?.verdict.policy;
}

/** The CUSTOM rules whose providers must be asked first: the first matching rule of each provider. */
export function customOf(peer: PeerPolicies, facts: RequestFacts): readonly CompiledRule[] {
  if (peer.custom.length === 0) return none;
  const found = new Map<string, CompiledRule>();
  for (const rule of peer.custom) {
    if (found.has(rule.provider!)) continue;
    const shape = facts.protocol === 'tcp' ? rule.tcp : rule.http;
    if (shape !== null && matches(shape, facts, undefined)) found.set(rule.provider!, rule);
  }
  return [...found.values()];
}

const none: readonly CompiledRule[] = [];

/** All rules of an action in the order of the documents, for explanations. */
export function rulesOf(set: PolicySet, action: Action): readonly CompiledRule[] {
  return set.tables[action].all;
}

function first(table: PeerTable, facts: RequestFacts): IndexedRule | undefined {
  const found = firstMatch(table.shared, facts, undefined);
  return table.own === undefined ? found : firstMatch(table.own, facts, found);
}

function* tableFor(table: RuleTable, principal: string): Generator<void, PeerTable> {
  const concerned = [...(table.byPrincipal.get(principal) ?? []), ...ofNamespaces(table, principal), ...table.unkeyed];
  if (concerned.length === 0) return { shared: table.shared, own: undefined };
  concerned.sort((a, b) => a.order - b.order);
  const facts = createFacts({ principal });
  const own = createIndex();
  for (const [at, rule] of concerned.entries()) {
    const left = forPeer(rule, facts);
    if (left !== undefined) addRule(own, left);
    if (at % rulesPerStep === rulesPerStep - 1) yield;
  }
  return { shared: table.shared, own: own.all.length === 0 ? undefined : own };
}

/** A path may contain `/ns/` several times; each of these namespaces counts. */
function ofNamespaces({ byNamespace }: RuleTable, principal: string): readonly CompiledRule[] {
  if (byNamespace.size === 0) return none;
  const found = new Set<CompiledRule>();
  for (const [, name = ''] of principal.matchAll(/\/ns(?=\/([^/]+)\/)/g))
    for (const rule of byNamespace.get(name) ?? []) found.add(rule);
  return [...found];
}

/** The rest of a rule once its peer is known; undefined if the rule cannot match this peer. */
function forPeer(rule: CompiledRule, facts: RequestFacts): IndexedRule | undefined {
  const http = shapeForPeer(rule.http, facts);
  // The test of the peer is the same on TCP.
  if (http === undefined) return undefined;
  return new PeerRule(rule, http, facts);
}

/** A rule for one peer; its TCP form is made on first use. */
class PeerRule implements IndexedRule {
  readonly order: number;
  readonly http: Shape;
  readonly #rule: CompiledRule;
  readonly #facts: RequestFacts;
  #tcp: Shape | null | undefined = undefined;

  constructor(rule: CompiledRule, http: Shape, facts: RequestFacts) {
    this.order = rule.order;
    this.http = http;
    this.#rule = rule;
    this.#facts = facts;
  }

  get to(): IndexedRule['to'] {
    return this.#rule.to;
  }

  get existsOnTcp(): boolean {
    return this.#rule.existsOnTcp;
  }

  get verdict(): Decision {
    return this.#rule.verdict;
  }

  get tcp(): Shape | null {
    if (this.#tcp === undefined) {
      const whole = this.#rule.tcp;
      this.#tcp = whole === null ? null : (shapeForPeer(whole, this.#facts) ?? null);
    }
    return this.#tcp;
  }
}

const nothing: Clause = Object.freeze([]);

function shapeForPeer({ sources, operations, conditions }: Shape, facts: RequestFacts): Shape | undefined {
  if (!peerHolds(conditions, facts)) return undefined;
  let left: Clause[] | undefined;
  if (sources !== undefined) {
    left = [];
    for (const source of sources) if (peerHolds(source, facts)) left.push(withoutPeer(source));
    if (left.length === 0) return undefined;
    // A source with no remaining checks is satisfied.
    if (left.some((clause) => clause.length === 0)) left = undefined;
  }
  return { sources: left, operations, conditions: withoutPeer(conditions) };
}

function peerHolds(clause: Clause, facts: RequestFacts): boolean {
  for (const check of clause) if (check.attribute.ofPeer && !check.holds(facts)) return false;
  return true;
}

function withoutPeer(clause: Clause): Clause {
  if (clause.length === 0) return nothing;
  const left = clause.filter(({ attribute }) => !attribute.ofPeer);
  return left.length === 0 ? nothing : left;
}
