// Bytes buffered in our memory for slow readers: whether any of them move, and how long they wait at the current pace.
// Checked in the coarse tick, and created only where something waits.

import { SallyportError } from '../../cert-agent/base/errors.ts';

/** The bytes that wait for one reader. */
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

  /** `progress` is any number that changes when bytes move. True if it has not changed for `limitMs`. */
  isStalled(now: number, progress: number, limitMs: number): boolean {
    if (progress !== this.#progress) {
      this.#progress = progress;
      this.#movedAt = now;
    }
    return now - this.#movedAt > limitMs;
  }

  /**
   * How long `bytes` wait at the pace so far, milliseconds; `moved` is the total taken. Of two backlogs of the same
   * size, a reader that takes a byte now and then waits as long as one that takes none; a fast reader hardly waits.
   */
  waitMs(now: number, bytes: number, moved: number): number {
    const age = now - this.#since;
    const taken = moved - this.#first;
    return taken <= 0 ? age : Math.min(age, (bytes * age) / taken);
  }
}

const peerFactor = 4;

/**
 * How long a reader may take nothing. A mesh peer gets longer: it relays what it gets and takes more once all of it is
 * gone. It does this check itself, and knows which of its clients is slow.
 */
export function stallMsFor(peer: unknown, limitMs: number): number {
  return peer === undefined ? limitMs : peerFactor * limitMs;
}

/** The bytes that wait in one exchange: of its response for the client, of its request for the upstream. */
export class ExchangeBacklog {
  #reply: Backlog | undefined = undefined;
  #request: Backlog | undefined = undefined;

  /**
   * `ofReply` bytes of the response wait, of which the client has taken `taken`; `ofRequest` bytes of the request wait,
   * of which `received` have arrived. Returns who took none for `clientMs` or `upstreamMs`; undefined if neither.
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
    // Both taken and received bytes count: a client that is still sending is not being held up.
    return this.#request?.isStalled(now, 2 * received - ofRequest, upstreamMs) === true ? 'upstream' : undefined;
  }

  /** How long the slower of the two waits, from the same numbers; milliseconds. */
  waitMs(now: number, ofReply: number, taken: number, ofRequest: number, received: number): number {
    return Math.max(
      this.#reply?.waitMs(now, ofReply, taken) ?? 0,
      this.#request?.waitMs(now, ofRequest, received - ofRequest) ?? 0,
    );
  }
}

/** `reader`: the side that does not take the waiting bytes. */
export function stalled(reader: 'client' | 'upstream', limitMs: number): SallyportError {
  return new SallyportError(
    'stream_stalled',
    `the ${reader} took none of the waiting bytes for ${limitMs} ms (limit streamStall)`,
  );
}
