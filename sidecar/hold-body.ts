// While a step waits (for a token's keys, for an external authorizer) the request's body keeps coming. It is held here,
// up to a limit, and then passed to its carrier.

import { SallyportError } from '../cert-agent/base/errors.ts';
import type { Holding } from './exchange/ends.ts';
import type { Exchange } from './exchange/exchange.ts';
import { hold, pile } from './exchange/held-bytes.ts';
import type { Fields } from './exchange/message.ts';
import { passHeld } from './exchange/pass-held.ts';
import { refuse } from './respond.ts';

/** What a body may hold in memory while its request waits; beyond this its sender is paused. */
const holdBytes = 64 * 1024;

/** The body of one waiting request. */
export class HeldBody implements Holding {
  readonly gathers = true;
  readonly #exchange: Exchange;
  #chunks: Buffer[] = [];
  #bytes = 0;
  #ended: Fields | undefined = undefined;

  constructor(exchange: Exchange) {
    this.#exchange = exchange;
  }

  /** Keeps the piece, and counts it among the process's held bytes. */
  requestData(chunk: Buffer): boolean {
    pile(this.#chunks, chunk);
    this.#bytes += chunk.length;
    hold(chunk.length);
    return this.#bytes < holdBytes;
  }

  /** All that is held. */
  get waitingBytes(): number {
    return this.#bytes;
  }

  /** The end waits with the rest. */
  requestEnd(trailers: Fields): void {
    this.#ended = trailers;
  }

  /** Passes what was held to the exchange's current carrier. */
  release(): void {
    passHeld(this, this.#exchange, this.#chunks, this.#ended);
  }

  /** Nothing has been sent. */
  downstreamDrained(): void {}

  /** Drops what is held: no response is possible any more. */
  downstreamGone(): void {
    this.drop();
  }

  /** Drops what is held. */
  drop(): void {
    this.#chunks = [];
    hold(-this.#bytes);
    this.#bytes = 0;
  }

  /** Refuses: the decision took too long. */
  idle(): void {
    const limit = this.#exchange.rules.limits.streamIdleMs;
    refuse(this.#exchange, new SallyportError('stream_idle', `no decision within ${limit} ms (limit streamIdle)`));
  }
}
