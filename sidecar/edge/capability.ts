// The contract of a capability of the edge: what a rule can do with a request beside forwarding it. Each capability is
// one folder of edge/ and one line of capabilities.ts; nothing else in the program names it.
//
// Refusals have their codes in base/errors.ts, the one table of the program. Timeouts, retries, load balancing and
// health checks are not capabilities: they are properties of an upstream's connections (upstream/).

import type { Registry } from 'prom-client';
import type { ZodType } from 'zod';
import type { Page } from '../../cert-agent/base/admin.ts';
import type { Log } from '../../cert-agent/base/log.ts';
import type { Authorizer } from '../exchange/authorizer.ts';
import type { Guard, Phases, Route, Step } from '../exchange/exchange.ts';
import type { Onward } from '../exchange/onward.ts';
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
  /** In a document of ours: null is a value. Otherwise a field with null counts as absent, as in a cluster. */
  readonly keepsNulls?: true;
  /**
   * What of a valid plan has no effect, or is unwise. The operator is warned. Not read for BackendTrafficPolicy and
   * gateway.yaml.
   */
  readonly warnings?: (plan: never) => readonly PlanWarning[];
  /** In a SecurityPolicy: what does not fit `others`, the fields of the same policy as parsed. It is refused then. */
  readonly mismatches?: (plan: never, others: Readonly<Record<string, unknown>>) => readonly PlanWarning[];
  /** In a SecurityPolicy: the plan with names that contain the policy's `namespace/name`. */
  readonly named?: (plan: never, policy: string) => unknown;
  /** For a filter: the field that holds it, and where it is allowed. */
  readonly filter?: FilterPlace;
}

/** A sentence about a part of a plan. */
export interface PlanWarning {
  /** The path from the plan. */
  readonly path: readonly (string | number)[];
  readonly message: string;
}

/** Where a filter is written. */
export interface FilterPlace {
  /** `requestMirror` for the type `RequestMirror`. */
  readonly key: string;
  /** Allowed in a GRPCRoute as well. */
  readonly grpc: boolean;
  /** Allowed several times in one rule. */
  readonly repeatable: boolean;
}

/** The rules under a policy's plan, for a review across documents. */
export interface InForce {
  /** `namespace/name` of the policy. */
  readonly policy: string;
  /** The host names of its rules; with a star if a route has one. */
  readonly hosts: readonly string[];
}

/** The rules that a GET of this URL reaches, on each port that serves it, and whether the policy applies to them. */
export type RulesFor = (url: URL) => readonly { readonly name: string; readonly underPolicy: boolean }[];

/** Why a plan does not work as intended: a condition of its policy. */
export interface Review {
  readonly type: string;
  readonly reason: string;
  readonly message: string;
}

/** A capability that does not decide who or what may pass. */
export interface Service<Plan, Shared> extends Common<Plan, Shared> {
  readonly guards: false;
  /** Undefined: nothing to do for these plans. @throws SallyportError for what cannot be compiled. */
  compile(plans: readonly Planned<Plan>[], at: Site<Shared>): Hooks | undefined;
}

/**
 * A capability that decides who or what may pass. A stream of bytes under a policy with such a field is refused, since
 * nothing of it can be evaluated.
 */
export interface Guarding<Plan, Shared> extends Common<Plan, Shared> {
  /** `callers`: it authenticates callers. `requests`: it authenticates none, and refuses some requests. */
  readonly guards: 'callers' | 'requests';
  /** Header names, in lower case, that only the gateway may set under this plan: removed from what clients send. */
  ownHeaders(plan: Plan, field: string): readonly string[];
  /** Names of query parameters that may hold a credential: they are not logged. */
  secretParams(plan: Plan, field: string): readonly string[];
  /** Paths whose whole query is a credential. */
  secretPaths?(plan: Plan, field: string): readonly string[];
  /** Undefined only without plans. @throws SallyportError: the rule is then closed. */
  compile(plans: readonly Planned<Plan>[], at: Site<Shared>): GuardHooks | undefined;
}

interface Common<Plan, Shared> {
  /** The folder, and the key in metrics and messages. */
  readonly name: string;
  readonly fields: readonly Field[];
  /** Creates what outlives a configuration (connections, counters, tables), once per process. */
  share?(process: EdgeProcess): Shared | Promise<Shared>;
  /** The same for a process that serves nothing (`--check`). */
  shareDry?(process: DryProcess): Shared;
  /** Pages of the admin port, in the first worker. */
  pages?(shared: Shared): readonly Page[];
  /**
   * True if a more specific policy's plan keeps everything of a less specific one's. By default, if they are equal.
   */
  keeps?(below: Plan, above: Plan): boolean;
  /** The part that came from `parent`, whose name is `of`, in a merged plan. */
  inherited?(merged: Plan, parent: Plan, of: string): Plan;
  /** It calls the rule's backends in gRPC, which needs HTTP/2. */
  readonly callsGrpc?: true;
  /** Backends that a policy's plan names beside those of the rule. */
  backends?(plan: Plan): readonly NamedBackend[];
  /**
   * Hooks are the same for all rules of one policy, and are kept until the policy or one of its Secrets changes.
   * Otherwise they are compiled for each rule of each generation.
   */
  readonly perPolicy?: true;
  /** Fields of gateway.yaml with files that it reads: kept hooks are compiled again when one of them changes. */
  readonly files?: readonly string[];
  /** Plans of several documents all apply. Otherwise the first applies, in the order of the fields. */
  readonly combines?: true;
  /** Compiled for every rule of a gateway, including those without a plan. */
  readonly always?: true;
  /** Warnings about a plan where it is in force: a sentence each. */
  doubts?(plan: Plan, inForce: InForce): readonly string[];
  /** Why a plan does not work with what is served; undefined if it does. */
  review?(plan: Plan, inForce: InForce, rulesFor: RulesFor): Review | undefined;
  /** In a sidecar it works on inbound ports only: it is about the app's own API. */
  readonly inboundOnly?: true;
  /** Requests of one client stay with one endpoint: the pools of such a rule are balanced by session. */
  readonly sticks?: true;
}

/** A capability of either kind. */
export type Capability<Plan = never, Shared = never> = Service<Plan, Shared> | Guarding<Plan, Shared>;

/** A capability whose types of plan and state are hidden. */
// biome-ignore lint/suspicious/noExplicitAny: the one place where the types of all capabilities meet
export type AnyCapability = Capability<any, any>;

/** A plan with its document. */
export interface Planned<Plan> {
  /** The name of its field. */
  readonly field: string;
  readonly plan: Plan;
  /** `namespace/name` of the policy, or the name of the rule. */
  readonly of: string;
}

/** A capability's hooks for one rule, by phase. An absent hook costs nothing. */
export interface Hooks {
  /** Before authentication, also on a rule that cannot be served: sizes, preflights. */
  readonly admit?: Step;
  /** Authenticates the caller. */
  readonly authenticate?: Step;
  /** After all capabilities: refuses callers that none of them has authenticated. */
  readonly authenticated?: Step;
  /** An external authorizer. */
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
  /** Reads the backend's response, and changes nothing of it. */
  readonly watch?: Phases['watch'][number];
  /** At most one capability of a rule has it. */
  readonly body?: Phases['body'];
  /** Changes how a refusal is worded. */
  readonly denial?: Phases['denial'][number];
  /** Gives back what was taken for the exchange, once, however it ended. */
  readonly finished?: Phases['finished'][number];
  /** For kept hooks: runs once, when no generation uses them any more. */
  readonly dropped?: () => void;
  /** It has no effect on a rule without a plan. */
  readonly guard?: Omit<Guard, 'name' | 'of'>;
  /** A number from 0 to 1 that chooses among the rule's backends, instead of a random one. */
  readonly share?: (exchange: Parameters<Step>[0]) => number;
  /** The response to a preflight for this rule, as text: rules that differ in it stay separate. */
  readonly preflight?: (exchange: Parameters<Step>[0]) => string;
  /** The rule needs no backend: `serve` responds to every request. */
  readonly answers?: true;
  /** Providers whose keys are needed. */
  readonly jwtRules?: readonly JwtRule[];
}

/** For a capability that guards, the check after a change is mandatory. */
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
  /** It is called in gRPC, and so in HTTP/2. */
  readonly grpc?: boolean;
}

/**
 * What hooks are compiled for: one rule, or one policy if they are kept; in a sidecar, all ports. A sidecar has no
 * documents of a gateway: there `secret`, `destination` and `route` throw `config_invalid`, and a plan with `backends`
 * is refused.
 */
export interface Site<Shared> {
  /** `httproute/shop/orders/rule/0`, or `SecurityPolicy shop/users`. */
  readonly name: string;
  /** `namespace/name` of the policy; empty for a rule's own filters. */
  readonly policy: string;
  readonly shared: Shared;
  /** The path prefix of the rule's only match; `/` without one. */
  readonly prefix: string;
  /** The path of the rule's only match, exact or as a prefix; `/` without one. Cookies are set for it. */
  readonly path: string;
  /** The plans of other capabilities at the same place, by field name. */
  readonly beside: (field: string) => readonly unknown[];
  /** A Secret's data, decoded. @throws SallyportError `config_invalid` if there is none of that name. */
  secret(name: string, field: string): Readonly<Record<string, string>>;
  /** The endpoints of a backend that the plan of `field` names. @throws SallyportError `config_invalid`. */
  destination(backend: NamedBackend, field: string): { readonly destination: Destination; readonly authority: string };
  /** The same for a backend of the rule's own filters; undefined if it cannot be reached. */
  route(backend: object): Route | undefined;
  /** Warns the operator about the documents. */
  warn(message: string): void;
  /** The files that a field of gateway.yaml names, as text by name; undefined if it names none. */
  files(field: string): Readonly<Record<string, string>> | undefined;
}

/** What a process that serves nothing has. */
export interface DryProcess {
  /** The keys of a rule. Keys of a URI are fetched when a token first needs them, which none does here. */
  keysOf(rule: JwtRule): KeySource;
  /** True if gateway.yaml names a Redis. */
  readonly hasRedis: boolean;
}

/** What a capability may use of the process that serves. */
export interface EdgeProcess {
  readonly registry: Registry;
  readonly log: Log;
  readonly workers: EdgeWorkers;
  /** The Redis that several gateways share; undefined if gateway.yaml names none. It may be away. */
  readonly redis: RedisLink | undefined;
  /** For what fetches responses itself. */
  readonly onward: Onward;
  /** The keys of a rule. Keys of a URI are fetched when a token first needs them. */
  keysOf(rule: JwtRule): KeySource;
  readonly observeToken: TokenObserver;
  /** Runs when the process leaves, in the order of the calls. */
  onClose(close: () => void): void;
}

/** The processes of one gateway. State that all share is kept in the first. */
export interface EdgeWorkers {
  readonly count: number;
  /** In the first: answers the others. `gone` is called when a worker has ended. */
  serve(part: { answer(worker: number, question: unknown): unknown; gone?(worker: number): void }): void;
  /** In the first: sends to all others. */
  tellAll(message: unknown): void;
  /** In another: the link to the first; undefined in the first. */
  readonly first: FirstWorker | undefined;
}

/** The link of one capability to the first worker. */
export interface FirstWorker {
  /** Resolves with undefined if there is no answer in time; `late` gets an answer that comes later. Never rejects. */
  ask<T>(question: unknown, late?: (answer: T) => void): Promise<T | undefined>;
  /** As `ask`, without an answer. */
  tell(message: unknown): void;
  /** Receives what the first sends to all. */
  onTold(listener: (message: unknown) => void): void;
}
