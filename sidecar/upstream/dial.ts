// One connection to one address: plain to our own app, mutual TLS to a peer, whose SPIFFE ID must be the expected one
// before a byte of a request is sent. No DNS name is checked, no session is resumed.

import { connect, isIP, type Socket } from 'node:net';
import { type ConnectionOptions, connect as connectTls, type SecureContext } from 'node:tls';
import { type Address, formatAddress } from '../../cert-agent/base/address.ts';
import { errnoOf, reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import type { Live } from '../../cert-agent/base/live.ts';
import { emptyDenyList } from '../../cert-agent/identity/denied.ts';
import type { Identity } from '../../cert-agent/identity/identity.ts';
import { checkComplaint, type Presented, readPresented } from '../../cert-agent/identity/peer-chain.ts';
import { parseSpiffeId } from '../../cert-agent/identity/spiffe-id.ts';
import { checkDenied, checkValidity, type PeerIdentity, verifyChain } from '../../cert-agent/identity/verify.ts';
import type { TlsFacts, UpstreamPeer } from '../exchange/upstream.ts';
import { runsOn } from '../protocol/reset.ts';
import { dialContext, dialedFacts, offeredToPeer, type TlsSettings } from '../protocol/tls.ts';

/** Opens a connection. The caller owns and closes the socket. @throws SallyportError `upstream_*` or `not_ready`. */
export type Dial = (address: Address, connectMs: number, alpn: readonly string[]) => Promise<Dialed>;

/** An open connection, and its peer. */
export interface Dialed {
  readonly socket: Socket;
  /** Absent for our own app. */
  readonly peer: UpstreamPeer | undefined;
  /**
   * When the first of the certificates that it rests on ends, theirs or ours; milliseconds since 1970, Infinity in
   * plaintext.
   */
  readonly validUntil: number;
}

/** Plain TCP or a unix socket: to the app on loopback. */
export const dialPlain: Dial = (address, connectMs) =>
  new Promise((resolve, reject) => {
    const socket = connect({ ...address, noDelay: true, allowHalfOpen: true });
    settle(
      socket,
      address,
      connectMs,
      'connect',
      () => resolve({ socket, peer: undefined, validUntil: Number.POSITIVE_INFINITY }),
      reject,
    );
  });

/** The options for dialing a peer. */
export interface PeerDialOptions {
  readonly identity: Live<Identity | undefined>;
  /** The SPIFFE IDs, one of which the peer must prove. */
  readonly expected: readonly string[];
  readonly tls: TlsSettings;
  /** The name sent in SNI; a host name, not an address. */
  readonly serverName: string | undefined;
  /** Called for each completed handshake. */
  dialed(tls: TlsFacts): void;
}

/** Mutual TLS to a peer, each verified against the bundle of its own trust domain. */
export function createPeerDial(options: PeerDialOptions): Dial {
  const { expected } = options;
  const trustDomains = expected.map((uri) => parseSpiffeId(uri).trustDomain);
  let contextOf: Identity | undefined;
  let context: SecureContext | undefined;
  let lastLeaf: { readonly der: Buffer; readonly peer: PeerIdentity; readonly under: Identity } | undefined;

  return function dialPeer(address, connectMs, alpn) {
    const ours = options.identity.current();
    if (ours === undefined)
      return Promise.reject(
        new SallyportError('not_ready', 'there is no SVID to present yet', { hint: "see 'waiting for' in the log" }),
      );
    if (!trustDomains.some((one) => ours.bundles.has(one)))
      return Promise.reject(
        new SallyportError('upstream_tls', `there is no bundle for the trust domain of ${expected.join(' or ')}`),
      );
    if (contextOf !== ours || context === undefined) {
      context = dialContext(ours.svid, options.tls);
      contextOf = ours;
    }
    const secureContext = context;
    return new Promise((resolve, reject) => {
      const { serverName } = options;
      const raw = connect({ ...address, noDelay: true, allowHalfOpen: true });
      const settings: ConnectionOptions & { readonly allowHalfOpen: true } = {
        socket: raw,
        allowHalfOpen: true,
        secureContext,
        ...(serverName === undefined ? {} : { servername: serverName }),
        ALPNProtocols: offeredToPeer(alpn),
        // The context has no roots, so Node would refuse every peer; `ready` verifies the peer before the socket is
        // returned.
        rejectUnauthorized: false,
        checkServerIdentity: () => undefined,
      };
      const socket = connectTls(settings);
      runsOn(socket, raw);
      const ready = (): void => {
        const presented = readPresented(socket);
        // Our trust may have changed during the handshake, and connections that are not open yet were not re-evaluated.
        const trust = options.identity.current() ?? ours;
        const refusal = judge(presented.chain, trust, presented);
        if (refusal !== undefined) {
          socket.destroy();
          return reject(refusal);
        }
        const tls = dialedFacts(socket);
        options.dialed(tls);
        const peer = peerOf(presented.chain, trust, tls);
        resolve({ socket, peer, validUntil: Math.min(peer.identity.validUntil, ours.svid.notAfter) });
      };
      settle(socket, address, connectMs, 'secureConnect', ready, reject);
    });
  };

  /** The peer that was reached. A later check must still accept it, under the trust of that moment. */
  function peerOf(chain: readonly Buffer[], ours: Identity, tls: TlsFacts): UpstreamPeer {
    return {
      identity: identify(chain, ours),
      tls,
      refusal: () => judge(chain, options.identity.current() ?? ours),
    };
  }

  /** Why the upstream with this chain is not the expected one, under `ours`; undefined if it is. */
  function judge(chain: readonly Buffer[], ours: Identity, presented?: Presented): SallyportError | undefined {
    try {
      const peer = identify(chain, ours);
      if (presented !== undefined) checkComplaint(presented, peer.id.uri);
      checkDenied(peer, ours.denied);
      if (expected.includes(peer.id.uri)) return undefined;
      return new SallyportError(
        'upstream_identity',
        `the upstream is ${peer.id.uri}, expected ${expected.join(' or ')}`,
        {
          hint: "correct 'identity' of this upstream, or find out what runs at its address",
        },
      );
    } catch (error) {
      return new SallyportError('upstream_identity', `the upstream's certificate is refused: ${reasonOf(error)}`, {
        cause: error,
      });
    }
  }

  /** An upstream presents the same leaf at each dial: it is verified once for each generation of our trust. */
  function identify(chain: readonly Buffer[], ours: Identity): PeerIdentity {
    const [leaf] = chain;
    if (lastLeaf !== undefined && leaf !== undefined && lastLeaf.under === ours && lastLeaf.der.equals(leaf)) {
      const { peer } = lastLeaf;
      checkValidity(
        { notBefore: peer.notBefore, notAfter: peer.validUntil },
        `the certificate of ${peer.id.uri}`,
        Date.now(),
      );
      return peer;
    }
    const peer = verifyChain(chain, ours.bundles, emptyDenyList, Date.now());
    if (leaf !== undefined) lastLeaf = { der: leaf, peer, under: ours };
    return peer;
  }
}

/** The host part of an address as a server name; undefined for literal addresses (RFC 6066 section 3) and paths. */
export function serverNameOf(address: Address): string | undefined {
  return 'host' in address && isIP(address.host) === 0 ? address.host : undefined;
}

/** Waits for `ready`, which is the connection or its handshake, and maps a failure to our error codes. */
export function settle(
  socket: Socket,
  address: Address,
  connectMs: number,
  ready: 'connect' | 'secureConnect',
  resolve: () => void,
  reject: (error: SallyportError) => void,
): void {
  const where = formatAddress(address);
  const timer = setTimeout(
    () =>
      socket.destroy(
        new SallyportError(
          'upstream_connect_timeout',
          `connecting to ${where} timed out after ${connectMs} ms (limit connect)`,
        ),
      ),
    connectMs,
  );
  const onError = (error: Error): void => {
    clearTimeout(timer);
    reject(dialError(error, where, ready === 'secureConnect'));
  };
  const onClose = (): void => onError(new Error('the connection was closed during the handshake'));
  // A socket may emit an error more than once, or after its end; without a listener it would end the process.
  socket.on('error', () => {});
  socket.once('error', onError);
  socket.once('close', onClose);
  socket.once(ready, () => {
    clearTimeout(timer);
    socket.off('error', onError).off('close', onClose);
    resolve();
  });
}

function dialError(error: Error, where: string, secure: boolean): SallyportError {
  if (error instanceof SallyportError) return error;
  const system = /^(?:ECONNREFUSED|EHOSTUNREACH|ENETUNREACH|ENOENT|EACCES|ETIMEDOUT|EADDRNOTAVAIL)$/.test(
    errnoOf(error) ?? '',
  );
  if (system || !secure)
    return new SallyportError('upstream_connect', `cannot connect to ${where}: ${reasonOf(error)}`, { cause: error });
  return new SallyportError('upstream_tls', `the TLS handshake with ${where} failed: ${reasonOf(error)}`, {
    cause: error,
    hint: "inspect it with 'sallyport inspect'",
  });
}
