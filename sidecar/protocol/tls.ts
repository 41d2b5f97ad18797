// Every TLS option of the product, in one place, because `setSecureContext` replaces all of them: called with key and
// certificate alone it allows TLS 1.2 again and resets the groups.

import { constants } from 'node:crypto';
import {
  createSecureContext,
  type SecureContext,
  type SecureContextOptions,
  type TLSSocket,
  type TlsOptions,
} from 'node:tls';
import type { Svid } from '../../cert-agent/identity/svid.ts';
import type { TlsFacts } from '../exchange/upstream.ts';
import { meshAlpn, meshAlpns } from '../policy/mtls.ts';

/** Nothing older can be configured. */
export type TlsVersion = 'TLSv1.3' | 'TLSv1.2';

/** AEAD suites with forward secrecy only; the first line is TLS 1.3, the others matter if 1.2 is allowed. */
const ciphers = [
  'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256',
  'ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-CHACHA20-POLY1305',
].join(':');

/** The groups that may be allowed, hybrid post-quantum first. */
export const tlsGroups = ['X25519MLKEM768', 'X25519', 'P-256'] as const;

/** The TLS part of the settings. */
export interface TlsSettings {
  readonly minVersion: TlsVersion;
  /** In the order of preference. */
  readonly groups: readonly string[];
}

/**
 * The options that follow the SVID and are replaced on rotation, for accepting and dialing. It has no roots, on
 * purpose: OpenSSL has one pool of them, and its verdict on several trust domains is wrong both ways. See peer-chain.ts
 * for ours.
 */
export function contextOptions(svid: Svid, settings: TlsSettings): SecureContextOptions {
  // An empty list, since Node uses its own roots without one.
  return { key: svid.keyPem, cert: svid.chainPem, ca: [], ...strictly(settings) };
}

/**
 * One handshake per connection. A resumed session skips every check of a certificate (conventions: measured), so there
 * are no tickets. TLS 1.2 lets a client request one handshake after the other, each of which costs us a signature.
 */
const neverAgain = constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION;

/** The limits for every peer and client. */
function strictly({ minVersion, groups }: TlsSettings): SecureContextOptions {
  return {
    minVersion,
    maxVersion: 'TLSv1.3',
    ciphers,
    ecdhCurve: groups.join(':'),
    honorCipherOrder: true,
    secureOptions: neverAgain,
  };
}

/** A gateway listener's certificates, one of each key type, and the authorities of its clients' certificates; PEM. */
export interface FrontCertificates {
  readonly certificates: readonly { readonly certificate: string; readonly key: string }[];
  readonly authorities: string | undefined;
}

/**
 * The context of a gateway's listener. Of several certificates OpenSSL presents the one whose signatures the client
 * supports.
 */
export function frontContextOptions(
  { certificates, authorities }: FrontCertificates,
  settings: TlsSettings,
): SecureContextOptions {
  return {
    key: certificates.map(({ key }) => key),
    cert: certificates.map(({ certificate }) => certificate),
    // Without authorities no client certificate is requested; Node's own roots must not be used.
    ca: authorities ?? [],
    // An intermediate may be the anchor that the document names.
    allowPartialTrustChain: true,
    ...strictly(settings),
  };
}

/** A context for dialing; made once per generation of our SVID, since reading a key is expensive. */
export function dialContext(svid: Svid, settings: TlsSettings): SecureContext {
  return createSecureContext(contextOptions(svid, settings));
}

/** What the handshake of a dialed socket negotiated: Node exposes all of it on the dialing side. */
export function dialedFacts(socket: TLSSocket): TlsFacts {
  const info = socket.getEphemeralKeyInfo() as { readonly name?: string } | null;
  return { ...factsOf(socket), group: info?.name };
}

/** The same for an accepted socket: the group is known only if a single one is allowed. */
export function acceptedFacts(socket: TLSSocket, { groups }: TlsSettings): TlsFacts {
  return { ...factsOf(socket), group: groups.length === 1 ? groups[0] : undefined };
}

function factsOf(socket: TLSSocket): { readonly version: string; readonly cipher: string } {
  return { version: socket.getProtocol() ?? 'unknown', cipher: socket.getCipher().standardName };
}

/**
 * Options of a listener that requires a certificate. Node's own verdict is read from the socket and evaluated in
 * peer.ts, which can give the reason; nothing is served before that.
 */
export function listenOptions(handshakeMs: number): TlsOptions {
  return { requestCert: true, rejectUnauthorized: false, handshakeTimeout: handshakeMs, noDelay: true };
}

/**
 * The protocol agreed with a mesh client that offers `protocols` (RFC 7301 section 3.2): HTTP/2, else the client's
 * preference. If that is a name of the mesh, the first bytes tell the protocol. Undefined: none, and the handshake
 * fails.
 */
export function agreeInMesh(protocols: readonly string[]): string | undefined {
  return protocols.find((one) => one === 'h2') ?? protocols.find((one) => spokenInMesh.has(one));
}

/** `istio-peer-exchange` is never agreed on: it announces bytes of Istio's own before those of the app. */
const spokenInMesh = new Set(['http/1.1', ...meshAlpns.filter((one) => one !== 'istio-peer-exchange')]);

/**
 * The protocols offered to a peer: our mark beside `alpn`, so that a PERMISSIVE port recognises us. A dialer of streams
 * puts the mark first and adds HTTP/1.1: servers that refuse unknown protocols then treat the offer as they would no
 * ALPN at all.
 */
export function offeredToPeer(alpn: readonly string[]): string[] {
  return alpn.length === 0 ? [meshAlpn, 'http/1.1'] : [...alpn, meshAlpn];
}

/** For dialing a server that is no peer: no certificate is presented, and TLS is at least 1.2. */
export function serverDialOptions(ca: string | string[], { minVersion, groups }: TlsSettings): SecureContextOptions {
  return {
    ca,
    minVersion,
    maxVersion: 'TLSv1.3',
    ciphers,
    ecdhCurve: groups.join(':'),
    // An intermediate may be the anchor that the document names.
    allowPartialTrustChain: true,
    secureOptions: neverAgain,
  };
}
