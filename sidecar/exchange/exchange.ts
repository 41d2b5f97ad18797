// The nouns of the path. An Exchange is one request in flight and, at the same time, the record that the access log
// writes: each step fills in what it learned. Types, and the one constructor that keeps the shape the same.

import { randomBytes } from 'node:crypto';
import type { SallyportError } from '../../cert-agent/base/errors.ts';
import type { PeerIdentity } from '../../cert-agent/identity/verify.ts';
import type { PolicySet } from '../policy/compile.ts';
import type { RequestAuth } from '../policy/facts.ts';
import type { Ip } from '../policy/ip.ts';
import type { Authentication } from '../policy/jwt.ts';
import type { MtlsMode } from '../policy/mtls.ts';
import type { PathNormalization } from '../policy/path.ts';
import type { Decision } from '../policy/policy.ts';
import type { Vouched } from '../policy/transaction-token.ts';
import type { Authorizer } from './authorizer.ts';
import type { Edge, EdgeRule } from './edge.ts';
import type { Limits } from './limits.ts';
import type { Fields, Framing, Reply } from './message.ts';
import type { Route, SpliceEnd, TlsFacts, UpstreamPeer } from './upstream.ts';

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
  readonly remoteIp: Ip | undefined;
  readonly localIp: Ip | undefined;
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
