// The slowest pace allowed, so that a client cannot hold a request, a backend and our memory with a byte now and then.
// Each body has a reserve of time: it runs out while the client is due to move bytes, and bytes that move give some of
// it back. Checked in the coarse tick.

import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Exchange } from '../exchange/exchange.ts';

/** No body is too slow before this: connections have bad moments. */
export const graceMs = 5000;
/** The most time that a fast sender can save up for a slow moment. */
const savedMs = 30_000;

/** One body in one direction. */
export class Pace {
  #patienceMs = graceMs;
  #last: number;
  #bytes: number;

  /** `bytes` that have moved before. */
  constructor(now: number, bytes: number) {
    this.#last = now;
    this.#bytes = bytes;
  }

  /**
   * `bytes` have arrived so far. `waited`: we have been ready for more since the last look. True if that is too slow.
   */
  isSlow(now: number, bytes: number, waited: boolean, perSecond: number): boolean {
    return this.#look(now, bytes, waited, perSecond, savedMs);
  }

  /**
   * `bytes` were written so far, of which `outstanding` still wait. Bytes in the system's buffers show as taken only
   * when a good part of them is gone, so the waiting bytes get the time that they may take.
   */
  isTakenSlowly(now: number, bytes: number, outstanding: number, perSecond: number): boolean {
    return this.#look(now, bytes, true, perSecond, graceMs + (outstanding * 1000) / perSecond);
  }

  #look(now: number, bytes: number, waited: boolean, perSecond: number, mostMs: number): boolean {
    const spentMs = waited ? now - this.#last : 0;
    const earnedMs = ((bytes - this.#bytes) * 1000) / perSecond;
    this.#last = now;
    this.#bytes = bytes;
    this.#patienceMs = Math.min(mostMs, this.#patienceMs + earnedMs - spentMs);
    return this.#patienceMs < 0;
  }
}

/**
 * Is it the client's turn to send? Not between the messages of a gRPC stream, where any time may pass, nor for a client
 * that has sent `Expect: 100-continue` and waits for the app.
 */
export function owesBody({ grpc, expectContinue, bytesReceived }: Exchange): boolean {
  return !grpc && !(expectContinue && bytesReceived === 0);
}

/** Answered with 408. */
export function bodyTooSlow(perSecond: number): SallyportError {
  return new SallyportError(
    'body_too_slow',
    `the request body arrived more slowly than ${perSecond} bytes a second (limit slowBytesPerSecond)`,
  );
}

/** The response is cut: its status was sent long ago. */
export function replyTooSlow(perSecond: number): SallyportError {
  return new SallyportError(
    'reply_too_slow',
    `the client took the response more slowly than ${perSecond} bytes a second (limit slowBytesPerSecond)`,
  );
}
