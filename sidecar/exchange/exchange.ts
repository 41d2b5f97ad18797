// The nouns of the path. An Exchange is one request in flight and, at the same time, the record that the access log
// writes: each step fills in what it learned. Types, and the one constructor that keeps the shape the same.

import { randomBytes } from 'node:crypto';
import type { SallyportError } from '../../cert-agent/base/errors.ts';
import type { PolicySet } from '../policy/compile.ts';
import type { RequestAuth } from '../policy/facts.ts';
import type { Ip } from '../policy/ip.ts';
import type { Authentication } from '../policy/jwt.ts';
import type { MtlsMode } from '../policy/mtls.ts';
import type { PathNormalization } from '../policy/path.ts';
import type { Decision, Permit, TunnelPermit } from '../policy/policy.ts';
import type { Vouched } from '../policy/transaction-token.ts';
import type { Authorizer } from './authorizer.ts';
import type { ConnectionFacts } from './connection-facts.ts';
import type { Carrier, Denial, Downstream, Received } from './ends.ts';
import type { Limits } from './limits.ts';
import type { FieldName, Fields, Framing, Reply } from './message.ts';
import type { Destination, RetryPolicy, RouteTimeouts, UpstreamPeer } from './upstream.ts';

/**
 * What one port does, under one generation of the configuration. An exchange takes it once, at its head, so that no
 * request sees half of two configurations.
 */
export interface PortRules {
  readonly generation: number;
  readonly direction: 'inbound' | 'outbound' | 'gateway';
  readonly protocol: 'http' | 'tcp';
  /** These are bytes on a port of requests: what is inside of the app's own TLS, nobody here has read. */
  readonly unread?: true;
  readonly limits: Limits;
  /** The port that policies see: the app's, not ours. */
  readonly policyPort: number;
  /** What an inbound port takes, and which document says so; absent on outbound ports, which are plain. */
  readonly mtls: { readonly mode: MtlsMode; readonly from: string } | undefined;
  /** Absent on outbound ports, where the table of upstreams permits. */
  readonly policies: PolicySet | undefined;
  /** The same with the policies that are on trial; absent where there are none. */
  readonly shadow: PolicySet | undefined;
  /** Whose tokens are verified, and how; absent where no document asks for it. */
  readonly authentication: Authentication | undefined;
  /** SPIFFE IDs of the peers whose word on users is taken: see policy/transaction-token.ts. Outbound nobody's. */
  readonly gateways: ReadonlySet<string>;
  /** By the name of their extension provider. */
  readonly authorizers: ReadonlyMap<string, Authorizer>;
  readonly pathNormalization: PathNormalization;
  /** Whether answers name the decision. */
  readonly decisionHeader: boolean;
  /** How many proxies' words on a client's address are believed; undefined: none's. */
  readonly numTrustedProxies: number | undefined;
  /** A pure look-up that refuses nothing: undefined is 'no route'. */
  findRoute(authority: string): Route | undefined;
  /** The same for streams that come through a gateway: by listener and server name. `last` is what an open one goes to. */
  findStream?(listener: string | undefined, serverName: string | undefined, last?: Route): Route | undefined;
  /** Listeners and routes of a gateway's port; absent in a sidecar. */
  readonly edge?: Edge | undefined;
  /** What applies to every request of the port, unless a rule of its own has more; absent where nothing does. */
  readonly phases?: Phases | undefined;
}

/** Where a request goes. */
export interface Route {
  /** `route_name` of the access log. */
  readonly name: string;
  /** Envoy's cluster name: `inbound|8080||` or `outbound|15006||web`. */
  readonly cluster: string;
  readonly destination: Destination;
  /** Outbound: minted with the table of upstreams. Inbound: policy decides for each request. */
  readonly permit: Permit | undefined;
  /** For CONNECT; absent where no tunnel may lead there. */
  readonly tunnelPermit?: TunnelPermit | undefined;
  /** Outbound: the identity that the upstream must prove, the first where there are several. */
  readonly principal: string | undefined;
  /** The others of several. */
  readonly otherPrincipals?: readonly string[];
  /** Absent: nothing is tried again but what died unseen in the pool. */
  readonly retry?: RetryPolicy | undefined;
  readonly timeouts?: RouteTimeouts | undefined;
  /** At a gateway, for a backend with filters of its own: what rule and backend do together. */
  readonly phases?: Phases | undefined;
}

/** One rule of a route. Frozen, and made when the documents are compiled. */
export interface EdgeRule {
  /** `route_name` of the access log: `httproute/shop/orders/rule/0`. */
  readonly name: string;
  /** What a preflight for it gets, as text; absent where its app answers them. */
  readonly preflight?: ((exchange: Exchange) => string) | undefined;
  /** What it answers whatever is asked, because it, or a policy that is attached to it, cannot be served as it was meant. */
  readonly broken: SallyportError | undefined;
  readonly phases: Phases;
  /** It answers every request itself, and needs no backend. */
  readonly answers: boolean;
  readonly permit: Permit;
  /** Which of its backends this exchange gets; undefined where the rule needs none. */
  backendFor(exchange: Exchange): Route | undefined;
}

/** What one port of a gateway serves, under one generation. */
export interface Edge {
  /** The listener whose host name this is, the most precise one, and its rule for the request, if there is one. Refuses nothing. */
  find(exchange: Exchange): Found;
  /** Headers, in lower case, in which the policy of any rule says who a caller is: from outside nobody says that, on no route. */
  readonly ownHeaders: ReadonlySet<string>;
  /** Headers, in lower case, that any policy names: they are judged in heads, and do not pass in trailers. */
  readonly namedHeaders: ReadonlySet<string>;
  /** Whether a client may set a field that is a proxy's to set: `unsafeClientHeaders` of gateway.yaml. */
  mayClientSet(name: FieldName): boolean;
  /** Of the policies of all rules: a credential that was sent to the wrong route is one all the same. */
  readonly secrets: EdgeSecrets;
}

/** Where credentials stand in a target: not for a log. */
export interface EdgeSecrets {
  /** Parameters of the query. */
  readonly params: readonly string[];
  /** Paths whose query is a credential as a whole. */
  readonly paths: ReadonlySet<string>;
}

export interface Found {
  /** Undefined: no listener has that name. */
  readonly listener: string | undefined;
  readonly rule: EdgeRule | undefined;
}

/** A step of a request. It returns a promise only when it really waits. It may respond, or throw a SallyportError to refuse. */
export type Step = (exchange: Exchange, connection: ConnectionFacts) => undefined | void | Promise<void>;

/**
 * Sends the upstream's response on to `exchange.downstream`. To change the body it puts itself in front of that. `fail` ends the
 * exchange with an error.
 */
export type ResponseFilter = (
  exchange: Exchange,
  reply: Reply,
  whole: Buffer | undefined,
  fail: (error: unknown) => void,
) => void;

/** What one guard of a rule keeps for the next generation to compare with. */
export interface Guard {
  /** The capability. */
  readonly name: string;
  /** A digest of the policy that it is compiled from, with its Secrets; empty where it is from no policy. */
  readonly of: string;
  /** What identifies callers: compared by `stillHolds` of the next generation. */
  readonly known: unknown;
  /**
   * Whether a caller who was let in under `before` would be let in under this guard. `before` is what the same capability knew
   * then; undefined when it did not guard that rule.
   */
  stillHolds(exchange: Exchange, before: unknown): boolean;
}

/** What one rule, or one port, does in each phase. Frozen; empty lists cost nothing. */
export interface Phases {
  /** From the head to authorization: admit, authenticate, ask authorizers, limit. */
  readonly before: readonly Step[];
  /** Synchronous, because it is run again on every change. @throws SallyportError `policy_denied`. */
  readonly authorize: readonly ((exchange: Exchange, connection: ConnectionFacts) => void)[];
  /** With permission and before forwarding: gather the body, inspect it, respond in place of the backend. */
  readonly serve: readonly Step[];
  /** Changes what is forwarded. */
  readonly rewrite: readonly ((exchange: Exchange) => void)[];
  /** After the request has been forwarded. */
  readonly forwarded: readonly ((exchange: Exchange, clientCert: string | undefined) => void)[];
  /** Changes the fields of the upstream's response. */
  readonly received: readonly ((exchange: Exchange, reply: Reply) => Fields)[];
  /** Changes the fields of any final response, the gateway's own included. */
  readonly reply: readonly ((exchange: Exchange, reply: Reply) => Fields)[];
  /** Sends the upstream's response on, with its body. */
  readonly body: ResponseFilter | undefined;
  /** Changes how a refusal is worded. */
  readonly denial: readonly ((exchange: Exchange, denial: Denial) => Denial)[];
  /** Gives back what was taken for the exchange, once, when it has finished. */
  readonly finished: readonly ((exchange: Exchange) => void)[];
  /** Who is asked about the request, between authentication and limits. */
  readonly authorizers: readonly Authorizer[];
  readonly guards: readonly Guard[];
}

/** Tells this process's runs apart: connections are counted from 1 in each. */
const runId = randomBytes(4).toString('hex');

/** One request in flight, and its record. Created with all its fields, so that all exchanges share one shape. */
export class Exchange {
  readonly connection: ConnectionFacts;
  /** Whoever changes the answer on its way puts himself in front of the codec. */
  downstream: Downstream;
  readonly rules: PortRules;
  /** Wall clock, milliseconds. */
  readonly startedAt: number;
  /** performance.now(), milliseconds. */
  readonly started: number;

  /** The how many-th on its connection, from 1. */
  readonly number: number;

  method = '';
  target = '';
  /** The target's path and query after normalisation: what policies match (without query) and what the app receives. */
  path = '';
  authority = '';
  minor = 1;
  fields: Fields;
  hopFields: readonly string[] | undefined = undefined;
  /** Names, in lower case, that steps took out of the request, whoever sent them. */
  taken: ReadonlySet<string> | undefined = undefined;
  /** The external authorizers that were asked about it. */
  judges: readonly Authorizer[] | undefined = undefined;
  framing: Framing = 0;
  /** No more of its body is taken than this; a codec refuses what comes past it. */
  bodyLimit = Number.POSITIVE_INFINITY;
  /** The whole request body where it arrived with the head. */
  wholeBody: Buffer | undefined = undefined;
  keepAlive = true;
  webSocket = false;
  expectContinue = false;
  requestId = '';
  requestIdGiven = false;
  userAgent: string | undefined = undefined;
  forwardedFor: string | undefined = undefined;
  /** Its Content-Type says gRPC. */
  grpc = false;

  route: Route | undefined = undefined;
  /** At a gateway: the listener that the host names, and the rule that matches. */
  listener: string | undefined = undefined;
  edge: EdgeRule | undefined = undefined;
  /** The session that keeps a client to one backend, where its rule has one. */
  session: string | undefined = undefined;
  /** What the client sees in its address bar, at a gateway. */
  scheme: 'http' | 'https' = 'http';
  /** The policy that decided: its id, `none`, or `-` before a decision. */
  policy = '-';
  /** The AUDIT rule that marks it. */
  auditPolicy: string | undefined = undefined;
  /** What would be decided if the policies on trial were in force; absent where there are none. */
  shadow: Decision | undefined = undefined;
  decision: '-' | 'allow' | 'deny' = '-';
  /** What the request's token says, once it was verified, and until when it is good: wall clock, milliseconds. */
  auth: RequestAuth | undefined = undefined;
  tokenValidUntil = Number.POSITIVE_INFINITY;
  /** Whom a gateway takes the caller for, where that is no token: an API key's client, a user's name. */
  clientId: string | undefined = undefined;
  /** How it knows: `jwt`, `oidc`, `introspection`, `apiKey`, `basic`, `certificate`. */
  authMethod: string | undefined = undefined;
  /** The client's address as a gateway sees it, behind the proxies that it trusts; undefined in a sidecar. */
  clientIp: Ip | undefined = undefined;
  /** What a gateway says of the user, in a transaction token that was verified. */
  vouched: Vouched | undefined = undefined;
  /** The documents under which tokens were looked for, and the request as it came, for asking again. */
  authenticatedBy: Authentication | undefined = undefined;
  received: Received | undefined = undefined;
  /** Until when that decision can hold, wall clock: the end of the certificates that it rests on. */
  validUntil = Number.POSITIVE_INFINITY;
  carrier: Carrier | undefined = undefined;

  /** How it is refused, where the refusal has words of its own. */
  denial: Denial | undefined = undefined;
  /** Fields of ours that go with whatever is answered. */
  replyFields: Fields | undefined = undefined;

  status = 0;
  /** The answer's `grpc-status`; -1 where there is none. */
  grpcStatus = -1;
  /** gRPC messages that passed each way. */
  requestMessages = 0;
  replyMessages = 0;
  flag = '-';
  details = '-';
  /** The refusal's code and sentence, for the log. */
  failure: SallyportError | undefined = undefined;
  bytesReceived = 0;
  bytesSent = 0;
  upstreamAddress: string | undefined = undefined;
  upstreamLocalAddress: string | undefined = undefined;
  /** How often it was to go to an upstream, whether that came about or not. */
  upstreamAttempts = 0;
  upstreamPeer: UpstreamPeer | undefined = undefined;
  /** What is added for whichever of several identities the upstream proves. */
  addressed: ((peer: string) => readonly [string, string]) | undefined = undefined;
  /** Milliseconds from sending the head upstream to the first byte of the answer; -1 before that. */
  upstreamSentAt = 0;
  upstreamServiceMs = -1;
  responded = false;
  finished = false;
  /** What the rule does beside passing it on; the port's until the rule is known. */
  phases: Phases | undefined;
  /** State of single capabilities: see `Slot`. */
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

  /** Which decision it was: the run of the process, the generation that decided, the connection, and the how many-th on it. */
  get decisionId(): string {
    return `${runId}-${this.rules.generation}-${this.connection.id}-${this.number}`;
  }
}

let nextSlot = 0;

/** One capability's own state of an exchange. Slots differ by identity; the state is the exchange's. */
export class Slot<T> {
  readonly #index = nextSlot++;

  get({ slots }: Exchange): T | undefined {
    return slots?.[this.#index] as T | undefined;
  }

  set(exchange: Exchange, value: T | undefined): void {
    exchange.slots ??= [];
    exchange.slots[this.#index] = value;
  }
}
