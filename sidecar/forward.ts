// Step: hand it on. A permit in, bytes both ways: the request to a connection of the route's destination, its answer to
// respond.ts. Back-pressure goes through: whoever cannot take more pauses the socket that it came from.

import { SallyportError } from '../cert-agent/base/errors.ts';
import type { Carrier, Exchange, Fields, Reply, UpstreamConnection, UpstreamEvents, UpstreamPeer } from './exchange.ts';
import { withoutTaken } from './fields.ts';
import type { Permit } from './policy/policy.ts';
import { grpcStatusOf, MessageCounter } from './protocol/grpc.ts';
import { emptyFields } from './protocol/http1-head.ts';
import { answerInterim, answerReply, refuse } from './respond.ts';

// RFC 9110 section 9.2.2: what may be sent twice without harm.
const idempotent = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE', 'PUT', 'DELETE']);

/** What the request body may hold in memory while its connection is being made. */
const waitingBytes = 64 * 1024;

/** Sends the exchange to its route's destination. Only a Permit opens this door; failures are answered, never thrown. */
export function forward(exchange: Exchange, permit: Permit, clientCert: string | undefined): void {
  exchange.policy = permit.policy;
  const forwarding = new Forwarding(exchange, clientCert);
  exchange.carrier = forwarding;
  if (exchange.method === 'CONNECT') void forwarding.connect();
  else forwarding.start(false);
}

class Forwarding implements Carrier, UpstreamEvents {
  readonly #exchange: Exchange;
  readonly #clientCert: string | undefined;
  #upstream: UpstreamConnection | undefined = undefined;
  /** Body pieces that arrived before there was a connection. */
  #waiting: Buffer[] = [];
  #waitingBytes = 0;
  #ended: Fields | undefined = undefined;
  #bodyTouched = false;
  #retried = false;
  #over = false;
  /** Of the messages each way, where it is gRPC. */
  readonly #asked: MessageCounter | undefined;
  readonly #answered: MessageCounter | undefined;

  constructor(exchange: Exchange, clientCert: string | undefined) {
    this.#exchange = exchange;
    this.#clientCert = clientCert;
    this.#asked = exchange.grpc ? new MessageCounter() : undefined;
    this.#answered = exchange.grpc ? new MessageCounter() : undefined;
    if (exchange.wholeBody !== undefined) this.#countAsked(exchange.wholeBody);
  }

  // -- towards the upstream ----------------------------------------------------------------------------------------

  start(fresh: boolean): void {
    try {
      const got = this.#exchange.route!.destination.acquire(fresh, this.#exchange.webSocket);
      if (got instanceof Promise) {
        got.then(
          (upstream) => this.#send(upstream),
          (error: unknown) => this.#giveUp(error),
        );
      } else this.#send(got);
    } catch (error) {
      this.#giveUp(error);
    }
  }

  /** CONNECT: what the other end speaks is between the two of them, so it is a bare connection (RFC 9110 section 9.3.6). */
  async connect(): Promise<void> {
    const exchange = this.#exchange;
    try {
      const upstream = await exchange.route!.destination.dialSocket();
      if (this.#over) {
        upstream.socket.destroy();
        return;
      }
      this.#over = true;
      noteUpstream(exchange, upstream);
      exchange.carrier = undefined;
      answerReply(exchange, connected, undefined);
      exchange.downstream.tunnel({ socket: upstream.socket, rest: undefined });
    } catch (error) {
      this.#giveUp(error);
    }
  }

  #send(upstream: UpstreamConnection): void {
    if (this.#over) {
      // Nobody waits for it any more; it has sent nothing, but it was taken, so its state is not the pool's to judge.
      upstream.destroy();
      return;
    }
    const exchange = this.#exchange;
    this.#upstream = upstream;
    noteUpstream(exchange, upstream);
    exchange.upstreamSentAt = performance.now();
    upstream.send(
      {
        method: exchange.method,
        path: exchange.path,
        authority: exchange.authority === '' ? upstream.address : exchange.authority,
        fields: exchange.fields,
        hopFields: exchange.hopFields,
        clientCert: this.#clientCert,
        requestId: exchange.requestIdGiven ? undefined : exchange.requestId,
        framing: exchange.framing,
        webSocket: exchange.webSocket,
        expectContinue: exchange.expectContinue,
      },
      exchange.wholeBody,
      this,
    );
    if (exchange.wholeBody === undefined && exchange.framing !== 0) this.#flushWaiting(upstream);
  }

  #flushWaiting(upstream: UpstreamConnection): void {
    let more = true;
    for (const chunk of this.#waiting) {
      this.#bodyTouched = true;
      more = upstream.write(chunk);
    }
    this.#waiting = [];
    this.#waitingBytes = 0;
    if (this.#ended !== undefined) upstream.end(this.#ended);
    else if (more) this.#exchange.downstream.resume();
  }

  requestData(chunk: Buffer): boolean {
    if (this.#over) return true;
    this.#countAsked(chunk);
    if (this.#upstream !== undefined) {
      this.#bodyTouched = true;
      return this.#upstream.write(chunk);
    }
    this.#waiting.push(chunk);
    this.#waitingBytes += chunk.length;
    return this.#waitingBytes < waitingBytes;
  }

  requestEnd(trailers: Fields): void {
    if (this.#over) return;
    const kept = withoutTaken(this.#exchange, trailers);
    if (this.#upstream === undefined) this.#ended = kept;
    else this.#upstream.end(kept);
  }

  upstreamDrained(): void {
    this.#exchange.downstream.resume();
  }

  // -- back to who asked -------------------------------------------------------------------------------------------

  upstreamInformational(reply: Reply): void {
    answerInterim(this.#exchange, reply);
  }

  upstreamReply(reply: Reply, whole: Buffer | undefined): void {
    this.#exchange.upstreamServiceMs = performance.now() - this.#exchange.upstreamSentAt;
    if (reply.status === 101) return this.#becomeTunnel(reply);
    this.#noteGrpc(reply.fields, whole);
    if (whole !== undefined) this.#over = true;
    answerReply(this.#exchange, reply, whole);
  }

  upstreamData(chunk: Buffer): boolean {
    this.#noteGrpc(undefined, chunk);
    return this.#exchange.downstream.write(chunk);
  }

  upstreamEnd(trailers: Fields): void {
    this.#noteGrpc(trailers, undefined);
    this.#over = true;
    this.#exchange.downstream.end(trailers);
  }

  #countAsked(chunk: Buffer): void {
    if (this.#asked === undefined) return;
    this.#asked.read(chunk);
    this.#exchange.requestMessages = this.#asked.count;
  }

  /** The status stands in the trailers, or in a head that has nothing else. */
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

  /** A WebSocket: the app itself has agreed (101), so both sockets are joined and bytes are bytes from here on. */
  #becomeTunnel(reply: Reply): void {
    const exchange = this.#exchange;
    this.#over = true;
    answerReply(exchange, reply, undefined);
    exchange.carrier = undefined;
    exchange.downstream.tunnel(this.#upstream!.takeSocket());
  }

  // -- when it goes wrong ------------------------------------------------------------------------------------------

  upstreamFailed(error: SallyportError): void {
    const upstream = this.#upstream;
    this.#upstream = undefined;
    if (this.#over) return;
    if (this.#mayRetry(error, upstream)) {
      this.#retried = true;
      this.start(true);
      return;
    }
    this.#giveUp(error);
  }

  /** Only what died unseen in the pool, before any byte of an answer, and can be sent again as it was. */
  #mayRetry(error: SallyportError, upstream: UpstreamConnection | undefined): boolean {
    if (error.code !== 'upstream_closed' || upstream?.reused !== true || this.#retried || this.#bodyTouched)
      return false;
    return idempotent.has(this.#exchange.method) && !this.#exchange.webSocket;
  }

  downstreamGone(): void {
    this.#over = true;
    this.#upstream?.destroy();
    this.#upstream = undefined;
  }

  idle(): void {
    const limit = this.#exchange.rules.limits.streamIdleMs;
    this.#giveUp(new SallyportError('stream_idle', `no byte moved for ${limit} ms (limit streamIdleMs)`));
  }

  #giveUp(error: unknown): void {
    if (this.#over) return;
    this.#over = true;
    this.#waiting = [];
    this.#upstream?.destroy();
    this.#upstream = undefined;
    refuse(this.#exchange, error);
  }
}

const connected: Reply = Object.freeze({
  status: 200,
  reason: 'Connection Established',
  fields: emptyFields,
  hopFields: undefined,
  framing: 0,
  declaredLength: undefined,
});

/** Who the other end is, and how long its certificate lets that be true. */
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
