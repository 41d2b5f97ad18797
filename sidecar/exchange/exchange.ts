// The types of the path. An Exchange is one request in flight and, at the same time, the record that the access log
// writes: each step fills in its results. Types, and one constructor that keeps the shape the same.

import { randomBytes } from 'node:crypto';
import { performance } from 'node:perf_hooks';
import type { SallyportError } from '../../cert-agent/base/errors.ts';
import type { PolicySet } from '../policy/compile.ts';
import type { RequestAuth } from '../policy/facts.ts';
import type { Ip } from '../policy/ip.ts';
import type { Authentication } from '../policy/jwt.ts';
import type { MtlsMode } from '../policy/mtls.ts';
import type { PathNormalization } from '../policy/path.ts';
import type { Decision, Permit, TunnelPermit } from '../policy/policy.ts';
import type { Authorizer } from './authorizer.ts';
import type { ConnectionFacts } from './connection-facts.ts';
import type { Carrier, Denial, Downstream, Noted, Received } from './ends.ts';
import type { Limits } from './limits.ts';
import type { FieldName, Fields, Framing, Reply } from './message.ts';
import type { Destination, RetryPolicy, RouteTimeouts, UpstreamPeer } from './upstream.ts';

/**
 * The rules of one port in one generation of the configuration. An exchange takes them once, at its head, so that no
 * request sees half of two configurations.
 */
export interface PortRules {
  readonly generation: number;
  readonly direction: 'inbound' | 'outbound' | 'gateway';
  readonly protocol: 'http' | 'tcp';
  /** True for bytes on a port of requests: they are inside the app's own TLS and cannot be read here. */
  readonly unread?: true;
  readonly limits: Limits;
  /** The port that policies see: the app's, not ours. */
  readonly policyPort: number;
  /** What an inbound port accepts, and the document that says so; absent on outbound ports, which are plaintext. */
  readonly mtls: { readonly mode: MtlsMode; readonly from: string } | undefined;
  /** Absent on outbound ports, where the table of upstreams permits. */
  readonly policies: PolicySet | undefined;
  /** With the dry-run policies included; absent if there are none. */
  readonly shadow: PolicySet | undefined;
  /** The rules for tokens; absent if no document requires them. */
  readonly authentication: Authentication | undefined;
  /**
   * SPIFFE IDs of the peers whose assertions about users are accepted: see policy/transaction-token.ts. Empty on
   * outbound ports.
   */
  readonly gateways: ReadonlySet<string>;
  /** By the name of their extension provider. */
  readonly authorizers: ReadonlyMap<string, Authorizer>;
  readonly pathNormalization: PathNormalization;
  /** True if responses name the decision. */
  readonly decisionHeader: boolean;
  /** The number of proxies whose statement of the client's address is trusted; undefined: none. */
  readonly numTrustedProxies: number | undefined;
  /** A pure lookup that refuses nothing: undefined means no route. */
  findRoute(authority: string): Route | undefined;
  /** The same for streams through a gateway, by listener and server name. `last` is the route of an open stream. */
  findStream?(listener: string | undefined, serverName: string | undefined, last?: Route): Route | undefined;
  /** Listeners and routes of a gateway's port; absent in a sidecar. */
  readonly edge?: Edge | undefined;
  /** For every request of the port, unless its rule has more; absent if there is nothing. */
  readonly phases?: Phases | undefined;
  /** What the guards among these phases say, in a sidecar. */
  readonly traits?: PortTraits | undefined;
}

/** The destination of a request. */
export interface Route {
  /** `route_name` of the access log. */
  readonly name: string;
  /** Envoy's cluster name: `inbound|8080||` or `outbound|15006||web`. */
  readonly cluster: string;
  readonly destination: Destination;
  /** Outbound: minted with the table of upstreams. Inbound: policy decides for each request. */
  readonly permit: Permit | undefined;
  /** For CONNECT; absent if no tunnel may lead there. */
  readonly tunnelPermit?: TunnelPermit | undefined;
  /** Outbound: the identity that the upstream must prove; the first of several. */
  readonly principal: string | undefined;
  /** The other identities, if there are several. */
  readonly otherPrincipals?: readonly string[];
  /** Absent: only requests whose pooled connection had died unnoticed are retried. */
  readonly retry?: RetryPolicy | undefined;
  readonly timeouts?: RouteTimeouts | undefined;
  /** At a gateway, for a backend with filters of its own: the hooks of rule and backend together. */
  readonly phases?: Phases | undefined;
}

/** One rule of a route. Frozen; made when the documents are compiled. */
export interface EdgeRule {
  /** `route_name` of the access log: `httproute/shop/orders/rule/0`. */
  readonly name: string;
  /**
   * A digest of what the rule is: its route, matches, filters and backends, and the policies that apply. The name counts
   * rules, and may be another rule's in the next generation.
   */
  readonly digest: () => string;
  /** The allowed methods for a preflight, as text; absent if the app answers preflights. */
  readonly preflight?: ((exchange: Exchange) => string) | undefined;
  /** The response to every request of a rule that, or whose policy, cannot be served as intended. */
  readonly broken: SallyportError | undefined;
  readonly phases: Phases;
  /** True if it responds to every request itself and needs no backend. */
  readonly answers: boolean;
  readonly permit: Permit;
  /** The backend for this exchange; undefined if the rule needs none. */
  backendFor(exchange: Exchange): Route | undefined;
}

/** What one port of a gateway serves in one generation. */
export interface Edge extends PortTraits {
  /** The most specific listener with this host name, and its rule for the request, if any. Refuses nothing. */
  find(exchange: Exchange): Found;
  /** True if clients may set a field that proxies set: `unsafeClientHeaders` of gateway.yaml. */
  mayClientSet(name: FieldName): boolean;
}

/** What guards say about all requests of a port. */
export interface PortTraits {
  /** Headers, in lower case, in which some policy identifies callers to apps: clients may set them on no route. */
  readonly ownHeaders: ReadonlySet<string>;
  /** Headers, in lower case, that any policy names: they are evaluated in heads, and removed from trailers. */
  readonly namedHeaders: ReadonlySet<string>;
  /** From the policies of all rules: a credential sent to the wrong route is still a credential. */
  readonly secrets: EdgeSecrets;
}

/** The places of credentials in a target: they are not logged. */
export interface EdgeSecrets {
  /** Parameters of the query. */
  readonly params: readonly string[];
  /** Paths whose query is a credential as a whole. */
  readonly paths: ReadonlySet<string>;
}

/** The listener of a host, and its rule. */
export interface Found {
  /** Undefined: no listener has that name. */
  readonly listener: string | undefined;
  readonly rule: EdgeRule | undefined;
}

/**
 * A step of a request. It returns a promise only if it really waits. It may respond, or throw a SallyportError to
 * refuse.
 */
export type Step = (exchange: Exchange, connection: ConnectionFacts) => undefined | void | Promise<void>;

/**
 * Sends the upstream's response to `exchange.downstream`. To change the body, it puts itself in front of that. `fail`
 * ends the exchange with an error.
 */
export type ResponseFilter = (
  exchange: Exchange,
  reply: Reply,
  whole: Buffer | undefined,
  fail: (error: unknown) => void,
) => void;

/**
 * Sees the upstream's response before it is sent. For a body that comes in pieces, it may return a downstream that
 * stands in front of `inner` and sees each piece.
 */
export type ResponseWatch = (
  exchange: Exchange,
  reply: Reply,
  whole: Buffer | undefined,
) => ((inner: Downstream) => Downstream) | undefined;

/** What one guard of a rule keeps for comparison with the next generation. */
export interface Guard {
  /** The capability. */
  readonly name: string;
  /** A digest of its policy, with the policy's Secrets; empty if it has no policy. */
  readonly of: string;
  /** What identifies callers: `stillHolds` of the next generation compares it. */
  readonly known: unknown;
  /**
   * True if a caller who was accepted under `before` would be accepted under this guard. `before` is what the same
   * capability knew then; undefined if it did not guard that rule.
   */
  stillHolds(exchange: Exchange, before: unknown): boolean;
}

/** The hooks of one rule, or of one port, by phase. Frozen; empty lists cost nothing. */
export interface Phases {
  /** From the head to authorization: admit, authenticate, ask authorizers, limit. */
  readonly before: readonly Step[];
  /** Synchronous, because it runs again at every change. @throws SallyportError `policy_denied`. */
  readonly authorize: readonly ((exchange: Exchange, connection: ConnectionFacts) => void)[];
  /** After permission and before forwarding: gathers the body, inspects it, or responds instead of the backend. */
  readonly serve: readonly Step[];
  /** Changes what is forwarded. */
  readonly rewrite: readonly ((exchange: Exchange) => void)[];
  /** After the request has been forwarded. */
  readonly forwarded: readonly ((exchange: Exchange, clientCert: string | undefined) => void)[];
  /** Changes the fields of the upstream's response. */
  readonly received: readonly ((exchange: Exchange, reply: Reply) => Fields)[];
  /** Changes the fields of any final response, the gateway's own included. */
  readonly reply: readonly ((exchange: Exchange, reply: Reply) => Fields)[];
  /** Reads the upstream's response as it came. */
  readonly watch: readonly ResponseWatch[];
  /** Sends the upstream's response with its body. */
  readonly body: ResponseFilter | undefined;
  /** Changes the text of a refusal. */
  readonly denial: readonly ((exchange: Exchange, denial: Denial) => Denial)[];
  /** Releases what the exchange took, once, when it has finished. */
  readonly finished: readonly ((exchange: Exchange) => void)[];
  /** The authorizers, called between authentication and limits. */
  readonly authorizers: readonly Authorizer[];
  readonly guards: readonly Guard[];
}

/** Differs for each run of the process: connections are counted from 1 in each. */
const runId = randomBytes(4).toString('hex');

/** How the IDs of all decisions on a connection begin under one generation of the configuration. */
export function decisionPrefix(generation: number, connection: number): string {
  return `${runId}-${generation}-${connection}-`;
}

let refusals = 0;

/** Names a refusal that is no decision about a request. */
export function refusalId(): string {
  return `${runId}-r${++refusals}`;
}

/** One request in flight, and its record. Created with all its fields, so that all exchanges share one shape. */
export class Exchange {
  readonly connection: ConnectionFacts;
  /** Response filters wrap the codec here. */
  downstream: Downstream;
  readonly rules: PortRules;
  /** Wall clock, milliseconds. */
  readonly startedAt: number;
  /** performance.now(), milliseconds. */
  readonly started: number;

  /** Its sequence number on its connection, from 1. */
  readonly number: number;

  method = '';
  target = '';
  /** The target's path and query after normalisation: what policies match (without query) and what the app receives. */
  path = '';
  authority = '';
  minor = 1;
  fields: Fields;
  hopFields: readonly string[] | undefined = undefined;
  /** Lower-case names that steps removed from the request, no matter whether the client or a step had set them. */
  taken: ReadonlySet<string> | undefined = undefined;
  /** The external authorizers that were called. */
  judges: readonly Authorizer[] | undefined = undefined;
  framing: Framing = 0;
  /** The limit of its body; the codec refuses what exceeds it. */
  bodyLimit = Number.POSITIVE_INFINITY;
  /** The whole request body if it arrived with the head. */
  wholeBody: Buffer | undefined = undefined;
  keepAlive = true;
  webSocket = false;
  expectContinue = false;
  requestId = '';
  requestIdGiven = false;
  userAgent: string | undefined = undefined;
  forwardedFor: string | undefined = undefined;
  /** The field `traceparent`; '' if it came twice, which names no trace. */
  traceParent: string | undefined = undefined;
  /** True if its Content-Type is gRPC. */
  grpc = false;

  route: Route | undefined = undefined;
  /** At a gateway: the listener of the host, and the rule that matches. */
  listener: string | undefined = undefined;
  edge: EdgeRule | undefined = undefined;
  /** At a gateway: the target as the client sees it. */
  scheme: 'http' | 'https' = 'http';
  /** The policy that decided: its id, `none`, or `-` before a decision. */
  policy = '-';
  /** The AUDIT rule that matches. */
  auditPolicy: string | undefined = undefined;
  /** The decision if the dry-run policies were in force; absent if there are none. */
  shadow: Decision | undefined = undefined;
  decision: '-' | 'allow' | 'deny' = '-';
  /** The claims of the verified token, and its expiry: wall clock, milliseconds. */
  auth: RequestAuth | undefined = undefined;
  tokenValidUntil = Number.POSITIVE_INFINITY;
  /** The caller's name at a gateway, if it is not from a token: an API key's client, or a user. */
  clientId: string | undefined = undefined;
  /** The method of authentication: `jwt`, `oidc`, `introspection`, `apiKey`, `basic`, `certificate`. */
  authMethod: string | undefined = undefined;
  /** The client's address at a gateway, behind the proxies that it trusts; undefined in a sidecar. */
  clientIp: Ip | undefined = undefined;
  /** The request as received, for a new evaluation. */
  received: Received | undefined = undefined;
  /** The end of the certificates that the decision rests on, wall clock. */
  validUntil = Number.POSITIVE_INFINITY;
  carrier: Carrier | undefined = undefined;

  /** The refusal's response, if it has its own text. */
  denial: Denial | undefined = undefined;
  /** Our fields for any response. */
  replyFields: Fields | undefined = undefined;

  status = 0;
  /** The response's `grpc-status`; -1 without one. */
  grpcStatus = -1;
  /** gRPC messages in each direction. */
  requestMessages = 0;
  replyMessages = 0;
  flag = '-';
  details = '-';
  /** The refusal's code and message, for the log. */
  failure: SallyportError | undefined = undefined;
  /** What single capabilities add to the access log: see `noteInLog`. */
  noted: readonly Noted[] | undefined = undefined;
  bytesReceived = 0;
  bytesSent = 0;
  upstreamAddress: string | undefined = undefined;
  upstreamLocalAddress: string | undefined = undefined;
  /** The number of attempts to reach an upstream, failed ones included. */
  upstreamAttempts = 0;
  upstreamPeer: UpstreamPeer | undefined = undefined;
  /** Milliseconds from sending the head upstream to the first byte of the response; -1 before that. */
  upstreamServiceMs = -1;
  responded = false;
  finished = false;
  /** The hooks of the rule; those of the port until the rule is found. */
  phases: Phases | undefined;
  /** State of single capabilities and steps: see `Slot`. */
  slots: unknown[] | undefined = undefined;

  constructor(connection: ConnectionFacts, downstream: Downstream, rules: PortRules, fields: Fields) {
    this.connection = connection;
    this.downstream = downstream;
    this.rules = rules;
    this.phases = rules.phases;
    this.fields = fields;
    this.number = ++connection.requests;
    this.startedAt = Date.now();
    this.started = performance.now();
  }

  /** Names the decision: the run of the process, the generation, the connection, and the request's number on it. */
  get decisionId(): string {
    return `${decisionPrefix(this.rules.generation, this.connection.id)}${this.number}`;
  }
}

let nextSlot = 0;

/** A capability's, or one step's, own state of an exchange. Slots are compared by identity; the state belongs to the exchange. */
export class Slot<T> {
  readonly #index = nextSlot++;

  /** Undefined until it was set for this exchange. */
  get({ slots }: Exchange): T | undefined {
    return slots?.[this.#index] as T | undefined;
  }

  /** Undefined clears it. Nothing is cleared when the exchange ends. */
  set(exchange: Exchange, value: T | undefined): void {
    exchange.slots ??= [];
    exchange.slots[this.#index] = value;
  }
}
