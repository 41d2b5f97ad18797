// The agent's connections to the CA: TLS 1.3, verified against our bundle. The server must present
// spiffe://<trust domain>/sallyport/ca. DNS names and addresses prove nothing here, so they are not checked.

import { isIP } from 'node:net';
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls';
import { Client } from 'undici';
import { type Code, reasonOf, SallyportError } from '../base/errors.ts';
import { onlyBundle, type TrustBundle } from '../identity/bundle.ts';
import { type DenyList, emptyDenyList } from '../identity/denied.ts';
import { checkComplaint, type Presented, readPresented } from '../identity/peer-chain.ts';
import { caIdOf } from '../identity/spiffe-id.ts';
import type { Svid } from '../identity/svid.ts';
import { type PeerIdentity, verifyChain } from '../identity/verify.ts';

/** A CA whose own certificate is on `denied` is refused. `now` is milliseconds since 1970. */
export interface CaConnectionOptions {
  readonly url: URL;
  readonly trust: TrustBundle;
  readonly denied?: DenyList;
  /** Our SVID; without it we present no certificate. */
  readonly svid?: Svid;
  now(): number;
}

/** The CA's verified identity on the newest connection. */
export interface CaProof {
  readonly chain: readonly Buffer[];
  /** Milliseconds since 1970. A kept connection ends when its certificates expire. */
  readonly validUntil: number;
}

/** An HTTP client, and what its present connection was verified with. The caller closes `client`. */
export interface CaConnection {
  readonly client: Client;
  /** Undefined until the first connection. */
  proof(): CaProof | undefined;
}

const connectTimeoutMs = 5000;
const answerTimeoutMs = 10_000;

/** A deny list of 100,000 serials is 4 MB; no valid response is larger than this. */
const maxAnswerBytes = 16 * 1024 * 1024;

/** A client that connects at its first request. The caller closes it. */
export function createCaConnection(options: CaConnectionOptions): CaConnection {
  let proof: CaProof | undefined;
  const settings = tlsSettings(options);
  const client = new Client(options.url.origin, {
    connect: (_target, callback) =>
      dial(settings, callback, (socket) => {
        proof = proveCa(readPresented(socket), options);
      }),
    headersTimeout: answerTimeoutMs,
    bodyTimeout: answerTimeoutMs,
    keepAliveTimeout: 30_000,
    maxResponseSize: maxAnswerBytes,
    pipelining: 1,
  });
  return { client, proof: () => proof };
}

function tlsSettings({ url, svid }: CaConnectionOptions): ConnectionOptions {
  const host = url.hostname.replace(/^\[|\]$/g, '');
  return {
    host,
    port: Number(url.port || 443),
    // RFC 6066 section 3: an IP address is never sent as a server name.
    servername: isIP(host) === 0 ? host : '',
    minVersion: 'TLSv1.3',
    ecdhCurve: 'X25519MLKEM768:X25519:P-256',
    ALPNProtocols: ['http/1.1'],
    ca: [],
    ...(svid === undefined ? {} : { cert: svid.chainPem, key: svid.keyPem }),
    // Node has no roots to verify with; `dial` verifies the peer before it hands over the socket. Sessions are never
    // resumed, because a resumed one shows no certificate.
    rejectUnauthorized: false,
    checkServerIdentity: () => undefined,
  };
}

/** @throws SallyportError unless the chain belongs to this trust domain's CA. */
function proveCa(presented: Presented, options: CaConnectionOptions): CaProof {
  const { trust, url } = options;
  const { chain } = presented;
  let peer: PeerIdentity;
  try {
    peer = verifyChain(chain, onlyBundle(trust), options.denied ?? emptyDenyList, options.now());
    checkComplaint(presented, peer.id.uri, true);
  } catch (error) {
    throw refusalOf(error);
  }
  const expected = caIdOf(trust.trustDomain).uri;
  if (peer.id.uri !== expected) {
    throw new SallyportError('svid_untrusted', `${url.origin} is ${peer.id.uri}, not the CA ${expected}`, {
      hint: 'the URL is that of another workload; use the address of the CA',
    });
  }
  return { chain, validUntil: peer.validUntil };
}

type Callback = (...answer: [null, TLSSocket] | [Error, null]) => void;

/** `prove` throws when the peer is not the expected one. At that point nothing was sent to it. */
function dial(settings: ConnectionOptions, callback: Callback, prove: (socket: TLSSocket) => void): void {
  const socket = connect(settings);
  const timer = setTimeout(() => {
    socket.destroy(new Error(`no TLS handshake within ${connectTimeoutMs} ms`));
  }, connectTimeoutMs);
  const failed = (error: Error): void => {
    clearTimeout(timer);
    callback(error, null);
  };
  socket.once('error', failed);
  socket.once('secureConnect', () => {
    clearTimeout(timer);
    try {
      prove(socket);
    } catch (error) {
      // The error handler reports it, once.
      socket.destroy(error instanceof Error ? error : new Error(reasonOf(error)));
      return;
    }
    socket.off('error', failed);
    // From here on undici owns the socket and closes it.
    callback(null, socket);
  });
}

/** When verification fails, the usual cause is the wrong bundle, so the hint says so. */
function refusalOf(error: unknown): unknown {
  if (!(error instanceof SallyportError) || !aboutBundle.has(error.code)) return error;
  const isTime = error.code !== 'svid_untrusted';
  const what = isTime ? 'is not valid now' : 'does not verify against our bundle';
  const hint = isTime
    ? 'do the clocks of this machine and of the CA agree?'
    : 'is this the bundle of this CA? copy it from the CA again';
  return new SallyportError(error.code, `the CA's certificate ${what}: ${error.message}`, { hint, cause: error });
}

const aboutBundle: ReadonlySet<Code> = new Set(['svid_untrusted', 'svid_expired', 'svid_not_yet_valid']);
