// The contract of a capability of the edge: what a rule can do with a request beside passing it on. Each capability is
// one folder of edge/ and one line of capabilities.ts, and nothing else of the program names it.
//
// Refusals have their codes in base/errors.ts, which is one table for the whole program. Timeouts, retries, load
// balancing and health checks are not capabilities: they are properties of an upstream's connections (upstream/).

import type { Registry } from 'prom-client';
import type { ZodType } from 'zod';
import type { Log } from '../../cert-agent/base/log.ts';
import type { Authorizer } from '../exchange/authorizer.ts';
import type { Guard, Phases, Route, Step } from '../exchange/exchange.ts';
import type { Destination } from '../exchange/upstream.ts';
import type { KeySource, TokenObserver } from '../policy/jwt.ts';
import type { JwtRule } from '../policy/request-authentication.ts';
import type { RedisLink } from './redis-link.ts';

/**
 * Where a capability is configured. For SecurityPolicy, BackendTrafficPolicy and the two settings files `name` is a
 * field of the spec or the file; for `filter` it is a filter type of HTTPRoute; for `rule` a field of a route's rule.
 * Any other kind is a document of ours (`sallyport.dev`), whose whole spec beside its targets is the plan; `name` is
 * the kind again.
 */
export interface Field {
  readonly kind:
    | 'SecurityPolicy'
    | 'BackendTrafficPolicy'
    | 'filter'
    | 'rule'
    | 'gateway.yaml'
    | 'sidecar.yaml'
    | `sallyport.dev/${string}`;
  readonly name: string;
  /** The schema, which parses the field as written into the plan. Only the process that reads documents loads it. */
  readonly schema: () => Promise<ZodType>;
  /** For a filter: the field that holds it, and where it may stand. */
  readonly filter?: FilterPlace;
}

export interface FilterPlace {
  /** `requestMirror` for the type `RequestMirror`. */
  readonly key: string;
  /** In a GRPCRoute as well. */
  readonly grpc: boolean;
  /** Several times in one rule. */
  readonly repeatable: boolean;
}

/** Where a policy's plan is in force, for a look at what no single document shows. */
export interface InForce {
  /** `namespace/name` of the policy. */
  readonly policy: string;
  /** The host names of the rules that are under it; with a star where a route has one. */
  readonly hosts: readonly string[];
}

/** The rules that a GET of this URL meets, on each port that serves it, and whether they are under the policy. */
export type RulesFor = (url: URL) => readonly { readonly name: string; readonly underPolicy: boolean }[];

/** Why a plan does not come to what it was meant for: a condition of its policy. */
export interface Review {
  readonly type: string;
  readonly reason: string;
  readonly message: string;
}

/** A capability that decides nothing about who or what may pass. */
export interface Service<Plan, Shared> extends Common<Plan, Shared> {
  readonly guards: false;
  compile(plans: readonly Planned<Plan>[], at: Site<Shared>): Hooks | undefined;
}

/**
 * A capability that decides who or what may pass. A stream of bytes under a policy with such a field is refused, since
 * nothing of it can be evaluated.
 */
export interface Guarding<Plan, Shared> extends Common<Plan, Shared> {
  /** `callers`: who is calling is known by it. `requests`: it knows nobody, and refuses some requests. */
  readonly guards: 'callers' | 'requests';
  /** Header names, in lower case, that only the gateway may set under this plan: removed from what clients send. */
  ownHeaders(plan: Plan, field: string): readonly string[];
  /** Names of query parameters that may hold a credential: none of them is logged. */
  secretParams(plan: Plan, field: string): readonly string[];
  /** Paths whose whole query is a credential. */
  secretPaths?(plan: Plan, field: string): readonly string[];
  compile(plans: readonly Planned<Plan>[], at: Site<Shared>): GuardHooks | undefined;
}

interface Common<Plan, Shared> {
  /** The folder, and the key in metrics and messages. */
  readonly name: string;
  readonly fields: readonly Field[];
  /** Makes what outlives a configuration: connections, counters, tables. Once for each process. */
  share?(process: EdgeProcess): Shared | Promise<Shared>;
  /** The same for a process that serves nothing (`--check`). */
  shareDry?(process: DryProcess): Shared;
  /**
   * Whether nothing of a less specific policy's plan is lost under a more specific one's. By default, whether they are
   * equal.
   */
  keeps?(below: Plan, above: Plan): boolean;
  /** A plan that was merged from a policy and `parent`, whose name is `of`: what of it is the parent's. */
  inherited?(merged: Plan, parent: Plan, of: string): Plan;
  /** Backends that a policy's plan names beside those of the rule. */
  backends?(plan: Plan): readonly NamedBackend[];
  /**
   * Hooks are the same for all rules of one policy, and are kept until the policy or one of its Secrets changes.
   * Without it they are compiled for each rule of each generation.
   */
  readonly perPolicy?: true;
  /** Fields of gateway.yaml that name files which it reads: kept hooks are compiled anew when one of them changes. */
  readonly files?: readonly string[];
  /** Plans of several documents all apply. Without it the first applies, in the order of the fields. */
  readonly combines?: true;
  /** Compiled for every rule of a gateway, also for those without a plan. */
  readonly always?: true;
  /** What is doubtful about a plan where it is in force: a sentence each. */
  doubts?(plan: Plan, inForce: InForce): readonly string[];
  /** Why a plan does not work with what is served; undefined where it does. */
  review?(plan: Plan, inForce: InForce, rulesFor: RulesFor): Review | undefined;
  /** Requests of one client keep to one endpoint: the pools of such a rule are balanced by session. */
  readonly sticks?: true;
}

export type Capability<Plan = never, Shared = never> = Service<Plan, Shared> | Guarding<Plan, Shared>;

/** A capability whose plan and state are its own affair. */
// biome-ignore lint/suspicious/noExplicitAny: the one place where the types of all capabilities meet
export type AnyCapability = Capability<any, any>;

/** A plan with the document that it stands in. */
export interface Planned<Plan> {
  /** The name of its field. */
  readonly field: string;
  readonly plan: Plan;
  /** `namespace/name` of the policy, or the name of the rule. */
  readonly of: string;
}

/** What one rule does by this capability, by phase. What is absent costs nothing. */
export interface Hooks {
  /** Before the caller is known, also on a rule that cannot be served: sizes, preflights. */
  readonly admit?: Step;
  /** Who is calling. */
  readonly authenticate?: Step;
  /** After every capability has had its say: refuses callers that none of them knows. */
  readonly authenticated?: Step;
  /** Who else is asked. */
  readonly authorizer?: Authorizer;
  /** How much a known caller may send. */
  readonly limit?: Step;
  /** Whether the known caller may send this. Synchronous: it is run again on every change. */
  readonly authorize?: Phases['authorize'][number];
  /** With permission, before forwarding: gather the body, inspect it, or respond in place of the backend. */
  readonly serve?: Step;
  /** Changes what is forwarded. */
  readonly rewrite?: Phases['rewrite'][number];
  /** Runs once the request is on its way. */
  readonly forwarded?: Phases['forwarded'][number];
  /** Returns the fields of the backend's response, changed. It does not see the gateway's own responses. */
  readonly received?: Phases['received'][number];
  /** Returns the fields of any final response, changed: the backend's after `received`, and the gateway's own. */
  readonly reply?: Phases['reply'][number];
  /** One capability of a rule at most has it. */
  readonly body?: Phases['body'];
  /** Changes how a refusal is worded. */
  readonly denial?: Phases['denial'][number];
  /** Gives back what was taken for the exchange, once, however it ended. */
  readonly finished?: Phases['finished'][number];
  /** It has no effect on a rule without a plan. */
  readonly guard?: Omit<Guard, 'name' | 'of'>;
  /** A number from 0 to 1 that chooses among the rule's backends, in place of a random one. */
  readonly share?: (exchange: Parameters<Step>[0]) => number;
  /** What a preflight for this rule would get, as text: rules that differ in it are not confused. */
  readonly preflight?: (exchange: Parameters<Step>[0]) => string;
  /** The rule needs no backend: every request is answered in `serve`. */
  readonly answers?: true;
  /** Providers whose keys are needed. */
  readonly jwtRules?: readonly JwtRule[];
}

/** Of a capability that guards: who still holds after a change is not optional. */
export interface GuardHooks extends Hooks {
  readonly guard: Omit<Guard, 'name' | 'of'>;
}

/** A backend that a plan names. */
export interface NamedBackend {
  readonly group: string;
  readonly kind: string;
  readonly name: string;
  readonly namespace?: string | undefined;
  readonly port?: number | undefined;
  /** It is spoken to in gRPC, and so in HTTP/2. */
  readonly grpc?: boolean;
}

/** Where hooks are compiled: one rule, or one policy where they are kept. */
export interface Site<Shared> {
  /** `httproute/shop/orders/rule/0`, or `SecurityPolicy shop/users`. */
  readonly name: string;
  /** `namespace/name` of the policy; empty for a rule's own filters. */
  readonly policy: string;
  readonly shared: Shared;
  /** The path prefix that the rule's only match asks for; `/` where there is none. */
  readonly prefix: string;
  /**
   * The path that the rule's only match asks for, exact or as a prefix; `/` where there is none. Cookies belong there.
   */
  readonly path: string;
  /** The plans of other capabilities at the same place, by field name. */
  readonly beside: (field: string) => readonly unknown[];
  /** A Secret's data, decoded. @throws SallyportError `config_invalid` when there is none of that name. */
  secret(name: string, field: string): Readonly<Record<string, string>>;
  /** The endpoints of a backend that the plan of `field` names. @throws SallyportError `config_invalid`. */
  destination(backend: NamedBackend, field: string): { readonly destination: Destination; readonly authority: string };
  /** The same for a backend of the rule's own filters; undefined where it cannot be reached. */
  route(backend: object): Route | undefined;
  /** Tells the operator something about the documents. */
  warn(message: string): void;
  /** The files that a field of gateway.yaml names, as text by name; undefined where it names none. */
  files(field: string): Readonly<Record<string, string>> | undefined;
}

/** What there is of a process that serves nothing. */
export interface DryProcess {
  keysOf(rule: JwtRule): KeySource;
  /** gateway.yaml names a Redis. */
  readonly hasRedis: boolean;
}

/** What a capability may use of the process that serves. */
export interface EdgeProcess {
  readonly registry: Registry;
  readonly log: Log;
  readonly workers: EdgeWorkers;
  /** What the processes of several gateways share; undefined where gateway.yaml names none. It may be away. */
  readonly redis: RedisLink | undefined;
  keysOf(rule: JwtRule): KeySource;
  readonly observeToken: TokenObserver;
  /** Runs when the process leaves, in the order of the calls. */
  onClose(close: () => void): void;
}

/** The processes of one gateway. What must be one over all of them lies with the first. */
export interface EdgeWorkers {
  readonly count: number;
  /** In the first: answers the others. `gone` hears of a worker that has ended. */
  serve(part: { answer(worker: number, question: unknown): unknown; gone?(worker: number): void }): void;
  /** In the first: tells all others. */
  tellAll(message: unknown): void;
  /** In another: the way to the first; undefined in the first. */
  readonly first: FirstWorker | undefined;
}

export interface FirstWorker {
  /** Undefined where there is no answer in time; `late` hears of one that comes then. Never rejects. */
  ask<T>(question: unknown, late?: (answer: T) => void): Promise<T | undefined>;
  tell(message: unknown): void;
  /** Hears what the first tells all. */
  onTold(listener: (message: unknown) => void): void;
}
