// The nouns of authorization, and what makes a policy ready to decide: each rule becomes matchers for who asks and for
// what is asked, and one frozen verdict, so that a decision hands one out and allocates nothing.

import {
  compileNamespaces,
  compilePorts,
  compilePrincipals,
  compileStrings,
  localTrustDomain,
  type Match,
} from './match.ts';

/** The workload that policies are attached to. */
export interface Workload {
  readonly namespace: string;
  readonly serviceAccount: string;
  readonly labels: Readonly<Record<string, string>>;
}

export interface Source {
  readonly principals?: readonly string[];
  readonly notPrincipals?: readonly string[];
  readonly namespaces?: readonly string[];
  readonly notNamespaces?: readonly string[];
}

export interface Operation {
  readonly hosts?: readonly string[];
  readonly notHosts?: readonly string[];
  readonly ports?: readonly string[];
  readonly notPorts?: readonly string[];
  readonly methods?: readonly string[];
  readonly notMethods?: readonly string[];
  readonly paths?: readonly string[];
  readonly notPaths?: readonly string[];
}

export interface Rule {
  /** Absent: any source. */
  readonly from?: readonly Source[];
  /** Absent: any operation. */
  readonly to?: readonly Operation[];
}

/** An AuthorizationPolicy of security.istio.io, read and checked. */
export interface AuthorizationPolicy {
  readonly name: string;
  readonly namespace: string;
  readonly action: 'ALLOW' | 'DENY';
  /** Absent: all workloads of the namespace, or of the mesh in the root namespace. */
  readonly matchLabels?: Readonly<Record<string, string>>;
  readonly rules: readonly Rule[];
  readonly file: string;
  readonly line: number;
}

let make: (policy: string) => Permit;

/** The proof that something may pass. Nothing can be forwarded without one, and only this module makes them. */
export class Permit {
  /** The rule that admits, `ns[shop]-policy[web]-rule[0]`; `default-action`; or `upstream[orders]` outbound. */
  readonly policy: string;
  /** Keeps a look-alike object from passing for a permit in the type checker's eyes. */
  readonly #minted = true;

  private constructor(policy: string) {
    this.policy = policy;
    Object.freeze(this);
  }

  static {
    make = (policy) => new Permit(policy);
  }

  static is(value: object): value is Permit {
    return #minted in value;
  }
}

/** Makes a permit. For the two that compile them: policies (here) and the table of upstreams (held by a test). */
export function mintPermit(policy: string): Permit {
  return make(policy);
}

export interface Refusal {
  readonly code: 'policy_denied';
  /** The DENY rule that matched, or `none` when no ALLOW rule did. */
  readonly policy: string;
  /** Envoy's words for `response_code_details`. */
  readonly details: string;
}

export type Decision = Permit | Refusal;

export function isPermit(decision: Decision): decision is Permit {
  return Permit.is(decision);
}

/** What of a request policy looks at, apart from who sent it. */
export interface RequestFacts {
  readonly protocol: 'http' | 'tcp';
  readonly method: string;
  /** Normalised, without query. */
  readonly path: string;
  /** The authority as it was received. */
  readonly host: string;
  readonly port: number;
}

/** One operation of a rule; undefined fields are not asked. */
export interface CompiledOperation {
  readonly methods: Match | undefined;
  readonly paths: Match | undefined;
  readonly hosts: Match | undefined;
  readonly ports: ((port: number) => boolean) | undefined;
}

export interface CompiledRule {
  /** Place among all rules of its action: of several that match, the first is named. */
  readonly order: number;
  /** Principals that this rule names one by one, so that it need not be asked for others; undefined if it cannot tell. */
  readonly exactPrincipals: readonly string[] | undefined;
  /** Does the peer match `from`? Null is a peer without identity. */
  readonly from: (principal: string | null) => boolean;
  /** Undefined: any operation. */
  readonly http: readonly CompiledOperation[] | undefined;
  /** What is left of it on TCP; null when the rule does not exist there. */
  readonly tcp: readonly CompiledOperation[] | undefined | null;
  /** Paths, if every operation names them exactly and positively. */
  readonly exactPaths: readonly string[] | undefined;
  readonly verdict: Decision;
}

/** The policies of one workload, ready to decide. */
export interface PolicySet {
  readonly deny: readonly CompiledRule[];
  readonly allow: readonly CompiledRule[];
  /** What happens when nothing matched. */
  readonly otherwise: Decision;
  /** The rules for one peer, remembered: a map with a bound, filled by policiesFor. */
  readonly peers: Map<string, PeerPolicies>;
}

/** The rules that could concern one peer, by exact path where they name one. */
export interface PeerPolicies {
  readonly deny: RuleIndex;
  readonly allow: RuleIndex;
  readonly otherwise: Decision;
}

export interface RuleIndex {
  readonly byPath: ReadonlyMap<string, readonly CompiledRule[]>;
  readonly rest: readonly CompiledRule[];
  /** All of them, in order: TCP has no path to look up. */
  readonly all: readonly CompiledRule[];
}

export interface PolicyScope {
  readonly trustDomain: string;
  /** Policies of this namespace hold for the whole mesh. */
  readonly rootNamespace: string;
  readonly workload: Workload;
  readonly defaultAction: 'deny' | 'allow';
}

/** Compiles the policies that are attached to the workload; the rest is left out. Pure. */
export function compilePolicies(policies: readonly AuthorizationPolicy[], scope: PolicyScope): PolicySet {
  const attached = policies.filter((policy) => isAttached(policy, scope));
  const compile = (action: AuthorizationPolicy['action']): CompiledRule[] =>
    attached
      .filter((policy) => policy.action === action)
      .flatMap((policy) => policy.rules.map((rule, index) => ({ policy, rule, index })))
      .map(({ policy, rule, index }, order) => compileRule(policy, rule, index, order, scope));
  // Istio, rule 3: without any ALLOW policy in scope everything is allowed. Ours: nothing is, unless it is asked for.
  const allowsByDefault = scope.defaultAction === 'allow' && !attached.some((policy) => policy.action === 'ALLOW');
  return Object.freeze({
    deny: compile('DENY'),
    allow: compile('ALLOW'),
    otherwise: allowsByDefault ? mintPermit('default-action') : refusalOf('none'),
    peers: new Map<string, PeerPolicies>(),
  });
}

/** Root namespace: mesh-wide. Elsewhere: its own namespace. In both `matchLabels` narrows to workloads that bear all. */
function isAttached(policy: AuthorizationPolicy, { rootNamespace, workload }: PolicyScope): boolean {
  if (policy.namespace !== rootNamespace && policy.namespace !== workload.namespace) return false;
  return Object.entries(policy.matchLabels ?? {}).every(([label, value]) => workload.labels[label] === value);
}

function compileRule(
  policy: AuthorizationPolicy,
  rule: Rule,
  index: number,
  order: number,
  scope: PolicyScope,
): CompiledRule {
  const id = `ns[${policy.namespace}]-policy[${policy.name}]-rule[${index}]`;
  return Object.freeze({
    order,
    exactPrincipals: exactPrincipalsOf(rule, scope.trustDomain),
    from: compileFrom(rule.from, scope.trustDomain),
    http: rule.to?.map((operation) => compileOperation(operation)),
    tcp: compileForTcp(rule, policy.action),
    exactPaths: exactPathsOf(rule.to),
    verdict: policy.action === 'ALLOW' ? mintPermit(id) : refusalOf(id),
  });
}

/** `from`: the sources are alternatives, the fields of one source must all hold, a `not` field excludes all its values. */
function compileFrom(sources: readonly Source[] | undefined, trustDomain: string): CompiledRule['from'] {
  if (sources === undefined) return () => true;
  const tests = sources.map((source) => {
    const principals = compilePrincipals(source.principals, trustDomain);
    const notPrincipals = compilePrincipals(source.notPrincipals, trustDomain);
    const namespaces = compileNamespaces(source.namespaces);
    const notNamespaces = compileNamespaces(source.notNamespaces);
    return function matchSource(principal: string | null): boolean {
      // An absent attribute matches nothing, and every negation of it holds.
      const uri = principal ?? '';
      if (principals !== undefined && !principals(uri)) return false;
      if (notPrincipals?.(uri)) return false;
      if (namespaces !== undefined && !namespaces(uri)) return false;
      return !notNamespaces?.(uri);
    };
  });
  return (principal) => tests.some((test) => test(principal));
}

function compileOperation(operation: Operation): CompiledOperation {
  return Object.freeze({
    methods: both(compileStrings(operation.methods), compileStrings(operation.notMethods)),
    paths: both(compileStrings(operation.paths), compileStrings(operation.notPaths)),
    // Hosts are the one field that is matched without regard to case; the port is part of what is matched, as in Istio.
    hosts: both(compileStrings(operation.hosts, true), compileStrings(operation.notHosts, true)),
    ports: compilePorts(operation.ports, operation.notPorts),
  });
}

/**
 * TCP knows no methods, paths or hosts. An ALLOW rule that asks for them does not exist there (narrower); a DENY rule
 * loses just those fields (wider: `methods: [POST]` without ports denies all TCP). Both fail closed.
 */
function compileForTcp(rule: Rule, action: AuthorizationPolicy['action']): CompiledRule['tcp'] {
  if (rule.to === undefined) return undefined;
  if (action === 'ALLOW' && rule.to.some(asksForHttp)) return null;
  return rule.to.map(({ ports, notPorts }) =>
    compileOperation({ ...(ports && { ports }), ...(notPorts && { notPorts }) }),
  );
}

function asksForHttp(operation: Operation): boolean {
  return Object.keys(operation).some((field) => field !== 'ports' && field !== 'notPorts');
}

function both(yes: Match | undefined, no: Match | undefined): Match | undefined {
  if (no === undefined) return yes;
  return yes === undefined ? (value) => !no(value) : (value) => yes(value) && !no(value);
}

/** Every source names its principals exactly: then nobody else needs to ask this rule. */
function exactPrincipalsOf(rule: Rule, trustDomain: string): readonly string[] | undefined {
  if (rule.from === undefined) return undefined;
  const all = rule.from.map((source) => source.principals);
  if (!all.every((list) => list?.every((one) => !one.includes('*')))) return undefined;
  return all.flatMap((list) => list ?? []).map((one) => `spiffe://${localTrustDomain(one, trustDomain)}`);
}

function exactPathsOf(operations: readonly Operation[] | undefined): readonly string[] | undefined {
  const all = operations?.map((operation) => operation.paths);
  if (!all?.every((list) => list?.every((one) => !one.includes('*')))) return undefined;
  return all.flatMap((list) => list ?? []);
}

function refusalOf(policy: string): Refusal {
  const details = `rbac_access_denied_matched_policy[${policy}]`.replace(/\s/g, '_');
  return Object.freeze({ code: 'policy_denied', policy, details });
}
