// The two ends of an exchange as the path sees them: the downstream, and the carrier of its body.

import type { Fields, Reply } from './message.ts';
import type { SpliceEnd } from './upstream.ts';

/** The downstream, in any protocol. */
export interface Downstream {
  /** A 1xx response, but 101. May come several times before `respond`, and is dropped where the protocol has none. */
  informational(reply: Reply): void;
  /**
   * Sends the response's head, and the whole body if `whole` is given; nothing follows then. It may be lent: see
   * protocol/lent-reads.ts.
   */
  respond(reply: Reply, whole: Buffer | undefined): void;
  /** False means: wait for `downstreamDrained`. */
  write(chunk: Buffer): boolean;
  /** After `respond` without `whole`, once. Trailers may be dropped where the protocol has no place for them. */
  end(trailers: Fields): void;
  /** Cuts the response so that it cannot look complete. */
  abort(): void;
  /** Asks the client to stop sending its request: a carrier does, when its own reader is slow. */
  pause(): void;
  /** The opposite of `pause`. */
  resume(): void;
  /** After our 101: joins this socket with the upstream's until both are closed, and closes both. */
  tunnel(upstream: SpliceEnd): void;
}

/** Forwards an exchange's body; the downstream codec feeds it. */
export interface Carrier {
  /** False means: the downstream waits for `resume`. */
  requestData(chunk: Buffer): boolean;
  /** Once, after all data. Not called if the request is cut off: see `downstreamGone`. */
  requestEnd(trailers: Fields): void;
  /** The client has taken what waited: the carrier may write again. */
  downstreamDrained(): void;
  /** The downstream is gone: no response is possible. */
  downstreamGone(): void;
  /** No byte moved for the stream-idle limit. */
  idle(): void;
  /** Bytes of the request that wait here; absent if none ever do. */
  readonly waitingBytes?: number;
  /** True while it waits for more of the request or for a decision, and not for a reader. */
  readonly gathers?: boolean;
}

/** Holds a body while a step waits, and passes it on afterwards. */
export interface Holding extends Carrier {
  /** Passes what is held to the exchange's current carrier. */
  release(): void;
  /** The request is over: what is held is not passed on. */
  drop(): void;
}

/** A request as received, before any step has changed it. */
export interface Received {
  readonly method: string;
  readonly fields: Fields;
  readonly path: string;
  readonly authority: string;
}

/** A refusal with its own text. */
export interface Denial {
  readonly status: number;
  readonly fields: Fields;
  readonly body: Buffer;
}

/** A field that a capability adds to an exchange's line in the access log. */
export interface Noted {
  readonly name: string;
  readonly text: string;
  /** True if the line names the path without its query: the query is what the text is about. */
  readonly hidesQuery?: true;
}
