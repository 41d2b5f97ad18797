// A request's body that is here in full before anything of it goes on (BackendTrafficPolicy `requestBuffer`): the app sees no
// half requests, and waits for no slow client. The codec refuses what is longer than the limit; while it gathers, nothing else
// of the path runs.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { Carrier } from '../../exchange/ends.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import { hold, pile } from '../../exchange/held-bytes.ts';
import { emptyFields, type Fields, type Reply } from '../../exchange/message.ts';

/** Is there something to wait for? Streams of messages have no whole, and tunnels no body. */
export function waitsForBody({ framing, wholeBody, grpc, webSocket, method }: Exchange): boolean {
  return framing !== 0 && wholeBody === undefined && !grpc && !webSocket && method !== 'CONNECT';
}

/** Gathers the body, then lets the request go on with it. What `goOn` throws, and a client that falls silent, go to `fail`. */
export function gatherBody(exchange: Exchange, goOn: () => void, fail: (error: unknown) => void): void {
  exchange.carrier = new Gathering(exchange, goOn, fail);
  if (!exchange.expectContinue) return;
  // The app would have said it; it is asked only when the body is here.
  exchange.expectContinue = false;
  exchange.downstream.informational(goAhead);
}

const goAhead: Reply = Object.freeze({
  status: 100,
  reason: 'Continue',
  fields: emptyFields,
  hopFields: undefined,
  framing: 0,
  declaredLength: undefined,
});

class Gathering implements Carrier {
  readonly gathers = true;
  readonly #exchange: Exchange;
  readonly #goOn: () => void;
  readonly #fail: (error: unknown) => void;
  #pieces: Buffer[] = [];
  #bytes = 0;

  constructor(exchange: Exchange, goOn: () => void, fail: (error: unknown) => void) {
    this.#exchange = exchange;
    this.#goOn = goOn;
    this.#fail = fail;
  }

  requestData(chunk: Buffer): boolean {
    pile(this.#pieces, chunk);
    this.#bytes += chunk.length;
    hold(chunk.length);
    return true;
  }

  get waitingBytes(): number {
    return this.#bytes;
  }

  requestEnd(trailers: Fields): void {
    const exchange = this.#exchange;
    const body = Buffer.concat(this.#pieces);
    this.#drop();
    exchange.carrier = undefined;
    // Only chunks can carry trailers on, so with those it stays chunks.
    const stays = trailers.names.length > 0;
    if (!stays) {
      exchange.framing = body.length;
      if (body.length > 0) exchange.wholeBody = body;
    }
    try {
      this.#goOn();
    } catch (error) {
      return this.#fail(error);
    }
    if (stays) handOn(exchange, body, trailers);
  }

  downstreamDrained(): void {}

  downstreamGone(): void {
    this.#drop();
  }

  idle(): void {
    this.#drop();
    // The refusal may have to wait for the log, and what comes meanwhile is not the body.
    this.#exchange.carrier = undefined;
    const limit = this.#exchange.rules.limits.streamIdleMs;
    this.#fail(new SallyportError('stream_idle', `its body had not come within ${limit} ms (limit streamIdleMs)`));
  }

  #drop(): void {
    hold(-this.#bytes);
    this.#bytes = 0;
    this.#pieces = [];
  }
}

function handOn({ carrier }: Exchange, body: Buffer, trailers: Fields): void {
  carrier?.requestData(body);
  carrier?.requestEnd(trailers);
}
