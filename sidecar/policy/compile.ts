// Compiles policies. Each rule becomes lists of checks, and all rules of one action are indexed by the peers they could
// concern, so that a peer's rules are found without looking at the others. Done in steps: 10,000 rules must not hold up
// traffic while they are compiled.

import { type Attribute, attributeOf, fields, headerOf, type ValueScope } from './attributes.ts';
import { addRule, createIndex, type IndexedRule, type RuleIndex } from './index-rules.ts';
import { expandTrustDomain } from './match.ts';
import {
  type Action,
  type AuthorizationPolicy,
  customPrefix,
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
import { Check, type Clause, type Shape } from './shape.ts';

/**
 * A rule of the documents. Its checks are compiled on first use: of 10,000 rules most concern no connected peer, and
 * compiling them all would take time and memory for nothing.
 */
export class CompiledRule implements IndexedRule {
  /** Position among all rules of its action: if several match, the first is named. */
  readonly order: number;
  /** The document's own rule, for the index and for explanations. */
  readonly rule: Rule;
  readonly #index: number;
  readonly #policy: AuthorizationPolicy;
  readonly #scope: ValueScope;
  #http: Shape | undefined = undefined;
  #tcp: Shape | null | undefined = undefined;
  #verdict: Decision | undefined = undefined;

  constructor(policy: AuthorizationPolicy, index: number, order: number, scope: ValueScope) {
    this.order = order;
    this.rule = policy.rules[index]!;
    this.#index = index;
    this.#policy = policy;
    this.#scope = scope;
  }

  /** Made anew by each call. */
  get name(): RuleName {
    const { namespace, name } = this.#policy;
    return { namespace, name, rule: this.#index };
  }

  /** The provider that a CUSTOM rule asks. */
  get provider(): string | undefined {
    return this.#policy.provider;
  }

  /** Absent: any operation. */
  get to(): readonly FieldValues[] | undefined {
    return this.rule.to;
  }

  /**
   * Istio drops a whole ALLOW rule that has HTTP fields from TCP; of DENY, AUDIT and CUSTOM rules only those fields.
   */
  get existsOnTcp(): boolean {
    return this.#policy.action !== 'ALLOW' || !asksForHttp(this.rule);
  }

  /** The whole rule. Compiled at the first call, so that rules that are never asked for cost nothing. */
  get http(): Shape {
    this.#http ??= compileShape(this.rule, this.#scope);
    return this.#http;
  }

  /** The part of the rule that exists on TCP; null if none does. */
  get tcp(): Shape | null {
    if (this.#tcp === undefined) this.#tcp = this.existsOnTcp ? shapeForTcp(this.http) : null;
    return this.#tcp;
  }

  /** The decision if this rule decides: one frozen object for all requests. */
  get verdict(): Decision {
    this.#verdict ??= verdictOf(this.#policy, this.name);
    return this.#verdict;
  }
}

/** The rules of one action, indexed by the peers they could concern. */
export interface RuleTable {
  readonly all: readonly CompiledRule[];
  /** Rules that list their peers one by one, by URI; and by namespace. */
  readonly byPrincipal: ReadonlyMap<string, readonly CompiledRule[]>;
  readonly byNamespace: ReadonlyMap<string, readonly CompiledRule[]>;
  /** Rules that test the peer in a way that has no key. */
  readonly unkeyed: readonly CompiledRule[];
  /** Rules that do not test the peer: one index for all peers. */
  readonly shared: RuleIndex;
}

/** The compiled policies of one workload. */
export interface PolicySet {
  readonly tables: Readonly<Record<Action, RuleTable>>;
  /** The decision if nothing matches. */
  readonly otherwise: Decision;
  /** Headers that some rule tests, by lower-case name: the only ones worth keeping for an explanation. */
  readonly headers: ReadonlySet<string>;
  /** The rules of each peer, cached: a bounded map, filled by policiesFor. */
  readonly peers: Map<string, unknown>;
}

/** Rules visited between two yields, and rules compiled between two: visiting is quick. */
const rulesPerStep = 100;
const compiledPerStep = 25;
/**
 * A peer with more rules than this has them compiled with the configuration, so that its first request does not wait.
 */
const fewRules = 200;

/** Compiles the policies that are attached to the workload and skips the rest. Pure. */
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
  const trustDomains = Object.freeze([scope.trustDomain, ...scope.trustDomainAliases]);
  const headers = new Set<string>();
  const tables = {} as Record<Action, RuleTable>;
  for (const action of ['CUSTOM', 'DENY', 'ALLOW', 'AUDIT'] as const) {
    const rules: CompiledRule[] = [];
    for (const policy of attached) {
      if (policy.action !== action) continue;
      const values = { trustDomains, namespace: policy.namespace };
      for (const [index, rule] of policy.rules.entries()) {
        rules.push(new CompiledRule(policy, index, rules.length, values));
        noteHeaders(rule, headers);
        if (rules.length % rulesPerStep === 0) yield;
      }
    }
    tables[action] = yield* layOut(rules, trustDomains);
  }
  // Istio, rule 3: without any ALLOW policy in scope everything is allowed. Our default is to deny, unless configured.
  const allowsByDefault = scope.defaultAction === 'allow' && !attached.some((policy) => policy.action === 'ALLOW');
  return Object.freeze({
    tables: Object.freeze(tables),
    otherwise: allowsByDefault ? mintPermit('default-action') : refusalBy('none'),
    headers,
    peers: new Map<string, unknown>(),
  });
}

function compileShape(rule: Rule, scope: ValueScope): Shape {
  const clause = (kind: 'source' | 'operation', one: FieldValues): Clause =>
    Object.entries(one).map(([field, values]) => new Check(field, values, isNot(field), rowOf(kind, field), scope));
  return Object.freeze({
    sources: rule.from?.map((one) => clause('source', one)),
    operations: rule.to?.map((one) => clause('operation', one)),
    conditions: (rule.when ?? []).flatMap(({ key, values: yes = [], notValues: no = [] }) => {
      const row = attributeOf(key);
      if (row === undefined) throw new TypeError(`there is no attribute ${key}`);
      return [
        ...(yes.length === 0 ? [] : [new Check(`when ${key}`, yes, false, row, scope)]),
        ...(no.length === 0 ? [] : [new Check(`when ${key} (notValues)`, no, true, row, scope)]),
      ];
    }),
  });
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
  if (policy.action === 'CUSTOM') return refusalBy(`${customPrefix}${policy.provider}-${ruleId(name)}`, name);
  return refusalBy(ruleId(name), name);
}

/**
 * TCP has no methods, paths, hosts, headers or tokens. An ALLOW rule that tests them does not exist there (narrower);
 * any other rule loses just those fields (wider: DENY `methods: [POST]` without ports denies all TCP). Both fail
 * closed.
 */
function shapeForTcp(http: Shape): Shape {
  const reduce = (clause: Clause): Clause => clause.filter(({ attribute }) => !attribute.httpOnly);
  return Object.freeze({
    sources: http.sources?.map(reduce),
    operations: http.operations?.map(reduce),
    conditions: reduce(http.conditions),
  });
}

function asksForHttp({ from = [], to = [], when = [] }: Rule): boolean {
  const inFields = (kind: 'source' | 'operation', list: readonly FieldValues[]): boolean =>
    list.some((one) => Object.keys(one).some((field) => rowOf(kind, field).httpOnly));
  return inFields('source', from) || inFields('operation', to) || when.some(({ key }) => attributeOf(key)?.httpOnly);
}

function asksForPeer({ from = [], when = [] }: Rule): boolean {
  return (
    from.some((one) => Object.keys(one).some((field) => rowOf('source', field).ofPeer)) ||
    when.some(({ key }) => attributeOf(key)?.ofPeer)
  );
}

function noteHeaders({ when = [] }: Rule, headers: Set<string>): void {
  for (const { key } of when) {
    const name = headerOf(key);
    if (name !== undefined) headers.add(name);
  }
}

// -- the peers a rule could concern
// --------------------------------------------------------------------------------------

function* layOut(rules: readonly CompiledRule[], trustDomains: readonly string[]): Generator<void, RuleTable> {
  const byPrincipal = new Map<string, CompiledRule[]>();
  const byNamespace = new Map<string, CompiledRule[]>();
  const unkeyed: CompiledRule[] = [];
  const shared = createIndex();
  for (const [at, rule] of rules.entries()) {
    if (at % rulesPerStep === rulesPerStep - 1) yield;
    if (!asksForPeer(rule.rule)) {
      addRule(shared, rule);
      continue;
    }
    const principals = exactPrincipals(rule.rule, trustDomains);
    const namespaces = principals === undefined ? exactNamespaces(rule.rule) : undefined;
    if (principals !== undefined) for (const one of principals) pushTo(byPrincipal, one, rule);
    else if (namespaces !== undefined) for (const one of namespaces) pushTo(byNamespace, one, rule);
    else unkeyed.push(rule);
  }
  yield* compileAhead(shared.all);
  for (const list of [unkeyed, ...byPrincipal.values(), ...byNamespace.values()])
    if (list.length > fewRules) yield* compileAhead(list);
  return Object.freeze({ all: Object.freeze(rules), byPrincipal, byNamespace, unkeyed, shared });
}

/** Compiles ahead the rules that would take too long on the first request. */
function* compileAhead(rules: readonly IndexedRule[]): Generator<void> {
  for (const [at, rule] of rules.entries()) {
    prepare(rule.http);
    if (rule.existsOnTcp) void rule.tcp;
    if (at % compiledPerStep === compiledPerStep - 1) yield;
  }
}

function prepare({ sources = [], operations = [], conditions }: Shape): void {
  for (const clause of [...sources, ...operations, conditions]) for (const check of clause) check.prepare();
}

function pushTo(map: Map<string, CompiledRule[]>, key: string, rule: CompiledRule): void {
  const list = map.get(key);
  if (list === undefined) map.set(key, [rule]);
  // A rule may list the same one twice.
  else if (list.at(-1) !== rule) list.push(rule);
}

/** The principals of a rule whose every source lists them one by one: no other peer needs this rule. */
function exactPrincipals(rule: Rule, trustDomains: readonly string[]): readonly string[] | undefined {
  const lists = rule.from?.map((source) => source['principals']);
  if (lists === undefined || !lists.every((list) => list?.every((one) => !one.includes('*')))) return undefined;
  return lists
    .flatMap((list) => list!.flatMap((one) => expandTrustDomain(one, trustDomains)))
    .map((one) => `spiffe://${one}`);
}

function exactNamespaces(rule: Rule): readonly string[] | undefined {
  const lists = rule.from?.map((source) => source['namespaces']);
  // A namespace with a slash would stand for several segments, so it has no single key.
  if (lists === undefined || !lists.every((list) => list?.every((one) => !/[*/]/.test(one)))) return undefined;
  return lists.flatMap((list) => list!);
}
