// Step: forward. Takes a permit and passes bytes both ways: the request to a connection of the route's destination, its
// response to respond.ts. With back-pressure: a slow reader pauses the socket that its bytes come from.

import { performance } from 'node:perf_hooks';
import { asSallyportError, SallyportError } from '../cert-agent/base/errors.ts';
import type { Carrier } from './exchange/ends.ts';
import type { Exchange, Route } from './exchange/exchange.ts';
import { addFields, filterFields, withoutJudged, withoutTaken } from './exchange/fields.ts';
import { type Call, emptyFields, type Fields, type Framing, type Reply } from './exchange/message.ts';
import type {
  Choice,
  Destination,
  RetryPolicy,
  UpstreamConnection,
  UpstreamEvents,
  UpstreamPeer,
} from './exchange/upstream.ts';
import type { Permit, TunnelPermit } from './policy/policy.ts';
import { grpcStatusOf, MessageCounter } from './protocol/grpc.ts';
import { answerInterim, answerReply, refuse } from './respond.ts';
import { addressedToken } from './tokens/transaction-token.ts';
import { type Deadline, deadlines } from './upstream/deadlines.ts';
import { hashKeyOf, newHashCookie } from './upstream/hash-key.ts';
import { grpcOutcome } from './upstream/outlier.ts';
import { RequestBody } from './upstream/request-body.ts';
import { backoffMs, isIdempotent, RetriesExhausted, retriesError, retriesReply } from './upstream/retry.ts';

/**
 * Sends the exchange to its route's destination. It requires a Permit; failures become responses and are never thrown.
 */
export function forward(exchange: Exchange, permit: Permit, clientCert: string | undefined): void {
  exchange.policy = permit.policy;
  // If it were forwarded, it would make the app's connection a tunnel that no policy can inspect.
  if (exchange.method === 'CONNECT')
    return refuse(exchange, new SallyportError('connect_unsupported', 'CONNECT with the permit of a request'));
  const forwarding = new Forwarding(exchange, exchange.route!, clientCert);
  exchange.carrier = forwarding;
  forwarding.start(false);
}

/** Joins the client with the route's destination; their bytes pass unread. It requires a TunnelPermit. */
export function openTunnel(exchange: Exchange, permit: TunnelPermit): void {
  exchange.policy = permit.policy;
  const forwarding = new Forwarding(exchange, exchange.route!, undefined);
  exchange.carrier = forwarding;
  void forwarding.connect();
}

const none: readonly string[] = [];

/** One request on its way: the call for each try, the events of its upstream, and the carrier of its body. */
class Forwarding implements Call, Carrier, UpstreamEvents, Choice {
  readonly hash: string | undefined;
  /** Addresses that failed for this request. */
  avoid: readonly string[] = none;
  over = false;
  readonly #exchange: Exchange;
  readonly #destination: Destination;
  readonly #policy: RetryPolicy | undefined;
  readonly clientCert: string | undefined;
  /** For the whole request, and for the current try or the wait before the next. */
  #requestDeadline: Deadline | undefined = undefined;
  #tryDeadline: Deadline | undefined = undefined;
  #tryStarted = 0;
  #sentAt = 0;
  #upstream: UpstreamConnection | undefined = undefined;
  /** Made with the first piece that does not come with the head. */
  #body: RequestBody | undefined = undefined;
  /** True after one resend because the pooled connection had died unnoticed: it is not a retry of the policy. */
  #retried = false;
  /** Tries so far, including the current one. */
  #tries = 1;
  /** True if it holds one of the destination's retries. */
  #holdsRetry = false;
  #isExhausted = false;
  /** Count messages in each direction, for gRPC. */
  readonly #asked: MessageCounter | undefined;
  readonly #answered: MessageCounter | undefined;

  constructor(exchange: Exchange, { destination, retry, timeouts }: Route, clientCert: string | undefined) {
    this.#exchange = exchange;
    this.#destination = destination;
    this.#policy = retry;
    this.clientCert = clientCert;
    this.#asked = exchange.grpc ? new MessageCounter() : undefined;
    this.#answered = exchange.grpc ? new MessageCounter() : undefined;
    this.hash = destination.hashBy === undefined ? undefined : this.#readHash();
    if (exchange.wholeBody !== undefined) this.#countAsked(exchange.wholeBody);
    if (timeouts !== undefined && timeouts.requestMs > 0) this.#limitRequest(timeouts.requestMs);
  }

  get attempt(): number {
    return this.#tries;
  }

  #readHash(): string | undefined {
    const exchange = this.#exchange;
    const source = this.#destination.hashBy!;
    const known = hashKeyOf(exchange, source);
    if (known !== undefined) return known;
    const cookie = newHashCookie(source);
    if (cookie !== undefined)
      exchange.replyFields = addFields(exchange.replyFields ?? emptyFields, [['set-cookie', cookie.field]]);
    return cookie?.value;
  }

  // -- towards the upstream ----------------------------------------------------------------------------------------

  start(fresh: boolean): void {
    if (this.over) return;
    this.#exchange.upstreamAttempts++;
    const attempt = this.#tries;
    this.#limitTry();
    try {
      const got = this.#destination.acquire(fresh, this.#exchange.webSocket, this);
      if (got instanceof Promise) this.#sendLater(got, attempt);
      else this.#send(got, attempt);
    } catch (error) {
      this.#notAcquired(error, attempt);
    }
  }

  #sendLater(coming: Promise<UpstreamConnection>, attempt: number): void {
    coming
      .then((upstream) => this.#send(upstream, attempt))
      .catch((error: unknown) => this.#notAcquired(error, attempt));
  }

  /** CONNECT: the protocol is between the two ends, so the upstream is a bare connection (RFC 9110 section 9.3.6). */
  async connect(): Promise<void> {
    const exchange = this.#exchange;
    exchange.upstreamAttempts++;
    try {
      const upstream = await this.#destination.dialSocket(this);
      if (this.over) {
        upstream.socket.destroy();
        return;
      }
      this.#finish();
      noteUpstream(exchange, upstream);
      exchange.carrier = undefined;
      answerReply(exchange, connected, undefined);
      exchange.downstream.tunnel({ socket: upstream.socket, rest: undefined });
    } catch (error) {
      this.#giveUp(error);
    }
  }

  #send(upstream: UpstreamConnection, attempt: number): void {
    if (this.over || attempt !== this.#tries) {
      // The exchange has ended. The connection was taken but has sent nothing, so the pool cannot tell its state.
      upstream.destroy();
      return;
    }
    const exchange = this.#exchange;
    this.#upstream = upstream;
    noteUpstream(exchange, upstream);
    this.#sentAt = performance.now();
    upstream.send(this, exchange.wholeBody, this);
    if (exchange.wholeBody === undefined && exchange.framing !== 0) this.#flushWaiting(upstream);
  }

  // -- the call: the exchange as it is now ----------------------------------------------------------------------------

  get method(): string {
    return this.#exchange.method;
  }

  get path(): string {
    return this.#exchange.path;
  }

  get authority(): string {
    const { authority } = this.#exchange;
    return authority === '' ? this.#upstream!.address : authority;
  }

  get hopFields(): readonly string[] | undefined {
    return this.#exchange.hopFields;
  }

  get requestId(): string | undefined {
    return this.#exchange.requestIdGiven ? undefined : this.#exchange.requestId;
  }

  get framing(): Framing {
    return this.#exchange.framing;
  }

  get webSocket(): boolean {
    return this.#exchange.webSocket;
  }

  get expectContinue(): boolean {
    return this.#exchange.expectContinue;
  }

  get fields(): Fields {
    const { fields } = this.#exchange;
    const { peer } = this.#upstream!;
    const addressed = addressedToken.get(this.#exchange);
    const whole = this.#policy === undefined ? fields : this.#withAttempt(fields);
    return addressed === undefined || peer === undefined ? whole : addFields(whole, [addressed(peer.identity.id.uri)]);
  }

  /** The number of the try: we set it, and the caller's is removed. */
  #withAttempt(fields: Fields): Fields {
    const own = filterFields(fields, ({ lower }) => lower !== attemptCount);
    return addFields(own, [[attemptCount, String(this.#tries)]]);
  }

  #flushWaiting(upstream: UpstreamConnection): void {
    const body = this.#body;
    let more = true;
    for (const chunk of body?.takeWaiting() ?? []) {
      body!.isTouched = true;
      more = upstream.write(chunk);
    }
    if (body?.ended !== undefined) upstream.end(body.ended);
    else if (more) this.#exchange.downstream.resume();
  }

  requestData(chunk: Buffer): boolean {
    if (this.over) return true;
    this.#countAsked(chunk);
    const body = this.#ownBody();
    body.keep(chunk);
    if (this.#upstream === undefined) return body.wait(chunk);
    body.isTouched = true;
    return this.#upstream.write(chunk);
  }

  requestEnd(trailers: Fields): void {
    if (this.over) return;
    const kept = withoutJudged(this.#exchange, withoutTaken(this.#exchange, trailers));
    this.#ownBody().ended = kept;
    this.#upstream?.end(kept);
  }

  get waitingBytes(): number {
    return this.#upstream?.waitingBytes ?? this.#body?.waitingBytes ?? 0;
  }

  #ownBody(): RequestBody {
    this.#body ??= new RequestBody(this.#policy !== undefined);
    return this.#body;
  }

  upstreamDrained(): void {
    this.#exchange.downstream.resume();
  }

  // -- back to the client ------------------------------------------------------------------------------------------

  upstreamInformational(reply: Reply): void {
    answerInterim(this.#exchange, reply);
  }

  upstreamReply(reply: Reply, whole: Buffer | undefined): void {
    this.#exchange.upstreamServiceMs = performance.now() - this.#sentAt;
    if (reply.status === 101) return this.#becomeTunnel(reply);
    if (this.#destination.report !== undefined) this.#reportReply(reply, whole !== undefined);
    if (this.#policy !== undefined && this.#repeatsFor(reply, whole)) return;
    this.#noteGrpc(reply.fields, whole);
    if (whole !== undefined) this.#finish();
    else this.#headHasCome();
    answerReply(this.#exchange, reply, whole);
  }

  upstreamData(chunk: Buffer): boolean {
    this.#noteGrpc(undefined, chunk);
    return this.#exchange.downstream.write(chunk);
  }

  upstreamEnd(trailers: Fields): void {
    this.#noteGrpc(trailers, undefined);
    if (this.#answered !== undefined && this.#exchange.grpcStatus !== -1)
      this.#report(grpcOutcome(this.#exchange.grpcStatus));
    this.#finish();
    this.#exchange.downstream.end(trailers);
  }

  #countAsked(chunk: Buffer): void {
    if (this.#asked === undefined) return;
    this.#asked.read(chunk);
    this.#exchange.requestMessages = this.#asked.count;
  }

  /** The status is in the trailers, or in a head with nothing else. */
  #noteGrpc(fields: Fields | undefined, chunk: Buffer | undefined): void {
    if (this.#answered === undefined) return;
    const status = fields === undefined ? undefined : grpcStatusOf(fields);
    if (status !== undefined) this.#exchange.grpcStatus = status;
    if (chunk === undefined) return;
    this.#answered.read(chunk);
    this.#exchange.replyMessages = this.#answered.count;
  }

  downstreamDrained(): void {
    this.#upstream?.resume();
  }

  /** A WebSocket: the app has agreed (101), so both sockets are joined and bytes pass unread from here on. */
  #becomeTunnel(reply: Reply): void {
    const exchange = this.#exchange;
    this.#finish();
    answerReply(exchange, reply, undefined);
    exchange.carrier = undefined;
    exchange.downstream.tunnel(this.#upstream!.takeSocket());
  }

  // -- what the balancer learns ------------------------------------------------------------------------------------

  /** The result of a gRPC call usually comes after the response. */
  #reportReply({ status, fields }: Reply, isWhole: boolean): void {
    const grpc = this.#answered === undefined || status !== 200 ? undefined : grpcStatusOf(fields);
    if (grpc !== undefined) this.#report(grpcOutcome(grpc));
    else if (this.#answered === undefined || status !== 200 || isWhole) this.#report(status);
  }

  #report(outcome: number | SallyportError): void {
    if (this.#upstream !== undefined) this.#destination.report?.(this.#upstream.address, outcome);
  }

  // -- timeouts ----------------------------------------------------------------------------------------------------

  #limitRequest(limitMs: number): void {
    this.#requestDeadline = deadlines.set(this.#exchange.started + limitMs - performance.now(), () =>
      this.#giveUp(new SallyportError('upstream_response_timeout', `no complete response within ${limitMs} ms`)),
    );
  }

  #limitTry(): void {
    const limitMs = this.#tryMs();
    if (limitMs > 0) this.#limitTryTo(limitMs);
  }

  #limitTryTo(limitMs: number): void {
    deadlines.drop(this.#tryDeadline);
    this.#tryStarted = performance.now();
    this.#tryDeadline = deadlines.set(limitMs, () => {
      const error = new SallyportError('upstream_per_try_timeout', `no response to a try within ${limitMs} ms`);
      this.#report(error);
      if (this.#upstream !== undefined) this.avoid = [...this.avoid, this.#upstream.address];
      this.#upstream?.destroy();
      this.#upstream = undefined;
      if (!this.#repeatsAfter(error)) this.#giveUp(error);
    });
  }

  /** The shorter of the route's and the policy's per-try timeouts; 0 if neither sets one. */
  #tryMs(): number {
    const perTry = this.#policy?.perTryTimeoutMs ?? 0;
    const backend = this.#exchange.route?.timeouts?.backendRequestMs ?? 0;
    return perTry === 0 || backend === 0 ? perTry + backend : Math.min(perTry, backend);
  }

  /** No try follows now. Gateway API's timeout covers the whole response, the policy's ends here. */
  #headHasCome(): void {
    this.#giveRetryBack();
    this.#isExhausted = false;
    this.#body?.forget();
    if (this.#tryDeadline === undefined) return;
    deadlines.drop(this.#tryDeadline);
    const limitMs = this.#exchange.route?.timeouts?.backendRequestMs ?? 0;
    if (limitMs > 0) this.#limitResponseTo(limitMs);
  }

  #limitResponseTo(limitMs: number): void {
    this.#tryDeadline = deadlines.set(this.#tryStarted + limitMs - performance.now(), () =>
      this.#giveUp(new SallyportError('upstream_per_try_timeout', `the response did not end within ${limitMs} ms`)),
    );
  }

  // -- failures ----------------------------------------------------------------------------------------------------

  upstreamFailed(error: SallyportError): void {
    const upstream = this.#upstream;
    if (this.over) return;
    if (this.#diedUnseen(error, upstream)) {
      this.#upstream = undefined;
      this.#retried = true;
      this.start(true);
      return;
    }
    this.#report(error);
    this.#upstream = undefined;
    if (upstream !== undefined && this.#policy !== undefined) this.avoid = [...this.avoid, upstream.address];
    if (!this.#repeatsAfter(error)) this.#giveUp(error);
  }

  #notAcquired(error: unknown, attempt: number): void {
    if (this.over || attempt !== this.#tries) return;
    const known = asSallyportError(error, 'internal', 'no connection to the upstream');
    if (!this.#repeatsAfter(known)) this.#giveUp(known);
  }

  /**
   * Only if the pooled connection died unnoticed or refused the stream unread, no response has begun, and the request
   * can be repeated.
   */
  #diedUnseen({ code }: SallyportError, upstream: UpstreamConnection | undefined): boolean {
    if (code !== 'upstream_closed' && code !== 'upstream_refused_stream') return false;
    // A refused stream counts as not sent, on any connection (RFC 9113 section 8.7).
    if (upstream?.reused !== true && upstream?.isUnsent !== true && code !== 'upstream_refused_stream') return false;
    if (this.#retried || this.#body?.isTouched === true || this.#exchange.webSocket) return false;
    // What was not sent was not processed; what was cut may have been.
    return upstream?.isUnsent === true || isIdempotent(this.#exchange.method);
  }

  // -- another try -------------------------------------------------------------------------------------------------

  #repeatsAfter(error: SallyportError): boolean {
    const { method, webSocket } = this.#exchange;
    // A WebSocket's opening is sent once.
    if (this.#policy === undefined || !retriesError(this.#policy, webSocket ? 'CONNECT' : method, error)) return false;
    if (!this.#mayRepeat(this.#policy)) return false;
    this.#repeatLater(this.#policy);
    return true;
  }

  #repeatsFor(reply: Reply, whole: Buffer | undefined): boolean {
    const { method, webSocket } = this.#exchange;
    if (webSocket || !retriesReply(this.#policy!, method, reply) || !this.#mayRepeat(this.#policy!)) return false;
    this.avoid = [...this.avoid, this.#upstream!.address];
    // A complete response has returned its connection.
    if (whole === undefined) this.#upstream!.destroy();
    this.#upstream = undefined;
    this.#repeatLater(this.#policy!);
    return true;
  }

  /** Takes one of the destination's retries, if there is one and this request can be repeated. */
  #mayRepeat({ attempts, budget }: RetryPolicy): boolean {
    if (this.#exchange.responded || this.#body?.canRepeat === false) return false;
    if (this.#tries > attempts) {
      this.#isExhausted = true;
      return false;
    }
    if (this.#holdsRetry || this.#destination.takeRetry === undefined) return true;
    this.#holdsRetry = this.#destination.takeRetry(budget);
    return this.#holdsRetry;
  }

  #repeatLater(policy: RetryPolicy): void {
    deadlines.drop(this.#tryDeadline);
    this.#body?.rewind();
    this.#tryDeadline = deadlines.set(backoffMs(policy, this.#tries), () => this.start(false));
    this.#tries++;
  }

  #giveRetryBack(): void {
    if (!this.#holdsRetry) return;
    this.#holdsRetry = false;
    this.#destination.giveRetryBack?.();
  }

  // -- the end -----------------------------------------------------------------------------------------------------

  downstreamGone(): void {
    this.#finish();
    this.#upstream?.destroy();
    this.#upstream = undefined;
  }

  idle(): void {
    const limit = this.#exchange.rules.limits.streamIdleMs;
    this.#giveUp(new SallyportError('stream_idle', `no byte moved for ${limit} ms (limit streamIdle)`));
  }

  #giveUp(error: unknown): void {
    if (this.over) return;
    this.#finish();
    this.#upstream?.destroy();
    this.#upstream = undefined;
    const isLast = this.#isExhausted && error instanceof SallyportError;
    refuse(this.#exchange, isLast ? new RetriesExhausted(error, this.#tries) : error);
  }

  /** Nothing follows; what it held is released. */
  #finish(): void {
    if (this.over) return;
    this.over = true;
    deadlines.drop(this.#requestDeadline);
    deadlines.drop(this.#tryDeadline);
    this.#giveRetryBack();
    this.#body?.drop();
  }
}

/** Envoy's name. */
const attemptCount = 'x-envoy-attempt-count';

const connected: Reply = Object.freeze({
  status: 200,
  reason: 'Connection Established',
  fields: emptyFields,
  hopFields: undefined,
  framing: 0,
  declaredLength: undefined,
});

/** The upstream's identity, and the expiry of its certificate. */
export function noteUpstream(
  exchange: Exchange,
  upstream: { readonly address: string; readonly localAddress: string; readonly peer: UpstreamPeer | undefined },
): void {
  exchange.upstreamAddress = upstream.address;
  exchange.upstreamLocalAddress = upstream.localAddress;
  const { peer } = upstream;
  exchange.upstreamPeer = peer;
  if (peer !== undefined) exchange.validUntil = Math.min(exchange.validUntil, peer.identity.validUntil);
}
