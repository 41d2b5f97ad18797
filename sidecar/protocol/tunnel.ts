// A spliced connection in the connection table: a TCP stream, a CONNECT tunnel or a WebSocket. It lives as long as what
// permits it; an early end is recorded, and is signalled as the protocol requires.

import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Holder, Kind, Speaker } from '../connection.ts';
import { end, fail, hasOwnDetails } from '../exchange/decision.ts';
import type { Exchange } from '../exchange/exchange.ts';
import type { SpliceEnd } from '../exchange/upstream.ts';
import { type Splice, splice } from './splice.ts';
import { closeFrame, closeStatus, FrameBoundary } from './websocket.ts';

/** Why an exchange may not continue; undefined if it may. */
export type RefusalOf = (exchange: Exchange) => SallyportError | undefined;

/** Owns both ends from its construction on, and closes both. */
export class Tunnel implements Speaker {
  readonly kind: Kind;
  readonly #exchange: Exchange;
  readonly #splice: Splice;
  readonly #refusalOf: RefusalOf;
  readonly #toUpstream = new FrameBoundary();
  readonly #toDownstream = new FrameBoundary();
  /** The final bytes have been sent. */
  #over = false;
  /** It ends as soon as both directions are between two frames. */
  #leaving = false;

  /** Joins both ends, each of which must have been detached from its previous speaker. */
  constructor(exchange: Exchange, downstream: SpliceEnd, upstream: SpliceEnd, refusalOf: RefusalOf) {
    this.kind = exchange.webSocket ? 'websocket' : 'tcp';
    this.#exchange = exchange;
    this.#refusalOf = refusalOf;
    const watch = {
      toUpstream: (chunk: Buffer) => this.#toUpstream.read(chunk),
      toDownstream: (chunk: Buffer) => this.#toDownstream.read(chunk),
    };
    this.#splice = splice(downstream, upstream, exchange, exchange.webSocket ? watch : undefined);
  }

  /** Resolves when both ends are closed; the record's byte counts are then final. */
  get closed(): Promise<unknown> {
    return this.#splice.closed;
  }

  /** Always 1: the exchange that opened it. */
  get inFlight(): number {
    return 1;
  }

  /** Closes after `tcpIdle`, in either direction; asks again when the permission's time is over. */
  tick(now: number): void {
    const { tcpIdleMs } = this.#exchange.rules.limits;
    if (this.#over) return;
    if (this.#leaving) this.#leave();
    else if (now - this.#splice.lastActive() > tcpIdleMs)
      this.#end(new SallyportError('tcp_idle', `no byte moved for ${tcpIdleMs} ms (limit tcpIdle)`));
    else if (Date.now() > this.#exchange.validUntil) this.judge();
  }

  /** What neither side has taken. */
  findHolders(now: number, found: Holder[]): void {
    const bytes = this.#splice.waitingBytes();
    if (bytes === 0 || this.#over) return;
    const waitMs = now - this.#splice.lastActive();
    found.push({ bytes, waitMs, drop: (error) => this.#drop(error) });
  }

  /** Final bytes would only wait behind the rest. */
  #drop(error: SallyportError): void {
    this.#note(error);
    this.#splice.cut();
  }

  /** A WebSocket gets a close frame; a TCP stream has no such message, and continues until the drain time is over. */
  drain(): void {
    if (this.kind !== 'websocket') return;
    this.#leaving = true;
    this.#leave();
  }

  /** We cannot end its bytes early: it continues to the end of the certificates. */
  retire(): void {}

  /** By the facts of the request that opened it. */
  judge(): number {
    const refusal = this.#over ? undefined : this.#refusalOf(this.#exchange);
    if (refusal === undefined) return 0;
    this.cut(refusal);
    return 1;
  }

  /** A WebSocket gets a close frame first, in each direction that is between two frames. */
  cut(error: SallyportError): void {
    this.#end(error);
  }

  #note(error: SallyportError): void {
    this.#over = true;
    const exchange = this.#exchange;
    const isDecided = error.code === 'policy_denied' && hasOwnDetails(exchange);
    fail(exchange, error, isDecided ? exchange.details : error.row.details);
  }

  #leave(): void {
    // A close frame inside a frame would be read as a part of it, so it waits for the frame's end, or for the drain's.
    if (!this.#toUpstream.clear || !this.#toDownstream.clear) return;
    this.#leaving = false;
    this.#over = true;
    end(this.#exchange, 'draining');
    this.#splice.finish(lastWords(closeStatus.goingAway, 'going away'));
  }

  #end(error: SallyportError): void {
    if (this.#over) return;
    this.#note(error);
    if (this.kind === 'tcp') return this.#splice.finish({});
    const status = error.code === 'draining' ? closeStatus.goingAway : closeStatus.policyViolation;
    const { toUpstream, toDownstream } = lastWords(status, error.code);
    this.#splice.finish({
      toUpstream: this.#toUpstream.clear ? toUpstream : undefined,
      toDownstream: this.#toDownstream.clear ? toDownstream : undefined,
    });
  }
}

function lastWords(status: number, reason: string): { toUpstream: Buffer; toDownstream: Buffer } {
  return { toUpstream: closeFrame(status, reason, true), toDownstream: closeFrame(status, reason, false) };
}
