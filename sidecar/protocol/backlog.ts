// What waits in our memory for slow readers: whether any of it moves, and how long it waits at the pace at which it goes. Looked
// at in the coarse tick, and made only where something waits.

import { SallyportError } from '../../cert-agent/base/errors.ts';

/** What waits for one reader. */
export class Backlog {
  readonly #since: number;
  readonly #first: number;
  #progress = Number.NaN;
  #movedAt: number;

  /** `moved`: bytes that this reader has taken before. */
  constructor(now: number, moved: number) {
    this.#since = now;
    this.#first = moved;
    this.#movedAt = now;
  }

  /** `progress` is any number that changes when something moves. True when it has not for `limitMs`. */
  isStalled(now: number, progress: number, limitMs: number): boolean {
    if (progress !== this.#progress) {
      this.#progress = progress;
      this.#movedAt = now;
    }
    return now - this.#movedAt > limitMs;
  }

  /**
   * Milliseconds that `bytes` wait at the pace so far, `moved` taken in all. Of two that hold as much, whoever takes a byte now
   * and then waits for as long as whoever takes none; whoever reads as fast as they can hardly waits.
   */
  waitMs(now: number, bytes: number, moved: number): number {
    const age = now - this.#since;
    const taken = moved - this.#first;
    return taken <= 0 ? age : Math.min(age, (bytes * age) / taken);
  }
}

const peerFactor = 4;

/**
 * How long somebody may take nothing. A peer of the mesh passes on what it is given, and takes more when all of that has gone: it
 * looks for itself, and knows who is slow.
 */
export function stallMsFor(peer: unknown, limitMs: number): number {
  return peer === undefined ? limitMs : peerFactor * limitMs;
}

/** What waits of one exchange: of its answer for the client, of its request for the upstream. */
export class ExchangeBacklog {
  #reply: Backlog | undefined = undefined;
  #request: Backlog | undefined = undefined;

  /**
   * `ofReply` and `ofRequest` bytes wait, of an answer of which the client has taken `taken` and a request of which `received`
   * have come. Who has taken none of it for `clientMs` or `upstreamMs`; undefined when nobody.
   */
  look(
    now: number,
    clientMs: number,
    upstreamMs: number,
    ofReply: number,
    taken: number,
    ofRequest: number,
    received: number,
  ): 'client' | 'upstream' | undefined {
    if (ofReply === 0) this.#reply = undefined;
    else this.#reply ??= new Backlog(now, taken);
    if (ofRequest === 0) this.#request = undefined;
    else this.#request ??= new Backlog(now, received - ofRequest);
    if (this.#reply?.isStalled(now, taken, clientMs) === true) return 'client';
    // What has been taken, and what has come: a client that still sends is not kept waiting by anybody.
    return this.#request?.isStalled(now, 2 * received - ofRequest, upstreamMs) === true ? 'upstream' : undefined;
  }

  /** How long the slower of the two waits, by the same numbers; milliseconds. */
  waitMs(now: number, ofReply: number, taken: number, ofRequest: number, received: number): number {
    return Math.max(
      this.#reply?.waitMs(now, ofReply, taken) ?? 0,
      this.#request?.waitMs(now, ofRequest, received - ofRequest) ?? 0,
    );
  }
}

/** `reader`: who does not take what waits. */
export function stalled(reader: 'client' | 'upstream', limitMs: number): SallyportError {
  return new SallyportError(
    'stream_stalled',
    `bytes waited of which the ${reader} took none for ${limitMs} ms (limit streamStallMs)`,
  );
}
