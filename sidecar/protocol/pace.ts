// How fast a client must be, so that nobody can hold a request, a backend and our memory with a byte now and then. Who is owed
// something has patience: it runs out while he waits, and what moves gives some back. Looked at in the coarse tick.

import { SallyportError } from '../../cert-agent/base/errors.ts';
import type { Exchange } from '../exchange/exchange.ts';

/** Nobody is too slow before: connections have bad moments. */
export const graceMs = 5000;
/** What a fast sender may save up for a slow moment. */
const savedMs = 30_000;

/** One body, one way. */
export class Pace {
  #patienceMs = graceMs;
  #last: number;
  #bytes: number;

  /** `bytes` that have moved before. */
  constructor(now: number, bytes: number) {
    this.#last = now;
    this.#bytes = bytes;
  }

  /** Bytes come to us, `bytes` of them so far. `waited`: we wanted more since the last look. True when that is too slow. */
  isSlow(now: number, bytes: number, waited: boolean, perSecond: number): boolean {
    return this.#look(now, bytes, waited, perSecond, savedMs);
  }

  /**
   * Bytes were given to be taken, `bytes` so far, of which `outstanding` still wait. What a system's buffers have taken is
   * not seen from here before a good part of it is gone, so what waits has the time that it may take.
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
 * Is it the client's turn to send? Between the messages of a gRPC stream there may be any time, and who has asked whether he
 * may go on waits for the app's word.
 */
export function owesBody({ grpc, expectContinue, bytesReceived }: Exchange): boolean {
  return !grpc && !(expectContinue && bytesReceived === 0);
}

export function bodyTooSlow(perSecond: number): SallyportError {
  return new SallyportError(
    'body_too_slow',
    `the body came more slowly than ${perSecond} bytes a second (limit slowBytesPerSecond)`,
  );
}

export function replyTooSlow(perSecond: number): SallyportError {
  return new SallyportError(
    'reply_too_slow',
    `the answer was taken more slowly than ${perSecond} bytes a second (limit slowBytesPerSecond)`,
  );
}
