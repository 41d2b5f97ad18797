// Does this Node show the chain that a client presents? Once OpenSSL has found it good, Node 24.21 shows the leaf alone, and
// every peer of a CA with an intermediate would look untrusted to us. A handshake with ourselves, in memory, tells before a port opens.

import { duplexPair } from 'node:stream';
import { connect, createServer, type TLSSocket } from 'node:tls';
import { reasonOf, SallyportError } from '../base/errors.ts';
import { formatPem, type TrustBundle } from './bundle.ts';
import { readPeerChain } from './peer-chain.ts';
import type { Svid } from './svid.ts';

/** How a server learns what the client presented; another one is for tests. */
export type ChainReader = (socket: TLSSocket) => readonly Buffer[];

const timeLimitMs = 5000;

/**
 * Presents `svid`, which `bundle` must vouch for, to itself and looks whether its whole chain arrives. A chain of one proves
 * nothing and passes.
 * @throws SallyportError `node_unsuitable`, also when the handshake does not come about within 5 s.
 */
export async function proveChainShown(
  svid: Svid,
  bundle: TrustBundle,
  readChain: ChainReader = readWholeChain,
): Promise<void> {
  if (svid.chain.length < 2) return;
  const shown = await presentToOurselves(svid, bundle, readChain);
  if (shown.length < svid.chain.length) {
    throw new SallyportError(
      'node_unsuitable',
      `Node ${process.versions.node} shows ${shown.length} of the ${svid.chain.length} certificates that a TLS client presents, so no peer could be verified`,
      { hint: "run it under Node 24.20.0, which 'npm run setup' and the container image bring" },
    );
  }
}

function readWholeChain(socket: TLSSocket): readonly Buffer[] {
  const leaf = socket.getPeerX509Certificate();
  return leaf === undefined ? [] : readPeerChain(leaf);
}

function presentToOurselves(svid: Svid, bundle: TrustBundle, readChain: ChainReader): Promise<readonly Buffer[]> {
  const [near, far] = duplexPair();
  const ours = { key: svid.keyPem, cert: svid.chainPem, rejectUnauthorized: false };
  // With `ca`, and a server that never listens: it is Node's own look at a chain found good that hides the intermediates.
  const server = createServer({ ...ours, ca: formatPem(bundle.roots), requestCert: true });
  const client = connect({ ...ours, socket: near });
  return new Promise<readonly Buffer[]>((resolve, reject) => {
    const fail = (why: string): void => {
      clearTimeout(timer);
      reject(
        new SallyportError('node_unsuitable', `no TLS handshake of Node ${process.versions.node} with itself: ${why}`),
      );
    };
    const timer = setTimeout(() => fail(`none within ${timeLimitMs} ms`), timeLimitMs);
    server.on('tlsClientError', (error) => fail(reasonOf(error)));
    client.on('error', (error) => fail(reasonOf(error)));
    server.once('secureConnection', (socket) => {
      clearTimeout(timer);
      try {
        resolve(readChain(socket));
      } catch (error) {
        fail(reasonOf(error));
      }
    });
    server.emit('connection', far);
  }).finally(() => {
    client.destroy();
    far.destroy();
  });
}
