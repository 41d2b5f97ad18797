// The agent's connections to the CA: TLS 1.3, verified against the bundle that we hold, and open only to the one who
// bears spiffe://<trust domain>/sallyport/ca. Names and addresses prove nothing here, so no DNS name is checked.

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

export interface CaConnectionOptions {
  readonly url: URL;
  readonly trust: TrustBundle;
  readonly denied?: DenyList;
  /** What we present; without it the connection is one-sided. */
  readonly svid?: Svid;
  now(): number;
}

/** What the CA proved to be on the newest connection. */
export interface CaProof {
  readonly chain: readonly Buffer[];
  /** Milliseconds since 1970; a kept connection ends with what vouched for it. */
  readonly validUntil: number;
}

export interface CaConnection {
  readonly client: Client;
  /** Undefined until a connection stood. */
  proof(): CaProof | undefined;
}

const connectTimeoutMs = 5000;
const answerTimeoutMs = 10_000;

/** A deny-list of 100,000 serials is 4 MB; more than this is not an answer of a CA. */
const maxAnswerBytes = 16 * 1024 * 1024;

/** A client that connects when it is first asked. Whoever creates it closes it. */
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
    // RFC 6066 section 3: an address is never sent as a server name.
    servername: isIP(host) === 0 ? host : '',
    minVersion: 'TLSv1.3',
    ecdhCurve: 'X25519MLKEM768:X25519:P-256',
    ALPNProtocols: ['http/1.1'],
    ca: [],
    ...(svid === undefined ? {} : { cert: svid.chainPem, key: svid.keyPem }),
    // Without roots Node could only say no; `dial` proves who it is before anybody gets the socket. No session is ever
    // resumed, since a resumed one shows no certificate.
    rejectUnauthorized: false,
    checkServerIdentity: () => undefined,
  };
}

/** @throws SallyportError when the chain is not that of this trust domain's CA. */
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
      hint: 'the URL leads to another workload; name the address of the CA',
    });
  }
  return { chain, validUntil: peer.validUntil };
}

type Callback = (...answer: [null, TLSSocket] | [Error, null]) => void;

/** `prove` throws when the other side is not whom we want; nothing has been written to it by then. */
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
      // Its end is told by the error handler, once.
      socket.destroy(error instanceof Error ? error : new Error(reasonOf(error)));
      return;
    }
    socket.off('error', failed);
    // From here on the socket is undici's, and it closes it.
    callback(null, socket);
  });
}

/** What a bundle does not vouch for is most often the wrong bundle, and the operator is told so. */
function refusalOf(error: unknown): unknown {
  if (!(error instanceof SallyportError) || !aboutBundle.has(error.code)) return error;
  return new SallyportError(error.code, `the CA's certificate does not verify against our bundle: ${error.message}`, {
    hint: 'is the bundle that of this CA? copy it anew from the CA',
    cause: error,
  });
}

const aboutBundle: ReadonlySet<Code> = new Set(['svid_untrusted', 'svid_expired', 'svid_not_yet_valid']);
