// The facts of a connection that the path needs.

import type { PeerIdentity } from '../../cert-agent/identity/verify.ts';
import type { Ip } from '../policy/ip.ts';
import type { TlsFacts } from './upstream.ts';

/** The connection of a request. */
export interface ConnectionFacts {
  readonly id: number;
  /** Exchanges begun on it so far. */
  requests: number;
  readonly peer: PeerIdentity | undefined;
  readonly remoteAddress: string;
  readonly localAddress: string;
  readonly remoteIp: Ip | undefined;
  readonly localIp: Ip | undefined;
  readonly tls: TlsFacts | undefined;
  readonly serverName: string | undefined;
  /** At a gateway: the listener of the handshake, and the certificate that the client presented. */
  readonly listener: string | undefined;
  readonly client?: ClientCertificate | undefined;
  /** `x-forwarded-client-cert` for the client's requests. */
  readonly clientCert?: string | undefined;
}

/** A client's certificate at a gateway, verified with the authorities of its listener. */
export interface ClientCertificate {
  /** Its only URI name, else its subject: the client's name in policies and in the log. */
  readonly name: string;
  readonly uri: string | undefined;
  readonly subject: string;
  readonly dns: readonly string[];
  /** SHA-256, lower-case hex. */
  readonly fingerprint: string;
  readonly serial: string;
  /** Milliseconds since 1970. */
  readonly validUntil: number;
}
