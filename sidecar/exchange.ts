// The nouns of the path. An Exchange is one request in flight and, at the same time, the record that the access log
// writes: each step fills in what it learned. Types, and the one constructor that keeps the shape the same.

import { randomBytes } from 'node:crypto';
import type { Duplex } from 'node:stream';
import type { SallyportError } from '../cert-agent/base/errors.ts';
import type { PeerIdentity } from '../cert-agent/identity/verify.ts';
import type { Edge, EdgeFilters, EdgeRule } from './edge.ts';
import type { PolicySet } from './policy/compile.ts';
import type { RequestAuth } from './policy/facts.ts';
import type { Ip } from './policy/ip.ts';
import type { Authentication } from './policy/jwt.ts';
import type { MtlsMode } from './policy/mtls.ts';
import type { PathNormalization } from './policy/path.ts';
import type { Decision, Permit, TunnelPermit } from './policy/policy.ts';
import type { Vouched } from './policy/transaction-token.ts';

/** A field's name, interned: what it means to a proxy is known without comparing strings. */
export interface FieldName {
  readonly lower: string;
  /**
   * The name as servers fold it that make variables of names (CGI, WSGI, Rack, PHP): in lower case, with a dash for everything but
   * letters and digits. `X_Role` and `X-Role` are one name to them, so they are one name to every step that judges a request.
   */
  readonly folded: string;
  /** A proxy's to set, and no client's: see protocol/proxy-fields.ts. */
  readonly ofProxy: boolean;
  /** The name as it was spelled, with its colon and space, ready to print. */
  readonly prefix: string;
  /** One of `role` in protocol/http1-head.ts. */
  readonly role: number;
}

/** A head's fields in the order they came; `names[i]` belongs to `values[i]`. */
export interface Fields {
  readonly names: FieldName[];
  readonly values: string[];
}

/** How a message's body is delimited: no body, so many bytes, chunks, or until the connection closes. */
export type Framing = number | 'chunked' | 'close';

/** Every limit of one port, from the settings. Times in milliseconds. */
export interface Limits {
  readonly headBytes: number;
  readonly headFields: number;
  /** A request's target, and its body; Infinity in a sidecar that sets none. */
  readonly urlBytes: number;
  readonly bodyBytes: number;
  /** Bytes a second below which a body, either way, is too slow; 0: none is. */
  readonly slowBytesPerSecond: number;
  readonly handshakeMs: number;
  readonly protocolDetectionMs: number;
  readonly headMs: number;
  readonly connectMs: number;
  readonly streamIdleMs: number;
  /** How long bytes may wait of which none is taken. */
  readonly streamStallMs: number;
  readonly clientIdleMs: number;
  readonly tcpIdleMs: number;
  readonly connections: number;
  /** How many files and sockets the process may have open; Infinity where the system sets no limit. */
  readonly descriptors: number;
  /** Requests that one HTTP/2 connection may have in flight. */
  readonly streams: number;
  /** Requests that may wait for a connection to one upstream. */
  readonly pendingRequests: number;
  /** What may wait in memory for readers that are slower than their writers, all connections together, before somebody is cut. */
  readonly heldBytes: number;
  readonly drainMs: number;
  /** How long outbound ports take what the app still has to say, at least. */
  readonly drainMinimumMs: number;
  readonly drainWebSocketMs: number;
  readonly drainTcpMs: number;
}

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
}

/** Whom CUSTOM policies may ask. */
export interface Authorizer {
  readonly name: string;
  readonly kind: 'http' | 'grpc';
  /** What the caller gets when there is no answer. */
  readonly statusOnError: number;
  /** Whether it is told of a field, by the name that servers fold (`FieldName.folded`): the app must read no other word there. */
  judges(folded: string): boolean;
  /** @throws SallyportError when there is no answer, or none that can be read. */
  ask(asked: Asked): Promise<Ruling>;
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
  /** At a gateway: what rule and backend together change. */
  readonly filters?: EdgeFilters | undefined;
}

/** What is tried again, in Envoy's words (`x-envoy-retry-on`); the last five are gRPC statuses. */
export type RetryOn =
  | '5xx'
  | 'gateway-error'
  | 'reset'
  | 'reset-before-request'
  | 'connect-failure'
  | 'refused-stream'
  | 'retriable-4xx'
  | 'retriable-status-codes'
  | 'cancelled'
  | 'deadline-exceeded'
  | 'internal'
  | 'resource-exhausted'
  | 'unavailable';

/** When a request is sent again, and how often. */
export interface RetryPolicy {
  /** How many times after the first. */
  readonly attempts: number;
  /** Statuses of answers that are tried again, whatever the method: whoever names them has decided so. */
  readonly codes: readonly number[];
  /** What else is; requests that are not idempotent only where none of it can have been done. */
  readonly on: readonly RetryOn[];
  /** The wait before the first; it doubles with each, to ten times as long or to `maxBackoffMs`, and is a random part of that. */
  readonly backoffMs: number;
  readonly maxBackoffMs?: number | undefined;
  /** How long one try may wait for the head of its answer; 0: as long as the request may. */
  readonly perTryTimeoutMs: number;
  /** What part of the requests in flight may be retries; default 20 %, and three whatever there is. */
  readonly budget?: { readonly percent: number; readonly least: number } | undefined;
}

/** As Gateway API has them: from the request's start, and for each try, to the end of the answer. 0: none. */
export interface RouteTimeouts {
  readonly requestMs: number;
  readonly backendRequestMs: number;
}

/** By what of a request its endpoint is chosen, where equal requests shall go to the same. */
export type HashSource =
  | { readonly headers: readonly string[] }
  | { readonly cookie: string; readonly path: string | undefined; readonly ttlMs: number | undefined }
  | { readonly query: string }
  | { readonly sourceIp: true }
  /** The session that a gateway keeps for the client: `Exchange.session`. */
  | { readonly session: true };

/** What one request asks of the choice of its endpoint. */
export interface Choice {
  /** Equal texts go to the same endpoint, where balancing is by hash. */
  readonly hash: string | undefined;
  /** Addresses that it has tried: others come first. */
  readonly avoid: readonly string[];
  /** Nobody waits for it any more. */
  readonly over: boolean;
  /** Rises with each try: what an earlier one has asked for is nobody's. */
  readonly attempt?: number;
}

/** Something that gives connections to one upstream. A promise only when it really waits. */
export interface Destination {
  /**
   * With `fresh`, no connection that carried a request before; with `upgrades`, one that can be handed over whole.
   * @throws SallyportError `upstream_*` or `overloaded`.
   */
  acquire(fresh: boolean, upgrades: boolean, choice?: Choice): UpstreamConnection | Promise<UpstreamConnection>;
  /** A bare connection, for TCP; whoever gets it closes it. @throws SallyportError `upstream_*`, `overloaded`. */
  dialSocket(choice?: Choice): Promise<BareConnection>;
  /** Absent where equal requests need not go to the same endpoint. */
  readonly hashBy?: HashSource | undefined;
  /** Told the status of each answer, or why there was none, by the address; absent where nobody draws conclusions. */
  readonly report?: ((address: string, outcome: number | SallyportError) => void) | undefined;
  /** Takes one of the retries that may be in flight; false when there is none left. Whoever took it gives it back. */
  takeRetry?(budget: RetryPolicy['budget']): boolean;
  giveRetryBack?(): void;
}

/** Who is at the other end of an upstream connection, and whether it still holds. */
export interface UpstreamPeer {
  readonly identity: PeerIdentity;
  readonly tls: TlsFacts;
  /** Why it would be refused now; undefined while it is good. */
  refusal(): SallyportError | undefined;
}

/** What a handshake has agreed on. */
export interface TlsFacts {
  /** `TLSv1.3`. */
  readonly version: string;
  /** IANA's name: `TLS_AES_128_GCM_SHA256`. */
  readonly cipher: string;
  /** `X25519MLKEM768`; undefined where this Node does not tell. */
  readonly group: string | undefined;
}

/** A connection to an upstream on which nobody speaks yet. */
export interface BareConnection {
  readonly socket: Duplex;
  readonly address: string;
  readonly localAddress: string;
  readonly peer: UpstreamPeer | undefined;
}

/** A request as it goes on: what the head said, and what we add. */
export interface Call {
  readonly method: string;
  readonly path: string;
  readonly authority: string;
  readonly fields: Fields;
  /** Names that `Connection` listed, lower case: they belong to the hop that ends here. */
  readonly hopFields: readonly string[] | undefined;
  /** The new `x-forwarded-client-cert`, inbound only. */
  readonly clientCert: string | undefined;
  /** Set where the request brought none. */
  readonly requestId: string | undefined;
  readonly framing: Framing;
  readonly webSocket: boolean;
  readonly expectContinue: boolean;
}

/** An answer's head, as it came from upstream or as we make it. */
export interface Reply {
  readonly status: number;
  readonly reason: string;
  readonly fields: Fields;
  readonly hopFields: readonly string[] | undefined;
  /** A body framed by 'close' ends with its connection. */
  readonly framing: Framing;
  /** The Content-Length of an answer that has no body (HEAD, 304): passed on as it is. */
  readonly declaredLength: number | undefined;
}

/** A socket, or a stream that acts as one, that is handed over, and what was read from it that belongs to its new owner. */
export interface SpliceEnd {
  readonly socket: Duplex;
  readonly rest: Buffer | undefined;
}

/** A connection to an upstream that carries one exchange at a time. Whoever acquired it must release or destroy it. */
export interface UpstreamConnection {
  /** It has carried an exchange before, so it may have died unseen. */
  readonly reused: boolean;
  /** Its end was announced, or had come, before the request was looked at: it can be sent again, with any method. */
  readonly isUnsent?: boolean;
  /** With mutual TLS: a peer that refuses our SVID closes without a word after the handshake. */
  readonly secure: boolean;
  /** Absent for our own app. */
  readonly peer: UpstreamPeer | undefined;
  readonly address: string;
  readonly localAddress: string;
  /** What of a request was given to it and has not left, bytes. */
  readonly waitingBytes: number;
  /** Sends the head, and the body with it when `whole` is given; the answer comes to `events`. */
  send(call: Call, whole: Buffer | undefined, events: UpstreamEvents): void;
  /** A piece of the body. False asks to wait for `upstreamDrained`. */
  write(chunk: Buffer): boolean;
  end(trailers: Fields): void;
  pause(): void;
  resume(): void;
  /** Ends it whatever it was doing; no event follows. */
  destroy(): void;
  /** After a 101: hands the socket, or the stream, and what was read past the head over to the caller, who closes it. */
  takeSocket(): SpliceEnd;
}

/** What an upstream connection tells the exchange that it carries. */
export interface UpstreamEvents {
  upstreamInformational(reply: Reply): void;
  /** `whole` is the entire body when it came with the head. */
  upstreamReply(reply: Reply, whole: Buffer | undefined): void;
  upstreamData(chunk: Buffer): boolean;
  upstreamEnd(trailers: Fields): void;
  upstreamDrained(): void;
  upstreamFailed(error: SallyportError): void;
}

/** The side that asked, whichever protocol it speaks. */
export interface Downstream {
  informational(reply: Reply): void;
  /** The answer's head, and the whole body where `whole` is given; nothing follows then. */
  respond(reply: Reply, whole: Buffer | undefined): void;
  /** False asks to wait for `downstreamDrained`. */
  write(chunk: Buffer): boolean;
  end(trailers: Fields): void;
  /** Cuts the answer so that it cannot look complete. */
  abort(): void;
  pause(): void;
  resume(): void;
  /** After our 101: joins this socket with the upstream's until both are closed, and closes both. */
  tunnel(upstream: SpliceEnd): void;
}

/** What an external authorizer said. */
export interface Ruling {
  readonly allowed: boolean;
  /** Refused: the answer to the caller. */
  readonly status: number;
  readonly body: Buffer;
  /** To the caller: with the refusal, or with the app's answer. */
  readonly replyFields: readonly (readonly [string, string])[];
  /** Allowed: what the app's request gets in place of what it had, and what it loses; names in lower case. */
  readonly requestFields: readonly (readonly [string, string])[];
  readonly removed: readonly string[];
}

/** What an external authorizer is told of a request. */
export interface Asked {
  readonly id: string;
  readonly method: string;
  readonly path: string;
  readonly authority: string;
  /** `HTTP/1.1`; empty for TCP. */
  readonly protocol: string;
  readonly fields: Fields;
  readonly source: Party;
  readonly destination: Party;
  readonly sni: string;
  /** Wall clock, milliseconds. */
  readonly time: number;
}

export interface Party {
  readonly address: string;
  readonly port: number;
  readonly principal: string;
}

/** A request as it came, before any step has changed it. */
export interface Received {
  readonly fields: Fields;
  readonly path: string;
  readonly authority: string;
}

/** A refusal that whoever refuses words himself. */
export interface Denial {
  readonly status: number;
  readonly fields: Fields;
  readonly body: Buffer;
}

/** What forwards an exchange's body; the downstream codec feeds it. */
export interface Carrier {
  /** False asks the downstream to wait for `resume`. */
  requestData(chunk: Buffer): boolean;
  requestEnd(trailers: Fields): void;
  downstreamDrained(): void;
  /** The asking side is gone: nothing more can be answered. */
  downstreamGone(): void;
  /** No byte moved for the stream-idle limit. */
  idle(): void;
  /** What of the request waits here, bytes; absent where nothing does. */
  readonly waitingBytes?: number;
  /** It waits for more of the request, or for a decision, and for no reader. */
  readonly gathers?: boolean;
}

/** What the path needs to know of the connection that a request came on. */
export interface ConnectionFacts {
  readonly id: number;
  /** Exchanges begun on it so far. */
  requests: number;
  readonly peer: PeerIdentity | undefined;
  readonly remoteAddress: string;
  readonly localAddress: string;
  readonly tls: TlsFacts | undefined;
  readonly serverName: string | undefined;
  /** At a gateway: the listener that the handshake was made with. */
  readonly listener: string | undefined;
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
  /** What was taken for it and is given back when it has finished: whoever writes the record calls it, once. */
  whenFinished: (() => void) | undefined = undefined;

  constructor(connection: ConnectionFacts, downstream: Downstream, rules: PortRules, fields: Fields) {
    this.connection = connection;
    this.downstream = downstream;
    this.rules = rules;
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
