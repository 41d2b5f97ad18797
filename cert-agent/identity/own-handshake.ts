// Checks that this Node shows the chain that a client presents. Otherwise every peer of a CA with an intermediate would
// look untrusted. Before a port opens, a handshake with ourselves, in memory and with our listeners' options, finds
// out.

import { duplexPair } from 'node:stream';
import { connect, createServer, type TLSSocket } from 'node:tls';
import { reasonOf, SallyportError } from '../base/errors.ts';
import { readPresented } from './peer-chain.ts';
import type { Svid } from './svid.ts';

/** How a server reads the client's chain; replaceable for tests. */
export type ChainReader = (socket: TLSSocket) => readonly Buffer[];

const timeLimitMs = 5000;

/**
 * Presents `svid` to itself and checks that its whole chain arrives. A chain of one proves nothing and passes.
 * @throws SallyportError `node_unsuitable`, also when the handshake does not finish within 5 s.
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
      { hint: "use the Node version that 'npm run setup' and the container image install" },
    );
  }
}

function presentToOurselves(svid: Svid, readChain: ChainReader): Promise<readonly Buffer[]> {
  const [near, far] = duplexPair();
  const ours = { key: svid.keyPem, cert: svid.chainPem, rejectUnauthorized: false };
  // A server that never listens. Without `ca`, like all of ours: with it, Node 24.21 shows only the leaf of a valid
  // chain.
  const server = createServer({ ...ours, ca: [], requestCert: true });
  const client = connect({ ...ours, socket: near });
  return new Promise<readonly Buffer[]>((resolve, reject) => {
    const fail = (why: string): void => {
      clearTimeout(timer);
      reject(
        new SallyportError(
          'node_unsuitable',
          `Node ${process.versions.node} cannot complete a TLS handshake with itself: ${why}`,
        ),
      );
    };
    const timer = setTimeout(() => fail(`not finished within ${timeLimitMs} ms`), timeLimitMs);
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
