// Every TLS option of the product, in one place, because `setSecureContext` takes all of them anew: called with key and
// certificate alone it lets TLS 1.2 in again and resets the groups.

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

export type TlsVersion = 'TLSv1.3' | 'TLSv1.2';

/** AEAD suites with forward secrecy only; the first line is TLS 1.3, the rest matter when 1.2 is let in. */
const ciphers = [
  'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256',
  'ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-CHACHA20-POLY1305',
].join(':');

/** The groups that may be allowed, hybrid post-quantum first. */
export const tlsGroups = ['X25519MLKEM768', 'X25519', 'P-256'] as const;

/** What the settings say of TLS. */
export interface TlsSettings {
  readonly minVersion: TlsVersion;
  /** In the order of preference. */
  readonly groups: readonly string[];
}

/**
 * The part that follows the SVID: what a rotation replaces, accepting and dialing. No roots, on purpose: OpenSSL knows one
 * pool of them, and its verdict on several trust domains is wrong both ways. peer-chain.ts says whose verdict counts.
 */
export function contextOptions(svid: Svid, settings: TlsSettings): SecureContextOptions {
  // An empty list, since without one Node's own roots are taken.
  return { key: svid.keyPem, cert: svid.chainPem, ca: [], ...strictly(settings) };
}

/**
 * A handshake is made once for each connection. A resumed session skips every check of a certificate (conventions: measured),
 * so there are no tickets; and TLS 1.2 lets a client ask for one handshake after the other, each of which costs us a signature.
 */
const neverAgain = constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION;

/** What we agree on with whomever. */
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

/** What a gateway's listener shows its clients, one of each type of key, and whose certificates it takes from them; PEM. */
export interface FrontCertificates {
  readonly certificates: readonly { readonly certificate: string; readonly key: string }[];
  readonly authorities: string | undefined;
}

/** The context of a gateway's listener. Of several certificates OpenSSL shows the one whose signatures the client takes. */
export function frontContextOptions(
  { certificates, authorities }: FrontCertificates,
  settings: TlsSettings,
): SecureContextOptions {
  return {
    key: certificates.map(({ key }) => key),
    cert: certificates.map(({ certificate }) => certificate),
    // Without authorities nobody is asked for a certificate; Node's own roots must not stand in for them.
    ca: authorities ?? [],
    // An intermediate may be the anchor that the document names.
    allowPartialTrustChain: true,
    ...strictly(settings),
  };
}

/** A context for dialing; made once per generation of our SVID, since reading a key is dear. */
export function dialContext(svid: Svid, settings: TlsSettings): SecureContext {
  return createSecureContext(contextOptions(svid, settings));
}

/** What the handshake of a socket that dialed has agreed on: Node tells the dialing side all of it. */
export function dialedFacts(socket: TLSSocket): TlsFacts {
  const info = socket.getEphemeralKeyInfo() as { readonly name?: string } | null;
  return { ...factsOf(socket), group: info?.name };
}

/** The same of a socket that was accepted: the group is known only where no other was allowed. */
export function acceptedFacts(socket: TLSSocket, { groups }: TlsSettings): TlsFacts {
  return { ...factsOf(socket), group: groups.length === 1 ? groups[0] : undefined };
}

function factsOf(socket: TLSSocket): { readonly version: string; readonly cipher: string } {
  return { version: socket.getProtocol() ?? 'unknown', cipher: socket.getCipher().standardName };
}

/**
 * Options of a listener that demands a certificate. Node's own verdict is taken from the socket and judged in peer.ts,
 * which can say why; nothing is served before that.
 */
export function listenOptions(handshakeMs: number): TlsOptions {
  return { requestCert: true, rejectUnauthorized: false, handshakeTimeout: handshakeMs, noDelay: true };
}

/**
 * What we agree on with a client of the mesh who offers `protocols` (RFC 7301 section 3.2): HTTP/2, else what they prefer. Where
 * that is a name of the mesh, the first bytes say what is spoken. Undefined: nothing, and the handshake fails.
 */
export function agreeInMesh(protocols: readonly string[]): string | undefined {
  return protocols.find((one) => one === 'h2') ?? protocols.find((one) => spokenInMesh.has(one));
}

/** `istio-peer-exchange` is never agreed on: it announces bytes of Istio's own before those of the app. */
const spokenInMesh = new Set(['http/1.1', ...meshAlpns.filter((one) => one !== 'istio-peer-exchange')]);

/**
 * What is offered to a peer: our mark beside `alpn`, so that a PERMISSIVE port knows us. Who carries bytes prefers the mark, and
 * offers HTTP/1.1 with it: servers that refuse what they do not know take that as they would take no ALPN at all.
 */
export function offeredToPeer(alpn: readonly string[]): string[] {
  return alpn.length === 0 ? [meshAlpn, 'http/1.1'] : [...alpn, meshAlpn];
}

/** For dialing a server that is no peer: nothing is presented, and TLS is 1.2 at least. */
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
