// The limits of one port.

/** Every limit of one port, from the settings. Times in milliseconds. */
export interface Limits {
  readonly headBytes: number;
  readonly headFields: number;
  /** A request's target, and its body; Infinity in a sidecar that sets none. */
  readonly urlBytes: number;
  readonly bodyBytes: number;
  /** Bytes per second below which a body in either direction is too slow; 0: no limit. */
  readonly slowBytesPerSecond: number;
  readonly handshakeMs: number;
  readonly protocolDetectionMs: number;
  readonly headMs: number;
  readonly connectMs: number;
  readonly streamIdleMs: number;
  /** How long bytes may wait while none of them is read. */
  readonly streamStallMs: number;
  readonly clientIdleMs: number;
  readonly tcpIdleMs: number;
  readonly connections: number;
  /** How many files and sockets the process may have open; Infinity if the system sets no limit. */
  readonly descriptors: number;
  /** Requests that one HTTP/2 connection may have in flight. */
  readonly streams: number;
  /** Requests that may wait for a connection to one upstream. */
  readonly pendingRequests: number;
  /**
   * How many bytes of all connections together may wait in memory for slow readers. Beyond it the slowest one is cut.
   */
  readonly heldBytes: number;
  readonly drainMs: number;
  /** How long outbound ports take what the app still has to say, at least. */
  readonly drainMinimumMs: number;
  readonly drainWebSocketMs: number;
  readonly drainTcpMs: number;
}
