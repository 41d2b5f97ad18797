// Does this Node show the chain that a client presents? Without it every peer of a CA with an intermediate would look
// untrusted to us. A handshake with ourselves, in memory and with the options of our listeners, tells before a port opens.

import { duplexPair } from 'node:stream';
import { connect, createServer, type TLSSocket } from 'node:tls';
import { reasonOf, SallyportError } from '../base/errors.ts';
import { readPresented } from './peer-chain.ts';
import type { Svid } from './svid.ts';

/** How a server learns what the client presented; another one is for tests. */
export type ChainReader = (socket: TLSSocket) => readonly Buffer[];

const timeLimitMs = 5000;

/**
 * Presents `svid` to itself and looks whether its whole chain arrives. A chain of one proves nothing and passes.
 * @throws SallyportError `node_unsuitable`, also when the handshake does not come about within 5 s.
 */
export async function proveChainShown(
  svid: Svid,
  readChain: ChainReader = (socket) => readPresented(socket).chain,
): Promise<void> {
  if (svid.chain.length < 2) return;
  const shown = await presentToOurselves(svid, readChain);
  if (shown.length < svid.chain.length) {
    throw new SallyportError(
      'node_unsuitable',
      `Node ${process.versions.node} shows ${shown.length} of the ${svid.chain.length} certificates that a TLS client presents, so no peer could be verified`,
      { hint: "run it under the Node that 'npm run setup' and the container image bring" },
    );
  }
}

function presentToOurselves(svid: Svid, readChain: ChainReader): Promise<readonly Buffer[]> {
  const [near, far] = duplexPair();
  const ours = { key: svid.keyPem, cert: svid.chainPem, rejectUnauthorized: false };
  // A server that never listens. Without `ca`, as all of ours: with it Node 24.21 shows the leaf alone once OpenSSL likes it.
  const server = createServer({ ...ours, ca: [], requestCert: true });
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
