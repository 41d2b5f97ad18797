// Policies made ready to decide. Each rule becomes lists of checks; all rules of one action are laid out by who they could
// concern, so that a peer's rules are found without looking at the others. Done in steps: 10,000 rules must not hold up
// traffic while they are compiled.

import { type Attribute, attributeOf, fields, type Holds } from './attributes.ts';
import { addRule, createIndex, type RuleIndex } from './index-rules.ts';
import { expandTrustDomain } from './match.ts';
import {
  type Action,
  type AuthorizationPolicy,
  type Decision,
  type FieldValues,
  isAttached,
  mintPermit,
  type PolicyScope,
  type Rule,
  type RuleName,
  refusalBy,
  ruleId,
} from './policy.ts';

/** One field of a rule with its values: the smallest thing that can hold or fail. */
export interface Check {
  /** As the document writes it: `paths`, `notPaths`, `when request.headers[x]`. */
  readonly field: string;
  readonly values: readonly string[];
  readonly negated: boolean;
  readonly attribute: Attribute;
  readonly holds: Holds;
}

/** Checks that must all hold. */
export type Clause = readonly Check[];

/** What a rule asks: one of the sources, one of the operations, all of the conditions. Undefined is 'any'. */
export interface Shape {
  readonly sources: readonly Clause[] | undefined;
  readonly operations: readonly Clause[] | undefined;
  readonly conditions: Clause;
}

export interface CompiledRule {
  /** Place among all rules of its action: of several that match, the first is named. */
  readonly order: number;
  readonly name: RuleName;
  readonly http: Shape;
  /** What is left of it on TCP; null when the rule does not exist there. */
  readonly tcp: Shape | null;
  readonly verdict: Decision;
  /** The document's own rule, for the index and for explanations. */
  readonly rule: Rule;
  /** CUSTOM: whom to ask. */
  readonly provider: string | undefined;
}

/** The rules of one action, by whom they could concern. */
export interface RuleTable {
  readonly all: readonly CompiledRule[];
  /** Rules that name their peers one by one, by URI; and by namespace. */
  readonly byPrincipal: ReadonlyMap<string, readonly CompiledRule[]>;
  readonly byNamespace: ReadonlyMap<string, readonly CompiledRule[]>;
  /** Rules that ask who the peer is in a way that has no key. */
  readonly unkeyed: readonly CompiledRule[];
  /** Rules that do not ask who the peer is: one index for all. */
  readonly shared: RuleIndex;
}

/** The policies of one workload, ready to decide. */
export interface PolicySet {
  readonly tables: Readonly<Record<Action, RuleTable>>;
  /** What happens when nothing matched. */
  readonly otherwise: Decision;
  /** Headers that some rule asks for, by lower-case name: the only ones worth remembering for an explanation. */
  readonly headers: ReadonlySet<string>;
  /** The rules for one peer, remembered: a map with a bound, filled by policiesFor. */
  readonly peers: Map<string, unknown>;
}

/** Rules compiled between two chances to do something else; a hundred take about a millisecond. */
const rulesPerStep = 100;

/** Compiles the policies that are attached to the workload; the rest is left out. Pure. */
export function compilePolicies(policies: readonly AuthorizationPolicy[], scope: PolicyScope): PolicySet {
  const steps = compileInSteps(policies, scope);
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
}

/** The same, yielding between steps. */
export function* compileInSteps(
  policies: readonly AuthorizationPolicy[],
  scope: PolicyScope,
): Generator<void, PolicySet> {
  const attached = policies.filter((policy) => isAttached(policy, scope));
  const headers = new Set<string>();
  const tables = {} as Record<Action, RuleTable>;
  for (const action of ['CUSTOM', 'DENY', 'ALLOW', 'AUDIT'] as const) {
    const rules: CompiledRule[] = [];
    for (const policy of attached) {
      if (policy.action !== action) continue;
      for (const [index, rule] of policy.rules.entries()) {
        const compiled = compileRule(policy, rule, index, rules.length, scope);
        rules.push(compiled);
        noteHeaders(compiled, headers);
        if (rules.length % rulesPerStep === 0) yield;
      }
    }
    tables[action] = yield* layOut(rules, scope);
  }
  // Istio, rule 3: without any ALLOW policy in scope everything is allowed. Ours: nothing is, unless it is asked for.
  const allowsByDefault = scope.defaultAction === 'allow' && !attached.some((policy) => policy.action === 'ALLOW');
  return Object.freeze({
    tables: Object.freeze(tables),
    otherwise: allowsByDefault ? mintPermit('default-action') : refusalBy('none'),
    headers,
    peers: new Map<string, unknown>(),
  });
}

function compileRule(
  policy: AuthorizationPolicy,
  rule: Rule,
  index: number,
  order: number,
  scope: PolicyScope,
): CompiledRule {
  const name: RuleName = Object.freeze({ namespace: policy.namespace, name: policy.name, rule: index });
  const values = { trustDomains: [scope.trustDomain, ...scope.trustDomainAliases], namespace: policy.namespace };
  const clause = (kind: 'source' | 'operation', one: FieldValues): Clause =>
    Object.entries(one).map(([field, list]) => {
      const negated = isNot(field);
      const row = rowOf(kind, field);
      return createCheck(field, list, negated, row, values);
    });
  const http: Shape = Object.freeze({
    sources: rule.from?.map((one) => clause('source', one)),
    operations: rule.to?.map((one) => clause('operation', one)),
    conditions: (rule.when ?? []).flatMap(({ key, values: yes = [], notValues: no = [] }) => {
      const row = attributeOf(key);
      if (row === undefined) throw new TypeError(`there is no attribute ${key}`);
      return [
        ...(yes.length === 0 ? [] : [createCheck(`when ${key}`, yes, false, row, values)]),
        ...(no.length === 0 ? [] : [createCheck(`when ${key} (notValues)`, no, true, row, values)]),
      ];
    }),
  });
  return Object.freeze({
    order,
    name,
    http,
    tcp: shapeForTcp(http, policy.action),
    verdict: verdictOf(policy, name),
    rule,
    provider: policy.provider,
  });
}

function createCheck(
  field: string,
  values: readonly string[],
  negated: boolean,
  attribute: Attribute,
  scope: { readonly trustDomains: readonly string[]; readonly namespace: string },
): Check {
  const match = attribute.compile(values, scope);
  // A negation is true of what is absent: nothing matches it.
  return Object.freeze({ field, values, negated, attribute, holds: negated ? (facts) => !match(facts) : match });
}

function isNot(field: string): boolean {
  return /^not[A-Z]/.test(field);
}

function rowOf(kind: 'source' | 'operation', field: string): Attribute {
  const plain = isNot(field) ? field.charAt(3).toLowerCase() + field.slice(4) : field;
  const row = (fields[kind] as Readonly<Record<string, Attribute>>)[plain];
  if (row === undefined) throw new TypeError(`there is no field ${field}`);
  return row;
}

function verdictOf(policy: AuthorizationPolicy, name: RuleName): Decision {
  if (policy.action === 'ALLOW') return mintPermit(ruleId(name), name);
  if (policy.action === 'CUSTOM') return refusalBy(`istio-ext-authz-${policy.provider}-${ruleId(name)}`, name);
  return refusalBy(ruleId(name), name);
}

/**
 * TCP knows no methods, paths, hosts, headers or tokens. An ALLOW rule that asks for them does not exist there (narrower);
 * any other loses just those fields (wider: DENY `methods: [POST]` without ports denies all TCP). Both fail closed.
 */
function shapeForTcp(http: Shape, action: Action): Shape | null {
  const all = [...(http.sources ?? []), ...(http.operations ?? []), http.conditions].flat();
  if (!all.some(({ attribute }) => attribute.httpOnly)) return http;
  if (action === 'ALLOW') return null;
  const reduce = (clause: Clause): Clause => clause.filter(({ attribute }) => !attribute.httpOnly);
  return Object.freeze({
    sources: http.sources?.map(reduce),
    operations: http.operations?.map(reduce),
    conditions: reduce(http.conditions),
  });
}

const header = /^when request\.headers\[([^\]]+)\]/;

function noteHeaders({ http }: CompiledRule, headers: Set<string>): void {
  for (const { field } of http.conditions) {
    const name = header.exec(field)?.[1];
    if (name !== undefined) headers.add(name.toLowerCase());
  }
}

// -- whom a rule could concern -------------------------------------------------------------------------------------------

function* layOut(rules: readonly CompiledRule[], scope: PolicyScope): Generator<void, RuleTable> {
  const byPrincipal = new Map<string, CompiledRule[]>();
  const byNamespace = new Map<string, CompiledRule[]>();
  const unkeyed: CompiledRule[] = [];
  const shared = createIndex();
  for (const [at, rule] of rules.entries()) {
    if (at % rulesPerStep === rulesPerStep - 1) yield;
    if (!asksForPeer(rule.http)) {
      addRule(shared, rule);
      continue;
    }
    const principals = exactPrincipals(rule.rule, scope);
    const namespaces = principals === undefined ? exactNamespaces(rule.rule) : undefined;
    if (principals !== undefined) for (const one of new Set(principals)) pushTo(byPrincipal, one, rule);
    else if (namespaces !== undefined) for (const one of new Set(namespaces)) pushTo(byNamespace, one, rule);
    else unkeyed.push(rule);
  }
  return Object.freeze({ all: Object.freeze(rules), byPrincipal, byNamespace, unkeyed, shared });
}

export function asksForPeer({ sources, conditions }: Shape): boolean {
  const isOfPeer = ({ attribute }: Check): boolean => attribute.ofPeer;
  return conditions.some(isOfPeer) || (sources?.some((clause) => clause.some(isOfPeer)) ?? false);
}

function pushTo(map: Map<string, CompiledRule[]>, key: string, rule: CompiledRule): void {
  const list = map.get(key);
  if (list === undefined) map.set(key, [rule]);
  else list.push(rule);
}

/** Every source names its principals one by one: then nobody else needs to ask this rule. */
function exactPrincipals(rule: Rule, scope: PolicyScope): readonly string[] | undefined {
  const lists = rule.from?.map((source) => source['principals']);
  if (lists === undefined || !lists.every((list) => list?.every((one) => !one.includes('*')))) return undefined;
  const names = [scope.trustDomain, ...scope.trustDomainAliases];
  return lists.flatMap((list) => list!.flatMap((one) => expandTrustDomain(one, names))).map((one) => `spiffe://${one}`);
}

function exactNamespaces(rule: Rule): readonly string[] | undefined {
  const lists = rule.from?.map((source) => source['namespaces']);
  // A namespace with a slash would stand for several segments, which have no one key.
  if (lists === undefined || !lists.every((list) => list?.every((one) => !/[*/]/.test(one)))) return undefined;
  return lists.flatMap((list) => list!);
}
