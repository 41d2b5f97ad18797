// Where a request goes: its route, the destination that gives connections, and a connection that carries it.

import type { Duplex } from 'node:stream';
import type { SallyportError } from '../../cert-agent/base/errors.ts';
import type { PeerIdentity } from '../../cert-agent/identity/verify.ts';
import type { Call, Fields, Reply } from './message.ts';

/** What is tried again, in Envoy's words (`x-envoy-retry-on`); the last five are gRPC statuses. */
export type RetryOn =
  | '5xx'
  | 'gateway-error'
  | 'reset'
  | 'reset-before-request'
  | 'connect-failure'
  | 'refused-stream'
  | 'retriable-4xx'
  | 'retriable-status-codes'
  | 'cancelled'
  | 'deadline-exceeded'
  | 'internal'
  | 'resource-exhausted'
  | 'unavailable';

/** When a request is sent again, and how often. */
export interface RetryPolicy {
  /** How many times after the first. */
  readonly attempts: number;
  /** Statuses of answers that are tried again, whatever the method: whoever names them has decided so. */
  readonly codes: readonly number[];
  /** What else is; requests that are not idempotent only where none of it can have been done. */
  readonly on: readonly RetryOn[];
  /** The wait before the first; it doubles with each, to ten times as long or to `maxBackoffMs`, and is a random part of that. */
  readonly backoffMs: number;
  readonly maxBackoffMs?: number | undefined;
  /** How long one try may wait for the head of its answer; 0: as long as the request may. */
  readonly perTryTimeoutMs: number;
  /** What part of the requests in flight may be retries; default 20 %, and three whatever there is. */
  readonly budget?: { readonly percent: number; readonly least: number } | undefined;
}

/** As Gateway API has them: from the request's start, and for each try, to the end of the answer. 0: none. */
export interface RouteTimeouts {
  readonly requestMs: number;
  readonly backendRequestMs: number;
}

/** By what of a request its endpoint is chosen, where equal requests shall go to the same. */
export type HashSource =
  | { readonly headers: readonly string[] }
  | { readonly cookie: string; readonly path: string | undefined; readonly ttlMs: number | undefined }
  | { readonly query: string }
  | { readonly sourceIp: true }
  /** The session that a gateway keeps for the client: `Exchange.session`. */
  | { readonly session: true };

/** What one request asks of the choice of its endpoint. */
export interface Choice {
  /** Equal texts go to the same endpoint, where balancing is by hash. */
  readonly hash: string | undefined;
  /** Addresses that it has tried: others come first. */
  readonly avoid: readonly string[];
  /** Nobody waits for it any more. */
  readonly over: boolean;
  /** Rises with each try: what an earlier one has asked for is nobody's. */
  readonly attempt?: number;
}

/** Something that gives connections to one upstream. A promise only when it really waits. */
export interface Destination {
  /**
   * With `fresh`, no connection that carried a request before; with `upgrades`, one that can be handed over whole.
   * @throws SallyportError `upstream_*` or `overloaded`.
   */
  acquire(fresh: boolean, upgrades: boolean, choice?: Choice): UpstreamConnection | Promise<UpstreamConnection>;
  /** A bare connection, for TCP; whoever gets it closes it. @throws SallyportError `upstream_*`, `overloaded`. */
  dialSocket(choice?: Choice): Promise<BareConnection>;
  /** Absent where equal requests need not go to the same endpoint. */
  readonly hashBy?: HashSource | undefined;
  /** Told the status of each answer, or why there was none, by the address; absent where nobody draws conclusions. */
  readonly report?: ((address: string, outcome: number | SallyportError) => void) | undefined;
  /** Takes one of the retries that may be in flight; false when there is none left. Whoever took it gives it back. */
  takeRetry?(budget: RetryPolicy['budget']): boolean;
  giveRetryBack?(): void;
}

/** Who is at the other end of an upstream connection, and whether it still holds. */
export interface UpstreamPeer {
  readonly identity: PeerIdentity;
  readonly tls: TlsFacts;
  /** Why it would be refused now; undefined while it is good. */
  refusal(): SallyportError | undefined;
}

/** What a handshake has agreed on. */
export interface TlsFacts {
  /** `TLSv1.3`. */
  readonly version: string;
  /** IANA's name: `TLS_AES_128_GCM_SHA256`. */
  readonly cipher: string;
  /** `X25519MLKEM768`; undefined where this Node does not tell. */
  readonly group: string | undefined;
}

/** A connection to an upstream on which nobody speaks yet. */
export interface BareConnection {
  readonly socket: Duplex;
  readonly address: string;
  readonly localAddress: string;
  readonly peer: UpstreamPeer | undefined;
}

/** A socket, or a stream that acts as one, that is handed over, and what was read from it that belongs to its new owner. */
export interface SpliceEnd {
  readonly socket: Duplex;
  readonly rest: Buffer | undefined;
}

/** A connection to an upstream that carries one exchange at a time. Whoever acquired it must release or destroy it. */
export interface UpstreamConnection {
  /** It has carried an exchange before, so it may have died unseen. */
  readonly reused: boolean;
  /** Its end was announced, or had come, before the request was looked at: it can be sent again, with any method. */
  readonly isUnsent?: boolean;
  /** With mutual TLS: a peer that refuses our SVID closes without a word after the handshake. */
  readonly secure: boolean;
  /** Absent for our own app. */
  readonly peer: UpstreamPeer | undefined;
  readonly address: string;
  readonly localAddress: string;
  /** What of a request was given to it and has not left, bytes. */
  readonly waitingBytes: number;
  /** Sends the head, and the body with it when `whole` is given; the answer comes to `events`. */
  send(call: Call, whole: Buffer | undefined, events: UpstreamEvents): void;
  /** A piece of the body. False asks to wait for `upstreamDrained`. */
  write(chunk: Buffer): boolean;
  end(trailers: Fields): void;
  pause(): void;
  resume(): void;
  /** Ends it whatever it was doing; no event follows. */
  destroy(): void;
  /** After a 101: hands the socket, or the stream, and what was read past the head over to the caller, who closes it. */
  takeSocket(): SpliceEnd;
}

/** What an upstream connection tells the exchange that it carries. */
export interface UpstreamEvents {
  upstreamInformational(reply: Reply): void;
  /** `whole` is the entire body when it came with the head. */
  upstreamReply(reply: Reply, whole: Buffer | undefined): void;
  upstreamData(chunk: Buffer): boolean;
  upstreamEnd(trailers: Fields): void;
  upstreamDrained(): void;
  upstreamFailed(error: SallyportError): void;
}
