// The two ends of an exchange as the path sees them: the side that asked, and what carries its body on.

import type { Fields, Reply } from './message.ts';
import type { SpliceEnd } from './upstream.ts';

/** The side that asked, whichever protocol it speaks. */
export interface Downstream {
  informational(reply: Reply): void;
  /** The answer's head, and the whole body where `whole` is given; nothing follows then. */
  respond(reply: Reply, whole: Buffer | undefined): void;
  /** False asks to wait for `downstreamDrained`. */
  write(chunk: Buffer): boolean;
  end(trailers: Fields): void;
  /** Cuts the answer so that it cannot look complete. */
  abort(): void;
  pause(): void;
  resume(): void;
  /** After our 101: joins this socket with the upstream's until both are closed, and closes both. */
  tunnel(upstream: SpliceEnd): void;
}

/** What forwards an exchange's body; the downstream codec feeds it. */
export interface Carrier {
  /** False asks the downstream to wait for `resume`. */
  requestData(chunk: Buffer): boolean;
  requestEnd(trailers: Fields): void;
  downstreamDrained(): void;
  /** The asking side is gone: nothing more can be answered. */
  downstreamGone(): void;
  /** No byte moved for the stream-idle limit. */
  idle(): void;
  /** What of the request waits here, bytes; absent where nothing does. */
  readonly waitingBytes?: number;
  /** It waits for more of the request, or for a decision, and for no reader. */
  readonly gathers?: boolean;
}

/** Holds a body while a step waits, and hands it on afterwards. */
export interface Holding extends Carrier {
  /** Hands what is held to the carrier that the exchange has now. */
  release(): void;
  drop(): void;
}

/** A request as it came, before any step has changed it. */
export interface Received {
  readonly fields: Fields;
  readonly path: string;
  readonly authority: string;
}

/** A refusal that whoever refuses words himself. */
export interface Denial {
  readonly status: number;
  readonly fields: Fields;
  readonly body: Buffer;
}
