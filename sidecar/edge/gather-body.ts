// Gathers a request's body before it is forwarded: the app sees no partial requests, and waits for no slow client. The
// codec refuses a body that exceeds the limit. While it gathers, no other step runs.

import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Holding } from '../exchange/ends.ts';
import { type Exchange, Slot } from '../exchange/exchange.ts';
import { hold, pile } from '../exchange/held-bytes.ts';
import { emptyFields, type Fields, type Reply } from '../exchange/message.ts';
import { passHeld } from '../exchange/pass-held.ts';

/** True if there is a body to wait for. Streams of messages have no end to wait for, and tunnels no body. */
export function waitsForBody(exchange: Exchange): boolean {
  const { framing, grpc, webSocket, method } = exchange;
  return framing !== 0 && wholeBodyOf(exchange) === undefined && !grpc && !webSocket && method !== 'CONNECT';
}

/** Bodies that a step has gathered, also those that go on in chunks. */
const gathered = new Slot<Buffer>();

/** The whole body, if it is here. */
export function wholeBodyOf(exchange: Exchange): Buffer | undefined {
  return exchange.wholeBody ?? gathered.get(exchange);
}

/**
 * Gathers the body and resolves when it is complete. Until then it is the exchange's carrier; afterwards the path lets
 * it pass on what it still holds. Rejects with `stream_idle` if the client falls silent.
 *
 * A body of more than `most` bytes is not gathered to its end: the promise resolves, and the body goes on as it comes.
 */
export function gatherBody(exchange: Exchange, most = Number.POSITIVE_INFINITY): Promise<void> {
  return new Promise((resolve, reject) => {
    const before = exchange.carrier;
    const gathering = new Gathering(exchange, most, resolve, reject);
    exchange.carrier = gathering;
    if (before instanceof Gathering) before.handOver(gathering);
    if (!exchange.expectContinue) return;
    // The app would have sent it, but sees the request only when the body is complete.
    exchange.expectContinue = false;
    exchange.downstream.informational(goAhead);
  });
}

const goAhead: Reply = Object.freeze({
  status: 100,
  reason: 'Continue',
  fields: emptyFields,
  hopFields: undefined,
  framing: 0,
  declaredLength: undefined,
});

class Gathering implements Holding {
  readonly gathers = true;
  readonly #exchange: Exchange;
  readonly #most: number;
  readonly #gathered: () => void;
  readonly #fail: (error: SallyportError) => void;
  #pieces: Buffer[] = [];
  #bytes = 0;
  /** A body that ends with trailers, which only chunks can carry on. */
  #chunked: { readonly body: Buffer; readonly trailers: Fields } | undefined = undefined;
  /** The end of a body that was too long, if it came before the body went on. */
  #ended: Fields | undefined = undefined;
  /** The step that gathers after this one: the path knows the first only. */
  #next: Gathering | undefined = undefined;

  constructor(exchange: Exchange, most: number, gathered: () => void, fail: (error: SallyportError) => void) {
    this.#exchange = exchange;
    this.#most = most;
    this.#gathered = gathered;
    this.#fail = fail;
  }

  requestData(chunk: Buffer): boolean {
    pile(this.#pieces, chunk);
    this.#bytes += chunk.length;
    hold(chunk.length);
    if (!this.#isTooLong) return true;
    this.#gathered();
    return false;
  }

  get #isTooLong(): boolean {
    return this.#bytes > this.#most;
  }

  get waitingBytes(): number {
    return this.#bytes;
  }

  requestEnd(trailers: Fields): void {
    const exchange = this.#exchange;
    if (this.#isTooLong) {
      this.#ended = trailers;
      return;
    }
    const body = Buffer.concat(this.#pieces);
    this.drop();
    exchange.carrier = undefined;
    gathered.set(exchange, body);
    if (trailers.names.length > 0) this.#chunked = { body, trailers };
    else {
      exchange.framing = body.length;
      if (body.length > 0) exchange.wholeBody = body;
    }
    this.#gathered();
  }

  /** An earlier step has left the body, which was too long for it: what it holds is the start of `next`'s. */
  handOver(next: Gathering): void {
    this.#next = next;
    passHeld(this, this.#exchange, this.#pieces, this.#ended);
  }

  release(): void {
    if (this.#next !== undefined) return this.#next.release();
    if (this.#isTooLong) return passHeld(this, this.#exchange, this.#pieces, this.#ended);
    if (this.#chunked === undefined) return;
    const { carrier } = this.#exchange;
    carrier?.requestData(this.#chunked.body);
    carrier?.requestEnd(this.#chunked.trailers);
  }

  downstreamDrained(): void {}

  downstreamGone(): void {
    this.drop();
  }

  idle(): void {
    this.drop();
    // The refusal may have to wait for the log; what arrives meanwhile is dropped.
    this.#exchange.carrier = undefined;
    const limit = this.#exchange.rules.limits.streamIdleMs;
    this.#fail(new SallyportError('stream_idle', `the body did not arrive within ${limit} ms (limit streamIdle)`));
  }

  drop(): void {
    hold(-this.#bytes);
    this.#bytes = 0;
    this.#pieces = [];
  }
}
