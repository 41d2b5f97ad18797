// Where a request goes: its route, the destination that gives connections, and a connection that carries it.

import type { Duplex } from 'node:stream';
import type { SallyportError } from '../../cert-agent/base/errors.ts';
import type { PeerIdentity } from '../../cert-agent/identity/verify.ts';
import type { Call, Fields, Reply } from './message.ts';

/** What is retried, by Envoy's names (`x-envoy-retry-on`); the last five are gRPC statuses. */
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

/** When a request is retried, and how often. */
export interface RetryPolicy {
  /** The number of retries after the first try. */
  readonly attempts: number;
  /** Statuses of responses that are retried, for any method: the configuration that names them has decided so. */
  readonly codes: readonly number[];
  /** What else is retried; requests that are not idempotent only if they cannot have been processed. */
  readonly on: readonly RetryOn[];
  /**
   * The wait before the first; it doubles with each, to ten times as long or to `maxBackoffMs`, and is a random part of
   * that.
   */
  readonly backoffMs: number;
  readonly maxBackoffMs?: number | undefined;
  /** The longest wait of one try for the head of its response; 0: as long as the request's own timeout. */
  readonly perTryTimeoutMs: number;
  /** The share of retries among the requests in flight; default 20 %, and always at least three. */
  readonly budget?: { readonly percent: number; readonly least: number } | undefined;
}

/** Gateway API's timeouts: from the request's start, and for each try, to the end of the response. 0: none. */
export interface RouteTimeouts {
  readonly requestMs: number;
  readonly backendRequestMs: number;
}

/** The part of a request that chooses its endpoint: equal requests go to the same one. */
export type HashSource =
  | { readonly headers: readonly string[] }
  | { readonly cookie: string; readonly path: string | undefined; readonly ttlMs: number | undefined }
  | { readonly query: string }
  | { readonly sourceIp: true }
  /** The session that a gateway keeps for the client: `Exchange.session`. */
  | { readonly session: true };

/** One request's input to the choice of its endpoint. */
export interface Choice {
  /** Equal texts go to the same endpoint, if balancing is by hash. */
  readonly hash: string | undefined;
  /** Addresses already tried: others come first. */
  readonly avoid: readonly string[];
  /** True once the request has ended. */
  readonly over: boolean;
  /** Grows with each try: connections that an earlier one asked for are not used. */
  readonly attempt?: number;
}

/** Gives connections to one upstream. A promise only if it really waits. */
export interface Destination {
  /**
   * With `fresh`, a connection that has carried no request; with `upgrades`, one whose socket can be handed over.
   * @throws SallyportError `upstream_*` or `overloaded`.
   */
  acquire(fresh: boolean, upgrades: boolean, choice?: Choice): UpstreamConnection | Promise<UpstreamConnection>;
  /** A bare connection, for TCP; the caller closes it. @throws SallyportError `upstream_*`, `overloaded`. */
  dialSocket(choice?: Choice): Promise<BareConnection>;
  /** Absent if equal requests need not go to the same endpoint. */
  readonly hashBy?: HashSource | undefined;
  /** Reports the status of each response, or why there was none, by address; absent without outlier detection. */
  readonly report?: ((address: string, outcome: number | SallyportError) => void) | undefined;
  /** Takes one of the retries that may be in flight; false if none is left. The caller returns it. */
  takeRetry?(budget: RetryPolicy['budget']): boolean;
  /** Once for each true of `takeRetry`, when the retry is over. */
  giveRetryBack?(): void;
}

/** The peer of an upstream connection, and whether it is still valid. */
export interface UpstreamPeer {
  readonly identity: PeerIdentity;
  readonly tls: TlsFacts;
  /** Why it would be refused now; undefined while it is valid. */
  refusal(): SallyportError | undefined;
}

/** The parameters of a handshake. */
export interface TlsFacts {
  /** `TLSv1.3`. */
  readonly version: string;
  /** IANA's name: `TLS_AES_128_GCM_SHA256`. */
  readonly cipher: string;
  /** `X25519MLKEM768`; undefined if this Node does not report it. */
  readonly group: string | undefined;
}

/** A connection to an upstream without a protocol yet. */
export interface BareConnection {
  readonly socket: Duplex;
  readonly address: string;
  readonly localAddress: string;
  readonly peer: UpstreamPeer | undefined;
}

/** A socket, or a stream that acts as one, that is handed over with the bytes that were read from it. */
export interface SpliceEnd {
  readonly socket: Duplex;
  readonly rest: Buffer | undefined;
}

/** A connection to an upstream that carries one exchange at a time. Its user must release or destroy it. */
export interface UpstreamConnection {
  /** True if it has carried an exchange before: it may have died unnoticed. */
  readonly reused: boolean;
  /** True if its end came, or was announced, before the request was processed: any method can be sent again. */
  readonly isUnsent?: boolean;
  /** With mutual TLS: a peer that refuses our SVID closes silently after the handshake. */
  readonly secure: boolean;
  /** Absent for our own app. */
  readonly peer: UpstreamPeer | undefined;
  readonly address: string;
  readonly localAddress: string;
  /** Bytes of the request that it was given and has not sent. */
  readonly waitingBytes: number;
  /** Sends the head, and the body with it if `whole` is given; the response comes to `events`. */
  send(call: Call, whole: Buffer | undefined, events: UpstreamEvents): void;
  /** Sends a piece of the body. False means: wait for `upstreamDrained`. */
  write(chunk: Buffer): boolean;
  /** After the last piece, once; not after `send` with `whole`. */
  end(trailers: Fields): void;
  /** Asks the upstream to stop sending its response. A piece on its way may still come. */
  pause(): void;
  /** The opposite of `pause`. */
  resume(): void;
  /** Ends it in any state; no event follows. */
  destroy(): void;
  /** After a 101: hands over the socket or stream, and what was read past the head, to the caller, who closes it. */
  takeSocket(): SpliceEnd;
}

/** Events of an upstream connection for its exchange. */
export interface UpstreamEvents {
  /** A 1xx response, but 101. */
  upstreamInformational(reply: Reply): void;
  /** `whole` is the entire body if it came with the head. It may be lent: see protocol/lent-reads.ts. */
  upstreamReply(reply: Reply, whole: Buffer | undefined): void;
  /** A piece of the response's body. False: the connection pauses until `resume`. */
  upstreamData(chunk: Buffer): boolean;
  /** The response is complete; nothing follows. */
  upstreamEnd(trailers: Fields): void;
  /** After a `write` that gave false: there is room again. */
  upstreamDrained(): void;
  /** No response, or no more of it; nothing follows. The connection is of no use any more. */
  upstreamFailed(error: SallyportError): void;
}
