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

  requestData(chunk: Buffer): boolean {
    pile(this.#chunks, chunk);
    this.#bytes += chunk.length;
    hold(chunk.length);
    return this.#bytes < holdBytes;
  }

  get waitingBytes(): number {
    return this.#bytes;
  }

  requestEnd(trailers: Fields): void {
    this.#ended = trailers;
  }

  /** Passes what was held to the exchange's current carrier. */
  release(): void {
    passHeld(this, this.#exchange, this.#chunks, this.#ended);
  }

  downstreamDrained(): void {}

  downstreamGone(): void {
    this.drop();
  }

  /** Drops what is held. */
  drop(): void {
    this.#chunks = [];
    hold(-this.#bytes);
    this.#bytes = 0;
  }

  idle(): void {
    const limit = this.#exchange.rules.limits.streamIdleMs;
    refuse(this.#exchange, new SallyportError('stream_idle', `no decision within ${limit} ms (limit streamIdleMs)`));
  }
}
