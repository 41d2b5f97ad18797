// Who still uses plaintext, port by port: an operator must know before a port becomes STRICT, and no other page tells.
// Bounded, since strangers choose their addresses.

import type { PortRules } from '../exchange/exchange.ts';
import type { MtlsMode } from '../policy/mtls.ts';

/** How many addresses of one port are kept; others are counted together. */
const maxAddresses = 1000;

/** A client that uses plaintext. Times are RFC 3339. */
export interface PlaintextPeer {
  /** Without its port, which differs each time; `others` beyond the bound. */
  readonly address: string;
  readonly connections: number;
  readonly firstSeen: string;
  readonly lastSeen: string;
}

/** What one inbound port has seen since the sidecar started. */
export interface PortSecurity {
  readonly port: string;
  readonly mode: MtlsMode;
  /** The document that sets the mode, `ns/name`, or `defaultMtls`. */
  readonly from: string;
  readonly mtlsConnections: number;
  readonly plaintextConnections: number;
  readonly plaintextPeers: readonly PlaintextPeer[];
  /** Since when the port could have been STRICT without refusing any client. */
  readonly strictPossibleSince: string;
}

interface Seen {
  connections: number;
  readonly first: number;
  last: number;
}

interface PortSeen {
  mtls: number;
  plaintext: number;
  readonly peers: Map<string, Seen>;
  lastPlaintext: number;
}

/** Counts connections by plaintext or TLS. */
export class SecurityReport {
  readonly #ports = new Map<string, PortSeen>();
  readonly #startedAt = Date.now();

  /** A connection was accepted on `port`, whatever its outcome. */
  note(port: string, address: string, secure: boolean): void {
    const seen = this.#of(port);
    if (secure) {
      seen.mtls++;
      return;
    }
    const now = Date.now();
    seen.plaintext++;
    seen.lastPlaintext = now;
    const key = seen.peers.has(address) || seen.peers.size < maxAddresses ? address : 'others';
    const known = seen.peers.get(key);
    if (known === undefined) seen.peers.set(key, { connections: 1, first: now, last: now });
    else {
      known.connections++;
      known.last = now;
    }
  }

  /** What is known of a port under its current rules. */
  describe(port: string, { mtls }: PortRules): PortSecurity | undefined {
    if (mtls === undefined) return undefined;
    const seen = this.#of(port);
    return {
      port,
      mode: mtls.mode,
      from: mtls.from,
      mtlsConnections: seen.mtls,
      plaintextConnections: seen.plaintext,
      plaintextPeers: [...seen.peers]
        .map(([address, { connections, first, last }]) => ({
          address,
          connections,
          firstSeen: new Date(first).toISOString(),
          lastSeen: new Date(last).toISOString(),
        }))
        .toSorted((a, b) => b.connections - a.connections),
      strictPossibleSince: new Date(Math.max(this.#startedAt, seen.lastPlaintext)).toISOString(),
    };
  }

  #of(port: string): PortSeen {
    let known = this.#ports.get(port);
    if (known === undefined) {
      known = { mtls: 0, plaintext: 0, peers: new Map(), lastPlaintext: 0 };
      this.#ports.set(port, known);
    }
    return known;
  }
}
