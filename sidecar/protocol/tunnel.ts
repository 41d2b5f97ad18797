// A spliced connection as the table sees it: a TCP stream, a CONNECT tunnel or a WebSocket. It lives as long as what allowed
// it does; what ends it early is on record, and is said in the protocol's own manner.

import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Holder, Kind, Speaker } from '../connection.ts';
import type { Exchange } from '../exchange/exchange.ts';
import type { SpliceEnd } from '../exchange/upstream.ts';
import { type Splice, splice } from './splice.ts';
import { closeFrame, closeStatus, FrameBoundary } from './websocket.ts';

/** Why an exchange may not go on; undefined when it may. */
export type RefusalOf = (exchange: Exchange) => SallyportError | undefined;

export class Tunnel implements Speaker {
  readonly kind: Kind;
  readonly #exchange: Exchange;
  readonly #splice: Splice;
  readonly #refusalOf: RefusalOf;
  readonly #toUpstream = new FrameBoundary();
  readonly #toDownstream = new FrameBoundary();
  /** Its last words are said. */
  #over = false;
  /** It ends as soon as both directions are between two frames. */
  #leaving = false;

  /** Joins both ends; each must have been taken from whoever spoke on it. */
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

  get inFlight(): number {
    return 1;
  }

  tick(now: number): void {
    const { tcpIdleMs } = this.#exchange.rules.limits;
    if (this.#over) return;
    if (this.#leaving) this.#leave();
    else if (now - this.#splice.lastActive() > tcpIdleMs)
      this.#end(new SallyportError('tcp_idle', `no byte moved for ${tcpIdleMs} ms (limit tcpIdle)`));
    else if (Date.now() > this.#exchange.validUntil) this.judge();
  }

  findHolders(now: number, found: Holder[]): void {
    const bytes = this.#splice.waitingBytes();
    if (bytes === 0 || this.#over) return;
    const waitMs = now - this.#splice.lastActive();
    found.push({ bytes, waitMs, drop: (error) => this.#drop(error) });
  }

  /** Last words would only wait behind the rest. */
  #drop(error: SallyportError): void {
    this.#note(error);
    this.#splice.cut();
  }

  /** A WebSocket is told that we are going; a TCP stream has no word for it, and goes on until the drain time is over. */
  drain(): void {
    if (this.kind !== 'websocket') return;
    this.#leaving = true;
    this.#leave();
  }

  /** Its bytes are not ours to end early: it goes on to the end of the certificates. */
  retire(): void {}

  judge(): number {
    const refusal = this.#over ? undefined : this.#refusalOf(this.#exchange);
    if (refusal === undefined) return 0;
    this.cut(refusal);
    return 1;
  }

  cut(error: SallyportError): void {
    this.#end(error);
  }

  #note(error: SallyportError): void {
    this.#over = true;
    const exchange = this.#exchange;
    exchange.failure ??= error;
    exchange.flag = error.row.flag;
    if (error.code !== 'policy_denied' || exchange.details === '-' || exchange.details === 'via_upstream')
      exchange.details = error.row.details;
  }

  #leave(): void {
    // Words between the bytes of a frame would be read as a part of it: they wait for its end, or for the drain's.
    if (!this.#toUpstream.clear || !this.#toDownstream.clear) return;
    this.#leaving = false;
    this.#over = true;
    this.#exchange.details = 'draining';
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
